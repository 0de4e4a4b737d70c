// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include <terse/core/types.hpp>
#include <terse/simd/batch.hpp>

namespace terse::simd {

/// to[i] = from[i] for i < count. The two do not overlap, or `to` is before `from`.
template <class Arch = default_arch, class T>
void copy_row(T const* from, T* to, index count) noexcept {
    std::copy_n(from, count, to);
}

/// Row i of `to` becomes row sources[i] of `from`; strides in elements. The two do not overlap.
template <class Arch = default_arch, class T>
void gather_rows(T const* from, index from_stride, std::span<token const> sources, T* to, index to_stride,
                 index dim) noexcept {
    for (token const source : sources) {
        copy_row<Arch>(from + source * from_stride, to, dim);
        to += to_stride;
    }
}

/// out = sum over k of weights[k] * row sources[k] of `in`, divided by `divisor`; summed in float in that order.
/// Empty `weights`: all ones. No sources: zeros.
template <class Arch = default_arch, real T>
void sum_rows(T const* in, index stride, std::span<token const> sources, std::span<float const> weights, float divisor,
              T* out, index dim) noexcept {
    for (index c = 0; c < dim; ++c) {
        float total = 0;
        for (std::size_t k = 0; k < sources.size(); ++k) {
            auto const x = static_cast<float>(in[sources[k] * stride + c]);
            total += weights.empty() ? x : weights[k] * x;
        }
        out[c] = static_cast<T>(total / divisor);
    }
}

/// out = the largest of each channel over rows `sources` of `in`; NaN if one is. No sources: zeros.
template <class Arch = default_arch, real T>
void max_rows(T const* in, index stride, std::span<token const> sources, T* out, index dim) noexcept {
    for (index c = 0; c < dim; ++c) {
        float most = sources.empty() ? 0.0F : static_cast<float>(in[sources[0] * stride + c]);
        for (token const source : sources) {
            auto const x = static_cast<float>(in[source * stride + c]);
            most = x > most || x != x ? x : most;
        }
        out[c] = static_cast<T>(most);
    }
}

}  // namespace terse::simd

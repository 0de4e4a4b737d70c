#pragma once

#include <limits>
#include <random>
#include <tuple>
#include <type_traits>
#include <vector>

#include <terse/simd/batch.hpp>

#include "support.hpp"

namespace terse::test {

namespace samples {

template <class Arch_, class T>
struct on {
    using Arch = Arch_;
    using value = T;
};

template <class Arch>
using storages = std::tuple<on<Arch, float>, on<Arch, half>, on<Arch, bfloat16>>;

using best = simd::default_arch;
using base = std::conditional_t<xsimd::sse2::supported(), xsimd::sse2, best>;
/// Every storage on this build's architecture, and also on the smallest one.
using kernels = std::conditional_t<std::is_same_v<best, base>, storages<best>,
                                   decltype(std::tuple_cat(storages<best>{}, storages<base>{}))>;

/// Lengths around the width of a register, and dimensions that tiles do not divide.
template <class Arch>
std::vector<index> lengths() {
    index const v = simd::lanes<Arch>;
    return {0, 1, 3, v - 1, v, v + 1, 3 * v, 4 * v, 8 * v + 2};
}

/// Rows of values in [-1, 1), the same in every run, at any offset from an aligned address and any stride.
template <class T>
struct rows {
    rows(index count, index dim, unsigned seed, index padding = 0, index offset = 0)
        : stride(dim + padding), first(offset), data(static_cast<std::size_t>(offset + count * stride + 1)) {
        std::mt19937 bits(seed);
        for (auto& x : data) x = static_cast<T>(static_cast<float>(bits() >> 8) * 0x1p-23F - 1.0F);
    }
    T* operator()(index i) { return data.data() + first + i * stride; }
    auto view() const {
        return [p = data.data() + first, s = stride](index i) { return p + i * s; };
    }

    index stride;
    index first;
    std::vector<T> data;
};

}  // namespace samples
}  // namespace terse::test

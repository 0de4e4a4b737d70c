// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include <terse/core/quantised.hpp>
#include <terse/simd/dequantise.hpp>
#include <terse/simd/load_store.hpp>
#include <terse/simd/rows.hpp>

// Rows in 8 bit where kernels read rows: limited by converting, four instructions a register beside the multiply-add
// (from memory by a quarter of the bytes that floats have). A kernel that meets a scale once a group, not once a load,
// has its own way in; these are for the others.

namespace terse::simd {

/// The first channels' codes, as floats.
template <class Arch, class Scale>
[[nodiscard]] floats<Arch> load_codes(quantised_row<Scale> const& from) noexcept {
    return from_ints<Arch>(load_bytes<Arch>(from.codes + from.first));
}

/// The first `count` < lanes channels' codes and zeros after them; reads nothing beyond `count`.
template <class Arch, class Scale>
[[nodiscard]] floats<Arch> load_codes(quantised_row<Scale> const& from, index count) noexcept {
    return from_ints<Arch>(load_bytes<Arch>(from.codes + from.first, count));
}

/// Which of its scales the first channel has. Most rows are met from their first channel on, without a division.
template <class Scale>
[[nodiscard]] index scale_number(quantised_row<Scale> const& row) noexcept {
    return row.first == 0 ? 0 : row.first / row.group;
}

/// Whether the first `count` channels share a scale.
template <class Scale>
[[nodiscard]] bool share_scale(quantised_row<Scale> const& row, index count) noexcept {
    return (scale_number(row) + 1) * row.group - row.first >= count;
}

/// `lanes` channels, from any one on.
template <class Arch, class Scale>
[[nodiscard]] floats<Arch> load(quantised_row<Scale> const& from) noexcept {
    if (from.group == 1) return load_codes<Arch>(from) * load<Arch>(from.scales + from.first);
    if (share_scale(from, lanes<Arch>))
        return load_codes<Arch>(from) * floats<Arch>(to_float(from.scales[scale_number(from)]));
    std::array<float, floats<Arch>::size> values;
    for (index i = 0; i < lanes<Arch>; ++i) values[static_cast<std::size_t>(i)] = from[i];
    return floats<Arch>::load_unaligned(values.data());
}

/// The first `count` < lanes channels and zeros after them; reads nothing beyond `count`.
template <class Arch, class Scale>
[[nodiscard]] floats<Arch> load_partial(quantised_row<Scale> const& from, index count) noexcept {
    if (from.group == 1) return load_codes<Arch>(from, count) * load_partial<Arch>(from.scales + from.first, count);
    if (count > 0 && share_scale(from, count)) {
        float const scale = to_float(from.scales[scale_number(from)]);
        if (is_finite(scale)) return load_codes<Arch>(from, count) * floats<Arch>(scale);  // 0 times others is no zero
    }
    std::array<float, floats<Arch>::size> values{};
    for (index i = 0; i < count; ++i) values[static_cast<std::size_t>(i)] = from[i];
    return floats<Arch>::load_unaligned(values.data());
}

template <class Scale>
[[nodiscard]] std::span<std::uint8_t const> bytes_of(quantised_row<Scale> const& row, index count) noexcept {
    return bytes_of(row.codes + row.first, count);
}

/// Asks for a row's codes and scales ahead of their use.
template <class Scale>
[[gnu::always_inline]] inline void prefetch_row(quantised_row<Scale> const& row, index count) noexcept {
    prefetch_bytes(bytes_of(row, count));
    __builtin_prefetch(row.scales + scale_number(row));
}

/// Calls body(begin, end, which) for the stretches of the first n channels that share a scale, and its number.
template <class Scale, class Body>
void for_scales(quantised_row<Scale> const& row, index n, Body const& body) noexcept {
    index which = scale_number(row);
    for (index begin = 0, end = (which + 1) * row.group - row.first; begin < n; begin = end, end += row.group, ++which)
        body(begin, std::min(end, n), which);
}

/// out[i] = channel i, for i < dim.
template <class Arch, class Scale>
void dequantise_row(quantised_row<Scale> const& row, index dim, float* out) noexcept {
    if (row.group == 1) {
        index k = 0;
        for (; dim - k >= lanes<Arch>; k += lanes<Arch>) store<Arch>(load<Arch>(row + k), out + k);
        if (k < dim) store_partial<Arch>(load_partial<Arch>(row + k, dim - k), out + k, dim - k);
        return;
    }
    for_scales(row, dim, [&](index k, index end, index which) noexcept {
        floats<Arch> const scale(to_float(row.scales[which]));
        for (; end - k >= lanes<Arch>; k += lanes<Arch>) store<Arch>(load_codes<Arch>(row + k) * scale, out + k);
        if (k < end) store_partial<Arch>(load_codes<Arch>(row + k, end - k) * scale, out + k, end - k);
    });
}

}  // namespace terse::simd

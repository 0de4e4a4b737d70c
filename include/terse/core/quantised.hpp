// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <terse/core/result.hpp>
#include <terse/core/types.hpp>
#include <terse/core/view.hpp>

namespace terse {

/// A row in 8 bit, where a kernel takes a pointer to a row's first channel: channel i is codes[i] * scales[i / group].
/// The kernels that read rows have overloads that dequantise while they load.
template <class Scale>
struct quantised_row {
    std::int8_t const* codes = nullptr;
    Scale const* scales = nullptr;
    index group = 1;  ///< neighbouring channels that share a scale
    index first = 0;  ///< the channel that it points to

    [[nodiscard]] constexpr quantised_row operator+(index channels) const noexcept {
        return {codes, scales, group, first + channels};
    }
    [[nodiscard]] float operator[](index i) const noexcept {
        return static_cast<float>(codes[first + i]) * static_cast<float>(scales[(first + i) / group]);
    }
    [[nodiscard]] float operator*() const noexcept { return (*this)[0]; }
};

template <class Row>
inline constexpr bool is_quantised_row = false;
template <class Scale>
inline constexpr bool is_quantised_row<quantised_row<Scale>> = true;

/// A cache in 8 bit: a cache of codes and one of scales, each in a layout of its own. Owns nothing. Made by
/// `quantised`.
///
/// Scales belong to a token and a group of its channels, as `simd::quantise_int8` makes them (groups of 32 channels, a
/// multiple, or all), or to one channel each (group = 1). With `granularity` above 1 that many neighbouring tokens
/// share them, as per-channel codes of keys do: such tokens move together or not at all.
template <class Codes, class Scales>
struct quantised_span {
    Codes codes{};          ///< std::int8_t [heads, tokens, dim]
    Scales scales{};        ///< float, half or bfloat16 [heads, tokens / granularity, dim / group], rounded up
    index group = 1;        ///< neighbouring channels that share a scale
    index granularity = 1;  ///< neighbouring tokens that share scales
    index heads = 0;
    index tokens = 0;
    index dim = 0;

    using scale = std::remove_cvref_t<decltype(*Scales{}.row(0, 0))>;

    [[nodiscard]] constexpr quantised_row<scale> row(index h, index t) const noexcept {
        return {codes.row(h, t), scales.row(h, granularity == 1 ? t : t / granularity), group};
    }
    [[nodiscard]] constexpr index length(index h) const noexcept { return length_of(codes, h); }
    [[nodiscard]] constexpr bool has_data() const noexcept { return terse::has_data(codes) && terse::has_data(scales); }

    /// @return errc::bad_setting when no scales stand for `group` or `granularity`; errc::bad_shape when codes and
    ///         scales do not fit
    [[nodiscard]] constexpr errc check() const noexcept {
        bool const whole = group == dim || (group > 0 && (group == 1 || group % 32 == 0) && dim % group == 0);
        if ((dim > 0 && !whole) || granularity < 1) return errc::bad_setting;
        auto const groups = [this](index rows) { return (rows + granularity - 1) / granularity; };
        if (codes.heads != heads || codes.tokens != tokens || codes.dim != dim) return errc::bad_shape;
        if (scales.heads != heads || scales.tokens != groups(tokens)) return errc::bad_shape;
        if (dim > 0 && scales.dim != dim / group) return errc::bad_shape;
        for (index h = 0; h < heads; ++h)
            if (length_of(scales, h) != groups(length(h))) return errc::bad_shape;
        return errc::ok;
    }
};

/// Codes and scales that are both head-major, token-major or padded, read only.
template <class Scale>
using quantised_view = quantised_span<heads_view<std::int8_t>, heads_view<Scale>>;

/// A cache of codes with its scales, see `quantised_span`; `check` says whether they fit.
template <class Codes, class Scales>
[[nodiscard]] constexpr quantised_span<Codes, Scales> quantised(Codes const& codes, Scales const& scales, index group,
                                                                index granularity = 1) noexcept {
    return {codes, scales, group, granularity, codes.heads, codes.tokens, codes.dim};
}

}  // namespace terse

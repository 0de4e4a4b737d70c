// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <iterator>
#include <span>
#include <type_traits>

#include <terse/core/parallel.hpp>
#include <terse/core/plan.hpp>
#include <terse/core/result.hpp>
#include <terse/core/view.hpp>
#include <terse/simd/batch.hpp>
#include <terse/simd/rotate.hpp>

namespace terse::kv {

/// Which channels of a key turn together, of `rotary` = 2 * frequencies that do.
enum class rope_layout : unsigned char {
    half_split,   ///< (i, i + rotary / 2): Llama in transformers, GPT-NeoX
    interleaved,  ///< (2 i, 2 i + 1): GPT-J, Llama as its authors and llama.cpp store it
};

/// An engine's rotary position encoding: a key at position p has its pair i turned by p * inverse_frequency[i].
struct rope {
    std::span<float const> inverse_frequency{};  ///< [rotary / 2]: the engine's own, scaled as it scales them
    rope_layout layout = rope_layout::half_split;

    /// errc::bad_shape when more channels turn than there are, errc::bad_setting when a frequency is not finite.
    [[nodiscard]] errc check(index dim) const noexcept {
        if (std::ssize(inverse_frequency) > dim / 2) return errc::bad_shape;
        bool const finite = std::all_of(inverse_frequency.begin(), inverse_frequency.end(), simd::is_finite);
        return finite ? errc::ok : errc::bad_setting;
    }
};

/// Turns rows [0, rows(h)) of heads [begin, end) by delta(h, t) positions, without checks: what `rotate` does on one
/// worker. The angles of a delta are computed once for rows that follow each other and share it, and where `shared`
/// says that all heads have the same deltas, once for all.
template <class Cache, class Rows, class Delta>
void rotate_heads(Cache const& keys, index begin, index end, bool shared, Rows const& rows, Delta const& delta,
                  rope const& r) noexcept {
    constexpr index most = 64;
    std::array<float, most> cosine, sine;
    index const pairs = std::ssize(r.inverse_frequency);
    bool const split = r.layout == rope_layout::half_split;
    for (index first = 0; first < pairs; first += most) {
        auto const count = static_cast<std::size_t>(std::min(most, pairs - first));
        auto const frequency = r.inverse_frequency.subspan(static_cast<std::size_t>(first), count);
        auto const c = std::span{cosine}.first(count), s = std::span{sine}.first(count);
        index turned = 0;  // what the angles are for; 0 turns nothing
        auto const turn = [&](index h, index t) {
            index const steps = delta(h, t);
            if (steps == 0) return;
            if (steps != turned) simd::rotation(steps, frequency, c, s);
            turned = steps;
            auto* const row = keys.row(h, t);
            simd::rotate_pairs(split ? row + first : row + 2 * first, split ? row + pairs + first : row + 2 * first + 1,
                               split ? 1 : 2, std::span<float const>{c}, std::span<float const>{s});
        };
        if (shared) {
            for (index t = 0; t < rows(0); ++t)
                for (index h = begin; h < end; ++h) turn(h, t);
        } else {
            for (index h = begin; h < end; ++h)
                for (index t = 0; t < rows(h); ++t) turn(h, t);
        }
    }
}

/// Turns every key from its position to another, in place. Rotations add up, so keys need not be computed again;
/// each call rounds once, so rotate 16-bit keys from a copy at their first positions where it is done often.
///
/// Source: Su et al., "RoFormer", arXiv:2104.09864; used so by FINCH and by StreamingLLM on rotated caches.
/// @param keys  [heads, tokens, dim], paged or not
/// @param from  [tokens] for all heads, or [heads, tokens]: the positions that the keys have
/// @param to    the same shape: the positions that they get
/// @return      errc::bad_shape when sizes differ, `rope::check`'s errors
/// @complexity  O(heads * tokens * dim); no allocation
template <cache_rows Cache, executor Run = serial>
[[nodiscard]] errc rotate(Cache const& keys, std::span<token const> from, std::span<token const> to, rope const& r,
                          Run const& run = {}) noexcept {
    if (errc const error = r.check(keys.dim); error != errc::ok) return error;
    bool const shared = std::ssize(from) == keys.tokens;
    if ((!shared && std::ssize(from) != keys.heads * keys.tokens) || from.size() != to.size()) return errc::bad_shape;
    share_out(run, keys.heads, keys.tokens * keys.dim, [&](index begin, index end, index) noexcept {
        auto const rows = [&](index) { return keys.tokens; };
        auto const delta = [&](index h, index t) {
            index const at = shared ? t : h * keys.tokens + t;
            return index{to.data()[at]} - from.data()[at];
        };
        rotate_heads(keys, begin, end, shared, rows, delta, r);
    });
    return errc::ok;
}

/// Gives the rows that a compaction kept the positions 0, 1, ... that they now stand at. Call it after `compact`, with
/// the same plans; then the next token's position is the kept count.
///
/// @param keys       [heads, tokens, dim], compacted by `p`; paged or not
/// @param positions  before the compaction, [tokens] for all heads or [heads, tokens]; empty: token t was at t
/// @return           errc::bad_shape when heads, tokens or positions do not fit the plans, errc::bad_plan when one is
///                   not a selection, `rope::check`'s errors
/// @complexity       O(heads * kept * dim); no allocation
template <cache_rows Cache, executor Run = serial>
[[nodiscard]] errc renumber(Cache const& keys, plans p, std::span<token const> positions, rope const& r,
                            Run const& run = {}) noexcept {
    if (errc const error = r.check(keys.dim); error != errc::ok) return error;
    if (!p.shared() && std::ssize(p.items) != keys.heads) return errc::bad_shape;
    for (plan const& item : p.items) {
        if (item.tokens != keys.tokens || item.kept() > keys.tokens) return errc::bad_shape;
        if (!item.is_selection()) return errc::bad_plan;
    }
    bool const each = std::ssize(positions) == keys.heads * keys.tokens && keys.heads > 1;
    if (!positions.empty() && !each && std::ssize(positions) != keys.tokens) return errc::bad_shape;
    share_out(run, keys.heads, keys.tokens * keys.dim, [&](index begin, index end, index) noexcept {
        auto const rows = [&](index h) { return p[h].kept(); };
        auto const delta = [&](index h, index t) {
            index const source = p[h].sources.data()[t];
            return t - (positions.empty() ? source : positions.data()[each ? h * keys.tokens + source : source]);
        };
        rotate_heads(keys, begin, end, p.shared() && !each, rows, delta, r);
    });
    return errc::ok;
}

}  // namespace terse::kv

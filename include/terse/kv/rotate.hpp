// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <iterator>
#include <span>

#include <terse/core/parallel.hpp>
#include <terse/core/plan.hpp>
#include <terse/core/quantised.hpp>
#include <terse/core/result.hpp>
#include <terse/core/rope.hpp>
#include <terse/core/view.hpp>
#include <terse/simd/batch.hpp>
#include <terse/simd/dequantise.hpp>
#include <terse/simd/quantise.hpp>
#include <terse/simd/rotate.hpp>

namespace terse::kv {

using terse::rope;
using terse::rope_layout;

/// The most channels of a row in 8 bit that turns.
inline constexpr index most_rotated_codes = 512;

/// Whether the rows of a cache can be turned one by one: what floats hold always, codes where a token has scales of its
/// own, for groups as `simd::quantise_int8` makes them.
template <class Cache>
[[nodiscard]] errc check_rotation(Cache const& keys, rope const& r) noexcept {
    if constexpr (requires { keys.granularity; }) {
        if (errc const error = keys.check(); error != errc::ok) return error;
        if (keys.granularity > 1 || keys.group % 32 != 0 || keys.dim > most_rotated_codes) return errc::bad_setting;
    }
    return r.check(keys.dim);
}

/// Calls body(row) with row t of head h as floats to change, or with its codes as floats, which are made codes again.
template <class Cache, class Body>
void change_row(Cache const& keys, index h, index t, Body const& body) noexcept {
    if constexpr (requires { keys.granularity; }) {
        std::array<float, most_rotated_codes> values;
        float* const row = values.data();
        auto* const codes = keys.codes.row(h, t);
        auto* const scales = keys.scales.row(h, t);
        simd::dequantise_int8(codes, scales, keys.dim, keys.group, row);
        body(row);
        simd::quantise_int8(
            1, [row](index) noexcept -> float const* { return row; }, keys.dim, keys.group, codes, scales);
    } else {
        body(keys.row(h, t));
    }
}

/// Turns rows [0, rows(h)) of heads [begin, end) by delta(h, t) positions, without checks: what `rotate` does on one
/// worker. The angles of a delta are computed once for rows that follow each other and share it, and where `shared`
/// says that all heads have the same deltas, once for all.
template <class Cache, class Rows, class Delta>
void rotate_heads(Cache const& keys, index begin, index end, bool shared, Rows const& rows, Delta const& delta,
                  rope const& r) noexcept {
    constexpr index most = requires { keys.granularity; }
    ? most_rotated_codes / 2 : 64;  // codes are made once
    std::array<float, most> cosine, sine;
    index const pairs = std::ssize(r.inverse_frequency);
    bool const split = r.layout == rope_layout::half_split;
    range const turning = r.turning();
    for (index first = turning.begin; first < turning.end; first += most) {
        auto const count = static_cast<std::size_t>(std::min(most, turning.end - first));
        auto const frequency = r.inverse_frequency.subspan(static_cast<std::size_t>(first), count);
        auto const c = std::span{cosine}.first(count), s = std::span{sine}.first(count);
        index turned = 0;  // what the angles are for; 0 turns nothing
        auto const turn = [&](index h, index t) {
            index const steps = delta(h, t);
            if (steps == 0) return;
            if (steps != turned) simd::rotation(steps, frequency, c, s);
            turned = steps;
            change_row(keys, h, t, [&](auto* row) noexcept {
                simd::rotate_pairs(split ? row + first : row + 2 * first,
                                   split ? row + pairs + first : row + 2 * first + 1, split ? 1 : 2,
                                   std::span<float const>{c}, std::span<float const>{s});
            });
        };
        if (shared) {
            index longest = 0;
            for (index h = begin; h < end; ++h) longest = std::max(longest, rows(h));
            for (index t = 0; t < longest; ++t)
                for (index h = begin; h < end; ++h)
                    if (t < rows(h)) turn(h, t);
        } else {
            for (index h = begin; h < end; ++h)
                for (index t = 0; t < rows(h); ++t) turn(h, t);
        }
    }
}

/// Turns every key from its position to another, in place. Rotations add up, so keys need not be computed again;
/// each call rounds once, so rotate 16-bit keys from a copy at their first positions where it is done often. Keys in 8
/// bit become floats, turn, and are made codes again, under scales of their new magnitudes: a call costs at most half a
/// step of the new scale a channel.
///
/// A cache of keys before their rotation, StreamingLLM's own, never drifts: at each use copy it and turn the copy from
/// zeros to the positions that count, those of the slots 0, 1, ... there.
///
/// Source: Su et al., "RoFormer", arXiv:2104.09864; used so by FINCH and by StreamingLLM on rotated caches.
/// @param keys  [heads, tokens, dim], paged, ragged or not; rows past a head's length are left alone
/// @param from  [tokens] for all heads, or [heads, tokens]: the positions that the keys have
/// @param to    the same shape: the positions that they get
/// @return      errc::bad_shape when sizes differ; for keys in 8 bit errc::bad_setting where tokens share scales,
///              groups are no multiple of 32 or rows longer than 512; `rope::check`'s errors
/// @complexity  O(heads * tokens * dim); no allocation
template <cache_rows Cache, executor Run = serial>
[[nodiscard]] errc rotate(Cache const& keys, std::span<token const> from, std::span<token const> to, rope const& r,
                          Run const& run = {}) noexcept {
    if (errc const error = check_rotation(keys, r); error != errc::ok) return error;
    bool const shared = std::ssize(from) == keys.tokens;
    if ((!shared && std::ssize(from) != keys.heads * keys.tokens) || from.size() != to.size()) return errc::bad_shape;
    index const bytes = keys.tokens * keys.dim * 2 * size_of<float>;
    share_out(run, keys.heads, bytes, [&](index begin, index end, index) noexcept {
        auto const rows = [&](index h) { return length_of(keys, h); };
        auto const delta = [&](index h, index t) {
            index const at = shared ? t : h * keys.tokens + t;
            return index{to.data()[at]} - from.data()[at];
        };
        rotate_heads(keys, begin, end, shared, rows, delta, r);
    });
    return errc::ok;
}

/// Gives the rows that a compaction kept the positions 0, 1, ... that they now stand at. Call it after `compact`, with
/// the same plans; then the next token's position is the kept count. A ragged cache's lengths are still those before.
///
/// @param keys       [heads, tokens, dim], compacted by `p`; as in `rotate`
/// @param positions  before the compaction, [heads, tokens], or [1, tokens] for all heads: those of a `layer` or of a
///                   ledger's `eviction`; empty: token t was at t
/// @return           errc::bad_shape when heads, tokens or positions do not fit the plans, errc::bad_plan when one is
///                   not a selection, `rotate`'s errors
/// @complexity       O(heads * kept * dim); no allocation
template <cache_rows Cache, executor Run = serial>
[[nodiscard]] errc renumber(Cache const& keys, plans p, tokens_view<token> positions, rope const& r,
                            Run const& run = {}) noexcept {
    if (errc const error = check_rotation(keys, r); error != errc::ok) return error;
    if (!p.shared() && std::ssize(p.items) != keys.heads) return errc::bad_shape;
    for (index h = 0; h < keys.heads; ++h) {
        index const held = length_of(keys, h);
        if ((p[h].tokens != keys.tokens && p[h].tokens != held) || p[h].kept() > held) return errc::bad_shape;
        if (!p[h].is_selection()) return errc::bad_plan;
    }
    bool const given = positions.data != nullptr;
    if (given && (positions.dim < keys.tokens || (positions.tokens != 1 && positions.tokens != keys.heads)))
        return errc::bad_shape;
    bool shared = p.shared();
    for (index h = 1; given && shared && h < positions.tokens; ++h)
        shared = std::equal(positions.row(0), positions.row(0) + keys.tokens, positions.row(h));
    index const bytes = keys.tokens * keys.dim * 2 * size_of<float>;
    share_out(run, keys.heads, bytes, [&](index begin, index end, index) noexcept {
        auto const rows = [&](index h) { return p[h].kept(); };
        auto const delta = [&](index h, index t) {
            index const source = p[h].sources.data()[t];
            return t - (given ? positions.row(positions.tokens == 1 ? 0 : h)[source] : source);
        };
        rotate_heads(keys, begin, end, shared, rows, delta, r);
    });
    return errc::ok;
}

}  // namespace terse::kv

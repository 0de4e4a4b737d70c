// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <iterator>
#include <span>

#include <terse/core/parallel.hpp>
#include <terse/core/result.hpp>
#include <terse/core/view.hpp>
#include <terse/kv/compact.hpp>

namespace terse::kv {

/// The slots of a cache that keeps what `streaming_llm` keeps and never moves a row: the first `sinks` slots hold the
/// first tokens, and the others are a ring in which the next token goes over the oldest.
///
/// A value of the engine's: copy it with the cache to fork or save it. Its ring has `spare` slots more than the window,
/// so that up to as many of the last tokens, guessed and refused, can be taken back with no row of the window lost, and
/// so that `spare` + 1 tokens may be written at once with a whole window before each.
struct ring {
    index sinks = 4;     ///< first tokens, never overwritten
    index recent = 512;  ///< last tokens, the window
    index spare = 0;     ///< last tokens that may be taken back
    index next = 0;      ///< tokens so far: the position of the next one
    index oldest = 0;    ///< the first token beyond the sinks that no other has overwritten

    /// errc::bad_setting for a negative count or no ring, errc::bad_shape for more slots than `token` counts.
    [[nodiscard]] constexpr errc check() const noexcept {
        if (sinks < 0 || recent < 0 || spare < 0 || next < 0 || turn() < 1) return errc::bad_setting;
        if (sinks > max_tokens || recent > max_tokens || spare > max_tokens) return errc::bad_shape;
        return capacity() > max_tokens || next > max_tokens ? errc::bad_shape : errc::ok;
    }

    /// Slots of the ring.
    [[nodiscard]] constexpr index turn() const noexcept { return recent + spare; }
    /// Slots in all: the rows that the cache needs for each head.
    [[nodiscard]] constexpr index capacity() const noexcept { return sinks + turn(); }

    /// The slot that a token was, or will be, written to.
    [[nodiscard]] constexpr index slot(index position) const noexcept {
        return position < sinks ? position : sinks + (position - sinks) % turn();
    }
    /// The slot that the next token goes to.
    [[nodiscard]] constexpr index next_slot() const noexcept { return slot(next); }

    /// The first token of the window.
    [[nodiscard]] constexpr index window_begin() const noexcept {
        return std::min(next, std::max({sinks, oldest, next - recent}));
    }
    /// Tokens to attend to: sinks and window.
    [[nodiscard]] constexpr index size() const noexcept { return std::min(next, sinks) + next - window_begin(); }
    /// The position of token i of size(), from the oldest on.
    [[nodiscard]] constexpr index position(index i) const noexcept {
        return i < sinks ? i : window_begin() + (i - sinks);
    }
    /// The position of the token that a slot holds; -1 where it holds none, or one that was taken back.
    [[nodiscard]] constexpr index held(index slot_number) const noexcept {
        if (slot_number < sinks) return slot_number < next ? slot_number : -1;
        index const last = next - 1 - sinks, behind = slot_number - sinks;
        if (last < behind) return -1;
        index const position = sinks + last - (last - behind) % turn();
        return position < oldest ? -1 : position;
    }

    /// Counts tokens in, once the engine has written them to the slots from next_slot() on.
    /// @return errc::bad_setting for a negative count, or by `check`; errc::bad_budget when they are more than the ring
    ///         holds, beyond the sinks: the last ones would overwrite the first
    constexpr errc append(index count = 1) noexcept {
        if (errc const error = check(); error != errc::ok) return error;
        if (count < 0) return errc::bad_setting;
        if (count > max_tokens - next) return errc::bad_shape;
        if (next + count - std::max(next, sinks) > turn()) return errc::bad_budget;
        next += count;
        oldest = std::max({oldest, sinks, next - turn()});
        return errc::ok;
    }

    /// Takes the last tokens back: the next one goes to the slot of the first of them.
    /// @return errc::bad_setting for a negative count, or more tokens than there are; errc::bad_budget when the window
    ///         before them has been overwritten, as it cannot be for at most `spare`
    constexpr errc take_back(index count) noexcept {
        if (errc const error = check(); error != errc::ok) return error;
        if (count < 0 || count > next) return errc::bad_setting;
        index const before = next - count;
        if (before > sinks && oldest > std::max(sinks, before - recent)) return errc::bad_budget;
        if (before <= sinks) oldest = 0;
        next = before;
        return errc::ok;
    }

    /// The positions of the tokens to attend to, ascending: `layer::positions` for `in_order`'s rows.
    /// @param out  [size()]
    [[nodiscard]] constexpr errc positions(std::span<token> out) const noexcept {
        if (std::ssize(out) != size()) return errc::bad_shape;
        for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<token>(position(static_cast<index>(i)));
        return errc::ok;
    }
};

/// The rows of a ring's sinks and window, from the oldest on: a cache for scorers. Made by `in_order`.
template <cache_rows Cache>
struct ring_view {
    Cache cache{};
    index sinks = 0;
    index start = 0;  ///< slots from the ring's first to the window's first
    index turn = 1;
    index heads = 0;
    index tokens = 0;
    index dim = 0;

    [[nodiscard]] constexpr auto row(index h, index t) const noexcept {
        index const at = start + t - sinks;
        return cache.row(h, t < sinks ? t : sinks + (at < turn ? at : at - turn));
    }
    [[nodiscard]] constexpr bool has_data() const noexcept { return terse::has_data(cache); }
};

/// @param cache  [heads, capacity, dim]
/// @return       the view; errc::bad_shape when the cache has other than the ring's slots, the errors of `ring::check`
template <cache_rows Cache>
[[nodiscard]] result<ring_view<Cache>> in_order(Cache const& cache, ring const& r) noexcept {
    if (errc const error = r.check(); error != errc::ok) return error;
    if (cache.tokens != r.capacity()) return errc::bad_shape;
    index const start = r.slot(std::max(r.sinks, r.window_begin())) - r.sinks;
    return ring_view<Cache>{cache, r.sinks, start, r.turn(), cache.heads, r.size(), cache.dim};
}

/// Moves row `oldest` of each head, the ring's oldest, over its row victims[h]: a step of H2O in a full cache, where
/// the oldest recent token joins the heavy hitters. The row `oldest` is then the next token's.
///
/// @param cache    keys, values, or (dim = 1) positions: [heads, slots, dim] in any layout
/// @param oldest   a slot of the ring, as `h2o::step` takes it; ring{.sinks = slots - recent, .recent = recent} counts
///                 it
/// @param victims  [heads], as `h2o::step` gives them
/// @return         errc::bad_shape when a slot is beyond the cache or there are other victims than heads;
///                 errc::bad_plan when rows share scales, the errors of a quantised cache's `check`
/// @complexity     O(heads * dim); no allocation
template <class Cache>
[[nodiscard]] errc promote(Cache const& cache, index oldest, std::span<token const> victims) noexcept {
    if (std::ssize(victims) != cache.heads || oldest < 0) return errc::bad_shape;
    if constexpr (requires { cache.granularity; }) {
        if (errc const error = cache.check(); error != errc::ok) return error;
        if (cache.granularity > 1) return errc::bad_plan;
    }
    for (index h = 0; h < cache.heads; ++h) {
        index const held = length_of(cache, h), victim = victims[static_cast<std::size_t>(h)];
        if (oldest >= held || victim < 0 || victim >= held) return errc::bad_shape;
    }
    for (index h = 0; h < cache.heads; ++h) move_row(cache, h, oldest, victims[static_cast<std::size_t>(h)]);
    return errc::ok;
}

}  // namespace terse::kv

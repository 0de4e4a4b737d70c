// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <span>
#include <type_traits>

#include <terse/core/parallel.hpp>
#include <terse/core/plan.hpp>
#include <terse/core/quantised.hpp>
#include <terse/core/result.hpp>
#include <terse/core/view.hpp>
#include <terse/simd/rows.hpp>

namespace terse::kv {

// The plans of an eviction move whatever a cache holds for its tokens, in place: keys, values, codes, scales,
// positions. Row i of a head becomes its row sources[i]; rows from the head's kept count on keep what they held and are
// free. Every call needs selections with ascending sources, checks all before it writes, and returns errc::bad_shape
// when heads or tokens differ from the plans' and errc::bad_plan when a plan is something else. A plan is for the
// tokens of the cache or, where heads hold different numbers, for those of its head. Heads are cut over `run`'s
// workers; the result does not depend on the cut. No call allocates.

/// Whether `p` can move a cache of `heads` times `tokens` rows in place.
/// @complexity O(kept)
[[nodiscard]] inline errc check_compaction(plans p, index heads, index tokens) noexcept {
    if (!p.shared() && std::ssize(p.items) != heads) return errc::bad_shape;
    for (plan const& item : p.items) {
        if (item.tokens != tokens) return errc::bad_shape;
        auto const s = item.sources;
        auto const descends = [](token a, token b) { return a >= b; };
        if (!item.is_selection() || std::adjacent_find(s.begin(), s.end(), descends) != s.end()) return errc::bad_plan;
        if (!s.empty() && (s.front() < 0 || s.back() >= tokens)) return errc::bad_plan;
    }
    return errc::ok;
}

/// The same for what has one length for all heads: they must keep the same number.
[[nodiscard]] inline errc check_even_compaction(plans p, index heads, index tokens) noexcept {
    if (errc const error = check_compaction(p, heads, tokens); error != errc::ok) return error;
    for (plan const& item : p.items)
        if (item.kept() != p.items[0].kept()) return errc::bad_plan;
    return errc::ok;
}

/// Whether each head of a ragged cache has room for what it holds; other caches pass.
/// @complexity O(heads)
template <class Cache>
[[nodiscard]] errc check_rooms(Cache const& cache) noexcept {
    if constexpr (requires { cache.room(0); }) {
        if (std::ssize(cache.offsets) != cache.heads + 1) return errc::bad_shape;
        if (!cache.lengths.empty() && std::ssize(cache.lengths) != cache.heads) return errc::bad_shape;
        for (index h = 0; h < cache.heads; ++h)
            if (cache.length(h) < 0 || cache.length(h) > cache.room(h)) return errc::bad_shape;
    } else if constexpr (requires { cache.codes; }) {
        if (errc const error = check_rooms(cache.codes); error != errc::ok) return error;
        return check_rooms(cache.scales);
    }
    return errc::ok;
}

/// Whether `p` can move any cache in place. Of one whose heads hold different numbers of rows, no head may keep what it
/// does not hold.
/// @complexity O(heads + kept)
template <class Cache>
[[nodiscard]] errc check_compaction(plans p, Cache const& cache) noexcept {
    if constexpr (requires { cache.length(0); }) {
        if (!p.shared() && std::ssize(p.items) != cache.heads) return errc::bad_shape;
        if (errc const error = check_rooms(cache); error != errc::ok) return error;
        for (index h = 0; h < cache.heads; ++h) {
            plan const& item = p[h];
            index const held = cache.length(h);
            if (item.tokens != cache.tokens && item.tokens != held) return errc::bad_shape;
            if (h == 0 || !p.shared()) {
                errc const error = check_compaction(plans{{&item, 1}}, 1, item.tokens);
                if (error != errc::ok) return error;
            }
            if (!item.sources.empty() && item.sources.back() >= held) return errc::bad_shape;
        }
        return errc::ok;
    } else {
        return check_compaction(p, cache.heads, cache.tokens);
    }
}

/// Row `from` of head h goes over row `to`.
template <class Cache>
void move_row(Cache const& cache, index h, index from, index to) noexcept {
    if (from == to) return;
    auto const source = cache.row(h, from), target = cache.row(h, to);
    if constexpr (std::is_pointer_v<decltype(cache.row(h, from))>) {
        simd::copy_row(static_cast<std::remove_pointer_t<decltype(source)> const*>(source), target, cache.dim);
    } else {
        for (index c = 0; c < cache.dim; ++c) target[c] = source[c];
    }
}
template <class Codes, class Scales>
void move_row(quantised_span<Codes, Scales> const& cache, index h, index from, index to) noexcept {
    move_row(cache.codes, h, from, to);
    move_row(cache.scales, h, from, to);
}

/// Compacts [heads, tokens, dim], head-major, token-major or padded.
/// @complexity O(kept * heads * dim); rows before the first evicted one are not touched
template <class T, executor Run = serial>
[[nodiscard]] errc compact(heads_span<T> cache, plans p, Run const& run = {}) noexcept {
    if (errc const error = check_compaction(p, cache.heads, cache.tokens); error != errc::ok) return error;
    share_out(run, cache.heads, cache.tokens * cache.dim * size_of<T>, [&](index begin, index end, index) noexcept {
        if (p.shared() && cache.head_stride == cache.dim) {  // a token's heads stand side by side
            simd::compact_rows(cache.row(begin, 0), cache.token_stride, p[0].sources, (end - begin) * cache.dim);
            return;
        }
        for (index h = begin; h < end; ++h)
            simd::compact_rows(cache.row(h, 0), cache.token_stride, p[h].sources, cache.dim);
    });
    return errc::ok;
}

/// Compacts [heads, dim, tokens]: every channel's tokens.
/// @complexity O(kept * heads * dim)
template <class T, executor Run = serial>
[[nodiscard]] errc compact(transposed_span<T> cache, plans p, Run const& run = {}) noexcept {
    if (errc const error = check_compaction(p, cache.heads, cache.tokens); error != errc::ok) return error;
    share_out(run, cache.heads * cache.dim, cache.tokens * size_of<T> * 4, [&](index begin, index end, index) noexcept {
        for (index i = begin; i < end; ++i) {
            index const h = i / cache.dim, c = i % cache.dim;
            simd::compact_rows(cache.channel(h, c), 1, p[h].sources, 1);
        }
    });
    return errc::ok;
}

/// Compacts a paged cache within its blocks, so that its tokens fill the first `blocks_in_use` of the block table and
/// the others can go back to the pool. Blocks must be the sequence's own: copy those that it shares first.
/// @complexity O(kept * heads * dim)
template <class T, executor Run = serial>
[[nodiscard]] errc compact(paged_span<T> cache, plans p, Run const& run = {}) noexcept {
    if (errc const error = check_compaction(p, cache.heads, cache.tokens); error != errc::ok) return error;
    share_out(run, cache.heads, cache.tokens * cache.dim * size_of<T>, [&](index begin, index end, index) noexcept {
        for (index h = begin; h < end; ++h) {
            auto const sources = p[h].sources;
            for (index i = 0; i < std::ssize(sources); ++i) move_row(cache, h, sources[static_cast<std::size_t>(i)], i);
        }
    });
    return errc::ok;
}

/// Compacts a ragged cache, each head within its own room. It says nothing of lengths: when keys, values and all else
/// are moved, `count_kept` writes them.
/// @return errc::bad_shape also when a plan keeps a row that its head does not hold
/// @complexity O(kept * dim)
template <class T, executor Run = serial>
[[nodiscard]] errc compact(ragged_span<T> cache, plans p, Run const& run = {}) noexcept {
    if (errc const error = check_compaction(p, cache); error != errc::ok) return error;
    share_out(run, cache.heads, cache.tokens * cache.dim * size_of<T>, [&](index begin, index end, index) noexcept {
        for (index h = begin; h < end; ++h)
            simd::compact_rows(cache.row(h, 0), cache.token_stride, p[h].sources, cache.dim);
    });
    return errc::ok;
}

/// Whether a selection moves groups of `granularity` rows whole, each from a group's place to another's. The last one
/// that is kept may lose its end.
/// @complexity O(kept)
[[nodiscard]] inline bool moves_groups(plan const& p, index granularity) noexcept {
    for (index i = 0; granularity > 1 && i < std::ssize(p.sources); ++i) {
        index const within = i % granularity;
        if (p.sources.data()[i] - within != p.sources.data()[i - within]) return false;
        if (within == 0 && p.sources.data()[i] % granularity != 0) return false;
    }
    return true;
}

/// Compacts a cache in 8 bit, codes and scales as they are, in any layouts that compact.
/// @return errc::bad_plan also when rows that share scales part; the errors of the cache's `check`
/// @complexity O(kept * heads * dim)
template <class Codes, class Scales, executor Run = serial>
[[nodiscard]] errc compact(quantised_span<Codes, Scales> cache, plans p, Run const& run = {}) noexcept {
    if (errc const error = check_rooms(cache); error != errc::ok) return error;
    if (errc const error = cache.check(); error != errc::ok) return error;
    if (errc const error = check_compaction(p, cache); error != errc::ok) return error;
    index const granularity = cache.granularity;
    if (granularity == 1) {
        if (errc const error = compact(cache.codes, p, run); error != errc::ok) return error;
        return compact(cache.scales, p, run);
    }
    for (plan const& item : p.items)
        if (!moves_groups(item, granularity)) return errc::bad_plan;
    share_out(run, cache.heads, cache.tokens * cache.dim / granularity, [&](index begin, index end, index) noexcept {
        for (index h = begin; h < end; ++h)
            for (index i = 0; i < p[h].kept(); i += granularity)
                move_row(cache.scales, h, p[h].sources.data()[i] / granularity, i / granularity);
    });
    return compact(cache.codes, p, run);
}

/// What every head holds after a compaction: for the engine's `lengths`, when everything has been moved.
/// @param lengths  [heads]
/// @return         errc::bad_shape when there are other plans than heads
[[nodiscard]] inline errc count_kept(plans p, std::span<token> lengths) noexcept {
    if (!p.shared() && p.items.size() != lengths.size()) return errc::bad_shape;
    for (std::size_t h = 0; h < lengths.size(); ++h) lengths[h] = static_cast<token>(p[static_cast<index>(h)].kept());
    return errc::ok;
}

/// How many blocks of `block_tokens` rows the head that keeps most needs.
[[nodiscard]] constexpr index blocks_in_use(plans p, index block_tokens) noexcept {
    index most = 0;
    for (plan const& item : p.items) most = std::max(most, item.kept());
    return (most + block_tokens - 1) / block_tokens;
}

/// Compacts what is stored once a token: positions, ids, scores.
/// @param x  [tokens]
/// @complexity O(kept)
template <class T>
[[nodiscard]] errc compact(std::span<T> x, plan const& p) noexcept {
    if (errc const error = check_compaction(plans{{&p, 1}}, 1, std::ssize(x)); error != errc::ok) return error;
    simd::compact_rows(x.data(), 1, p.sources, 1);
    return errc::ok;
}

/// Copies the kept rows out of a paged cache; `terse::apply` does it for the others. Sources in any order.
///
/// @param in   [heads, tokens, dim]
/// @param out  [heads, kept, dim], kept at least the largest count of a head; rows past a head's count stay
/// @return     errc::bad_shape, errc::bad_plan when a plan is not a selection, errc::aliased when `out`
///             overlaps a block
/// @complexity O(kept * heads * dim + blocks)
template <class T, executor Run = serial>
[[nodiscard]] errc gather(std::type_identity_t<paged_view<T>> in, heads_span<T> out, plans p,
                          Run const& run = {}) noexcept {
    if (in.heads != out.heads || in.dim != out.dim) return errc::bad_shape;
    if (!p.shared() && std::ssize(p.items) != in.heads) return errc::bad_shape;
    for (plan const& item : p.items) {
        if (item.tokens != in.tokens || item.kept() > out.tokens) return errc::bad_shape;
        if (!item.is_selection()) return errc::bad_plan;
    }
    for (index t = 0; t < in.tokens; t += in.block_tokens) {
        heads_view<T> const block{in.row(0, t), in.heads,       std::min(in.block_tokens, in.tokens - t),
                                  in.dim,       in.head_stride, in.token_stride};
        if (overlap(extent(block), extent(out))) return errc::aliased;
    }
    share_out(run, out.heads, out.tokens * out.dim * 2 * size_of<T>, [&](index begin, index end, index) noexcept {
        for (index h = begin; h < end; ++h) {
            auto const sources = p[h].sources;
            for (index i = 0; i < std::ssize(sources); ++i)
                simd::copy_row(in.row(h, sources[static_cast<std::size_t>(i)]), out.row(h, i), in.dim);
        }
    });
    return errc::ok;
}

/// Where a ragged cache of what the plans keep has its heads: one after the other, each with `slack` rows to grow.
/// @param offsets  [heads + 1]
/// @param lengths  [heads]
/// @return         the rows that the store needs: offsets' last. errc::bad_shape when sizes or plans do not fit or the
///                 rows exceed `token`; errc::bad_setting when the slack is negative
[[nodiscard]] inline result<index> place_heads(plans p, index slack, std::span<token> offsets,
                                               std::span<token> lengths) noexcept {
    if (slack < 0 || slack > max_tokens) return errc::bad_setting;
    if (offsets.size() != lengths.size() + 1 || (!p.shared() && p.items.size() != lengths.size()))
        return errc::bad_shape;
    index rows = 0;
    for (index h = 0; h < std::ssize(lengths); ++h) rows += p[h].kept() + slack;
    if (rows > max_tokens) return errc::bad_shape;
    offsets[0] = 0;
    for (std::size_t h = 0; h < lengths.size(); ++h) {
        lengths[h] = static_cast<token>(p[static_cast<index>(h)].kept());
        offsets[h + 1] = static_cast<token>(offsets[h] + lengths[h] + slack);
    }
    return rows;
}

/// Copies the kept rows out of a cache into a ragged one with room of its own: how heads grow, and how a head-major
/// cache becomes ragged. Sources in any order.
///
/// @param in   head-major, token-major, padded, ragged or paged
/// @param out  laid out as `place_heads` says; rows past a head's count stay
/// @return     errc::bad_shape when heads, dim or tokens do not fit, a plan keeps rows that its head does not hold, or
///             more than there is room for; errc::bad_plan when a plan is not a selection; errc::aliased when `out`
///             overlaps what is read
/// @complexity O(kept * dim)
template <class In, class T, executor Run = serial>
[[nodiscard]] errc ragged_rebuild(In const& in, ragged_span<T> out, plans p, Run const& run = {}) noexcept {
    if (in.heads != out.heads || in.dim != out.dim) return errc::bad_shape;
    if (!p.shared() && std::ssize(p.items) != in.heads) return errc::bad_shape;
    if (errc const error = check_rooms(in); error != errc::ok) return error;
    if (errc const error = check_rooms(out); error != errc::ok) return error;
    auto const written = extent(out);
    for (index h = 0; h < in.heads; ++h) {
        plan const& item = p[h];
        index const held = length_of(in, h);
        if ((item.tokens != in.tokens && item.tokens != held) || item.kept() > out.room(h)) return errc::bad_shape;
        if (!item.is_selection()) return errc::bad_plan;
        for (token const source : item.sources) {
            if (source < 0 || source >= held) return errc::bad_shape;
            std::span const row(static_cast<T const*>(in.row(h, source)), static_cast<std::size_t>(in.dim));
            if (overlap(row, written)) return errc::aliased;
        }
    }
    share_out(run, in.heads, out.tokens * out.dim * 2 * size_of<T>, [&](index begin, index end, index) noexcept {
        for (index h = begin; h < end; ++h) {
            auto const sources = p[h].sources;
            if constexpr (requires { in.blocks; }) {
                for (index i = 0; i < std::ssize(sources); ++i)
                    simd::copy_row(static_cast<T const*>(in.row(h, sources.data()[i])), out.row(h, i), in.dim);
            } else {
                simd::gather_rows(static_cast<T const*>(in.row(h, 0)), in.token_stride, sources,
                                  static_cast<T*>(out.row(h, 0)), out.token_stride, in.dim);
            }
        }
    });
    return errc::ok;
}

}  // namespace terse::kv

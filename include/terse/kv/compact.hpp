// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <span>
#include <type_traits>

#include <terse/core/parallel.hpp>
#include <terse/core/plan.hpp>
#include <terse/core/result.hpp>
#include <terse/core/view.hpp>
#include <terse/simd/rows.hpp>

namespace terse::kv {

// The plans of an eviction move whatever a cache holds for its tokens, in place: keys, values, codes, scales,
// positions. Row i of a head becomes its row sources[i]; rows from the head's kept count on keep what they held and are
// free. Every call needs selections with ascending sources, checks all before it writes, and returns errc::bad_shape
// when heads or tokens differ from the plans' and errc::bad_plan when a plan is something else. Heads are cut over
// `run`'s workers; the result does not depend on the cut. No call allocates.

/// Whether `p` can move a cache of `heads` times `tokens` rows in place.
/// @complexity O(kept)
[[nodiscard]] inline errc check_compaction(plans p, index heads, index tokens) noexcept {
    if (!p.shared() && std::ssize(p.items) != heads) return errc::bad_shape;
    for (plan const& item : p.items) {
        if (item.tokens != tokens) return errc::bad_shape;
        auto const s = item.sources;
        auto const descends = [](token a, token b) { return a >= b; };
        if (!item.is_selection() || std::adjacent_find(s.begin(), s.end(), descends) != s.end()) return errc::bad_plan;
    }
    return errc::ok;
}

/// Compacts [heads, tokens, dim], head-major, token-major or padded.
/// @complexity O(kept * heads * dim); rows before the first evicted one are not touched
template <class T, executor Run = serial>
[[nodiscard]] errc compact(heads_span<T> cache, plans p, Run const& run = {}) noexcept {
    if (errc const error = check_compaction(p, cache.heads, cache.tokens); error != errc::ok) return error;
    share_out(run, cache.heads, cache.tokens * cache.dim, [&](index begin, index end, index) noexcept {
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
    share_out(run, cache.heads * cache.dim, cache.tokens, [&](index begin, index end, index) noexcept {
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
    share_out(run, cache.heads, cache.tokens * cache.dim, [&](index begin, index end, index) noexcept {
        for (index h = begin; h < end; ++h) {
            auto const sources = p[h].sources;
            for (index i = 0; i < std::ssize(sources); ++i) {
                token const from = sources[static_cast<std::size_t>(i)];
                if (from != i) simd::copy_row(static_cast<T const*>(cache.row(h, from)), cache.row(h, i), cache.dim);
            }
        }
    });
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
    share_out(run, out.heads, out.tokens * out.dim, [&](index begin, index end, index) noexcept {
        for (index h = begin; h < end; ++h) {
            auto const sources = p[h].sources;
            for (index i = 0; i < std::ssize(sources); ++i)
                simd::copy_row(in.row(h, sources[static_cast<std::size_t>(i)]), out.row(h, i), in.dim);
        }
    });
    return errc::ok;
}

}  // namespace terse::kv

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <iterator>
#include <type_traits>

#include <terse/core/parallel.hpp>
#include <terse/core/plan.hpp>
#include <terse/core/result.hpp>
#include <terse/core/view.hpp>

namespace terse::kv {

// Plans over the channels of keys, as `think` returns them, applied to rows of channels. Keys and queries of a kv head
// that lose the same channels have the logits of keys whose other channels are zero, at the cost of the channels that
// are left; the scale of the logits stays that of the whole dim. Every call needs selections with ascending sources,
// one for each kv head or one for all, checks all before it writes, and returns errc::bad_shape when shapes differ and
// errc::bad_plan when a plan is something else. Keys that are stored with a channel's tokens side by side are rows to
// `channels_of`, for `apply` and `compact`. No call allocates.

/// [heads, dim, tokens]: a transposed cache with its channels as the rows that a plan over channels moves.
template <class T>
[[nodiscard]] constexpr heads_span<T> channels_of(transposed_span<T> cache) noexcept {
    return {cache.data, cache.heads, cache.dim, cache.tokens, cache.head_stride, cache.dim_stride};
}

/// Whether `p` selects among `dim` channels for `kv_heads` heads.
/// @complexity O(kept)
[[nodiscard]] inline errc check_channels(plans p, index kv_heads, index dim) noexcept {
    if (p.items.empty() || (!p.shared() && std::ssize(p.items) != kv_heads)) return errc::bad_shape;
    for (plan const& item : p.items) {
        if (item.tokens != dim) return errc::bad_shape;
        if (!item.is_selection() || !item.keeps_order()) return errc::bad_plan;
    }
    return errc::ok;
}

/// Copies the kept channels of every row: of keys into a thinner cache, or of the queries that will meet it.
///
/// @param in        [heads, tokens, dim]
/// @param out       [heads, tokens, kept], kept at least the largest count of a head; channels past a head's count
///                  become zero, so that heads of different counts share a shape. May start where `in` does, row by
///                  row: then the rows lose their channels in place
/// @param kv_heads  how many kv heads the plans are for; query heads are grouped over them
/// @return          errc::aliased when `out` overlaps `in` in another way
/// @complexity      O(heads * tokens * kept)
template <class T, executor Run = serial>
[[nodiscard]] errc gather_channels(std::type_identity_t<heads_view<T>> in, heads_span<T> out, plans p, index kv_heads,
                                   Run const& run = {}) noexcept {
    if (in.heads != out.heads || in.tokens != out.tokens) return errc::bad_shape;
    if (kv_heads < 1 || in.heads % kv_heads != 0) return errc::bad_shape;
    if (errc const error = check_channels(p, kv_heads, in.dim); error != errc::ok) return error;
    for (plan const& item : p.items)
        if (item.kept() > out.dim) return errc::bad_shape;
    bool const same = in.data == out.data && in.head_stride == out.head_stride && in.token_stride == out.token_stride &&
                      out.dim <= in.dim;
    if (!same && overlap(extent(in), extent(out))) return errc::aliased;

    index const group = in.heads / kv_heads;
    share_out(run, in.heads * in.tokens, (in.dim + out.dim) * size_of<T>, [&](index begin, index end, index) noexcept {
        for (index i = begin; i < end; ++i) {
            index const h = i / in.tokens, t = i % in.tokens;
            auto const kept = p[h / group].sources;
            T const* const from = in.row(h, t);
            T* const to = out.row(h, t);
            T* const last = std::transform(kept.begin(), kept.end(), to, [from](token c) { return from[c]; });
            std::fill(last, to + out.dim, T(0.0F));
        }
    });
    return errc::ok;
}

/// Sets the channels that are not kept to zero, in place.
/// @param cache  [kv_heads, tokens, dim]
/// @complexity   O(kv_heads * tokens * dim)
template <class T, executor Run = serial>
[[nodiscard]] errc zero_channels(heads_span<T> cache, plans p, Run const& run = {}) noexcept {
    if (errc const error = check_channels(p, cache.heads, cache.dim); error != errc::ok) return error;
    share_out(run, cache.heads * cache.tokens, cache.dim * size_of<T>, [&](index begin, index end, index) noexcept {
        for (index i = begin; i < end; ++i) {
            index const h = i / cache.tokens;
            T* const row = cache.row(h, i % cache.tokens);
            T* next = row;
            for (token const kept : p[h].sources) {
                std::fill(next, row + kept, T(0.0F));
                next = row + kept + 1;
            }
            std::fill(next, row + cache.dim, T(0.0F));
        }
    });
    return errc::ok;
}

}  // namespace terse::kv

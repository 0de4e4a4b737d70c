// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include <terse/simd/batch.hpp>
#include <terse/simd/scalar.hpp>

namespace terse::simd {

/// Floats of scratch that softmax_columns wants.
template <class Arch = default_arch>
[[nodiscard]] constexpr index softmax_columns_scratch(index keys, index dim) noexcept {
    return keys + dim;
}

/// What each key receives of the queries' attention: for queries i of [0, queries) the softmax over keys
/// j < min(visible + i, keys) of scale * <q_i, k_j>, and columns[j] += its value, for j < columns.size().
///
/// A logit that is NaN or -infinity counts as not visible. A query that sees nothing else, or one with a logit of
/// +infinity, adds nothing.
///
/// @param query, key  callables index -> T const*, of dim contiguous values; any layout
/// @param soft_cap    > 0: logits become cap * tanh(logit / cap)
/// @param visible     keys that query 0 sees; query i sees i more (causal). For all keys: keys
/// @param columns     at most keys of them, added to
/// @param scratch     at least softmax_columns_scratch(keys, dim)
/// @complexity        O(queries * keys * dim); no allocation
template <class Arch = default_arch, class Query, class Key>
void softmax_columns(index queries, Query query, index keys, Key key, index dim, float scale, float soft_cap,
                     index visible, std::span<float> columns, [[maybe_unused]] std::span<float> scratch) noexcept {
    scalar::softmax_columns(queries, query, keys, key, dim, scale, soft_cap, visible, columns);
}

}  // namespace terse::simd

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <concepts>
#include <span>

#include <terse/simd/attention_shape.hpp>
#include <terse/simd/batch.hpp>
#include <terse/simd/softmax_lanes.hpp>
#include <terse/simd/softmax_rows.hpp>
#include <terse/simd/tile.hpp>

// Limited by the multiply-adds: see softmax_lanes.hpp for queries that go across lanes, softmax_rows.hpp for one query a
// head.

namespace terse::simd {

/// A callable's rows of bfloat16 as rows of pairs.
template <class Rows>
[[nodiscard]] auto as_pairs(Rows rows) noexcept {
    return [rows](auto... at) noexcept { return reinterpret_cast<float const*>(rows(at...)); };
}

/// Heads that `softmax_columns` takes at once, so that keys are read once for all of them.
template <class Arch = default_arch>
[[nodiscard]] constexpr index softmax_heads(index queries) noexcept {
    return queries <= 1 ? lone_heads : lay_out<Arch>(shared_heads::apart, 64, queries).heads;
}

/// Floats of scratch that `softmax_columns` wants: enough for fewer queries too.
template <class Arch = default_arch>
[[nodiscard]] constexpr index softmax_columns_scratch(attention_shape const& of) noexcept {
    if (of.queries < 1 || of.heads < 1) return 0;
    if (of.queries > 1 || of.shared == shared_heads::highest) return softmax_lanes<Arch>::scratch(of);
    return lone_softmax_scratch<Arch>(of);
}

/// Every query counts once.
struct once {
    [[nodiscard]] constexpr float operator()(index) const noexcept { return 1; }
};

/// Logs of sums that are not given.
struct unknown {
    [[nodiscard]] constexpr float operator()(index, index) const noexcept { return 0; }
};

/// What each key receives of the queries' attention: for queries i of [0, queries) of each head the softmax over keys
/// j < min(visible(i), keys) of scale * <q_hi, k_j>, and columns[h][j] += weight(i) times its value, for j < wanted.
///
/// A logit that is NaN or -infinity counts as not visible. A query that sees nothing else, or one with a logit of
/// +infinity, adds nothing.
///
/// One product: exponentials are kept relative to the maximum so far, a chunk of keys at a time, and weighted at the
/// end by what the final maximum and sum make of that chunk. What a head gets does not depend on the heads beside it.
/// Where the sums are known, nothing is kept: a chunk's exponentials are added as they come.
///
/// Bfloat16 queries and keys of an even dim go through `dot_pairs` where it is an instruction.
///
/// @tparam Element  pair: rows are of `dim` pairs, see `as_pairs`
/// @tparam Collect  hits: columns[h][j] += 1 for every weighted probability above 1, instead of its value
/// @param query     callable (head, index) -> T const*, of dim contiguous values; any layout
/// @param key       callable index -> T const*, likewise
/// @param visible   callable i -> keys that query i sees, never fewer than those before it see; or the keys that query
///                  0 sees, where query i sees i more (causal). For all keys: keys
/// @param columns   added to; wanted <= keys
/// @param scratch   at least softmax_columns_scratch(of)
/// @param weight    callable i -> what query i counts
/// @param log_sum   where sums are known: callable (head, i) -> log of the sum of the exponentials of the query's
///                  logits, capped ones where there is a cap, over the keys that it sees; of each head apart. A query
///                  whose log is not finite adds nothing
/// @complexity      O(heads * queries * keys * dim); no allocation
template <class Arch = default_arch, element Element = element::single, collect Collect = collect::sums, class Query,
          class Key, class Visible, class Weight = once, class LogSum = unknown>
void softmax_columns(attention_shape const& of, Query query, Key key, Visible visible, column_rows columns,
                     std::span<float> scratch, Weight weight = {}, LogSum log_sum = {}) noexcept {
    if (of.heads < 1 || of.queries < 1) return;
    bool const alone = of.queries == 1 && of.shared == shared_heads::apart;
    if constexpr (has_dot_pairs<Arch> && std::same_as<decltype(key(of.keys)), bfloat16 const*> &&
                  std::same_as<decltype(query(of.heads, of.queries)), bfloat16 const*>) {
        if (!alone && of.dim % 2 == 0) {
            attention_shape pairs = of;
            pairs.dim /= 2;
            return softmax_columns<Arch, element::pair, Collect>(pairs, as_pairs(query), as_pairs(key), visible,
                                                                 columns, scratch, weight, log_sum);
        }
    }
    auto const seen_by = [&](index i) noexcept -> index {
        if constexpr (std::integral<Visible>) {
            return std::clamp<index>(visible + i, 0, of.keys);
        } else {
            return std::clamp<index>(visible(i), 0, of.keys);
        }
    };
    if (alone)
        return lone_softmax_columns<Arch, Collect>(of, query, seen_by(0), key, columns, scratch, weight(0), log_sum);

    softmax_lanes<Arch> lanes(of, scratch);
    for (index head = 0; head < of.heads; head += lanes.most_heads()) {
        index const heads = std::min(lanes.most_heads(), of.heads - head);
        auto const to = columns.from(head);
        for (index first = 0; first < of.queries; first += lanes.most_queries()) {
            index const count = std::min(lanes.most_queries(), of.queries - first);
            lanes.template take<Element>(
                heads, count, [&](index h, index i) noexcept { return query(head + h, first + i); },
                [&](index i) noexcept { return seen_by(first + i); },
                [&](index i) noexcept { return weight(first + i); },
                [&](index h, index i) noexcept { return log_sum(head + h, first + i); });
            index const seen_by_all = seen_by(first), seen_by_last = seen_by(first + count - 1);
            index const written = std::min(seen_by_last, columns.wanted), seen = of.known ? written : seen_by_last;
            for (index chunk = 0; chunk < seen; chunk += chunk_rows<Arch>) {
                index const rows = std::min(chunk_rows<Arch>, seen - chunk);
                broadcast_rows<Arch> const near(chunk, rows, key, of.dim, lanes.copies());
                upcoming_rows<Arch> const next(chunk + rows, of.keys, key, of.dim, lanes.registers());
                lanes.template meet<Element>(chunk, rows, near, next, chunk + rows > seen_by_all);
                if (of.known) lanes.template add_known<Collect>(chunk, rows, to);
            }
            if (!of.known) lanes.template add_all<Collect>(written, to);
        }
    }
}

}  // namespace terse::simd

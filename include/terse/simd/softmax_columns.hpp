// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <limits>
#include <span>

#include <terse/simd/batch.hpp>
#include <terse/simd/exp2.hpp>
#include <terse/simd/rows.hpp>
#include <terse/simd/softmax_rows.hpp>
#include <terse/simd/tile.hpp>

// Limited by the multiply-adds of the tiles. Beside them lie an exponential, a load and a store a logit, and a second
// load for its weight.

namespace terse::simd {

/// A callable's rows of bfloat16 as rows of pairs.
template <class Rows>
[[nodiscard]] auto as_pairs(Rows rows) noexcept {
    return [rows](auto... at) noexcept { return reinterpret_cast<float const*>(rows(at...)); };
}

/// columns[r] += the sum over lanes of weights[lane] * rows[r][lane], or of those that are above 1, for r < count. Rows
/// are `stride` apart.
template <class Arch, collect Collect>
void add_weighted_rows(index count, float const* rows, index stride, std::span<float const> weights,
                       float* columns) noexcept {
    constexpr index width = lanes<Arch>;
    for (index r = 0; r < count; r += width) {
        std::array<floats<Arch>, floats<Arch>::size> sums;
        unroll<width>([&](auto i) {
            float const* const row = rows + std::min<index>(r + i, count - 1) * stride;
            sums[i] = floats<Arch>(0.0F);
            for (std::size_t lane = 0; lane < weights.size(); lane += floats<Arch>::size) {
                auto const x = floats<Arch>::load_aligned(row + lane);
                sums[i] = collected<Arch, Collect>(x, floats<Arch>::load_aligned(weights.data() + lane), sums[i]);
            }
        });
        auto const total = sum_each<Arch>(sums);
        if (count - r >= width)
            store<Arch>(total + load<Arch>(columns + r), columns + r);
        else
            store_partial<Arch>(total + load_partial<Arch>(columns + r, count - r), columns + r, count - r);
    }
}

/// How heads that share their keys count: each for itself, or by the highest of their logits.
enum class shared_heads : unsigned char { apart, highest };

/// Lanes that go at once, where there are as many.
template <class Arch>
inline constexpr index most_lanes = std::max<index>(64, panel_width<Arch>);

/// The lanes of `softmax_columns`: the queries of a head in whole registers, one head after the other.
struct softmax_layout {
    index heads;       ///< that go at once: keys are read once for all of them
    index head_lanes;  ///< of a head
    index group;       ///< of all that go at once, in whole panels
    index row;         ///< that a key's exponentials take
};

template <class Arch>
[[nodiscard]] constexpr softmax_layout lay_out(shared_heads shared, index heads, index queries) noexcept {
    constexpr index width = panel_width<Arch>, most = most_lanes<Arch>;
    bool const merged = shared == shared_heads::highest;
    index const share = std::max(lanes<Arch>, most / heads / lanes<Arch> * lanes<Arch>);
    // More queries are a whole prompt's, each of which sees one key more: fewer at once multiply less in vain.
    index const room = merged ? share : queries > most ? most / 2 : most;
    index const head_lanes = std::min(room, whole_registers<Arch>(queries));
    index const at_once = merged ? heads : std::min(heads, most / head_lanes);
    index const group = (at_once * head_lanes + width - 1) / width * width;
    return {at_once, head_lanes, group, merged ? head_lanes : group};
}

/// Heads that `softmax_columns` takes at once, so that keys are read once for all of them.
template <class Arch = default_arch>
[[nodiscard]] constexpr index softmax_heads(index queries) noexcept {
    return queries <= 1 ? lone_heads : lay_out<Arch>(shared_heads::apart, 64, queries).heads;
}

/// Floats of scratch that `softmax_columns` wants for `heads` heads of `queries` queries: enough for fewer queries too.
/// @param known  the logs of the sums are given
template <class Arch = default_arch>
[[nodiscard]] constexpr index softmax_columns_scratch(index heads, index queries, index keys, index dim,
                                                      shared_heads shared = shared_heads::apart,
                                                      bool known = false) noexcept {
    if (queries < 1 || heads < 1) return 0;
    bool const merged = shared == shared_heads::highest;
    if (queries == 1 && !merged)
        return alignment_slack + (known ? 0 : std::min(heads, lone_heads) * whole_registers<Arch>(keys));
    // Fewer queries may be laid out in more lanes, but not in more than these.
    constexpr index width = panel_width<Arch>;
    index const all = (heads * whole_registers<Arch>(queries) + width - 1) / width * width;
    auto const l = lay_out<Arch>(shared, heads, queries);
    index const group = merged ? l.group : std::min(all, most_lanes<Arch>), row = merged ? l.row : group;
    index const chunks = (keys + chunk_rows<Arch> - 1) / chunk_rows<Arch>;
    index const kept = known ? 0 : (keys + chunks) * row;
    index const passing = known || merged ? chunk_rows<Arch> * group : 0;
    return alignment_slack + kept + passing + (4 + dim) * group + row_copies<Arch>(dim) +
           partial_sums<Arch>(group, dim);
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
/// @param heads     heads that read the same keys
/// @param query     callable (head, index) -> T const*, of dim contiguous values; any layout
/// @param key       callable index -> T const*, likewise
/// @param soft_cap  > 0: logits become cap * tanh(logit / cap)
/// @param visible   callable i -> keys that query i sees, never fewer than those before it see; or the keys that query
///                  0 sees, where query i sees i more (causal). For all keys: keys
/// @param columns   [heads, wanted], `stride` from one head to the next; wanted <= keys; added to. A stride of 0 adds
///                  all heads up.
/// @param scratch   at least softmax_columns_scratch(heads, queries, keys, dim, shared, known)
/// @param weight    callable i -> what query i counts
/// @param shared    highest: a logit is the highest of all heads, and there is one row of columns
/// @param known     the sums are given; not together with shared_heads::highest
/// @param log_sum   callable (head, i) -> log of the sum of the exponentials of the query's logits, capped ones where
///                  there is a cap, over the keys that it sees; of each head apart. A query whose log is not finite
///                  adds nothing
/// @complexity      O(heads * queries * keys * dim); no allocation
template <class Arch = default_arch, element Element = element::single, collect Collect = collect::sums, class Query,
          class Key, class Visible, class Weight = once, class LogSum = unknown>
[[gnu::flatten]] void softmax_columns(index heads, index queries, Query query, index keys, Key key, index dim,
                                      float scale, float soft_cap, Visible visible, std::span<float> columns,
                                      index stride, index wanted, std::span<float> scratch, Weight weight = {},
                                      shared_heads shared = shared_heads::apart, bool known = false,
                                      LogSum log_sum = {}) noexcept {
    using batch = floats<Arch>;
    constexpr index step = lanes<Arch>, chunk_size = chunk_rows<Arch>;
    constexpr float lowest = std::numeric_limits<float>::lowest();
    bool const merged = shared == shared_heads::highest;
    if (heads < 1 || queries < 1) return;
    if constexpr (has_dot_pairs<Arch> && std::same_as<decltype(key(keys)), bfloat16 const*> &&
                  std::same_as<decltype(query(heads, queries)), bfloat16 const*>) {
        if (queries > 1 && dim % 2 == 0)
            return softmax_columns<Arch, element::pair, Collect>(heads, queries, as_pairs(query), keys, as_pairs(key),
                                                                 dim / 2, scale, soft_cap, visible, columns, stride,
                                                                 wanted, scratch, weight, shared, known, log_sum);
    }
    auto const seen_by = [&](index i) noexcept -> index {
        if constexpr (std::integral<Visible>) {
            return std::clamp<index>(visible + i, 0, keys);
        } else {
            return std::clamp<index>(visible(i), 0, keys);
        }
    };
    base2_logits<Arch> const logits(scale, soft_cap);
    if (queries == 1 && !merged) {
        for (index head = 0; head < heads; head += lone_heads) {
            index const mine = std::min(lone_heads, heads - head);
            auto const own = [&](index h, index i) noexcept { return query(head + h, i); };
            auto const to = columns.subspan(static_cast<std::size_t>(head * stride));
            if (known) {
                known_softmax_rows<Arch, Collect>(mine, own, std::min(seen_by(0), wanted), key, dim, logits, weight(0),
                                                  to, stride,
                                                  [&](index h, index i) noexcept { return log_sum(head + h, i); });
            } else {
                softmax_rows<Arch, Collect>(mine, own, seen_by(0), key, dim, logits, weight(0), to, stride, wanted,
                                            align(scratch));
            }
        }
        return;
    }

    auto const layout = lay_out<Arch>(shared, heads, queries);
    index const at_once = layout.heads, group = layout.group, row = layout.row;
    bool const far = !known && keys * row > near_floats;  // the exponentials
    index const chunks = (keys + chunk_size - 1) / chunk_size;
    float* const panels = align(scratch);         // [dim, group]
    float* const highest = panels + group * dim;  // [row]: the maximum so far,
    float* const before = highest + group;        // that of the chunk before, later the lane's weight,
    float* const sum = before + group;            // the sum, or the log of a known one,
    float* const sees = sum + group;              // and [group]: the keys that a lane sees
    float* const copies = sees + group;
    float* const partial = copies + row_copies<Arch>(dim);
    float* const passing = partial + partial_sums<Arch>(group, dim);  // [chunk_size, group]: of a chunk alone
    float* const chunk_highest = passing + (known || merged ? chunk_size * group : 0);  // [chunks, row]
    float* const exponentials = chunk_highest + chunks * row;                           // [keys, row]

    for (index head = 0; head < heads; head += at_once) {
        index const mine = std::min(at_once, heads - head);
        auto const head_columns = columns.subspan(static_cast<std::size_t>(head * stride));
        for (index first = 0; first < queries; first += layout.head_lanes) {
            index const count = std::min(layout.head_lanes, queries - first);
            index const head_lanes = whole_registers<Arch>(count);
            index const used = mine * head_lanes;             // lanes of the products,
            index const in_row = merged ? head_lanes : used;  // and of what is kept for a key
            index const seen_by_all = seen_by(first), seen_by_last = seen_by(first + count - 1);
            index const seen = known ? std::min(seen_by_last, wanted) : seen_by_last;

            // Lanes beyond a head's queries repeat its last one, and count nothing.
            auto const number = [&](index lane) noexcept { return first + std::min(lane % head_lanes, count - 1); };
            pack_panels<Arch>(
                0, used, [&](index lane) noexcept { return query(head + lane / head_lanes, number(lane)); }, dim,
                panels);
            std::fill_n(highest, group, lowest);
            std::fill_n(sum, group, 0.0F);
            for (index lane = 0; lane < used; ++lane) {
                sees[lane] = static_cast<float>(seen_by(number(lane)));
                if (!known) continue;
                before[lane] = lane % head_lanes < count ? weight(number(lane)) : 0;
                sum[lane] = base2_log_sum(log_sum(head + lane / head_lanes, number(lane)), before[lane]);
            }
            auto const add_up = [&](index chunk, index rows, float const* from) noexcept {
                for (index h = 0; h < (merged ? 1 : mine); ++h) {
                    std::span const weights(before + h * head_lanes, static_cast<std::size_t>(head_lanes));
                    add_weighted_rows<Arch, Collect>(rows, from + h * head_lanes, known ? group : row, weights,
                                                     head_columns.data() + h * stride + chunk);
                }
            };

            for (index chunk = 0; chunk < seen; chunk += chunk_size) {
                index const rows = std::min(chunk_size, seen - chunk);
                bool const masked = chunk + rows > seen_by_all;
                float* const kept = exponentials + chunk * row;
                float* const made = known || merged ? passing : kept;  // [rows, group]
                if (!known) std::copy_n(highest, group, before);
                broadcast_rows<Arch> const key_rows(chunk, rows, key, dim, copies);

                // Its logits, as if there were no cap and no mask.
                auto const keep = [&](auto R, auto V, auto const& products, index block, index p) noexcept {
                    if (p == 0) {
                        index const next = chunk + chunk_size + block, end = std::min(next + R, keys);
                        for (index j = next; j < end; ++j) prefetch_row(key(j), dim);
                        for (index at = next * row; far && at < end * row; at += 16)
                            __builtin_prefetch(exponentials + at, 1);
                    }
                    unroll<V>([&](auto v) {
                        index const lane = p + v * step;
                        auto top = batch::load_aligned(highest + lane);
                        unroll<R>([&](auto r) {
                            auto const x = logits.scaled(products[r][v]);
                            top = max_number<Arch>(x, top);
                            x.store_aligned(made + (block + r) * group + lane);
                        });
                        top.store_aligned(highest + lane);
                    });
                };
                multiply_all<Arch, Element>(rows, key_rows, used, panels, dim, partial, keep);

                auto const logit = [&](index r, index lane) noexcept {  // with both
                    auto const x = logits.within_cap(batch::load_aligned(made + r * group + lane));
                    if (!masked) return x;
                    auto const hidden = batch::load_aligned(sees + lane) <= batch(static_cast<float>(chunk + r));
                    return xsimd::select(hidden, batch(-std::numeric_limits<float>::infinity()), x);
                };
                if (known) {
                    for (index lane = 0; lane < used; lane += step) {
                        auto const log = batch::load_aligned(sum + lane);
                        for (index r = 0; r < rows; ++r)
                            exp2_below<Arch>(logit(r, lane), log).store_aligned(made + r * group + lane);
                    }
                    add_up(chunk, rows, made);
                    continue;
                }
                // Its exponentials, relative to the highest logit so far.
                for (index lane = 0; lane < in_row; lane += step) {
                    auto const last = batch::load_aligned(before + lane);
                    auto top = batch::load_aligned(highest + lane);
                    if (masked || merged || logits.capped()) {
                        top = last;
                        for (index r = 0; r < rows; ++r) {
                            batch x(-std::numeric_limits<float>::infinity());
                            for (index h = 0; h < (merged ? mine : 1); ++h)
                                x = max_number<Arch>(logit(r, h * head_lanes + lane), x);
                            top = max_number<Arch>(x, top);
                            x.store_aligned(kept + r * row + lane);
                        }
                        top.store_aligned(highest + lane);
                    }
                    auto total = batch::load_aligned(sum + lane) * exp2<Arch>(last - top);
                    for (float* at = kept + lane; at < kept + rows * row; at += row) {
                        auto const e = exp2<Arch>(batch::load_aligned(at) - top);
                        e.store_aligned(at);
                        total += e;
                    }
                    total.store_aligned(sum + lane);
                    top.store_aligned(chunk_highest + chunk / chunk_size * row + lane);
                }
            }
            if (known) continue;

            // Weighted by what the highest of all and the sum make of them.
            for (index lane = 0; lane < in_row; ++lane)
                sum[lane] = lane % head_lanes < count && sum[lane] > 0 ? weight(number(lane)) / sum[lane] : 0;
            index const written = std::min(seen, wanted);
            for (index chunk = 0; chunk < written; chunk += chunk_size) {
                for (index lane = 0; lane < in_row; lane += step) {
                    auto const late = batch::load_aligned(chunk_highest + chunk / chunk_size * row + lane) -
                                      batch::load_aligned(highest + lane);
                    (exp2<Arch>(late) * batch::load_aligned(sum + lane)).store_aligned(before + lane);
                }
                index const next = chunk + chunk_size, after = std::min(next + chunk_size, keys);
                for (index at = next * row; at < after * row; at += 16) __builtin_prefetch(exponentials + at);
                add_up(chunk, std::min(chunk_size, written - chunk), exponentials + chunk * row);
            }
        }
    }
}

}  // namespace terse::simd

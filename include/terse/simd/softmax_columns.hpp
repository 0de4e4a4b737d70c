// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <numbers>
#include <span>

#include <terse/simd/batch.hpp>
#include <terse/simd/dot.hpp>
#include <terse/simd/exp2.hpp>
#include <terse/simd/rows.hpp>
#include <terse/simd/tile.hpp>

// Limited by the multiply-adds of the tiles. Beside them lie an exponential, a load and a store a logit, a second load
// for its weight, and the packing of keys, which the heads that share them share too.

namespace terse::simd {

/// Logits from products, in base 2: scale * x, capped, times log2(e).
template <class Arch>
struct base2_logits {
    float scale;
    float soft_cap;

    [[nodiscard]] floats<Arch> operator()(floats<Arch> const& products) const noexcept {
        using batch = floats<Arch>;
        constexpr float log2e = std::numbers::log2e_v<float>;
        if (!(soft_cap > 0)) return products * batch(scale * log2e);
        auto const x = products * batch(scale / soft_cap);
        auto const e = exp2<Arch>(xsimd::abs(x) * batch(-2 * log2e));  // tanh |x| = (1 - e^-2|x|) / (1 + e^-2|x|)
        auto const capped = (batch(1.0F) - e) / (batch(1.0F) + e) * batch(soft_cap * log2e);
        return xsimd::select(x == x, xsimd::copysign(capped, x), x);
    }
};

/// A callable's rows of bfloat16 as rows of pairs.
template <class Rows>
[[nodiscard]] auto as_pairs(Rows rows) noexcept {
    return [rows](auto... at) noexcept { return reinterpret_cast<float const*>(rows(at...)); };
}

/// What a key collects: the sum of weighted probabilities, or how many of them are above 1.
enum class collect : unsigned char { sums, hits };

/// sum + weight * x, or sum + 1 where weight * x is above 1.
template <class Arch, collect Collect>
[[nodiscard]] floats<Arch> collected(floats<Arch> const& x, floats<Arch> const& weight,
                                     floats<Arch> const& sum) noexcept {
    if constexpr (Collect == collect::sums) {
        return fma<Arch>(x, weight, sum);
    } else {
        floats<Arch> const one(1.0F);
        return sum + xsimd::select(x * weight > one, one, floats<Arch>(0.0F));
    }
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

/// The lanes of `softmax_columns`: the queries of a head in whole registers, one head after the other.
struct softmax_layout {
    index heads;       ///< that go at once: keys are read and packed once for all of them
    index head_lanes;  ///< of a head
    index group;       ///< of all that go at once, in whole panels
    index row;         ///< that a key's exponentials take
};

template <class Arch>
[[nodiscard]] constexpr index whole_registers(index count) noexcept {
    return (count + lanes<Arch> - 1) / lanes<Arch> * lanes<Arch>;
}

template <class Arch>
[[nodiscard]] constexpr softmax_layout lay_out(shared_heads shared, index heads, index queries) noexcept {
    constexpr index width = panel_width<Arch>, most = std::max<index>(64, width);
    bool const merged = shared == shared_heads::highest;
    index const room = merged ? std::max(lanes<Arch>, most / heads / lanes<Arch> * lanes<Arch>) : most;
    index const head_lanes = std::min(room, whole_registers<Arch>(queries));
    index const at_once = merged ? heads : std::min(heads, most / head_lanes);
    index const group = (at_once * head_lanes + width - 1) / width * width;
    return {at_once, head_lanes, group, merged ? head_lanes : group};
}

/// Floats that stay in a core's second-level cache.
inline constexpr index near_floats = index{1} << 17;

/// Heads of one query that `softmax_columns` takes at once.
inline constexpr index lone_heads = 16;

/// Heads that `softmax_columns` takes at once, so that keys are read and packed once for all of them.
template <class Arch = default_arch>
[[nodiscard]] constexpr index softmax_heads(index queries) noexcept {
    return queries <= 1 ? lone_heads : lay_out<Arch>(shared_heads::apart, 64, queries).heads;
}

/// Floats of scratch that `softmax_columns` wants for `heads` heads of `queries` queries.
/// @param known  the logs of the sums are given
template <class Arch = default_arch>
[[nodiscard]] constexpr index softmax_columns_scratch(index heads, index queries, index keys, index dim,
                                                      shared_heads shared = shared_heads::apart,
                                                      bool known = false) noexcept {
    if (queries < 1 || heads < 1) return 0;
    bool const merged = shared == shared_heads::highest;
    if (queries == 1 && !merged)
        return alignment_slack + (known ? 0 : std::min(heads, lone_heads) * whole_registers<Arch>(keys));
    auto const l = lay_out<Arch>(shared, heads, queries);
    index const chunks = (keys + chunk_rows<Arch> - 1) / chunk_rows<Arch>;
    index const kept = known ? 0 : (keys + chunks) * l.row;
    index const passing = known || merged ? chunk_rows<Arch> * l.group : 0;
    constexpr index blocks = chunk_rows<Arch> / tile_rows<Arch> * block_width<Arch>;
    return alignment_slack + kept + passing + (4 + dim) * l.group + blocks * dim + partial_sums<Arch>(l.group, dim);
}

/// Every query counts once.
struct once {
    [[nodiscard]] constexpr float operator()(index) const noexcept { return 1; }
};

/// Logs of sums that are not given.
struct unknown {
    [[nodiscard]] constexpr float operator()(index, index) const noexcept { return 0; }
};

/// 2^(x - top), where top is no less than x but for rounding; 0 where x is NaN.
template <class Arch>
[[nodiscard]] floats<Arch> exp2_below(floats<Arch> const& x, floats<Arch> const& top) noexcept {
    return exp2<Arch>(min_number<Arch>(floats<Arch>(0.0F), x - top));  // which is NaN where x - top is
}

/// A log of a sum of exponentials in base 2, and 0 as the weight of a query that has none: one that sees nothing.
[[nodiscard]] inline float base2_log_sum(float log_sum, float& weight) noexcept {
    if (is_finite(log_sum)) return log_sum * std::numbers::log2e_v<float>;
    weight = 0;
    return 0;
}

/// softmax_columns of one query a head: keys lie across lanes, and stay near while one head after the other meets them.
template <class Arch, collect Collect, class Query, class Key>
void softmax_rows(index heads, Query query, index seen, Key key, index dim, base2_logits<Arch> logits, float weight,
                  std::span<float> columns, index stride, index wanted, float* scratch) noexcept {
    using batch = floats<Arch>;
    constexpr index width = lanes<Arch>;
    constexpr float lowest = std::numeric_limits<float>::lowest();
    index const room = whole_registers<Arch>(seen);
    std::array<batch, 16> highest;
    highest.fill(batch(lowest));
    for (index j = 0; j < seen; j += width) {
        for (index i = j + rows_ahead; i < std::min(j + rows_ahead + width, seen); ++i) prefetch_row(key(i), dim);
        for (index h = 0; h < heads; ++h) {
            auto x = logits(dot_rows<Arch>(j, seen, key, query(h, 0), dim));
            if (seen - j < width)
                x = xsimd::select(lane_numbers<Arch>() >= batch(static_cast<float>(seen - j)),
                                  batch(-std::numeric_limits<float>::infinity()), x);
            highest[static_cast<std::size_t>(h)] = max_number<Arch>(x, highest[static_cast<std::size_t>(h)]);
            x.store_aligned(scratch + h * room + j);
        }
    }
    for (index h = 0; h < heads; ++h) {
        float* const row = scratch + h * room;
        batch const top(max_lane<Arch>(highest[static_cast<std::size_t>(h)]));
        batch sum(0.0F);
        for (index j = 0; j < seen; j += width) {
            auto const e = exp2<Arch>(batch::load_aligned(row + j) - top);
            e.store_aligned(row + j);
            sum += e;
        }
        float const total = sum_lanes<Arch>(sum);
        float* const to = columns.data() + h * stride;
        if (!(total > 0)) continue;
        if constexpr (Collect == collect::sums)
            add_scaled<Arch>(row, weight / total, to, std::min(seen, wanted));
        else
            add_hits<Arch>(row, 0, 1, total / weight, to, std::min(seen, wanted));
    }
}

/// The same where the log of the sum is known: no logit is kept.
template <class Arch, collect Collect, class Query, class Key, class LogSum>
void known_softmax_rows(index heads, Query query, index seen, Key key, index dim, base2_logits<Arch> logits,
                        float weight, std::span<float> columns, index stride, LogSum log_sum) noexcept {
    using batch = floats<Arch>;
    constexpr index width = lanes<Arch>;
    for (index j = 0; j < seen; j += width) {
        for (index i = j + rows_ahead; i < std::min(j + rows_ahead + width, seen); ++i) prefetch_row(key(i), dim);
        for (index h = 0; h < heads; ++h) {
            float counts = weight;
            batch const top(base2_log_sum(log_sum(h, 0), counts));
            auto const e = exp2_below<Arch>(logits(dot_rows<Arch>(j, seen, key, query(h, 0), dim)), top);
            float* const to = columns.data() + h * stride + j;
            if (seen - j >= width)
                store<Arch>(collected<Arch, Collect>(e, batch(counts), load<Arch>(to)), to);
            else
                store_partial<Arch>(collected<Arch, Collect>(e, batch(counts), load_partial<Arch>(to, seen - j)), to,
                                    seen - j);
        }
    }
}

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
    base2_logits<Arch> const logits{scale, soft_cap};
    bool const rows_alone = queries == 1 && !merged;
    auto const layout = lay_out<Arch>(shared, heads, queries);
    index const at_once = layout.heads, head_lanes = layout.head_lanes, group = layout.group, row = layout.row;
    bool const far = !known && keys * row > near_floats;  // the exponentials

    for (index head = 0; head < heads; head += rows_alone ? lone_heads : at_once) {
        auto const head_columns = columns.subspan(static_cast<std::size_t>(head * stride));
        if (rows_alone) {
            index const mine = std::min(lone_heads, heads - head);
            auto const own = [&](index h, index i) noexcept { return query(head + h, i); };
            if (known) {
                known_softmax_rows<Arch, Collect>(mine, own, std::min(seen_by(0), wanted), key, dim, logits, weight(0),
                                                  head_columns, stride,
                                                  [&](index h, index i) noexcept { return log_sum(head + h, i); });
            } else {
                softmax_rows<Arch, Collect>(mine, own, seen_by(0), key, dim, logits, weight(0), head_columns, stride,
                                            wanted, align(scratch));
            }
            continue;
        }
        index const mine = std::min(at_once, heads - head);
        for (index first = 0; first < queries; first += head_lanes) {
            index const count = std::min(head_lanes, queries - first);
            index const used = mine * head_lanes;             // lanes of the products,
            index const in_row = merged ? head_lanes : used;  // and of what is kept for a key
            index const seen_by_all = seen_by(first);
            index const seen = known ? std::min(seen_by(first + count - 1), wanted) : seen_by(first + count - 1);
            index const chunks = (keys + chunk_size - 1) / chunk_size;
            float* const panels = align(scratch);         // [dim, group]
            float* const highest = panels + group * dim;  // [row]: the maximum so far, or the log of a known sum,
            float* const before = highest + group;        // of the chunk before, later the lane's weight,
            float* const sum = before + group;            // the sum,
            float* const sees = sum + group;              // and [group]: the keys that a lane sees
            float* const blocks = sees + group;
            float* const partial = blocks + chunk_size / tile_rows<Arch> * block_width<Arch> * dim;
            float* const passing = partial + partial_sums<Arch>(group, dim);  // [chunk_size, group]: of a chunk alone
            float* const chunk_highest = passing + (known || merged ? chunk_size * group : 0);  // [chunks, row]
            float* const exponentials = chunk_highest + chunks * row;                           // [keys, row]

            auto const query_of = [&](index lane) noexcept {  // those beyond a head's queries repeat its last one
                return query(head + lane / head_lanes, first + std::min(lane % head_lanes, count - 1));
            };
            pack_panels<Arch>(0, used, query_of, dim, panels);
            std::fill_n(highest, group, lowest);
            std::fill_n(sum, group, 0.0F);
            for (index lane = 0; lane < used; ++lane)
                sees[lane] = static_cast<float>(seen_by(first + std::min(lane % head_lanes, count - 1)));
            if (known) {
                for (index lane = 0; lane < used; ++lane) {
                    index const i = lane % head_lanes;
                    before[lane] = i < count ? weight(first + i) : 0;
                    highest[lane] =
                        i < count ? base2_log_sum(log_sum(head + lane / head_lanes, first + i), before[lane]) : 0;
                }
            }

            index const in_use = whole_registers<Arch>(count);
            for (index chunk = 0; chunk < seen; chunk += chunk_size) {
                index const rows = std::min(chunk_size, seen - chunk);
                bool const masked = chunk + rows > seen_by_all;
                pack_blocks<Arch>(chunk, rows, key, dim, blocks);
                if (!known) std::copy_n(highest, group, before);
                auto const keep = [&](auto R, auto V, auto const& products, index block, index p) noexcept {
                    index const j = chunk + block;
                    if (p == 0) {
                        for (index r = 0; r < R; ++r) {
                            index const next = std::min(j + r + chunk_size, keys - 1);
                            prefetch_row(key(next), dim);
                            for (index lane = 0; lane < (far ? row : 0); lane += 16)
                                __builtin_prefetch(exponentials + next * row + lane, 1);
                        }
                    }
                    float* const to = known || merged ? passing + block * group : exponentials + j * group;
                    unroll<V>([&](auto v) {
                        index const lane = p + v * step;
                        auto top = batch::load_aligned(highest + lane);
                        unroll<R>([&](auto r) {
                            auto x = logits(products[r][v]);
                            if (masked) {
                                x = xsimd::select(batch::load_aligned(sees + lane) <= batch(static_cast<float>(j + r)),
                                                  batch(-std::numeric_limits<float>::infinity()), x);
                            }
                            if (known)
                                x = exp2_below<Arch>(x, top);
                            else
                                top = max_number<Arch>(x, top);
                            x.store_aligned(to + r * group + lane);
                        });
                        if (!known && !merged) top.store_aligned(highest + lane);
                    });
                };
                multiply_all<Arch, Element>(rows, blocks, used, panels, dim, partial, keep);
                if (known) {
                    for (index h = 0; h < mine; ++h) {
                        std::span const weights(before + h * head_lanes, static_cast<std::size_t>(in_use));
                        add_weighted_rows<Arch, Collect>(rows, passing + h * head_lanes, group, weights,
                                                         head_columns.data() + h * stride + chunk);
                    }
                    continue;
                }
                for (index lane = 0; lane < in_row; lane += step) {
                    auto top = batch::load_aligned(highest + lane);
                    for (index r = 0; merged && r < rows; ++r) {
                        batch x(-std::numeric_limits<float>::infinity());
                        for (index h = 0; h < mine; ++h)
                            x = max_number<Arch>(batch::load_aligned(passing + r * group + h * head_lanes + lane), x);
                        top = max_number<Arch>(x, top);
                        x.store_aligned(exponentials + (chunk + r) * row + lane);
                    }
                    if (merged) top.store_aligned(highest + lane);
                    auto total = batch::load_aligned(sum + lane) * exp2<Arch>(batch::load_aligned(before + lane) - top);
                    for (index j = chunk; j < chunk + rows; ++j) {
                        float* const at = exponentials + j * row + lane;
                        auto const e = exp2<Arch>(batch::load_aligned(at) - top);
                        e.store_aligned(at);
                        total += e;
                    }
                    total.store_aligned(sum + lane);
                    top.store_aligned(chunk_highest + chunk / chunk_size * row + lane);
                }
            }
            if (known) continue;

            for (index lane = 0; lane < in_row; ++lane) {
                index const i = lane % head_lanes;
                sum[lane] = i < count && sum[lane] > 0 ? weight(first + i) / sum[lane] : 0;
            }
            index const written = std::min(seen, wanted);
            for (index chunk = 0; chunk < written; chunk += chunk_size) {
                for (index lane = 0; lane < in_row; lane += step) {
                    auto const late = batch::load_aligned(chunk_highest + chunk / chunk_size * row + lane) -
                                      batch::load_aligned(highest + lane);
                    (exp2<Arch>(late) * batch::load_aligned(sum + lane)).store_aligned(before + lane);
                }
                index const next = chunk + chunk_size, after = std::min(next + chunk_size, keys);
                for (index at = next * row; at < after * row; at += 16) __builtin_prefetch(exponentials + at);
                for (index h = 0; h < (merged ? 1 : mine); ++h) {
                    std::span const weights(before + h * head_lanes, static_cast<std::size_t>(in_use));
                    add_weighted_rows<Arch, Collect>(std::min(chunk_size, written - chunk),
                                                     exponentials + chunk * row + h * head_lanes, row, weights,
                                                     head_columns.data() + h * stride + chunk);
                }
            }
        }
    }
}

}  // namespace terse::simd

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

/// columns[r] += the sum over lanes of weights[lane] * rows[r][lane], for r < count. Rows are `stride` apart.
template <class Arch>
void add_weighted_rows(index count, float const* rows, index stride, std::span<float const> weights,
                       float* columns) noexcept {
    constexpr index width = lanes<Arch>;
    for (index r = 0; r < count; r += width) {
        std::array<floats<Arch>, floats<Arch>::size> sums;
        unroll<width>([&](auto i) {
            float const* const row = rows + std::min<index>(r + i, count - 1) * stride;
            sums[i] = floats<Arch>(0.0F);
            for (std::size_t lane = 0; lane < weights.size(); lane += floats<Arch>::size) {
                sums[i] = fma<Arch>(floats<Arch>::load_aligned(row + lane),
                                    floats<Arch>::load_aligned(weights.data() + lane), sums[i]);
            }
        });
        auto const total = sum_each<Arch>(sums);
        if (count - r >= width)
            store<Arch>(total + load<Arch>(columns + r), columns + r);
        else
            store_partial<Arch>(total + load_partial<Arch>(columns + r, count - r), columns + r, count - r);
    }
}

/// Rows across lanes that `softmax_columns` takes at once: of the queries of one head, or of several heads.
template <class Arch>
inline constexpr index softmax_group = std::max<index>(64, panel_width<Arch>);

template <class Arch>
[[nodiscard]] constexpr index whole_registers(index count) noexcept {
    return (count + lanes<Arch> - 1) / lanes<Arch> * lanes<Arch>;
}

/// Lanes that a head takes: its queries, in whole registers.
template <class Arch>
[[nodiscard]] constexpr index softmax_lanes(index queries) noexcept {
    return std::min(softmax_group<Arch>, whole_registers<Arch>(queries));
}

/// Heads that `softmax_columns` takes at once, so that keys are read and packed once for all of them.
template <class Arch = default_arch>
[[nodiscard]] constexpr index softmax_heads(index queries) noexcept {
    return queries <= 1 ? 16 : softmax_group<Arch> / softmax_lanes<Arch>(queries);
}

/// Floats of scratch that `softmax_columns` wants for `heads` heads of `queries` queries.
template <class Arch = default_arch>
[[nodiscard]] constexpr index softmax_columns_scratch(index heads, index queries, index keys, index dim) noexcept {
    index const at_once = std::min(heads, softmax_heads<Arch>(queries));
    if (queries <= 1) return alignment_slack + at_once * whole_registers<Arch>(keys);
    constexpr index width = panel_width<Arch>, blocks = chunk_rows<Arch> / tile_rows<Arch> * block_width<Arch>;
    index const group = (at_once * softmax_lanes<Arch>(queries) + width - 1) / width * width;
    return alignment_slack + (keys + (keys + chunk_rows<Arch> - 1) / chunk_rows<Arch> + 4 + dim) * group +
           blocks * dim + partial_sums<Arch>(group, dim);
}

/// softmax_columns of one query a head: keys lie across lanes, and stay near while one head after the other meets them.
template <class Arch, class Query, class Key>
void softmax_rows(index heads, Query query, index seen, Key key, index dim, base2_logits<Arch> logits,
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
        if (total > 0) add_scaled<Arch>(row, 1 / total, columns.data() + h * stride, std::min(seen, wanted));
    }
}

/// What each key receives of the queries' attention: for queries i of [0, queries) of each head the softmax over keys
/// j < min(visible + i, keys) of scale * <q_hi, k_j>, and columns[h][j] += its value, for j < wanted.
///
/// A logit that is NaN or -infinity counts as not visible. A query that sees nothing else, or one with a logit of
/// +infinity, adds nothing.
///
/// One product: exponentials are kept relative to the maximum so far, a chunk of keys at a time, and weighted at the
/// end by what the final maximum and sum make of that chunk. What a head gets does not depend on the heads beside it.
///
/// Bfloat16 queries and keys of an even dim go through `dot_pairs` where it is an instruction.
///
/// @tparam Element  pair: rows are of `dim` pairs, see `as_pairs`
/// @param heads     heads that read the same keys
/// @param query     callable (head, index) -> T const*, of dim contiguous values; any layout
/// @param key       callable index -> T const*, likewise
/// @param soft_cap  > 0: logits become cap * tanh(logit / cap)
/// @param visible   keys that query 0 sees; query i sees i more (causal). For all keys: keys
/// @param columns   [heads, wanted], `stride` from one head to the next; wanted <= keys; added to
/// @param scratch   at least softmax_columns_scratch(heads, queries, keys, dim)
/// @complexity      O(heads * queries * keys * dim); no allocation
template <class Arch = default_arch, element Element = element::single, class Query, class Key>
[[gnu::flatten]] void softmax_columns(index heads, index queries, Query query, index keys, Key key, index dim,
                                      float scale, float soft_cap, index visible, std::span<float> columns,
                                      index stride, index wanted, std::span<float> scratch) noexcept {
    using batch = floats<Arch>;
    constexpr index width = panel_width<Arch>, step = lanes<Arch>, chunk_size = chunk_rows<Arch>;
    constexpr float lowest = std::numeric_limits<float>::lowest();
    if constexpr (has_dot_pairs<Arch> && std::same_as<decltype(key(keys)), bfloat16 const*> &&
                  std::same_as<decltype(query(heads, queries)), bfloat16 const*>) {
        if (queries > 1 && dim % 2 == 0)
            return softmax_columns<Arch, element::pair>(heads, queries, as_pairs(query), keys, as_pairs(key), dim / 2,
                                                        scale, soft_cap, visible, columns, stride, wanted, scratch);
    }
    base2_logits<Arch> const logits{scale, soft_cap};
    index const at_once = std::min(heads, softmax_heads<Arch>(queries));
    index const head_lanes = softmax_lanes<Arch>(queries);
    index const group = (at_once * head_lanes + width - 1) / width * width;

    for (index head = 0; head < heads; head += at_once) {
        index const mine = std::min(at_once, heads - head);
        auto const head_columns = columns.subspan(static_cast<std::size_t>(head * stride));
        if (queries == 1) {
            auto const own = [&](index h, index i) noexcept { return query(head + h, i); };
            softmax_rows<Arch>(mine, own, std::clamp<index>(visible, 0, keys), key, dim, logits, head_columns, stride,
                               wanted, align(scratch));
            continue;
        }
        for (index first = 0; first < queries; first += head_lanes) {
            index const count = std::min(head_lanes, queries - first);
            index const used = mine * head_lanes;  // lanes
            index const seen_by_all = std::clamp<index>(visible + first, 0, keys);
            index const seen = std::clamp<index>(visible + first + count - 1, 0, keys);
            index const chunks = (keys + chunk_size - 1) / chunk_size;
            float* const panels = align(scratch);                        // [dim, group]
            float* const highest = panels + group * dim;                 // [group]: the maximum so far,
            float* const before = highest + group;                       // of the chunk before,
            float* const sum = before + group;                           // the sum,
            float* const sees = sum + group;                             // and the keys that a lane sees
            float* const chunk_highest = sees + group;                   // [chunks, group]
            float* const exponentials = chunk_highest + chunks * group;  // [keys, group]
            float* const blocks = exponentials + keys * group;
            float* const partial = blocks + chunk_size / tile_rows<Arch> * block_width<Arch> * dim;

            auto const query_of = [&](index lane) noexcept {  // those beyond a head's queries repeat its last one
                return query(head + lane / head_lanes, first + std::min(lane % head_lanes, count - 1));
            };
            pack_panels<Arch>(0, used, query_of, dim, panels);
            std::fill_n(highest, group, lowest);
            std::fill_n(sum, group, 0.0F);
            for (index lane = 0; lane < used; ++lane)
                sees[lane] = static_cast<float>(visible + first + std::min(lane % head_lanes, count - 1));

            for (index chunk = 0; chunk < seen; chunk += chunk_size) {
                index const rows = std::min(chunk_size, seen - chunk);
                bool const masked = chunk + rows > seen_by_all;
                pack_blocks<Arch>(chunk, rows, key, dim, blocks);
                std::copy_n(highest, group, before);
                auto const keep = [&](auto R, auto V, auto const& products, index block, index p) noexcept {
                    index const j = chunk + block;
                    if (p == 0) {
                        for (index r = 0; r < R; ++r) {
                            index const next = std::min(j + r + chunk_size, keys - 1);
                            prefetch_row(key(next), dim);
                            for (index lane = 0; lane < group; lane += 16)
                                __builtin_prefetch(exponentials + next * group + lane, 1);
                        }
                    }
                    unroll<V>([&](auto v) {
                        index const lane = p + v * step;
                        auto top = batch::load_aligned(highest + lane);
                        unroll<R>([&](auto r) {
                            auto x = logits(products[r][v]);
                            if (masked) {
                                x = xsimd::select(batch::load_aligned(sees + lane) <= batch(static_cast<float>(j + r)),
                                                  batch(-std::numeric_limits<float>::infinity()), x);
                            }
                            top = max_number<Arch>(x, top);
                            x.store_aligned(exponentials + (j + r) * group + lane);
                        });
                        top.store_aligned(highest + lane);
                    });
                };
                multiply_all<Arch, Element>(rows, blocks, used, panels, dim, partial, keep);
                for (index lane = 0; lane < used; lane += step) {
                    auto const top = batch::load_aligned(highest + lane);
                    auto total = batch::load_aligned(sum + lane) * exp2<Arch>(batch::load_aligned(before + lane) - top);
                    for (index j = chunk; j < chunk + rows; ++j) {
                        float* const at = exponentials + j * group + lane;
                        auto const e = exp2<Arch>(batch::load_aligned(at) - top);
                        e.store_aligned(at);
                        total += e;
                    }
                    total.store_aligned(sum + lane);
                    top.store_aligned(chunk_highest + chunk / chunk_size * group + lane);
                }
            }

            for (index lane = 0; lane < used; ++lane)
                sum[lane] = lane % head_lanes < count && sum[lane] > 0 ? 1 / sum[lane] : 0;
            index const written = std::min(seen, wanted);
            for (index chunk = 0; chunk < written; chunk += chunk_size) {
                for (index lane = 0; lane < used; lane += step) {
                    auto const late = batch::load_aligned(chunk_highest + chunk / chunk_size * group + lane) -
                                      batch::load_aligned(highest + lane);
                    (exp2<Arch>(late) * batch::load_aligned(sum + lane)).store_aligned(before + lane);
                }
                index const in_use = (count + step - 1) / step * step;
                index const next = chunk + chunk_size, after = std::min(next + chunk_size, keys);
                for (index at = next * group; at < after * group; at += 16) __builtin_prefetch(exponentials + at);
                for (index h = 0; h < mine; ++h) {
                    std::span const weights(before + h * head_lanes, static_cast<std::size_t>(in_use));
                    add_weighted_rows<Arch>(std::min(chunk_size, written - chunk),
                                            exponentials + chunk * group + h * head_lanes, group, weights,
                                            head_columns.data() + h * stride + chunk);
                }
            }
        }
    }
}

}  // namespace terse::simd

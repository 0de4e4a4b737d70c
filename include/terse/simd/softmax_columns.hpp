// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <numbers>
#include <span>

#include <terse/simd/batch.hpp>
#include <terse/simd/dot.hpp>
#include <terse/simd/exp2.hpp>
#include <terse/simd/rows.hpp>
#include <terse/simd/tile.hpp>

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

/// Queries that `softmax_columns` takes at once, across lanes.
template <class Arch>
inline constexpr index softmax_group = std::max<index>(32, panel_width<Arch>);

/// Floats of scratch that `softmax_columns` wants.
template <class Arch = default_arch>
[[nodiscard]] constexpr index softmax_columns_scratch(index keys, index dim) noexcept {
    constexpr index group = softmax_group<Arch>;
    index const chunks = (keys + chunk_rows<Arch> - 1) / chunk_rows<Arch>;
    return alignment_slack + keys * group + chunks * group + (group + chunk_rows<Arch>)*dim + 3 * group;
}

/// softmax_columns of one query: keys lie across lanes.
template <class Arch, class Query, class Key>
void softmax_row(Query const* query, index seen, Key key, index dim, base2_logits<Arch> logits,
                 std::span<float> columns, float* scratch) noexcept {
    using batch = floats<Arch>;
    constexpr index width = lanes<Arch>;
    constexpr float lowest = std::numeric_limits<float>::lowest();
    auto const last = static_cast<float>(seen - 1);
    batch highest(lowest), sum(0.0F);
    for (index j = 0; j < seen; j += width) {  // may write up to a register beyond `seen`: scratch has room
        auto x = logits(dot_rows<Arch>(j, seen, key, query, dim));
        if (seen - j < width)
            x = xsimd::select(lane_numbers<Arch>() > batch(last - static_cast<float>(j)),
                              batch(-std::numeric_limits<float>::infinity()), x);
        highest = max_number<Arch>(x, highest);
        x.store_aligned(scratch + j);
    }
    batch const top(max_lane<Arch>(highest));
    for (index j = 0; j < seen; j += width) {
        auto const e = exp2<Arch>(batch::load_aligned(scratch + j) - top);
        e.store_aligned(scratch + j);
        sum += e;
    }
    float const total = sum_lanes<Arch>(sum);
    if (total > 0)
        add_scaled<Arch>(scratch, 1 / total, columns.data(), std::min(seen, static_cast<index>(columns.size())));
}

/// columns[r] += the sum over lanes of weights[lane] * rows[r][lane], for r < count. Rows are `group` apart.
template <class Arch>
void add_weighted_rows(index count, float const* rows, index group, std::span<float const> weights,
                       float* columns) noexcept {
    constexpr index width = lanes<Arch>;
    for (index r = 0; r < count; r += width) {
        std::array<floats<Arch>, floats<Arch>::size> sums;
        unroll<width>([&](auto i) {
            float const* const row = rows + std::min<index>(r + i, count - 1) * group;
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

/// What each key receives of the queries' attention: for queries i of [0, queries) the softmax over keys
/// j < min(visible + i, keys) of scale * <q_i, k_j>, and columns[j] += its value, for j < columns.size().
///
/// A logit that is NaN or -infinity counts as not visible. A query that sees nothing else, or one with a logit of
/// +infinity, adds nothing.
///
/// One product: exponentials are kept relative to the maximum so far, a chunk of keys at a time, and weighted at the
/// end by what the final maximum and sum make of that chunk.
///
/// @param query, key  callables index -> T const*, of dim contiguous values; any layout
/// @param soft_cap    > 0: logits become cap * tanh(logit / cap)
/// @param visible     keys that query 0 sees; query i sees i more (causal). For all keys: keys
/// @param columns     at most keys of them, added to
/// @param scratch     at least softmax_columns_scratch(keys, dim)
/// @complexity        O(queries * keys * dim); no allocation
template <class Arch = default_arch, class Query, class Key>
[[gnu::flatten]] void softmax_columns(index queries, Query query, index keys, Key key, index dim, float scale,
                                      float soft_cap, index visible, std::span<float> columns,
                                      std::span<float> scratch) noexcept {
    using batch = floats<Arch>;
    constexpr index width = panel_width<Arch>, group = softmax_group<Arch>, step = lanes<Arch>;
    constexpr index chunk_size = chunk_rows<Arch>;
    constexpr float lowest = std::numeric_limits<float>::lowest();
    base2_logits<Arch> const logits{scale, soft_cap};
    float* const panels = align(scratch);
    float* const highest = panels + group * dim;  // [group]: the maximum so far, of the chunk before, and the sum
    float* const before = highest + group;
    float* const sum = before + group;
    float* const chunk_highest = sum + group;                                                  // [chunks, group]
    float* const exponentials = chunk_highest + (keys + chunk_size - 1) / chunk_size * group;  // [keys, group]
    float* const converted = exponentials + keys * group;

    for (index first = 0; first < queries; first += group) {
        index const count = std::min(group, queries - first);
        index const seen_by_all = std::clamp<index>(visible + first, 0, keys);
        index const seen = std::clamp<index>(visible + first + count - 1, 0, keys);
        if (count == 1) {
            softmax_row<Arch>(query(first), seen, key, dim, logits, columns, exponentials);
            continue;
        }
        auto const vectors = [count](index panel) noexcept { return count - panel > step ? 2 : 1; };
        for (index p = 0; p < count; p += width) {
            pack<Arch>(first + p, count - p, query, dim, vectors(p) * step, panels + p * dim);
        }
        std::fill_n(highest, group, lowest);
        std::fill_n(sum, group, 0.0F);

        for (index chunk = 0; chunk < seen; chunk += chunk_size) {
            index const chunk_count = std::min(chunk_size, seen - chunk);
            bool const masked = chunk + chunk_count > seen_by_all;
            std::array<float const*, static_cast<std::size_t>(chunk_size)> rows;
            float_rows<Arch>(chunk, chunk_count, key, dim, converted, rows.data());
            std::copy_n(highest, group, before);
            for (index p = 0; p < count; p += width) {
                for (index block = 0; block < chunk_count; block += tile_rows<Arch>) {
                    index const j = chunk + block;
                    auto const keep = [&](auto R, auto V) noexcept {
                        if (p == 0) {
                            for (index r = 0; r < R; ++r)
                                prefetch_row(key(std::min(j + r + chunk_size, keys - 1)), dim);
                        }
                        auto const products = multiply<Arch, R, V>(rows.data() + block, panels + p * dim, dim);
                        unroll<V>([&](auto v) {
                            index const lane = p + v * step;
                            auto top = batch::load_aligned(highest + lane);
                            unroll<R>([&](auto r) {
                                auto x = logits(products[r][v]);
                                if (masked) {  // lane l sees keys below visible + first + l
                                    batch const hidden(static_cast<float>(j + r - visible - first - lane));
                                    x = xsimd::select(lane_numbers<Arch>() <= hidden,
                                                      batch(-std::numeric_limits<float>::infinity()), x);
                                }
                                top = max_number<Arch>(x, top);
                                x.store_aligned(exponentials + (j + r) * group + lane);
                            });
                            top.store_aligned(highest + lane);
                        });
                    };
                    with_tile<Arch>(std::min<index>(tile_rows<Arch>, chunk_count - block), vectors(p), keep);
                }
            }
            for (index lane = 0; lane < count; lane += step) {
                auto const top = batch::load_aligned(highest + lane);
                auto total = batch::load_aligned(sum + lane) * exp2<Arch>(batch::load_aligned(before + lane) - top);
                for (index j = chunk; j < chunk + chunk_count; ++j) {
                    float* const at = exponentials + j * group + lane;
                    auto const e = exp2<Arch>(batch::load_aligned(at) - top);
                    e.store_aligned(at);
                    total += e;
                }
                total.store_aligned(sum + lane);
                top.store_aligned(chunk_highest + chunk / chunk_size * group + lane);
            }
        }

        for (index lane = 0; lane < group; ++lane) sum[lane] = lane < count && sum[lane] > 0 ? 1 / sum[lane] : 0;
        index const wanted = std::min(seen, static_cast<index>(columns.size()));
        for (index chunk = 0; chunk < wanted; chunk += chunk_size) {
            for (index lane = 0; lane < count; lane += step) {
                auto const late = batch::load_aligned(chunk_highest + chunk / chunk_size * group + lane) -
                                  batch::load_aligned(highest + lane);
                (exp2<Arch>(late) * batch::load_aligned(sum + lane)).store_aligned(before + lane);
            }
            auto const used = static_cast<std::size_t>((count + step - 1) / step * step);
            add_weighted_rows<Arch>(std::min(chunk_size, wanted - chunk), exponentials + chunk * group, group,
                                    std::span<float const>(before, used), columns.data() + chunk);
        }
    }
}

}  // namespace terse::simd

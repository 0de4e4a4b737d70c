// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>

#include <terse/simd/attention_shape.hpp>
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

/// Floats of scratch that `softmax_columns` wants: enough for fewer queries too.
template <class Arch = default_arch>
[[nodiscard]] constexpr index softmax_columns_scratch(attention_shape const& of) noexcept {
    if (of.queries < 1 || of.heads < 1) return 0;
    bool const merged = of.shared == shared_heads::highest;
    if (of.queries == 1 && !merged)
        return alignment_slack + (of.known ? 0 : std::min(of.heads, lone_heads) * whole_registers<Arch>(of.keys));
    // Fewer queries may be laid out in more lanes, but not in more than these.
    constexpr index width = panel_width<Arch>;
    index const all = (of.heads * whole_registers<Arch>(of.queries) + width - 1) / width * width;
    auto const l = lay_out<Arch>(of.shared, of.heads, of.queries);
    index const group = merged ? l.group : std::min(all, most_lanes<Arch>), row = merged ? l.row : group;
    index const chunks = (of.keys + chunk_rows<Arch> - 1) / chunk_rows<Arch>;
    index const kept = of.known ? 0 : (of.keys + chunks) * row;
    index const passing = of.known || merged ? chunk_rows<Arch> * group : 0;
    return alignment_slack + kept + passing + (5 + of.dim) * group + row_copies<Arch>(of.dim) +
           partial_sums<Arch>(group, of.dim);
}

/// Where the rows of a chunk lie, whatever they are, to bring them near.
template <class Arch>
class upcoming_rows {
  public:
    /// Rows [first, end), as many as a chunk holds.
    template <class Row>
    upcoming_rows(index first, index end, Row row, index dim) noexcept
        : count_{std::clamp<index>(end - first, 0, chunk_rows<Arch>)} {
        for (index i = 0; i < count_; ++i) {
            auto const bytes = bytes_of(row(first + i), dim);
            rows_[static_cast<std::size_t>(i)] = bytes.data();
            size_ = bytes.size();
        }
    }

    [[gnu::always_inline]] void prefetch(index begin, index end) const noexcept {
        for (index i = begin; i < std::min(end, count_); ++i)
            prefetch_bytes({rows_[static_cast<std::size_t>(i)], size_});
    }

  private:
    std::array<std::uint8_t const*, static_cast<std::size_t>(chunk_rows<Arch>)> rows_;
    index count_;
    std::size_t size_ = 0;  ///< of a row
};

/// The queries that go at once, each in a lane, and their softmax over the keys so far.
template <class Arch>
class softmax_lanes {
    using batch = floats<Arch>;
    static constexpr index step = lanes<Arch>, chunk_size = chunk_rows<Arch>;

  public:
    /// @param scratch  softmax_columns_scratch(of)
    softmax_lanes(attention_shape const& of, std::span<float> scratch) noexcept
        : of_{of},
          merged_{of.shared == shared_heads::highest},
          layout_{lay_out<Arch>(of.shared, of.heads, of.queries)},
          logits_(of.scale, of.soft_cap) {
        auto take = [at = align(scratch)](index count) mutable noexcept { return std::exchange(at, at + count); };
        index const group = layout_.group, chunks = (of.keys + chunk_size - 1) / chunk_size;
        panels_ = take(of.dim * group);
        for (float** each : {&highest_, &before_, &sum_, &sees_, &weight_}) *each = take(group);
        copies_ = take(row_copies<Arch>(of.dim));
        partial_ = take(partial_sums<Arch>(group, of.dim));
        passing_ = take(of.known || merged_ ? chunk_size * group : 0);
        chunk_highest_ = take(of.known ? 0 : chunks * layout_.row);
        exponentials_ = take(of.known ? 0 : of.keys * layout_.row);
    }

    [[nodiscard]] index most_heads() const noexcept { return layout_.heads; }
    [[nodiscard]] index most_queries() const noexcept { return layout_.head_lanes; }
    [[nodiscard]] float* copies() const noexcept { return copies_; }

    /// Takes queries [0, count) of heads [0, heads). Lanes beyond a head's queries repeat its last one, and count
    /// nothing.
    template <class Query, class SeenBy, class Weight, class LogSum>
    void take(index heads, index count, Query query, SeenBy seen_by, Weight weight, LogSum log_sum) noexcept {
        head_lanes_ = whole_registers<Arch>(count);
        used_ = heads * head_lanes_;
        in_row_ = merged_ ? head_lanes_ : used_;
        auto const number = [&](index lane) noexcept { return std::min(lane % head_lanes_, count - 1); };
        auto const row = [&](index lane) noexcept { return query(lane / head_lanes_, number(lane)); };
        pack_panels<Arch>(0, used_, row, of_.dim, panels_);
        std::fill_n(highest_, layout_.group, std::numeric_limits<float>::lowest());
        std::fill_n(sum_, layout_.group, 0.0F);
        for (index lane = 0; lane < used_; ++lane) {
            index const i = number(lane);
            sees_[lane] = static_cast<float>(seen_by(i));
            weight_[lane] = lane % head_lanes_ < count ? weight(i) : 0;
            if (of_.known) sum_[lane] = base2_log_sum(log_sum(lane / head_lanes_, i), weight_[lane]);
        }
    }

    /// The logits of a chunk of keys, and the highest of each lane, as if there were no cap and no mask.
    /// @param next  the keys of the chunk after it, brought near meanwhile
    template <element Element>
    [[gnu::flatten]] void multiply(index chunk, index rows, broadcast_rows<Arch> const& keys,
                                   upcoming_rows<Arch> const& next) noexcept {
        index const all = of_.keys, group = layout_.group, row = layout_.row;
        bool const far = !of_.known && all * row > near_floats;  // the exponentials
        float* const to = made(chunk);
        float* const highest = highest_;
        float* const exponentials = exponentials_;
        auto const logits = logits_;
        if (!of_.known) std::copy_n(highest, group, before_);
        auto const keep = [=, &next](auto R, auto V, auto const& products, index block, index p) noexcept {
            if (p == 0) {
                next.prefetch(block, block + R);
                index const first = chunk + chunk_size + block, end = std::min(first + R, all);
                for (index at = first * row; far && at < end * row; at += 16) __builtin_prefetch(exponentials + at, 1);
            }
            unroll<V>([&](auto v) {
                index const lane = p + v * step;
                auto top = batch::load_aligned(highest + lane);
                unroll<R>([&](auto r) {
                    auto const x = logits.scaled(products[r][v]);
                    top = max_number<Arch>(x, top);
                    x.store_aligned(to + (block + r) * group + lane);
                });
                top.store_aligned(highest + lane);
            });
        };
        multiply_all<Arch, Element>(rows, keys, used_, panels_, of_.dim, partial_, keep);
    }

    /// The exponentials of a chunk, relative to the highest logit so far, or to the sum where that is known.
    /// @param masked  not every query sees all of it
    [[gnu::flatten]] void settle(index chunk, index rows, bool masked) noexcept {
        constexpr float lowest = -std::numeric_limits<float>::infinity();
        index const group = layout_.group, row = layout_.row;
        float* const at_hand = made(chunk);
        auto const logits = logits_;
        auto const logit = [=, sees = sees_](index r, index lane) noexcept {  // with cap and mask
            auto const x = logits.within_cap(batch::load_aligned(at_hand + r * group + lane));
            if (!masked) return x;
            auto const hidden = batch::load_aligned(sees + lane) <= batch(static_cast<float>(chunk + r));
            return xsimd::select(hidden, batch(lowest), x);
        };
        if (of_.known) {
            for (index lane = 0; lane < used_; lane += step) {
                auto const log = batch::load_aligned(sum_ + lane);
                for (index r = 0; r < rows; ++r)
                    exp2_below<Arch>(logit(r, lane), log).store_aligned(at_hand + r * group + lane);
            }
            return;
        }
        float* const kept = exponentials_ + chunk * row;
        index const end = merged_ ? used_ : 1;
        for (index lane = 0; lane < in_row_; lane += step) {
            auto const last = batch::load_aligned(before_ + lane);
            auto top = batch::load_aligned(highest_ + lane);
            if (masked || merged_ || logits.capped()) {
                top = last;
                for (index r = 0; r < rows; ++r) {
                    batch x(lowest);
                    for (index h = 0; h < end; h += head_lanes_) x = max_number<Arch>(logit(r, h + lane), x);
                    top = max_number<Arch>(x, top);
                    x.store_aligned(kept + r * row + lane);
                }
                top.store_aligned(highest_ + lane);
            }
            auto total = batch::load_aligned(sum_ + lane) * exp2<Arch>(last - top);
            for (float* at = kept + lane; at < kept + rows * row; at += row) {
                auto const e = exp2<Arch>(batch::load_aligned(at) - top);
                e.store_aligned(at);
                total += e;
            }
            total.store_aligned(sum_ + lane);
            top.store_aligned(chunk_highest_ + chunk / chunk_size * row + lane);
        }
    }

    /// Adds what a chunk's keys receive of known sums.
    template <collect Collect>
    void add_known(index chunk, index rows, column_rows const& to) const noexcept {
        add<Collect>(chunk, rows, passing_, layout_.group, weight_, to);
    }

    /// Adds what keys [0, count) receive: exponentials weighted by what the highest of all and the sum make of them.
    template <collect Collect>
    [[gnu::flatten]] void add_all(index count, column_rows const& to) noexcept {
        index const row = layout_.row;
        for (index lane = 0; lane < in_row_; ++lane) weight_[lane] = sum_[lane] > 0 ? weight_[lane] / sum_[lane] : 0;
        for (index chunk = 0; chunk < count; chunk += chunk_size) {
            for (index lane = 0; lane < in_row_; lane += step) {
                auto const late = batch::load_aligned(chunk_highest_ + chunk / chunk_size * row + lane) -
                                  batch::load_aligned(highest_ + lane);
                (exp2<Arch>(late) * batch::load_aligned(weight_ + lane)).store_aligned(before_ + lane);
            }
            index const next = chunk + chunk_size, after = std::min(next + chunk_size, of_.keys);
            for (index at = next * row; at < after * row; at += 16) __builtin_prefetch(exponentials_ + at);
            add<Collect>(chunk, std::min(chunk_size, count - chunk), exponentials_ + chunk * row, row, before_, to);
        }
    }

  private:
    /// Where a chunk's logits are made: [rows, group].
    [[nodiscard]] float* made(index chunk) const noexcept {
        return of_.known || merged_ ? passing_ : exponentials_ + chunk * layout_.row;
    }

    template <collect Collect>
    void add(index chunk, index rows, float const* from, index stride, float const* weights,
             column_rows const& to) const noexcept {
        for (index h = 0; h < in_row_ / head_lanes_; ++h) {
            index const lane = h * head_lanes_;
            add_weighted_rows<Arch, Collect>(
                rows, from + lane, stride, {weights + lane, static_cast<std::size_t>(head_lanes_)}, to.row(h) + chunk);
        }
    }

    attention_shape of_;
    bool merged_;
    softmax_layout layout_;
    base2_logits<Arch> logits_;
    index head_lanes_ = 0;  ///< lanes of a head,
    index used_ = 0;        ///< of the products,
    index in_row_ = 0;      ///< and of what is kept for a key

    float* panels_;         ///< [dim, group]: the queries
    float* highest_;        ///< [group]: the maximum so far,
    float* before_;         ///< that of the chunk before, later what a chunk's exponentials count,
    float* sum_;            ///< the sum, or the log of a known one,
    float* sees_;           ///< the keys that a lane sees,
    float* weight_;         ///< and what it counts
    float* copies_;         ///< for `broadcast_rows`
    float* partial_;        ///< for `multiply_all`
    float* passing_;        ///< [chunk_size, group]: of a chunk alone
    float* chunk_highest_;  ///< [chunks, row]
    float* exponentials_;   ///< [keys, row]
};

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
            lanes.take(
                heads, count, [&](index h, index i) noexcept { return query(head + h, first + i); },
                [&](index i) noexcept { return seen_by(first + i); },
                [&](index i) noexcept { return weight(first + i); },
                [&](index h, index i) noexcept { return log_sum(head + h, first + i); });
            index const seen_by_all = seen_by(first), seen_by_last = seen_by(first + count - 1);
            index const written = std::min(seen_by_last, columns.wanted), seen = of.known ? written : seen_by_last;
            for (index chunk = 0; chunk < seen; chunk += chunk_rows<Arch>) {
                index const rows = std::min(chunk_rows<Arch>, seen - chunk);
                broadcast_rows<Arch> const near(chunk, rows, key, of.dim, lanes.copies());
                upcoming_rows<Arch> const next(chunk + rows, of.keys, key, of.dim);
                lanes.template multiply<Element>(chunk, rows, near, next);
                lanes.settle(chunk, rows, chunk + rows > seen_by_all);
                if (of.known) lanes.template add_known<Collect>(chunk, rows, to);
            }
            if (!of.known) lanes.template add_all<Collect>(written, to);
        }
    }
}

}  // namespace terse::simd

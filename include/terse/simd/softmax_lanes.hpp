// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cassert>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>

#include <terse/simd/attention_shape.hpp>
#include <terse/simd/exp2.hpp>
#include <terse/simd/load_store.hpp>
#include <terse/simd/rows.hpp>
#include <terse/simd/softmax_rows.hpp>
#include <terse/simd/tile.hpp>

// softmax_columns.hpp of several queries a head, across lanes. Limited by the multiply-adds of the tiles. Beside them
// lie an exponential, a load and a store a logit, and a second load for its weight.

namespace terse::simd {

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
inline constexpr index most_lanes = std::max<index>(64, 8 * lanes<Arch>);

/// The lanes of `softmax_columns`: the queries of a head in whole registers, one head after the other.
struct softmax_layout {
    index heads;       ///< that go at once: keys are read once for all of them
    index head_lanes;  ///< of a head
    index group;       ///< of all that go at once
    index row;         ///< that a key's exponentials take
};

template <class Arch>
[[nodiscard]] constexpr softmax_layout lay_out(shared_heads shared, index heads, index queries) noexcept {
    constexpr index most = most_lanes<Arch>;
    bool const merged = shared == shared_heads::highest;
    index const share = std::max(lanes<Arch>, most / heads / lanes<Arch> * lanes<Arch>);
    // More queries are a whole prompt's, each of which sees one key more: fewer at once multiply less in vain.
    index const room = merged ? share : queries > most ? most / 2 : most;
    index const head_lanes = std::min(room, whole_registers<Arch>(queries));
    index const at_once = merged ? heads : std::min(heads, most / head_lanes);
    index const group = at_once * head_lanes;
    return {at_once, head_lanes, group, merged ? head_lanes : group};
}

/// Where the rows of a chunk lie, whatever they are, to bring them near.
template <class Arch>
class upcoming_rows {
  public:
    /// Rows [first, end), as many as a chunk holds, in so many steps.
    template <class Row>
    upcoming_rows(index first, index end, Row row, index dim, index steps) noexcept
        : count_{std::clamp<index>(end - first, 0, chunk_rows<Arch>)} {
        for (index i = 0; i < count_; ++i) {
            auto const bytes = bytes_of(row(first + i), dim);
            rows_[static_cast<std::size_t>(i)] = bytes.data();
            size_ = std::ssize(bytes);
        }
        share_ = (size_ + 64 * steps - 1) / (64 * steps) * 64;
    }

    /// Asks for what steps [first, last) share of rows [begin, end).
    [[gnu::always_inline]] void prefetch(index begin, index end, index first, index last) const noexcept {
        for (index i = begin; i < std::min(end, count_); ++i)
            for (index at = first * share_; at < std::min(last * share_, size_); at += 64)
                __builtin_prefetch(rows_[static_cast<std::size_t>(i)] + at);
    }

  private:
    std::array<std::uint8_t const*, static_cast<std::size_t>(chunk_rows<Arch>)> rows_;
    index count_;
    index size_ = 0, share_ = 0;  ///< bytes of a row, and of a step
};

/// The queries that go at once, each in a lane, and their softmax over the keys so far.
template <class Arch>
class softmax_lanes {
    using batch = floats<Arch>;
    static constexpr index step = lanes<Arch>, chunk_size = chunk_rows<Arch>;

  public:
    /// Floats of scratch, enough for fewer queries too.
    [[nodiscard]] static constexpr index scratch(attention_shape const& of) noexcept {
        // Fewer queries may be laid out in more lanes, but not in more than these.
        bool const merged = of.shared == shared_heads::highest;
        index const all = of.heads * whole_registers<Arch>(of.queries);
        auto const l = lay_out<Arch>(of.shared, of.heads, of.queries);
        index const group = merged ? l.group : std::min(all, most_lanes<Arch>), row = merged ? l.row : group;
        index const chunks = (of.keys + chunk_size - 1) / chunk_size;
        index const kept = of.known ? 0 : (of.keys + chunks) * row;
        return alignment_slack + kept + (5 + chunk_size + of.dim) * group + row_copies<Arch>(of.dim) +
               partial_sums<Arch>(group, of.dim);
    }

    softmax_lanes(attention_shape const& of, std::span<float> scratch) noexcept
        : of_{of},
          merged_{of.shared == shared_heads::highest},
          layout_{lay_out<Arch>(of.shared, of.heads, of.queries)},
          streams_{of.keys * layout_.row * static_cast<index>(sizeof(float)) > stream_bytes},
          logits_(of.scale, of.soft_cap) {
        float* at = align(scratch, softmax_lanes::scratch(of));
        auto const take = [&at](index count) noexcept { return std::exchange(at, at + count); };
        index const group = layout_.group, chunks = (of.keys + chunk_size - 1) / chunk_size;
        panels_ = take(of.dim * group);
        for (float** each : {&highest_, &before_, &sum_, &sees_, &weight_}) *each = take(group);
        copies_ = take(row_copies<Arch>(of.dim));
        partial_ = take(partial_sums<Arch>(group, of.dim));
        passing_ = take(chunk_size * group);
        chunk_highest_ = take(of.known ? 0 : chunks * layout_.row);
        exponentials_ = take(of.known ? 0 : of.keys * layout_.row);
        assert(at <= scratch.data() + scratch.size());
    }

    [[nodiscard]] index most_heads() const noexcept { return layout_.heads; }
    [[nodiscard]] index most_queries() const noexcept { return layout_.head_lanes; }
    /// Registers of lanes in use.
    [[nodiscard]] index registers() const noexcept { return used_ / step; }
    [[nodiscard]] float* copies() const noexcept { return copies_; }

    /// Takes queries [0, count) of heads [0, heads). Lanes beyond a head's queries repeat its last one, and count
    /// nothing.
    template <element Element, class Query, class SeenBy, class Weight, class LogSum>
    void take(index heads, index count, Query query, SeenBy seen_by, Weight weight, LogSum log_sum) noexcept {
        head_lanes_ = whole_registers<Arch>(count);
        used_ = heads * head_lanes_;
        in_row_ = merged_ ? head_lanes_ : used_;
        auto const number = [&](index lane) noexcept { return std::min(lane % head_lanes_, count - 1); };
        auto const row = [&](index lane) noexcept { return query(lane / head_lanes_, number(lane)); };
        pack_panels<Arch>(0, used_, row, of_.dim, panels_);
        if constexpr (Element == element::single)
            for (index i = 0; i < of_.dim * used_; i += step)
                logits_.scaled(batch::load_aligned(panels_ + i)).store_aligned(panels_ + i);
        std::fill_n(highest_, layout_.group, std::numeric_limits<float>::lowest());
        std::fill_n(sum_, layout_.group, 0.0F);
        for (index lane = 0; lane < used_; ++lane) {
            index const i = number(lane);
            sees_[lane] = static_cast<float>(seen_by(i));
            weight_[lane] = lane % head_lanes_ < count ? weight(i) : 0;
            if (of_.known) sum_[lane] = base2_log_sum(log_sum(lane / head_lanes_, i), weight_[lane]);
        }
    }

    /// The exponentials of a chunk of keys, relative to the highest logit so far, or to the sum where that is known.
    /// @param next    the keys of the chunk after it, brought near meanwhile
    /// @param masked  not every query sees all of it
    template <element Element>
    [[gnu::flatten]] void meet(index chunk, index rows, broadcast_rows<Arch> const& keys,
                               upcoming_rows<Arch> const& next, bool masked) noexcept {
        index const group = layout_.group;
        float* const to = passing_;
        float* const highest = highest_;
        auto const logits = logits_;
        if (!of_.known) std::copy_n(highest, group, before_);
        auto const keep = [=, &next](auto R, auto V, auto const& products, index block, index p) noexcept {
            next.prefetch(block, block + R, p / step, p / step + V);
            unroll<V>([&](auto v) {
                index const lane = p + v * step;
                auto top = batch::load_aligned(highest + lane);
                unroll<R>([&](auto r) {
                    auto const x = Element == element::pair ? logits.scaled(products[r][v]) : products[r][v];
                    top = max_number<Arch>(x, top);
                    x.store_aligned(to + (block + r) * group + lane);
                });
                top.store_aligned(highest + lane);
            });
        };
        multiply_all<Arch, Element>(rows, keys, used_, panels_, of_.dim, partial_, keep);
        settle(chunk, rows, masked);
    }

    /// Adds what a chunk's keys receive of known sums.
    template <collect Collect>
    void add_known(index chunk, index rows, column_rows const& to) const noexcept {
        add<Collect>(chunk, rows, passing_, layout_.group, weight_, to);
    }

    /// Adds what keys [0, count) receive: exponentials weighted by what the highest of all and the sum make of them.
    template <collect Collect>
    [[gnu::flatten]] void add_all(index count, column_rows const& to) noexcept {
        if (streams_) end_stream();
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
    /// `meet`, from the logits without cap and mask on.
    void settle(index chunk, index rows, bool masked) noexcept {
        constexpr float lowest = -std::numeric_limits<float>::infinity();
        index const group = layout_.group, row = layout_.row;
        float* const at_hand = passing_;
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
        index const others = merged_ ? used_ : 1;
        for (index lane = 0; lane < in_row_; lane += step) {
            auto const last = batch::load_aligned(before_ + lane);
            auto top = batch::load_aligned(highest_ + lane);
            if (masked || merged_ || logits.capped()) {
                top = last;
                for (index r = 0; r < rows; ++r) {
                    batch x(lowest);
                    for (index h = 0; h < others; h += head_lanes_) x = max_number<Arch>(logit(r, h + lane), x);
                    top = max_number<Arch>(x, top);
                    x.store_aligned(at_hand + r * group + lane);
                }
                top.store_aligned(highest_ + lane);
            }
            auto total = batch::load_aligned(sum_ + lane) * exp2<Arch>(last - top);
            auto const keep = [&](auto write) noexcept {
                for (index r = 0; r < rows; ++r) {
                    auto const e = exp2<Arch>(batch::load_aligned(at_hand + r * group + lane) - top);
                    write(e, kept + r * row + lane);
                    total += e;
                }
            };
            if (streams_)
                keep([](batch const& e, float* to) noexcept { stream<Arch>(e, to); });
            else
                keep([](batch const& e, float* to) noexcept { e.store_aligned(to); });
            total.store_aligned(sum_ + lane);
            top.store_aligned(chunk_highest_ + chunk / chunk_size * row + lane);
        }
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
    bool streams_;  ///< exponentials go around the caches
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

}  // namespace terse::simd

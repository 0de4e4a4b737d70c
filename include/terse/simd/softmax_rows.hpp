// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <numbers>
#include <span>

#include <terse/simd/attention_shape.hpp>
#include <terse/simd/dots.hpp>
#include <terse/simd/exp2.hpp>
#include <terse/simd/load_store.hpp>
#include <terse/simd/rows.hpp>
#include <terse/simd/tile.hpp>

// softmax_columns.hpp of one query a head. Limited by reading keys, from memory or the caches; where many heads share
// them, by the multiply-adds.

namespace terse::simd {

/// Logits from products, in base 2: scale * x, capped, times log2(e).
template <class Arch>
class base2_logits {
  public:
    base2_logits(float scale, float soft_cap) noexcept
        : factor_{scale * std::numbers::log2e_v<float>},
          cap_{soft_cap > 0 ? soft_cap * std::numbers::log2e_v<float> : 0} {}

    [[nodiscard]] bool capped() const noexcept { return cap_ > 0; }

    /// What a product makes without the cap,
    [[nodiscard]] floats<Arch> scaled(floats<Arch> const& product) const noexcept {
        return product * floats<Arch>(factor_);
    }
    /// and within it: cap * tanh(x / cap).
    [[nodiscard]] floats<Arch> within_cap(floats<Arch> const& x) const noexcept {
        using batch = floats<Arch>;
        if (!capped()) return x;
        auto const e = exp2<Arch>(xsimd::abs(x) * batch(-2 * std::numbers::log2e_v<float> / cap_));
        auto const y = (batch(1.0F) - e) / (batch(1.0F) + e) * batch(cap_);  // tanh x = (1 - e^-2x) / (1 + e^-2x)
        return xsimd::select(x == x, xsimd::copysign(y, x), x);
    }
    [[nodiscard]] floats<Arch> operator()(floats<Arch> const& product) const noexcept {
        return within_cap(scaled(product));
    }

  private:
    float factor_;
    float cap_;
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

template <class Arch>
[[nodiscard]] constexpr index whole_registers(index count) noexcept {
    return (count + lanes<Arch> - 1) / lanes<Arch> * lanes<Arch>;
}

/// Heads of one query that `softmax_columns` takes at once.
inline constexpr index lone_heads = 16;

/// Adds what keys receive of one query of each of a few heads.
/// @param products  callable (h, j, end) -> head h's logits of keys j, j + 1, ... below `end`, a key a lane; called
///                  for all heads of a key before the next
template <class Arch, collect Collect, class Products>
void softmax_rows(index heads, index seen, Products const& products, float weight, column_rows const& to,
                  float* scratch) noexcept {
    using batch = floats<Arch>;
    constexpr index width = lanes<Arch>;
    constexpr float lowest = std::numeric_limits<float>::lowest();
    index const room = whole_registers<Arch>(seen);
    std::array<batch, lone_heads> highest;
    highest.fill(batch(lowest));
    for (index j = 0; j < seen; j += width) {
        for (index h = 0; h < heads; ++h) {
            auto x = products(h, j, seen);
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
        if (!(total > 0)) continue;
        if constexpr (Collect == collect::sums)
            add_scaled<Arch>(row, weight / total, to.row(h), std::min(seen, to.wanted));
        else
            add_hits<Arch>(row, 0, 1, total / weight, to.row(h), std::min(seen, to.wanted));
    }
}

/// The same where the logs of the sums are known: no logit is kept.
/// @param log_sum  callable h -> log
template <class Arch, collect Collect, class Products, class LogSum>
void known_softmax_rows(index heads, index seen, Products const& products, float weight, column_rows const& to,
                        LogSum log_sum) noexcept {
    using batch = floats<Arch>;
    constexpr index width = lanes<Arch>;
    index const end = std::min(seen, to.wanted);
    for (index j = 0; j < end; j += width) {
        for (index h = 0; h < heads; ++h) {
            float counts = weight;
            batch const top(base2_log_sum(log_sum(h), counts));
            auto const e = exp2_below<Arch>(products(h, j, end), top);
            float* const at = to.row(h) + j;
            if (end - j >= width)
                store<Arch>(collected<Arch, Collect>(e, batch(counts), load<Arch>(at)), at);
            else
                store_partial<Arch>(collected<Arch, Collect>(e, batch(counts), load_partial<Arch>(at, end - j)), at,
                                    end - j);
        }
    }
}

/// Floats of scratch that `lone_softmax_columns` wants.
template <class Arch>
[[nodiscard]] constexpr index lone_softmax_scratch(attention_shape const& of) noexcept {
    return alignment_slack + (of.known ? 0 : std::min(of.heads, lone_heads) * whole_registers<Arch>(of.keys));
}

/// softmax_columns of one query a head: keys lie across lanes, and stay near while one head after the other meets them.
template <class Arch, collect Collect, class Query, class Key, class LogSum>
[[gnu::flatten]] void lone_softmax_columns(attention_shape const& of, Query query, index seen, Key key,
                                           column_rows const& columns, std::span<float> scratch, float weight,
                                           LogSum log_sum) noexcept {
    base2_logits<Arch> const logits(of.scale, of.soft_cap);
    float* const exponentials = align(scratch, lone_softmax_scratch<Arch>(of));
    if (of.heads == 1 && !of.known) {  // the loop that reads keys does nothing else
        dots<Arch>(0, seen, seen, key, query(0, 0), of.dim, exponentials);
        auto const found = [&](index, index j, index) noexcept {
            return logits(floats<Arch>::load_aligned(exponentials + j));
        };
        return softmax_rows<Arch, Collect>(1, seen, found, weight, columns, exponentials);
    }
    for (index head = 0; head < of.heads; head += lone_heads) {
        index const heads = std::min(lone_heads, of.heads - head);
        auto const to = columns.from(head);
        auto const products = [&](index h, index j, index end) noexcept {  // the first head brings the keys near
            auto const row = query(head + h, 0);
            return logits(h == 0 ? distant_dot_rows<Arch>(j, end, key, row, of.dim, end * of.dim > near_floats)
                                 : dot_rows<Arch>(j, end, key, row, of.dim));
        };
        if (of.known)
            known_softmax_rows<Arch, Collect>(heads, seen, products, weight, to,
                                              [&](index h) noexcept { return log_sum(head + h, 0); });
        else
            softmax_rows<Arch, Collect>(heads, seen, products, weight, to, exponentials);
    }
}

}  // namespace terse::simd

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <span>

#include <terse/simd/load_store.hpp>

// Bound by memory: a sum is read, a term is read, a sum is written. What else is done in the pass must fit beside that,
// so of the lowest only the value is kept, and the block where it was; that block is searched at the end.

namespace terse::simd {

/// The first position of [begin, end) that holds `value`; -1 where none does.
template <class Arch>
[[nodiscard]] index find(float const* x, index begin, index end, float value) noexcept {
    floats<Arch> const wanted(value);
    while (end - begin >= lanes<Arch> && !xsimd::any(load<Arch>(x + begin) == wanted)) begin += lanes<Arch>;
    while (begin < end && x[begin] != value) ++begin;
    return begin < end ? begin : -1;
}

/// What joins the sums: `count` rows, added up and divided by `divisor`, or the largest of them.
struct terms {
    float const* rows = nullptr;
    index stride = 0;  ///< from one row to the next
    index count = 1;
    bool largest = false;
    float divisor = 1;
};

/// As the public one below, with the register of terms i, i + 1, ... from term(read, i), by read(pointer), a load that
/// is whole or partial.
template <class Arch, class Term>
[[nodiscard, gnu::flatten]] index add_arg_lowest(std::span<float> sums, Term term, index begin, index end) noexcept {
    using batch = floats<Arch>;
    constexpr index width = lanes<Arch>, block = 32 * width;
    batch const nothing(std::numeric_limits<float>::infinity());
    float* const x = sums.data();
    auto const add = [&](index i) noexcept {
        auto const sum = load<Arch>(x + i) + term([](float const* p) noexcept { return load<Arch>(p); }, i);
        store<Arch>(sum, x + i);
        return sum;
    };
    auto const add_all = [&](index i, index last) noexcept {
        for (; last - i >= 4 * width; i += 4 * width) unroll<4>([&](auto u) { add(i + u * width); });
        for (; last - i >= width; i += width) add(i);
        if (i == last) return;
        auto const read = [count = last - i](float const* p) noexcept { return load_partial<Arch>(p, count); };
        store_partial<Arch>(read(x + i) + term(read, i), x + i, last - i);
    };

    add_all(0, begin);
    batch lowest = nothing, where(0.0F), check(0.0F);
    index i = begin;
    index const whole = end - (end - begin) % width;
    for (float number = 0; i < whole; ++number) {
        std::array<batch, 4> low, total;
        low.fill(nothing);
        total.fill(batch(0.0F));
        auto const step = [&](int u) noexcept {
            auto const at = static_cast<std::size_t>(u);
            auto const sum = add(i + u * width);
            low[at] = min_number<Arch>(sum, low[at]);
            total[at] += sum;  // NaN where there is one
        };
        index const last = std::min(i + block, whole);
        for (; last - i >= 4 * width; i += 4 * width) unroll<4>(step);
        for (; i < last; i += width) step(0);
        auto const here = min_number<Arch>(min_number<Arch>(low[0], low[1]), min_number<Arch>(low[2], low[3]));
        where = xsimd::select(here < lowest, batch(number), where);
        lowest = min_number<Arch>(here, lowest);
        check += (total[0] + total[1]) + (total[2] + total[3]);
    }
    add_all(whole, std::ssize(sums));

    // Of the lanes with the lowest value, the first block.
    auto const values = to_array<Arch>(lowest), numbers = to_array<Arch>(where);
    float value = *std::min_element(values.begin(), values.end()), number = std::numeric_limits<float>::infinity();
    for (std::size_t lane = 0; lane < values.size(); ++lane)
        if (values[lane] == value) number = std::min(number, numbers[lane]);
    index first = begin + static_cast<index>(number) * block;
    float total = sum_lanes<Arch>(check);
    for (i = whole; i < end; ++i) {
        total += x[i];
        if (x[i] < value) {
            value = x[i];
            first = i;
        }
    }
    if (is_nan(total)) {
        for (i = begin; i < end; ++i)
            if (is_nan(x[i])) return i;
    }
    return find<Arch>(x, first, end, value);
}

/// sums[i] += term i for all i, and the position in [begin, end) of what is the lowest then: NaN comes first, as in
/// `rank`'s order; of equal ones the first, -0 equals +0; -1 where the range is empty. A step of decoding adds the new
/// attention so, and finds the slot that goes.
///
/// @param added  rows of sums.size(), at least one, that do not overlap the sums; any alignment
/// @pre          0 <= begin <= end <= sums.size()
/// @complexity   O(n * rows), in one pass
template <class Arch = default_arch>
[[nodiscard]] index add_arg_lowest(std::span<float> sums, terms const& added, index begin, index end) noexcept {
    using batch = floats<Arch>;
    float const* const first = added.rows;
    auto const over_rows = [&](auto combine) noexcept {
        batch const divisor(added.divisor);
        auto const term = [&](auto read, index i) noexcept {
            batch joined = read(first + i);
            for (index r = 1; r < added.count; ++r) joined = combine(read(first + r * added.stride + i), joined);
            return joined / divisor;
        };
        return add_arg_lowest<Arch>(sums, term, begin, end);
    };
    if (added.count == 1 && added.divisor == 1)
        return add_arg_lowest<Arch>(
            sums, [first](auto read, index i) noexcept { return read(first + i); }, begin, end);
    if (added.largest) return over_rows([](batch const& x, batch const& y) noexcept { return max_number<Arch>(x, y); });
    return over_rows([](batch const& x, batch const& y) noexcept { return x + y; });
}

}  // namespace terse::simd

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <concepts>

#include <terse/core/types.hpp>

namespace terse::window {

/// Inputs [begin, end) of an axis.
struct cell {
    index begin = 0;
    index end = 0;
    index divisor = 1;  ///< what a mean over the cell divides by

    [[nodiscard]] constexpr index size() const noexcept { return end - begin; }
    /// The input in the middle, the lower of two.
    [[nodiscard]] constexpr index centre() const noexcept { return begin + (size() - 1) / 2; }
};

/// How an axis is cut into cells: each has an input, begins never descend, and nor do ends.
template <class A>
concept axis = requires(A const& a, index i) {
    { a.is_valid() }
    noexcept->std::same_as<bool>;
    { a.count() }
    noexcept->std::same_as<index>;
    { a.is_identity() }
    noexcept->std::same_as<bool>;
    { a[i] }
    noexcept->std::same_as<cell>;
};

/// Cells of `kernel` inputs, `stride` apart, on an axis that `padding` empty places precede and follow.
///
/// The counts and divisors are those of PyTorch's pooling: `partial` is its ceil_mode, `count_padding` its
/// count_include_pad.
struct sliding {
    index length = 1;
    index kernel = 1;
    index stride = 1;
    index padding = 0;           ///< at most kernel / 2
    bool partial = true;         ///< the last cell may be short; otherwise the inputs that do not fill it are dropped
    bool count_padding = false;  ///< the divisor counts the padding that a cell covers

    [[nodiscard]] constexpr bool is_valid() const noexcept {
        return 1 <= length && length <= max_tokens && 1 <= kernel && kernel <= max_tokens && 1 <= stride &&
               stride <= max_tokens && 0 <= padding && padding <= kernel / 2 && count() >= 1;
    }

    [[nodiscard]] constexpr index count() const noexcept {
        index const steps = length + 2 * padding - kernel + (partial ? stride - 1 : 0);
        if (steps < 0) return 0;
        index const last = steps / stride;
        return last * stride < length + padding ? last + 1 : last;  // no cell of padding alone
    }

    [[nodiscard]] constexpr bool is_identity() const noexcept { return kernel == 1 && stride == 1; }

    [[nodiscard]] constexpr cell operator[](index i) const noexcept {
        index const begin = i * stride - padding;
        index const end = std::min(begin + kernel, length + padding);
        index const first = std::max(begin, index{0}), last = std::min(end, length);
        return {first, last, count_padding ? end - begin : last - first};
    }
};

/// Exactly `cells` bins of nearly equal size, neighbours sharing inputs where `cells` does not divide `length`:
/// bin i is [floor(i length / cells), ceil((i + 1) length / cells)), PyTorch's adaptive pooling.
struct adaptive {
    index length = 1;
    index cells = 1;

    [[nodiscard]] constexpr bool is_valid() const noexcept {
        return 1 <= length && length <= max_tokens && 1 <= cells && cells <= max_tokens;
    }
    [[nodiscard]] constexpr index count() const noexcept { return cells; }
    [[nodiscard]] constexpr bool is_identity() const noexcept { return cells == length; }

    [[nodiscard]] constexpr cell operator[](index i) const noexcept {
        index const begin = i * length / cells, end = ((i + 1) * length + cells - 1) / cells;
        return {begin, end, end - begin};
    }
};

}  // namespace terse::window

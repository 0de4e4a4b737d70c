// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <iterator>
#include <limits>
#include <span>

#include <terse/core/arena.hpp>
#include <terse/core/parallel.hpp>
#include <terse/core/result.hpp>

namespace terse {

/// What scorers return: [heads, tokens] in an arena or the caller's memory; a higher score is kept longer.
/// One row may stand for all heads. A scorer may leave the last tokens without a score: those are always kept.
struct scores {
    std::span<float const> values{};
    index heads = 0;
    index tokens = 0;
    index stride = 0;  ///< from one row to the next

    [[nodiscard]] constexpr std::span<float const> row(index h) const noexcept {
        return values.subspan(static_cast<std::size_t>(h * stride), static_cast<std::size_t>(tokens));
    }
};

/// How many tokens a scorer's input has: a layer, tokens, scores, or one score a token.
template <class Input>
[[nodiscard]] constexpr index tokens_of(Input const& input) noexcept {
    if constexpr (requires { input.tokens(); }) {
        return input.tokens();
    } else if constexpr (requires { input.tokens; }) {
        return input.tokens;
    } else {
        return std::ssize(input);
    }
}

/// The kv heads of a scorer's input; 1 where there is but one row of scores.
template <class Input>
[[nodiscard]] constexpr index heads_of(Input const& input) noexcept {
    if constexpr (requires { input.kv_heads(); }) {
        return input.kv_heads();
    } else if constexpr (requires { input.heads; }) {
        return input.heads;
    } else {
        return 1;
    }
}

/// A scorer: settings in an aggregate and a pure call from one input (a layer, tokens, ...) to scores.
template <class S, class Input>
concept scorer = requires(S const& score, Input const& input, arena& memory, serial const& run) {
    { score(input, memory, run) }
    noexcept->std::same_as<result<scores>>;
};

namespace score {

/// Of a slot that has none: it ranks last.
inline constexpr float no_score = std::numeric_limits<float>::quiet_NaN();

/// The scorer for scores that the caller has already.
struct given {
    template <executor Run = serial>
    [[nodiscard]] result<scores> operator()(scores const& all, arena&, Run const& = {}) const noexcept {
        return all;
    }
    template <executor Run = serial>
    [[nodiscard]] result<scores> operator()(std::span<float const> row, arena&, Run const& = {}) const noexcept {
        return scores{row, 1, std::ssize(row), std::ssize(row)};
    }
};

}  // namespace score
}  // namespace terse

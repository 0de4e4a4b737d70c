// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include <terse/core/view.hpp>
#include <terse/score/scores.hpp>
#include <terse/select/top_k.hpp>

namespace terse::prune {

/// Keeps the tokens with the highest scores: FasterVLM's choice by class attention, and every other by one score.
///
/// Source: Zhang et al., "[CLS] Attention is All You Need for Training-Free Visual Token Pruning", arXiv:2412.01818.
/// As published for score = mean attention of the class token; the row of scores is the caller's or a scorer's.
template <class Score = score::given>
struct top_k {
    Score score{};
    index keep = 0;      ///< tokens to keep, protected ones included
    index leading = 0;   ///< first tokens, always kept: 1 for a class token
    index trailing = 0;  ///< last tokens, always kept

    [[nodiscard]] constexpr index count(index tokens) const noexcept { return keep < tokens ? keep : tokens; }

    /// @param input   [tokens] scores, or what `score` reads: [tokens, dim], or a layer
    /// @return        a selection, positions ascending, with owner; errc::bad_budget unless keep >= 1 and
    ///                leading + trailing <= keep; the scorer's errors; errc::out_of_memory
    /// @complexity    the scorer's, and O(tokens)
    template <class Input, executor Run = serial>
    [[nodiscard]] result<plan> operator()(Input const& input, arena& memory, Run const& run = {}) const noexcept {
        rollback undo{memory};
        auto const chosen = select::highest(score, input, 1, tokens_of(input), {keep, leading, trailing}, memory, run);
        if (!chosen) return chosen.error();
        auto const p = with_owner((*chosen)[0], memory);
        if (p) undo.keep();
        return p;
    }
};

}  // namespace terse::prune

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/score/scores.hpp>
#include <terse/select/threshold.hpp>

namespace terse::kv {

/// Keeps every slot whose score is not below a threshold, besides the first and the last: how many stay follows from
/// what the cache holds, and differs a head. There is no count ahead of the call.
///
/// Source: Łańcucki et al., "Inference-Time Hyper-Scaling with KV Cache Compression", arXiv:2506.05345 (Dynamic Memory
/// Sparsification: a token goes once it leaves the window, if it was marked), in the form of NVIDIA's kvpress, which
/// takes any scorer for the trained marks. Reconstructed from the paper and that description; no parity is claimed.
/// With `score::given` the scores are the caller's, such as the log-odds of a trained model's marks: kept beside the
/// cache and compacted with it, they are scored once, as published, and a call after each step evicts what has left the
/// window.
template <class Score = score::given>
struct threshold {
    Score score{};
    float least = 0;     ///< the lowest score that stays
    index sinks = 0;     ///< first slots, always kept
    index recent = 128;  ///< last slots, always kept

    /// @param input   a layer, scores [kv_heads, tokens], or what else `score` reads
    /// @return        a selection for each row of scores, slots ascending, those that a layer guards among them; it may
    ///                be empty. errc::bad_setting for a NaN threshold; errc::bad_budget for negative sinks or recent
    ///                slots; the scorer's errors; errc::out_of_memory
    /// @complexity    the scorer's, and O(kv_heads * tokens)
    template <class Input, executor Run = serial>
    [[nodiscard]] result<plans> operator()(Input const& input, arena& memory, Run const& run = {}) const noexcept {
        return select::at_least(least, score, input, heads_of(input), tokens_of(input),
                                {.leading = sinks, .trailing = recent}, memory, run);
    }
};

}  // namespace terse::kv

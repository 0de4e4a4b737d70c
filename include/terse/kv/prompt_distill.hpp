// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>

#include <terse/kv/evict.hpp>
#include <terse/move/compose.hpp>
#include <terse/score/logits.hpp>

namespace terse::kv {

/// Keeps the tokens whose keys have the highest logits with the query of the prompt's last token, the same for all
/// heads: after a middle layer, the layers above see those alone.
///
/// The plan moves hidden states, positions and rotations to the next layer. With several stages, each decides among the
/// survivors of the one before (`compose` gives positions in the prompt); `truncate_caches` says what is left to do in
/// the caches below. Never after the last layer.
///
/// Source: Jin et al., "PromptDistill: Query-based Selective Token Retention in Intermediate Layers for Efficient Large
/// Language Model Inference", arXiv:2503.23274. As published; the published pooling counts tokens from the prompt's
/// last one on as logits of 0, which raises the border where logits are negative: `average_inside` does not.
struct prompt_distill {
    index keep = 1025;  ///< tokens to keep, recent ones included (the authors' README: 1024 beside them; code: 100)
    index recent = 1;   ///< tokens from the prompt's last one on, always kept
    score::pooling pool = score::pooling::average;
    index kernel = 5;  ///< width of the pooling, odd

    [[nodiscard]] constexpr score::logits scorer() const noexcept {
        return {.recent = recent, .across_heads = true, .pool = pool, .kernel = kernel};
    }
    [[nodiscard]] constexpr index count(index tokens) const noexcept { return keep < tokens ? keep : tokens; }

    /// @param l   reads keys [kv_heads, tokens, dim] and the last of the queries [heads, window, dim]: that of the
    ///            prompt's last token, `recent` - 1 tokens before the end
    /// @return    one selection that all heads share; errc::bad_shape where heads hold different numbers of slots;
    ///            errors as `evict`'s and `score::logits`'s
    /// @complexity O(kv_heads * tokens * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        return evict<score::logits>{scorer(), {keep}, 0, recent}(l, memory, run);
    }
};

/// What each layer's cache keeps of a prompt after stages of `prompt_distill`: below a stage that truncates, what it
/// and all later ones of these let through; elsewhere everything.
///
/// @param stages     each on the tokens that the one before kept
/// @param after      [stages], ascending: the layer after which each stage ran, never the last
/// @param truncated  the first stages, which truncate the caches below them; -1: all (the authors' README: 1, code: 0)
/// @return           for each layer a selection of the slots that its cache has after the prompt. errc::bad_setting
///                   when `after` does not ascend within [0, layers - 1) or `truncated` is no number of stages;
///                   errc::bad_shape when there are no stages, or `after` or a stage's tokens do not fit;
///                   errc::bad_plan when a stage is not a selection; errc::out_of_memory
/// @complexity       O(layers + stages * tokens)
[[nodiscard]] inline result<plans> truncate_caches(std::span<plan const> stages, std::span<index const> after,
                                                   index layers, index truncated, arena& memory) noexcept {
    std::size_t const count = stages.size();
    if (count == 0 || after.size() != count) return errc::bad_shape;
    if (truncated < -1 || truncated > std::ssize(stages)) return errc::bad_setting;
    for (std::size_t i = 0; i < count; ++i) {
        if (after[i] < (i == 0 ? 0 : after[i - 1] + 1) || after[i] >= layers - 1) return errc::bad_setting;
        if (!stages[i].is_selection()) return errc::bad_plan;
        if (i > 0 && stages[i].tokens != stages[i - 1].kept()) return errc::bad_shape;
    }
    rollback undo{memory};
    auto const items = memory.take<plan>(layers);
    if (!taken(items)) return errc::out_of_memory;
    auto const fill = [&](index first, index last, result<plan> const& p) noexcept {
        if (p) std::uninitialized_fill(items.begin() + first, items.begin() + last, *p);
        return p.error();
    };

    errc error = fill(after.back() + 1, layers, keep_all(stages.back().kept(), memory));
    std::size_t const cut = truncated < 0 ? count : static_cast<std::size_t>(truncated);
    for (std::size_t i = count; i-- > 0 && error == errc::ok;) {
        index const first = i == 0 ? 0 : after[i - 1] + 1, last = after[i] + 1;
        if (i >= cut) {
            error = fill(first, last, keep_all(stages[i].tokens, memory));
        } else if (i + 1 == cut) {
            error = fill(first, last, stages[i]);
        } else {
            error = fill(first, last, compose(items[static_cast<std::size_t>(last)], stages[i], memory));
        }
    }
    if (error != errc::ok) return error;
    undo.keep();
    return plans{items};
}

}  // namespace terse::kv

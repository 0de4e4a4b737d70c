// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <memory>
#include <span>

#include <terse/core/arena.hpp>
#include <terse/core/plan.hpp>
#include <terse/core/result.hpp>
#include <terse/core/types.hpp>

namespace terse::kv {

/// What a token of a model with compression tokens is.
enum class token_type : unsigned char {
    text,
    visual,       ///< what the compression tokens after it stand for
    compression,  ///< a token that was trained to hold what it saw: VoCo-LLaMA's, a meta-token
};

/// One selection for all heads: the tokens for which stays(t) holds, guarded or not. `keep` > 0: errc::bad_budget where
/// they are more.
template <class Stays>
[[nodiscard]] result<plans> retain(index tokens, index keep, Stays const& stays, arena& memory) noexcept {
    if (keep < 0) return errc::bad_budget;
    if (tokens > max_tokens) return errc::bad_shape;
    index count = 0;
    for (index t = 0; t < tokens; ++t) count += stays(t);
    if (keep > 0 && count > keep) return errc::bad_budget;
    rollback undo{memory};
    auto const item = memory.take<plan>(1);
    auto const kept = memory.take<token>(count + 1);  // without a branch, each is written, and stays or not
    if (!taken(item, kept)) return errc::out_of_memory;
    std::size_t row = 0;
    for (index t = 0; t < tokens; ++t) {
        kept[row] = static_cast<token>(t);
        row += stays(t) ? 1U : 0U;
    }
    std::construct_at(item.data(), select_rows(kept.first(row), tokens));
    undo.keep();
    return plans{item};
}

/// Keeps all but the visual tokens, once the compression tokens behind them have seen them: decoding goes on as with
/// the mask that the model was trained with. For models trained so only.
///
/// Source: Ye et al., "VoCo-LLaMA: Towards Vision Compression with Large Language Models", arXiv:2406.12275. The paper
/// hides visual tokens from text; its code (`hide_prefix`) hides from what follows the last compression token all that
/// stands before the first, a system prompt too. Positions stay. Without a compression token nothing is hidden.
struct voco_llama {
    bool hide_prefix = false;  ///< as the authors' code
    index keep = 0;            ///< the most slots that may be kept; 0: as many as there are

    /// Whether a query sees a key while the prompt is read.
    /// @pre query and key are tokens of `types`
    class mask {
      public:
        mask(std::span<token_type const> types, bool hide_prefix) noexcept : types_{types}, hide_prefix_{hide_prefix} {
            auto const found = std::find(types.begin(), types.end(), token_type::compression);
            first_ = found == types.end() ? -1 : found - types.begin();
            for (last_ = std::ssize(types) - 1; last_ >= 0 && at(last_) != token_type::compression;) --last_;
        }
        [[nodiscard]] bool sees(index query, index key) const noexcept {
            if (key > query) return false;
            if (first_ < 0) return true;
            if (hide_prefix_) return query <= last_ || key >= first_;
            return at(query) != token_type::text || at(key) != token_type::visual;
        }
        /// Whether what comes after the prompt sees a token.
        [[nodiscard]] bool stays(index key) const noexcept {
            if (first_ < 0) return true;
            return hide_prefix_ ? key >= first_ : at(key) != token_type::visual;
        }

      private:
        [[nodiscard]] token_type at(index t) const noexcept { return types_[static_cast<std::size_t>(t)]; }

        std::span<token_type const> types_;
        bool hide_prefix_;
        index first_ = -1, last_ = -1;  // compression tokens
    };

    [[nodiscard]] mask prefill_mask(std::span<token_type const> types) const noexcept { return {types, hide_prefix}; }

    /// Writes the mask, 1 where a query sees a key.
    /// @param out  [tokens, tokens], queries by keys
    /// @return     errc::bad_shape
    /// @complexity O(tokens^2)
    errc fill(std::span<token_type const> types, std::span<std::uint8_t> out) const noexcept {
        if (out.size() != types.size() * types.size()) return errc::bad_shape;
        mask const m = prefill_mask(types);
        index const n = std::ssize(types);
        for (index i = 0; i < n * n; ++i) out[static_cast<std::size_t>(i)] = m.sees(i / n, i % n);
        return errc::ok;
    }

    /// @param types  [tokens], of the whole prompt
    /// @return       one selection that all heads share; errc::bad_budget for a negative `keep`, or where it is
    ///               exceeded; errc::bad_shape for too many tokens; errc::out_of_memory
    /// @complexity   O(tokens)
    [[nodiscard]] result<plans> operator()(std::span<token_type const> types, arena& memory) const noexcept {
        mask const m = prefill_mask(types);
        return retain(
            std::ssize(types), keep, [&](index t) { return m.stays(t); }, memory);
    }
};

/// Keeps the compression tokens (meta-tokens), the attention sinks and a window of recent slots.
///
/// Source: Shah et al., "Language Modeling with Learned Meta-Tokens", arXiv:2509.16278; reconstructed from the paper.
/// For models trained so only. Positions stay.
struct meta_tokens {
    index sinks = 0;     ///< first slots, always kept
    index recent = 512;  ///< last slots, always kept
    index keep = 0;      ///< the most slots that may be kept; 0: as many as there are

    /// @param types  [tokens], of all slots in use
    /// @return       as `voco_llama`; errc::bad_budget for a negative count, too
    /// @complexity   O(tokens)
    [[nodiscard]] result<plans> operator()(std::span<token_type const> types, arena& memory) const noexcept {
        if (sinks < 0 || recent < 0) return errc::bad_budget;
        index const n = std::ssize(types);
        return retain(
            n, keep,
            [&](index t) {
                return t < sinks || t >= n - recent || types[static_cast<std::size_t>(t)] == token_type::compression;
            },
            memory);
    }
};

}  // namespace terse::kv

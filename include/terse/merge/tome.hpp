// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

#include <terse/core/groups.hpp>
#include <terse/core/view.hpp>
#include <terse/match/bipartite.hpp>
#include <terse/simd/top_k.hpp>

namespace terse::merge {

/// Merges the `remove` most similar pairs between even and odd tokens: bipartite soft matching.
///
/// Source: Bolya et al., "Token Merging: Your ViT But Faster", arXiv:2210.09461, and its code. As published; but zero
/// rows are similar to nothing where the code yields NaN, and a plan with a distil token can be unmerged, which the
/// code gets wrong. Decide on the mean of the keys over heads, apply to tokens between attention and MLP, carry `sizes`
/// from layer to layer (`terse::sizes`), and add `log_sizes` to the attention logits of the keys.
struct tome {
    index remove = 8;            ///< tokens to remove; at most half of those not protected are
    bool class_token = false;    ///< token 0 is never merged away
    bool distill_token = false;  ///< nothing is merged into token 1
    bool keep_order = false;     ///< rows by their anchors; else as published, which mixes tokens so that the next
                                 ///< layer compares new pairs: even tokens left (ascending with a class token, else by
                                 ///< falling similarity), then all odd tokens; the distil token second

    /// How many tokens are removed from `tokens`.
    [[nodiscard]] constexpr index removed(index tokens) const noexcept {
        if (distill_token && tokens < 4) return 0;  // no other odd token to merge into
        index const mergeable = tokens - (class_token ? 1 : 0) - (distill_token ? 1 : 0);
        return std::max<index>(0, std::min(remove, mergeable / 2));
    }
    [[nodiscard]] constexpr index count(index tokens) const noexcept { return tokens - removed(tokens); }

    /// @param metric  [tokens, dim]: what is compared; any token's NaN compares with nothing
    /// @param sizes   [tokens]: how many inputs each token stands for, or empty for all ones
    /// @return        `count(tokens)` rows, each the mean of its group weighted by size; anchors are the odd tokens of
    ///                merged groups. errc::bad_setting for a negative `remove`, or a size not positive and finite;
    ///                errc::bad_shape when the sizes do not fit or tokens exceed `token`; errc::out_of_memory
    /// @complexity    O(tokens^2 / 4 * dim)
    template <real T, executor Run = serial>
    [[nodiscard]] result<plan> operator()(tokens_span<T> const& metric, std::span<float const> sizes, arena& memory,
                                          Run const& run = {}) const noexcept {
        index const n = metric.tokens;
        if (remove < 0) return errc::bad_setting;
        if (n > max_tokens || (!sizes.empty() && std::ssize(sizes) != n)) return errc::bad_shape;
        index const merged = removed(n);
        if (merged == 0) return keep_all(n, memory);

        rollback undo{memory};
        auto const anchor = memory.take<token>(n - merged);
        auto const owner = memory.take<token>(n);
        index const left = (n + 1) / 2;
        auto const top = memory.here();
        auto const gone = memory.take<token>(merged);
        auto const stay = memory.take<token>(left - merged);
        if (!taken(anchor, owner, gone, stay)) return errc::out_of_memory;
        auto const links = link(metric, memory, run);
        if (!links) return links.error();
        if (errc const error = split(*links, gone, stay, memory); error != errc::ok) return error;
        number(*links, gone, stay, anchor, owner);
        memory.rewind(top);
        auto const p = group_means(owner, anchor, sizes, memory);
        if (p) undo.keep();
        return p;
    }

    /// The same with all sizes one.
    template <real T, executor Run = serial>
    [[nodiscard]] result<plan> operator()(tokens_span<T> const& metric, arena& memory,
                                          Run const& run = {}) const noexcept {
        return (*this)(metric, {}, memory, run);
    }

  private:
    /// Even tokens against the odd ones that may be a destination.
    template <real T, executor Run>
    [[nodiscard]] result<match::links> link(tokens_span<T> const& metric, arena& memory,
                                            Run const& run) const noexcept {
        auto const even = metric.every(2), odd = metric.every(2, distill_token ? 3 : 1);
        return match::bipartite(
            even.tokens, [even](index i) noexcept { return even.row(i); }, odd.tokens,
            [odd](index i) noexcept { return odd.row(i); }, metric.dim, memory, run);
    }

    /// Even tokens, by their number among the even ones: those that merge, ascending, and those that stay, in order.
    [[nodiscard]] errc split(match::links const& links, std::span<token> gone, std::span<token> stay,
                             arena& memory) const noexcept {
        auto const similarity = links.similarity;
        std::size_t const first = class_token ? 1 : 0;
        auto const scratch = memory.take<std::int32_t>(simd::top_k_scratch(std::ssize(similarity)));
        if (!taken(scratch)) return errc::out_of_memory;
        simd::top_k(similarity.subspan(first), gone, static_cast<token>(first), scratch);
        auto next = gone.begin();
        auto to = stay.begin();
        for (token a = 0; a < std::ssize(similarity); ++a) {
            if (next != gone.end() && *next == a) {
                ++next;
            } else {
                *to++ = a;
            }
        }
        if (!class_token && !keep_order) {
            std::sort(stay.begin(), stay.end(), [&](token a, token b) {
                float const x = similarity[static_cast<std::size_t>(a)], y = similarity[static_cast<std::size_t>(b)];
                return x != y ? x > y : a < b;
            });
        }
        return errc::ok;
    }

    /// Rows in their order: fills the anchors, then each token's row.
    void number(match::links const& links, std::span<token const> gone, std::span<token const> stay,
                std::span<token> anchor, std::span<token> owner) const noexcept {
        auto to = anchor.begin();
        for (token const a : stay) *to++ = 2 * a;
        for (token b = 1; b < std::ssize(owner); b += 2) *to++ = b;
        if (keep_order) {
            std::sort(anchor.begin(), anchor.end());
        } else if (distill_token) {
            auto const first_odd = anchor.begin() + std::ssize(stay);
            std::rotate(anchor.begin() + 1, first_odd, first_odd + 1);
        }
        for (std::size_t row = 0; row < anchor.size(); ++row)
            owner[static_cast<std::size_t>(anchor[row])] = static_cast<token>(row);
        for (token const a : gone) {
            // A token that compares with nothing joins the first destination, so that counts stay exact.
            token const partner = std::max(links.partner[static_cast<std::size_t>(a)], token{0});
            token const odd = 2 * partner + (distill_token ? 3 : 1);
            owner[static_cast<std::size_t>(2 * a)] = owner[static_cast<std::size_t>(odd)];
        }
    }
};

/// The bias of proportional attention: log(size) of each key, to be added to its logits in every head and every layer
/// after the first merge. Source: as `tome`, equation 1.
///
/// @param sizes     [tokens], positive
/// @param bias      [tokens]; may be the same memory
/// @return          errc::bad_shape when the lengths differ
inline errc log_sizes(std::span<float const> sizes, std::span<float> bias) noexcept {
    if (sizes.size() != bias.size()) return errc::bad_shape;
    std::transform(sizes.begin(), sizes.end(), bias.begin(), [](float s) { return std::log(s); });
    return errc::ok;
}

}  // namespace terse::merge

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <terse/core/groups.hpp>
#include <terse/core/view.hpp>
#include <terse/match/bipartite.hpp>

namespace terse::merge {

/// Keeps every k-th token and merges each of the others into the nearest of those: bipartite matching at a fixed ratio.
///
/// Source: the `kth_bipartite_soft_matching` of the code of Bolya et al., "Token Merging: Your ViT But Faster",
/// arXiv:2210.09461. As published, which drops the last tokens mod k; `keep_tail` keeps them as rows of their own.
struct tome_kth {
    index every = 2;         ///< k: one row for so many tokens; 1 keeps all
    bool keep_tail = false;  ///< keep the last tokens that do not fill a group

    [[nodiscard]] constexpr index count(index tokens) const noexcept {
        return tokens / every + (keep_tail ? tokens % every : 0);
    }

    /// @param metric  [tokens, dim]: what is compared
    /// @param sizes   [tokens]: how many inputs each token stands for, or empty for all ones
    /// @return        `count(tokens)` rows in the order of their anchors, each the mean of its group weighted by size.
    ///                errc::bad_setting for `every` below 1, or a size not positive and finite; errc::bad_shape when
    ///                the sizes do not fit or tokens exceed `token`; errc::out_of_memory
    /// @complexity    O(tokens^2 * (k - 1) / k^2 * dim)
    template <real T, executor Run = serial>
    [[nodiscard]] result<plan> operator()(tokens_span<T> const& metric, std::span<float const> sizes, arena& memory,
                                          Run const& run = {}) const noexcept {
        index const n = metric.tokens;
        if (every < 1) return errc::bad_setting;
        if (n > max_tokens || (!sizes.empty() && std::ssize(sizes) != n)) return errc::bad_shape;

        rollback undo{memory};
        auto const anchor = memory.take<token>(count(n));
        auto const owner = memory.take<token>(n);
        if (!taken(anchor, owner)) return errc::out_of_memory;
        index const groups = n / every;
        std::fill(owner.begin(), owner.end(), token{-1});
        for (index row = 0; row < std::ssize(anchor); ++row) {
            index const t = row < groups ? (row + 1) * every - 1 : groups * every + row - groups;
            anchor[static_cast<std::size_t>(row)] = static_cast<token>(t);
            owner[static_cast<std::size_t>(t)] = static_cast<token>(row);
        }
        if (every > 1) {
            index const others = every - 1;
            auto const place = [=, this](index i) noexcept { return i / others * every + i % others; };
            auto const top = memory.here();
            auto const links = match::bipartite(
                groups * others, [&](index i) noexcept { return metric.row(place(i)); }, groups,
                [&](index i) noexcept { return metric.row((i + 1) * every - 1); }, metric.dim, memory, run);
            if (!links) return links.error();
            for (index i = 0; i < groups * others; ++i)
                owner[static_cast<std::size_t>(place(i))] =
                    std::max(links->partner[static_cast<std::size_t>(i)], token{0});
            memory.rewind(top);
        }
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
};

}  // namespace terse::merge

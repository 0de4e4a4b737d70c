// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <span>

#include <terse/core/arena.hpp>
#include <terse/core/result.hpp>
#include <terse/core/types.hpp>

namespace terse {

/// What every policy returns: a sparse reduction matrix R [kept, tokens] by rows (CSR), so that `apply` computes
/// out = R in. Pruning has one source a row, merging and pooling several, and a token that no row names is dropped.
/// Lives in the arena it was made in.
struct plan {
    index tokens = 0;                  ///< columns of R: input tokens
    std::span<token const> sources{};  ///< [entries], ascending within a row
    std::span<token const> offsets{};  ///< [kept + 1], where rows begin; empty: row i has the one source sources[i]
    std::span<float const> weights{};  ///< [entries]; empty: all ones
    std::span<token const> anchor{};   ///< [kept]: the input whose position, id or slot a row inherits, or -1
    std::span<token const> owner{};    ///< [tokens]: the row that an input went to, or -1; empty: not recorded

    /// One row of R.
    struct entries {
        std::span<token const> sources;
        std::span<float const> weights;  ///< empty: all ones

        [[nodiscard]] constexpr float weight(std::size_t i) const noexcept {
            return weights.empty() ? 1.0F : weights[i];
        }
    };

    [[nodiscard]] constexpr index kept() const noexcept {
        return offsets.empty() ? std::ssize(sources) : std::ssize(offsets) - 1;
    }

    [[nodiscard]] constexpr entries row(index i) const noexcept {
        auto const r = static_cast<std::size_t>(i);
        auto const begin = offsets.empty() ? r : static_cast<std::size_t>(offsets[r]);
        auto const count = offsets.empty() ? 1 : static_cast<std::size_t>(offsets[r + 1]) - begin;
        return {sources.subspan(begin, count), weights.empty() ? weights : weights.subspan(begin, count)};
    }

    /// Whether every row copies one input. O(1)
    [[nodiscard]] constexpr bool is_selection() const noexcept { return offsets.empty() && weights.empty(); }

    /// Whether anchors ascend strictly and there is one a row: rows stand in the order of their inputs. O(kept)
    [[nodiscard]] constexpr bool keeps_order() const noexcept {
        return std::ssize(anchor) == kept() && (anchor.empty() || anchor.front() >= 0) &&
               std::adjacent_find(anchor.begin(), anchor.end(), [](token a, token b) { return a >= b; }) ==
                   anchor.end();
    }

    /// Whether no input is in two rows. O(entries) with `owner`, else O(entries^2)
    [[nodiscard]] constexpr bool is_partition() const noexcept {
        for (index i = 0; i < kept(); ++i) {
            for (token const j : row(i).sources) {
                if (!owner.empty()) {
                    if (owner[static_cast<std::size_t>(j)] != i) return false;
                } else if (std::count(sources.begin(), sources.end(), j) != 1) {
                    return false;
                }
            }
        }
        return true;
    }

    /// Whether every row's weights sum to one, within 1e-5. O(entries)
    [[nodiscard]] bool is_row_stochastic() const noexcept {
        for (index i = 0; i < kept(); ++i) {
            entries const r = row(i);
            float sum = 0;
            for (std::size_t k = 0; k < r.sources.size(); ++k) sum += r.weight(k);
            if (!(std::abs(sum - 1.0F) <= 1e-5F)) return false;
        }
        return true;
    }
};

/// A policy's plans, one a head, or one that all heads share.
struct plans {
    std::span<plan const> items{};

    [[nodiscard]] constexpr bool shared() const noexcept { return items.size() == 1; }
    [[nodiscard]] constexpr plan const& operator[](index head) const noexcept {
        return items[shared() ? 0 : static_cast<std::size_t>(head)];
    }
};

/// Whether a plan from elsewhere holds together: every index in range, sources ascending in their row, weights finite.
/// What the library's own calls return always does.
/// @complexity O(entries)
[[nodiscard]] inline bool is_valid(plan const& p) noexcept {
    if (p.tokens < 0 || p.tokens > max_tokens) return false;
    if (!p.offsets.empty() && (p.offsets.front() != 0 || p.offsets.back() != std::ssize(p.sources))) return false;
    if (!std::is_sorted(p.offsets.begin(), p.offsets.end())) return false;
    if (!p.weights.empty() && p.weights.size() != p.sources.size()) return false;
    if (!p.anchor.empty() && std::ssize(p.anchor) != p.kept()) return false;
    if (!p.owner.empty() && std::ssize(p.owner) != p.tokens) return false;
    auto const within = [](index low, index high) { return [=](token j) { return low <= j && j < high; }; };
    if (!std::all_of(p.sources.begin(), p.sources.end(), within(0, p.tokens))) return false;
    if (!std::all_of(p.anchor.begin(), p.anchor.end(), within(-1, p.tokens))) return false;
    if (!std::all_of(p.owner.begin(), p.owner.end(), within(-1, p.kept()))) return false;
    if (!std::all_of(p.weights.begin(), p.weights.end(), [](float w) { return std::isfinite(w); })) return false;
    for (index i = 0; i < p.kept(); ++i) {
        auto const s = p.row(i).sources;
        if (std::adjacent_find(s.begin(), s.end(), [](token a, token b) { return a >= b; }) != s.end()) return false;
    }
    return true;
}

/// The rows that `kept` names, in its order, of `tokens` inputs. `kept` must live as long as the plan.
[[nodiscard]] constexpr plan select_rows(std::span<token const> kept, index tokens) noexcept {
    return {.tokens = tokens, .sources = kept, .anchor = kept};
}

/// Fills `owner`, so that a selection can be unmerged. Of several rows that name an input, the first owns it.
/// @return the same plan, or errc::out_of_memory
/// @complexity O(tokens + entries)
[[nodiscard]] inline result<plan> with_owner(plan p, arena& memory) noexcept {
    auto const owner = memory.take<token>(p.tokens);
    if (!taken(owner)) return errc::out_of_memory;
    std::fill(owner.begin(), owner.end(), token{-1});
    for (index i = p.kept(); i-- > 0;)
        for (token const j : p.row(i).sources) owner[static_cast<std::size_t>(j)] = static_cast<token>(i);
    p.owner = owner;
    return p;
}

/// The plan that keeps every token.
/// @return errc::bad_shape when `tokens` is negative or exceeds `token`; errc::out_of_memory
[[nodiscard]] inline result<plan> keep_all(index tokens, arena& memory) noexcept {
    if (tokens < 0 || tokens > max_tokens) return errc::bad_shape;
    auto const all = memory.take<token>(tokens);
    if (!taken(all)) return errc::out_of_memory;
    for (index t = 0; t < tokens; ++t) all[static_cast<std::size_t>(t)] = static_cast<token>(t);
    plan p = select_rows(all, tokens);
    p.owner = all;
    return p;
}

}  // namespace terse

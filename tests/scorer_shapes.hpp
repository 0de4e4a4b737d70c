// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include <terse/score/scores.hpp>

#include "support.hpp"

// The shapes for which every scorer must agree with a plain implementation in double precision, and the comparison.
namespace terse::test {

using matrix = std::vector<std::vector<double>>;

/// The sizes of a layer, and how many queries it has.
struct scorer_shape {
    index heads = 1, kv_heads = 1, tokens = 1, dim = 1, window = 1;

    [[nodiscard]] constexpr index group() const noexcept { return heads / kv_heads; }
};

/// Sizes that registers, tiles and chunks divide, and their neighbours.
inline constexpr std::array<index, 16> token_counts = {1,  2,   3,   7,   8,   9,   31,  64,
                                                       65, 127, 129, 255, 300, 511, 777, 1000};

/// Every number of tokens with windows of 1, 2, an odd number, half of the tokens and all, and each of both with a
/// query head a kv head, with four and with all on one. Few shapes are large in tokens and window.
[[nodiscard]] inline std::vector<scorer_shape> scorer_shapes() {
    struct grouping {
        index heads, kv_heads;
    };
    constexpr std::array<grouping, 3> usual = {{{3, 3}, {8, 2}, {5, 1}}}, large = {{{1, 1}, {4, 1}, {2, 1}}};
    constexpr std::array<index, 8> dims = {1, 8, 5, 64, 13, 33, 24, 72};
    constexpr std::array<index, 5> small_dims = {8, 5, 16, 3, 13};
    std::vector<scorer_shape> all;
    for (std::size_t i = 0; i < token_counts.size(); ++i) {
        index const n = token_counts[i], odd = n < 8 ? 3 : n < 64 ? 5 : i % 2 == 0 ? 33 : 17;
        std::vector<index> windows;
        for (index const window : {index{1}, index{2}, odd, n / 2, n})
            if (0 < window && window <= n && std::find(windows.begin(), windows.end(), window) == windows.end())
                windows.push_back(window);
        for (std::size_t k = 0; k < windows.size(); ++k) {
            index const cells = n * windows[k];
            for (std::size_t g = 0; g < usual.size(); ++g) {
                if (n >= 8 && g != (i + k + 2) % usual.size()) continue;  // in turn, of few tokens all
                auto [heads, kv_heads] = cells > 100'000 ? large[g] : usual[g];
                if (g == 2 && windows[k] == 1) heads = 20;  // more than go at once
                index const dim =
                    cells > 20'000 ? small_dims[all.size() % small_dims.size()] : dims[all.size() % dims.size()];
                all.push_back({heads, kv_heads, n, dim, windows[k]});
            }
        }
    }
    return all;
}

/// A few of them, for what most shapes need not meet: one for each grouping with each kind of window.
[[nodiscard]] inline std::vector<scorer_shape> some_scorer_shapes() {
    std::vector<scorer_shape> some;
    for (auto const& s : scorer_shapes())
        if (s.tokens == 7 || s.tokens == 65 || s.tokens == 129 || s.tokens == 300) some.push_back(s);
    return some;
}

/// For scorers that read no queries: every number of tokens once with each number of kv heads, and more than a block of
/// slots.
[[nodiscard]] inline std::vector<scorer_shape> key_shapes() {
    std::vector<scorer_shape> some;
    for (scorer_shape s : scorer_shapes()) {
        auto const same = [&](auto const& other) { return other.tokens == s.tokens && other.kv_heads == s.kv_heads; };
        if (std::none_of(some.begin(), some.end(), same)) some.push_back(s);
    }
    some.push_back({3, 3, 1030, 13, 1});
    some.push_back({4, 1, 1030, 72, 1});
    return some;
}

/// Slots of each head where not all hold as many: the second half of them, the third none, the others all.
[[nodiscard]] inline std::vector<index> shortened(scorer_shape const& s) {
    std::vector<index> lengths(static_cast<std::size_t>(s.kv_heads), s.tokens);
    if (s.kv_heads > 1) lengths[1] = s.tokens / 2;
    if (s.kv_heads > 2) lengths[2] = 0;
    return lengths;
}

/// Whether a score is as wanted within a share of it or a margin, and not finite where that is not.
[[nodiscard]] inline bool is_close(float got, double want, double tolerance, double margin) {
    double const x = static_cast<double>(got);
    if (std::isnan(want)) return std::isnan(x);
    if (std::isinf(want)) return x == want;
    return std::abs(x - want) <= std::max(tolerance * std::abs(want), margin);
}

inline void require_close(scores const& got, matrix const& want, double tolerance, double margin) {
    REQUIRE(got.heads == std::ssize(want));
    for (std::size_t r = 0; r < want.size(); ++r) {
        auto const row = got.row(static_cast<index>(r));
        REQUIRE(row.size() == want[r].size());
        for (std::size_t t = 0; t < row.size(); ++t) {
            if (is_close(row[t], want[r][t], tolerance, margin)) continue;
            CAPTURE(r, t, row[t], want[r][t]);
            FAIL("another score");
        }
    }
}

}  // namespace terse::test

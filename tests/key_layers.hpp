// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cmath>
#include <tuple>
#include <vector>

#include <terse/score/scores.hpp>

#include "attention_reference.hpp"

// What the tests of scorers that read keys and values share.
namespace terse::test {

using storages = std::tuple<float, half, bfloat16>;

using rows = std::vector<std::vector<double>>;

/// The slots of one head in double precision.
template <class T>
[[nodiscard]] rows head_rows(tensor<T> const& x, index h, index count) {
    rows all;
    for (index t = 0; t < count; ++t) {
        auto& row = all.emplace_back();
        for (index c = 0; c < x.dim; ++c) row.push_back(static_cast<double>(static_cast<float>(x.row(t, h)[c])));
    }
    return all;
}

[[nodiscard]] inline double product(std::vector<double> const& a, std::vector<double> const& b) {
    double sum = 0;
    for (std::size_t c = 0; c < a.size(); ++c) sum += a[c] * b[c];
    return sum;
}

/// Sizes that blocks and registers do not divide, up to more than one block of slots.
inline constexpr std::array<index, 8> slot_counts = {1, 2, 3, 7, 33, 150, 999, 1030};
inline constexpr std::array<index, 5> dims = {1, 5, 8, 13, 72};

/// Whether a scorer agrees with expected(keys, values, head), where that is not NaN: for all dims, lengths and workers,
/// and where heads hold different numbers of slots.
template <class T, class Score, class Expected>
void check_scores(Score const& score, Expected const& expected, double tolerance = 2e-5) {
    auto const check = [&](auto const& l, random_layer<T> const& r) {
        for (index const workers : {index{1}, index{3}}) {
            arena memory;
            auto const got = score(l, memory, threads{workers}).value();
            REQUIRE(got.heads == l.kv_heads());
            REQUIRE(got.tokens == l.tokens());
            for (index h = 0; h < l.kv_heads(); ++h) {
                CAPTURE(h, workers);
                index const held = l.length(h);
                auto const row = got.row(h);
                std::vector<double> const wanted =
                    expected(head_rows(r.keys, h, held), head_rows(r.values, h, held), h);
                for (std::size_t t = 0; t < wanted.size(); ++t)
                    if (!std::isnan(wanted[t]))
                        REQUIRE(static_cast<double>(row[t]) == Approx(wanted[t]).epsilon(tolerance).margin(tolerance));
                for (std::size_t t = wanted.size(); t < row.size(); ++t) REQUIRE(std::isnan(row[t]));
            }
        }
    };
    for (index const n : slot_counts) {
        for (index const dim : dims) {
            CAPTURE(n, dim);
            random_layer<T> const r{3, 3, n, dim, 1, static_cast<unsigned>(n + dim)};
            check(r.view(), r);
            uneven const held{n, {n, n / 2, 0}};
            check(r.view(held), r);
        }
    }
}

}  // namespace terse::test

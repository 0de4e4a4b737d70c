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

using rows = matrix;

/// Whether a scorer agrees with expected(keys, values, head), where that is not NaN: for all shapes, and where heads
/// hold different numbers of slots.
template <class T, class Score, class Expected>
void check_scores(Score const& score, Expected const& expected, double tolerance = 2e-5) {
    auto const check = [&](auto const& l, random_layer<T> const& r) {
        matrix want;
        for (index h = 0; h < l.kv_heads(); ++h)
            want.push_back(expected(head_rows(r.keys, h, l.length(h)), head_rows(r.values, h, l.length(h)), h));
        for (index const workers : {index{1}, index{3}}) {
            arena memory;
            auto const got = score(l, memory, threads{workers}).value();
            REQUIRE(got.tokens == l.tokens());
            for (index h = 0; h < l.kv_heads(); ++h) {  // what is not known is as it may be
                auto& row = want[static_cast<std::size_t>(h)];
                for (std::size_t t = 0; t < row.size(); ++t)
                    if (std::isnan(row[t])) row[t] = static_cast<double>(got.row(h)[t]);
                row.resize(static_cast<std::size_t>(l.tokens()), NAN);
            }
            require_close(got, want, tolerance, tolerance);
        }
    };
    for (scorer_shape const& s : key_shapes()) {
        CAPTURE(s.kv_heads, s.tokens, s.dim);
        random_layer<T> const r{s.kv_heads, s.kv_heads, s.tokens, s.dim, 1, static_cast<unsigned>(s.tokens + s.dim)};
        check(r.view(), r);
        uneven const held{s.tokens, shortened(s)};
        if (s.kv_heads > 1) check(r.view(held), r);
    }
}

}  // namespace terse::test

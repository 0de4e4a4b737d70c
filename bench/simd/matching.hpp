#pragma once

#include <cmath>

#include <Eigen/Core>

#include <terse/simd/nearest.hpp>
#include <terse/simd/scalar.hpp>

#include "measure.hpp"

namespace terse::bench {

/// Bipartite matching of n tokens: for each even one the odd one of highest cosine.
struct matching {
    index left, right, dim;
    std::vector<float> best{}, left_inverse{}, right_inverse{};
    std::vector<token> partner{};

    matching(index n, index d) : left((n + 1) / 2), right(n / 2), dim(d) {
        best.resize(static_cast<std::size_t>(left));
        partner.resize(best.size());
        left_inverse.resize(best.size());
        right_inverse.resize(static_cast<std::size_t>(right));
    }

    template <class T>
    auto left_rows(T const* x) const {
        return [x, d = dim](index i) noexcept { return x + 2 * i * d; };
    }
    template <class T>
    auto right_rows(T const* x) const {
        return [x, d = dim](index i) noexcept { return x + (2 * i + 1) * d; };
    }

    /// Whether the partners found are the most similar, or as similar as rounding can tell.
    template <class T>
    bool correct(T const* x) const {
        matching m(left + right, dim);
        auto const a = left_rows(x), b = right_rows(x);
        simd::scalar::inverse_norms(left, a, dim, m.left_inverse);
        simd::scalar::inverse_norms(right, b, dim, m.right_inverse);
        simd::scalar::nearest(index{0}, left, a, m.left_inverse, right, b, m.right_inverse, dim, m.best, m.partner);
        for (std::size_t i = 0; i < best.size(); ++i) {
            auto const j = static_cast<std::size_t>(partner[i]);
            float const cosine = simd::scalar::dot(a(static_cast<index>(i)), b(partner[i]), dim) * m.left_inverse[i] *
                                 m.right_inverse[j];
            if (!(std::abs(cosine - m.best[i]) < 1e-5F && std::abs(best[i] - m.best[i]) < 1e-5F)) return false;
        }
        return true;
    }
};

/// Times solve(m, x), once its answer is right.
template <class T, class Solve>
void run_matching(benchmark::State& state, Solve solve) {
    matching m(state.range(0), state.range(1));
    auto const inputs = random_inputs<T>(state.range(0), m.dim);
    solve(m, inputs[0].data());
    if (!m.correct(inputs[0].data())) state.SkipWithError("the answer is wrong");
    std::size_t next = 0;
    for (auto _ : state) {
        solve(m, inputs[next++ % inputs.size()].data());
        benchmark::DoNotOptimize(m.partner.data());
        benchmark::ClobberMemory();
    }
    count_flops(state, 2.0 * static_cast<double>(m.left) * static_cast<double>(m.right) * static_cast<double>(m.dim));
}

inline void matching_sizes(benchmark::internal::Benchmark* b) {
    b->ArgNames({"n", "d"})->Args({197, 64})->Args({1025, 64})->Args({4097, 128})->Unit(benchmark::kMicrosecond);
}

/// Rows of `x` that stand two apart.
inline auto every_second(float const* x, index rows, index dim) {
    using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    return Eigen::Map<matrix const, 0, Eigen::OuterStride<>>(x, rows, dim, Eigen::OuterStride<>(2 * dim));
}

/// Copies of both sides with every row divided by its norm, as the peers want them.
using dense = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
inline void normalise(matching const& m, float const* x, dense& a, dense& b) {
    a = every_second(x, m.left, m.dim);
    b = every_second(x + m.dim, m.right, m.dim);
    a.rowwise().normalize();
    b.rowwise().normalize();
}

/// The largest entry of each row.
inline void row_maxima(matching& m, dense const& similarity) {
    for (index i = 0; i < m.left; ++i) {
        index j = 0;
        m.best[static_cast<std::size_t>(i)] = similarity.row(i).maxCoeff(&j);
        m.partner[static_cast<std::size_t>(i)] = static_cast<token>(j);
    }
}

}  // namespace terse::bench

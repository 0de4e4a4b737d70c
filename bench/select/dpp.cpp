#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include <Eigen/Core>

#include <terse/select/dpp.hpp>
#include <terse/simd/dot.hpp>

#include "../compare.hpp"

namespace terse::bench {
namespace {

using matrix = row_major<float>;

/// A kernel as CDPruner's: cosines of random tokens, weighted by relevance.
matrix kernel_of(index rows, index dim, unsigned seed) {
    auto const x = random_values(rows * dim, seed);
    matrix tokens = Eigen::Map<matrix const>(x.data(), rows, dim);
    auto const r = random_values(rows, seed + 100);
    for (index i = 0; i < rows; ++i)
        tokens.row(i) *=
            (1.1F + r[static_cast<std::size_t>(i)]) / std::sqrt(simd::squared_norm(tokens.row(i).data(), dim));
    matrix kernel(rows, rows);
    kernel.noalias() = tokens * tokens.transpose();
    return kernel;
}

/// The published algorithm, a line of Eigen for a line.
struct by_lines {
    Eigen::RowVectorXf gains{}, e{};
    matrix left{};

    void operator()(matrix const& kernel, std::span<token> picked) {
        gains = kernel.diagonal().transpose();
        left.resize(std::ssize(picked), kernel.rows());
        for (index step = 0; step < std::ssize(picked); ++step) {
            index pick = 0;
            gains.maxCoeff(&pick);
            picked[static_cast<std::size_t>(step)] = static_cast<token>(pick);
            e = kernel.row(pick);
            e.noalias() -= left.col(pick).head(step).transpose() * left.topRows(step);
            e /= std::sqrt(gains[pick]);
            gains -= e.cwiseAbs2();
            gains[pick] = -std::numeric_limits<float>::infinity();
            left.row(step) = e;
        }
    }
};

/// The same as a plain loop over rows for every earlier step, which compilers vectorise.
struct by_loops {
    std::vector<float> gains{}, e{}, left{};

    void operator()(matrix const& kernel, std::span<token> picked) {
        auto const n = static_cast<std::size_t>(kernel.rows());
        gains.resize(n), e.resize(n), left.resize(picked.size() * n);
        for (std::size_t i = 0; i < n; ++i) gains[i] = kernel.data()[i * n + i];
        for (std::size_t step = 0; step < picked.size(); ++step) {
            auto const pick = static_cast<std::size_t>(std::max_element(gains.begin(), gains.end()) - gains.begin());
            picked[step] = static_cast<token>(pick);
            std::copy_n(kernel.data() + pick * n, n, e.begin());
            for (std::size_t earlier = 0; earlier < step; ++earlier) {
                float const* const row = left.data() + earlier * n;
                float const factor = row[pick];
                for (std::size_t i = 0; i < n; ++i) e[i] -= factor * row[i];
            }
            float const scale = 1 / std::sqrt(gains[pick]);
            for (std::size_t i = 0; i < n; ++i) {
                e[i] *= scale;
                left[step * n + i] = e[i];
                gains[i] -= e[i] * e[i];
            }
            gains[pick] = -std::numeric_limits<float>::infinity();
        }
    }
};

contest dpp(index rows, index keep) {
    struct state {
        std::vector<matrix> kernels;
        std::vector<token> picked;
        arena memory;
        by_lines eigen;
        by_loops loops;
    };
    auto const s = std::make_shared<state>();
    for (unsigned seed = 0; seed < 3; ++seed) s->kernels.push_back(kernel_of(rows, 256, seed));
    s->picked.resize(static_cast<std::size_t>(keep));

    // Each step reads what all before it left behind.
    limit bound = read_limit(static_cast<std::size_t>(rows * keep) * sizeof(float), 1);
    bound.probe = [read = bound.probe](std::size_t) { read(0); };
    bound.share = static_cast<double>(keep - 1) / 2;
    contest c{.bound = bound, .candidates = {}};
    c.inputs = s->kernels.size();
    c.candidates.push_back({"terse", [s](std::size_t input) {
                                static_cast<void>(select::dpp(view(s->kernels[input]), s->picked, s->memory));
                            }});
    c.candidates.push_back({eigen_name(), [s](std::size_t input) { s->eigen(s->kernels[input], s->picked); }});
    c.candidates.push_back({"vectorised loop", [s](std::size_t input) { s->loops(s->kernels[input], s->picked); }});
    for (std::size_t input = 0; input < c.inputs; ++input) {
        c.candidates[0].run(input);
        auto const ours = s->picked;
        for (std::size_t peer = 1; peer < c.candidates.size(); ++peer) {
            c.candidates[peer].run(input);
            c.agree = c.agree && ours == s->picked;
        }
    }
    return c;
}

bool const added = [] {
    for (auto const& [n, k] : {std::pair<index, index>{576, 64}, {2880, 64}})
        add({"dpp", {{"n", n}, {"k", k}}}, [n = n, k = k] { return dpp(n, k); });
    return true;
}();

}  // namespace
}  // namespace terse::bench

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <random>

#include <terse/prune/divprune.hpp>
#include <terse/select/farthest_point.hpp>

#include "../compare.hpp"
#include "../simd/gram.hpp"

namespace terse::bench {
namespace {

/// Image features are alike: a common direction, some groups, and what is a token's own.
dense features(index tokens, index dim, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    auto const noise = [&](index rows) { return dense::NullaryExpr(rows, dim, [&] { return normal(random); }); };
    dense const common = noise(1), groups = noise(24);
    dense x = noise(tokens);
    for (index t = 0; t < tokens; ++t) x.row(t) = 0.7F * x.row(t) + common.row(0) + groups.row(t % 24);
    return x;
}

/// What one writes otherwise: all cosines by one product, then greedy steps over its rows.
struct by_gram {
    void (*multiply)(dense const& x, dense& product);
    dense unit{}, cosines{};
    Eigen::RowVectorXf nearest{};

    void operator()(dense const& x, index start, std::span<token> picked) {
        unit = x.rowwise().normalized();
        cosines.resize(x.rows(), x.rows());
        multiply(unit, cosines);
        if (start < 0) {
            cosines.diagonal().setConstant(-std::numeric_limits<float>::infinity());
            cosines.rowwise().maxCoeff().minCoeff(&start);
        }
        picked[0] = static_cast<token>(start);
        nearest = cosines.row(start);
        for (std::size_t k = 1; k < picked.size(); ++k) {
            index pick = 0;
            nearest[picked[k - 1]] = std::numeric_limits<float>::infinity();
            nearest.minCoeff(&pick);
            picked[k] = static_cast<token>(pick);
            nearest = nearest.cwiseMax(cosines.row(pick));
        }
    }
};

/// Whether every pick is the farthest, or as far as rounding can tell.
bool greedy(dense const& x, std::span<token const> picked) {
    dense const unit = x.rowwise().normalized();
    Eigen::VectorXf nearest = Eigen::VectorXf::Constant(x.rows(), -2);
    for (token const pick : picked) {
        if (!(nearest[pick] <= nearest.minCoeff() + 1e-5F)) return false;
        nearest = nearest.cwiseMax(unit * unit.row(pick).transpose());
        nearest[pick] = std::numeric_limits<float>::infinity();
    }
    return true;
}

struct state {
    std::vector<dense> inputs;
    std::vector<token> picked;
    arena memory;
};

/// `solve` of terse against the peers' products and greedy steps.
contest pick(index n, index dim, index keep, index start, std::function<void(state&, std::size_t)> solve) {
    auto const s = std::make_shared<state>();
    for (unsigned seed = 0; seed < 2; ++seed) s->inputs.push_back(features(n, dim, seed));
    s->picked.resize(static_cast<std::size_t>(keep));
    contest c{.bound = {}, .candidates = {}};
    if (start < 0)
        c.bound = fma_limit(static_cast<double>(n * (n + 1) * dim));
    else
        c.bound = read_limit(static_cast<std::size_t>(n * dim) * sizeof(float), s->inputs.size());
    c.inputs = s->inputs.size();
    c.candidates.push_back({"terse", [s, solve](std::size_t input) { solve(*s, input); }});
    for (auto const& peer : gram_peers) {
        auto const solver = std::make_shared<by_gram>(by_gram{.multiply = peer.multiply});
        c.candidates.push_back(
            {peer.name, [s, solver, start](std::size_t input) { (*solver)(s->inputs[input], start, s->picked); }});
    }
    for (auto const& each : c.candidates) {
        each.run(0);
        auto const first = std::min_element(s->picked.begin(), s->picked.end());
        c.agree = c.agree && *first >= 0 && greedy(s->inputs[0], s->picked);
    }
    return c;
}

contest farthest_point(index n, index dim, index keep) {
    return pick(n, dim, keep, 0, [](state& s, std::size_t input) {
        tokens_view<float> const x = view(s.inputs[input]);
        static_cast<void>(select::farthest_point(x, s.picked, 0, s.memory));
    });
}

contest divprune(index n, index dim, index keep) {
    return pick(n, dim, keep, -1, [](state& s, std::size_t input) {
        s.memory.rewind();
        prune::divprune const policy{.keep = std::ssize(s.picked), .pick_order = true};
        auto const p = policy(view(s.inputs[input]), s.memory);
        std::copy(p->sources.begin(), p->sources.end(), s.picked.begin());
    });
}

bool const added = [] {
    struct shape {
        index n, d, k;
    };
    auto const shapes = [](shape const& s) {
        return std::vector<std::pair<std::string, index>>{{"n", s.n}, {"d", s.d}, {"k", s.k}};
    };
    for (shape const s : {shape{576, 1024, 64}, {2880, 1024, 64}, {2880, 1024, 640}})
        add({"divprune", shapes(s)}, [s] { return divprune(s.n, s.d, s.k); });
    for (shape const s : {shape{576, 1024, 64}, {2880, 1024, 64}, {2880, 1024, 640}, {4096, 128, 64}})
        add({"farthest-point", shapes(s)}, [s] { return farthest_point(s.n, s.d, s.k); });
    return true;
}();

}  // namespace
}  // namespace terse::bench

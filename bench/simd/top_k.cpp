// The k highest of n scores as ascending positions, against a partition of pairs and a sort of what it kept.
#include <algorithm>
#include <cmath>
#include <memory>

#include <terse/simd/top_k.hpp>

#include "../compare.hpp"

namespace terse::bench {
namespace {

/// As attention sums are: many small, few large.
aligned<float> random_scores(index n, unsigned seed) {
    auto scores = random_values(n, seed);
    for (float& x : scores) x = -std::log(1 - (x + 1) / 2);
    return scores;
}

contest top_k(index n, index k) {
    struct state {
        std::vector<aligned<float>> inputs;
        std::vector<std::int32_t> scratch;
        std::vector<token> ours, theirs;
        std::vector<std::pair<float, token>> pairs;
    };
    auto const s = std::make_shared<state>();
    // A million scores or more: with fewer inputs, branch predictors learn nth_element's way through each by heart.
    auto const inputs = static_cast<unsigned>(std::max<index>(16, (index{1} << 20) / n));
    for (unsigned seed = 0; seed < inputs; ++seed) s->inputs.push_back(random_scores(n, seed));
    s->scratch.resize(static_cast<std::size_t>(simd::top_k_scratch(n)));
    s->ours.resize(static_cast<std::size_t>(k));
    s->theirs = s->ours;
    s->pairs.resize(static_cast<std::size_t>(n));

    auto const ours = [s](std::size_t input) {
        simd::top_k<>(s->inputs[input], s->ours, 0, s->scratch);
        keep(s->ours);
    };
    auto const by_pairs = [=](std::size_t input) {
        auto const& scores = s->inputs[input];
        for (std::size_t i = 0; i < scores.size(); ++i) s->pairs[i] = {-scores[i], static_cast<token>(i)};
        std::nth_element(s->pairs.begin(), s->pairs.begin() + k, s->pairs.end());
        for (std::size_t i = 0; i < s->theirs.size(); ++i) s->theirs[i] = s->pairs[i].second;
        std::sort(s->theirs.begin(), s->theirs.end());
        keep(s->theirs);
    };
    contest c{.bound = read_limit(static_cast<std::size_t>(n) * sizeof(float), s->inputs.size()),
              .candidates = {{"terse", ours}, {std_name("nth_element, sort"), by_pairs}},
              .inputs = s->inputs.size()};
    for (std::size_t input = 0; input < s->inputs.size(); ++input) {
        ours(input);
        by_pairs(input);
        c.agree = c.agree && s->ours == s->theirs;
    }
    return c;
}

bool const added = [] {
    for (index const n : {1024, 4096, 32768, 131072})
        for (index const part : {64, 8, 2})
            add({"top-k", {{"n", n}, {"k", n / part}}}, [=] { return top_k(n, n / part); });
    return true;
}();

}  // namespace
}  // namespace terse::bench

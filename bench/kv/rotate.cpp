// Re-rotation of the keys that an eviction left, against the same rotation with Eigen's arrays.
#include <cmath>
#include <memory>
#include <numeric>

#include <Eigen/Core>

#include <terse/kv/rotate.hpp>

#include "prompt.hpp"

namespace terse::bench {
namespace {

constexpr index heads = prompt::kv_heads, dim = prompt::dim, half_dim = dim / 2;

/// Every row by its own delta, as after an eviction: row t goes from 2 t to t.
void by_eigen(index tokens, aligned<float>& keys, aligned<float> const& frequency) {
    Eigen::Map<Eigen::ArrayXf const> const f(frequency.data(), half_dim);
    for (index t = 0; t < tokens; ++t) {
        Eigen::ArrayXf const angle = static_cast<float>(-t) * f;
        Eigen::ArrayXf const cosine = angle.cos(), sine = angle.sin();
        for (index h = 0; h < heads; ++h) {
            float* const row = keys.data() + (h * tokens + t) * dim;
            Eigen::Map<Eigen::ArrayXf> a(row, half_dim), b(row + half_dim, half_dim);
            Eigen::ArrayXf const turned = a * cosine - b * sine;
            b = b * cosine + a * sine;
            a = turned;
        }
    }
}

contest rotate(index tokens) {
    struct state {
        aligned<float> frequency{}, ours, theirs = ours;
        std::vector<token> from, to = from;
    };
    auto const s = std::make_shared<state>(state{.ours = random_values(heads * tokens * dim, 1),
                                                 .from = std::vector<token>(static_cast<std::size_t>(tokens))});
    std::iota(s->to.begin(), s->to.end(), token{0});
    for (std::size_t t = 0; t < s->to.size(); ++t) s->from[t] = 2 * s->to[t];
    for (index i = 0; i < half_dim; ++i)
        s->frequency.push_back(std::pow(10000.0F, -static_cast<float>(i) / static_cast<float>(half_dim)));

    auto const ours = [=](std::size_t) {
        keep(kv::rotate(head_major(s->ours.data(), heads, tokens, dim), s->from, s->to,
                        {.inverse_frequency = s->frequency}));
    };
    auto const theirs = [=](std::size_t) { by_eigen(tokens, s->theirs, s->frequency); };
    ours(0);
    theirs(0);
    bool agree = true;
    float const rounded = 1e-6F * static_cast<float>(tokens);  // of the peer's angles, in float
    for (std::size_t i = 0; i < s->ours.size(); ++i) agree = agree && std::abs(s->ours[i] - s->theirs[i]) < rounded;
    return {.bound = copy_limit(s->ours.size() * sizeof(float), 1),
            .candidates = {{"terse", ours}, {eigen_name(), theirs}},
            .agree = agree};
}

bool const added = [] {
    for (index const n : {index{1024}, prompt::lengths[0], prompt::lengths[1], prompt::lengths[2]})
        add({"rotate", {{"heads", heads}, {"n", n}, {"d", dim}}}, [n] { return rotate(n); });
    return true;
}();

}  // namespace
}  // namespace terse::bench

#include "match.hpp"

#include <cmath>

#include <terse/simd/nearest.hpp>
#include <terse/simd/scalar.hpp>
#include <terse/simd/top_k.hpp>

#include "../compare.hpp"

namespace terse::bench {
namespace {

template <class T>
auto rows_of(T const* x, index dim, index first) {
    return [=](index i) noexcept { return x + (2 * i + first) * dim; };
}

/// Whether the partners found are the most similar, or as similar as rounding can tell.
template <class T>
bool correct(matching const& found, T const* x) {
    matching m(found.left + found.right, found.dim);
    auto const a = rows_of(x, m.dim, 0), b = rows_of(x, m.dim, 1);
    std::vector<float> left(m.best.size()), right(static_cast<std::size_t>(m.right));
    simd::scalar::inverse_norms(m.left, a, m.dim, left);
    simd::scalar::inverse_norms(m.right, b, m.dim, right);
    simd::scalar::nearest(index{0}, m.left, a, m.right, b, m.dim, m.best, m.partner);
    for (std::size_t i = 0; i < m.best.size(); ++i) {
        auto const j = static_cast<std::size_t>(found.partner[i]);
        float const cosine =
            simd::scalar::dot(a(static_cast<index>(i)), b(found.partner[i]), m.dim) * left[i] * right[j];
        if (!(std::abs(cosine - m.best[i]) < 1e-5F && std::abs(found.best[i] - m.best[i]) < 1e-5F)) return false;
    }
    return true;
}

template <class T>
contest match(index n, index dim) {
    struct state {
        matching m;
        std::vector<aligned<T>> inputs;
        std::vector<aligned<float>> exact{};  // the same values in float
        aligned<float> scratch{};
    };
    auto const s = std::make_shared<state>(state{matching(n, dim), random_inputs<T>(n, dim)});
    for (auto const& input : s->inputs) s->exact.push_back(converted<float>(input));
    s->scratch.resize(static_cast<std::size_t>(simd::nearest_scratch<>(s->m.left, dim)));
    auto const solve = [s](auto const& tokens) {
        auto& m = s->m;
        auto const a = rows_of(tokens.data(), m.dim, 0), b = rows_of(tokens.data(), m.dim, 1);
        simd::nearest<>(0, m.left, a, m.right, b, m.dim, m.best, m.partner, s->scratch);
    };

    contest c{.bound = fma_limit(2.0 * static_cast<double>(s->m.left * s->m.right * dim)), .candidates = {}};
    c.inputs = s->inputs.size();
    c.candidates.push_back({"terse", [=](std::size_t input) { solve(s->inputs[input]); }});
    if constexpr (std::same_as<T, float>) {
        for (auto const& [name, make] : matching_peers)
            c.candidates.push_back(
                {name, [s, match = make()](std::size_t input) { match(s->m, s->exact[input].data()); }});
    } else {
        c.candidates.push_back({"terse f32", [=](std::size_t input) { solve(s->exact[input]); }});
    }
    for (auto const& each : c.candidates) {
        each.run(0);
        c.agree = c.agree && correct(s->m, s->inputs[0].data());
    }
    return c;
}

bool const added = [] {
    matching_peers.push_back({eigen_name(), [] {
                                  return by_product([](dense const& a, dense const& b, dense& product) {
                                      product.noalias() = a * b.transpose();
                                  });
                              }});
    auto const shapes = {
        std::pair<index, index>{197, 64}, {577, 64}, {1025, 64}, {4096, 64}, {576, 1024}, {2880, 1024}};
    for (auto const& [n, d] : shapes) {
        subject what{"match", {{"n", n}, {"d", d}}};
        add(what, [n = n, d = d] { return match<float>(n, d); });
        if (n != 1025 && d == 64) continue;
        what.dtype = dtype_name<half>();
        add(what, [n = n, d = d] { return match<half>(n, d); });
        what.dtype = dtype_name<bfloat16>();
        add(what, [n = n, d = d] { return match<bfloat16>(n, d); });
    }
    return true;
}();

}  // namespace

matcher by_product(std::function<void(dense const& a, dense const& b, dense& product)> product) {
    return [product = std::move(product), a = dense(), b = dense(), similarity = dense()](matching& m,
                                                                                          float const* x) mutable {
        using strided = Eigen::Map<dense const, 0, Eigen::OuterStride<>>;
        a = strided(x, m.left, m.dim, Eigen::OuterStride<>(2 * m.dim));
        b = strided(x + m.dim, m.right, m.dim, Eigen::OuterStride<>(2 * m.dim));
        a.rowwise().normalize();
        b.rowwise().normalize();
        similarity.resize(m.left, m.right);
        product(a, b, similarity);
        for (index i = 0; i < m.left; ++i) {
            std::span const row(similarity.row(i).data(), static_cast<std::size_t>(m.right));
            auto const j = static_cast<std::size_t>(simd::arg_highest(row));
            m.best[static_cast<std::size_t>(i)] = row[j];
            m.partner[static_cast<std::size_t>(i)] = static_cast<token>(j);
        }
    };
}

}  // namespace terse::bench

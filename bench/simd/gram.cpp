#include "gram.hpp"

#include <cmath>
#include <memory>

#include <terse/simd/gram.hpp>

#include "../compare.hpp"

namespace terse::bench {
namespace {

template <class T>
contest gram(index n, index dim) {
    struct state {
        index n, dim;
        std::vector<aligned<T>> inputs;
        aligned<float> scratch;
        dense product{}, x{};
    };
    auto const s = std::make_shared<state>(state{n, dim, random_inputs<T>(n, dim, 2), {}});
    s->scratch.resize(static_cast<std::size_t>(simd::gram_scratch(dim)));
    s->product.resize(n, n);

    contest c{.bound = fma_limit(static_cast<double>(n * (n + 1) * dim)), .candidates = {}};
    c.inputs = s->inputs.size();
    c.candidates.push_back(
        {"terse", [s](std::size_t input) {
             auto const row = [x = s->inputs[input].data(), d = s->dim](index i) noexcept { return x + i * d; };
             simd::gram<>(0, simd::gram_blocks(s->n), s->n, row, s->dim, {}, s->product.data(), s->n, {}, s->scratch);
         }});
    if constexpr (std::same_as<T, float>) {
        for (auto const& peer : gram_peers)
            c.candidates.push_back({peer.name, [s, multiply = peer.multiply](std::size_t input) {
                                        using packed = Eigen::Map<dense const>;
                                        s->x = packed(s->inputs[input].data(), s->n, s->dim);
                                        multiply(s->x, s->product);
                                    }});
    }
    dense first;
    for (auto const& each : c.candidates) {
        each.run(0);
        if (first.size() == 0) first = s->product;
        float const apart = (first - s->product).cwiseAbs().maxCoeff();
        c.agree = c.agree && apart <= 1e-6F * static_cast<float>(dim);
    }
    return c;
}

bool const added = [] {
    gram_peers.push_back({eigen_name(), [](dense const& x, dense& product) { product.noalias() = x * x.transpose(); }});
    gram_peers.push_back({eigen_name() + " rankUpdate", [](dense const& x, dense& product) {
                              product.setZero();
                              product.selfadjointView<Eigen::Lower>().rankUpdate(x);
                              mirror(product);
                          }});
    for (index const n : {576, 2880, 4096}) {
        add({"gram", {{"n", n}, {"d", 1024}}}, [n] { return gram<float>(n, 1024); });
    }
    add({"gram", {{"n", 2880}, {"d", 64}}}, [] { return gram<float>(2880, 64); });
    add({"gram", {{"n", 2880}, {"d", 1024}}, dtype_name<half>()}, [] { return gram<half>(2880, 1024); });
    return true;
}();

}  // namespace
}  // namespace terse::bench

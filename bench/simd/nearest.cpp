#include "simd/matching.hpp"

namespace terse::bench {
namespace {

template <class T>
void with_terse(benchmark::State& state) {
    std::vector<float> scratch(static_cast<std::size_t>(simd::nearest_scratch<>(state.range(1))));
    run_matching<T>(state, [&](matching& m, T const* x) {
        auto const a = m.left_rows(x), b = m.right_rows(x);
        simd::inverse_norms<>(m.left, a, m.dim, m.left_inverse);
        simd::inverse_norms<>(m.right, b, m.dim, m.right_inverse);
        simd::nearest<>(0, m.left, a, m.left_inverse, m.right, b, m.right_inverse, m.dim, m.best, m.partner, scratch);
    });
}

void with_eigen(benchmark::State& state) {
    dense a, b, similarity;
    run_matching<float>(state, [&](matching& m, float const* x) {
        normalise(m, x, a, b);
        similarity.noalias() = a * b.transpose();
        row_maxima(m, similarity);
    });
}

BENCHMARK_TEMPLATE(with_terse, float)->Name("nearest/terse")->Apply(matching_sizes);
BENCHMARK_TEMPLATE(with_terse, half)->Name("nearest/terse/half")->Apply(matching_sizes);
BENCHMARK_TEMPLATE(with_terse, bfloat16)->Name("nearest/terse/bfloat16")->Apply(matching_sizes);
BENCHMARK(with_eigen)->Name("nearest/eigen")->Apply(matching_sizes);

}  // namespace
}  // namespace terse::bench

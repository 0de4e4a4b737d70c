#include <cblas.h>

#include "simd/matching.hpp"

namespace terse::bench {
namespace {

void with_openblas(benchmark::State& state) {
    openblas_set_num_threads(1);
    dense a, b, similarity;
    run_matching<float>(state, [&](matching& m, float const* x) {
        normalise(m, x, a, b);
        similarity.resize(m.left, m.right);
        auto const rows = static_cast<int>(m.left), columns = static_cast<int>(m.right), dim = static_cast<int>(m.dim);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, columns, dim, 1.0F, a.data(), dim, b.data(), dim,
                    0.0F, similarity.data(), columns);
        row_maxima(m, similarity);
    });
}

BENCHMARK(with_openblas)->Name("nearest/openblas")->Apply(matching_sizes);

}  // namespace
}  // namespace terse::bench

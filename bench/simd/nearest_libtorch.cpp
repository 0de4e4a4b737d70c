// The published steps of ToMe's matching, as its code runs them.
#include <torch/torch.h>

#include "simd/matching.hpp"

namespace terse::bench {
namespace {

void with_libtorch(benchmark::State& state) {
    torch::InferenceMode const inference;
    torch::set_num_threads(1);
    run_matching<float>(state, [&](matching& m, float const* x) {
        using torch::indexing::None, torch::indexing::Slice;
        auto const tokens = torch::from_blob(const_cast<float*>(x), {m.left + m.right, m.dim});
        auto const metric = tokens / tokens.norm(2, -1, true);
        auto const scores = metric.index({Slice(None, None, 2)}).matmul(metric.index({Slice(1, None, 2)}).t());
        auto const [best, partner] = scores.max(-1);
        std::copy_n(best.data_ptr<float>(), m.left, m.best.begin());
        std::transform(partner.data_ptr<std::int64_t>(), partner.data_ptr<std::int64_t>() + m.left, m.partner.begin(),
                       [](std::int64_t p) { return static_cast<token>(p); });
    });
}

BENCHMARK(with_libtorch)->Name("nearest/libtorch")->Apply(matching_sizes);

}  // namespace
}  // namespace terse::bench

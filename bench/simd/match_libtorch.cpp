// The published steps of ToMe's matching, as its code runs them.
#include <torch/torch.h>

#include "../libtorch.hpp"
#include "match.hpp"

namespace terse::bench {
namespace {

void solve(matching& m, float const* x) {
    using torch::indexing::None, torch::indexing::Slice;
    torch::InferenceMode const inference;
    auto const tokens = torch::from_blob(const_cast<float*>(x), {m.left + m.right, m.dim});
    auto const metric = tokens / tokens.norm(2, -1, true);
    auto const scores = metric.index({Slice(None, None, 2)}).matmul(metric.index({Slice(1, None, 2)}).t());
    auto const [best, partner] = scores.max(-1);
    std::copy_n(best.data_ptr<float>(), m.left, m.best.begin());
    std::transform(partner.data_ptr<std::int64_t>(), partner.data_ptr<std::int64_t>() + m.left, m.partner.begin(),
                   [](std::int64_t p) { return static_cast<token>(p); });
}

bool const added = [] {
    matching_peers.push_back({libtorch_name(), [] { return matcher(solve); }});
    return true;
}();

}  // namespace
}  // namespace terse::bench

// The published steps of SnapKV, as its code runs them.
#include <cmath>

#include <torch/torch.h>

#include "../libtorch.hpp"
#include "evictions.hpp"

namespace terse::bench {
namespace {

slots solve(attention_inputs const& e, snapkv_settings s) {
    using torch::indexing::None, torch::indexing::Slice;
    torch::InferenceMode const inference;
    auto const tensor = [](aligned<float> const& x, index heads, index rows) {
        return torch::from_blob(const_cast<float*>(x.data()), {heads, rows, attention_inputs::dim});
    };
    index const group = e.heads / e.kv_heads, past = e.tokens - e.window;
    auto const keys = tensor(e.keys, e.kv_heads, e.tokens).repeat_interleave(group, 0);
    auto logits = tensor(e.queries, e.heads, e.window).matmul(keys.transpose(1, 2)) / std::sqrt(double(e.dim));
    auto const later = torch::full({e.window, e.window}, -std::numeric_limits<float>::infinity()).triu(1);
    logits.index({Slice(), Slice(), Slice(-e.window, None)}) += later;
    auto const seen = logits.softmax(-1).index({Slice(), Slice(), Slice(None, past)}).sum(1);
    auto const scores = torch::avg_pool1d(seen.view({e.kv_heads, group, past}).mean(1), s.kernel, 1, s.kernel / 2);
    auto const kept = std::get<0>(std::get<1>(scores.topk(s.keep - e.window, -1)).sort(-1));
    slots all(static_cast<std::size_t>(e.kv_heads));
    for (index h = 0; h < e.kv_heads; ++h) {
        auto const* const row = kept.data_ptr<std::int64_t>() + h * (s.keep - e.window);
        auto& own = all[static_cast<std::size_t>(h)];
        for (index i = 0; i < s.keep - e.window; ++i) own.push_back(static_cast<token>(row[i]));
        for (index t = past; t < e.tokens; ++t) own.push_back(static_cast<token>(t));
    }
    return all;
}

bool const added = [] {
    snapkv_peers.push_back({libtorch_name(), solve});
    return true;
}();

}  // namespace
}  // namespace terse::bench

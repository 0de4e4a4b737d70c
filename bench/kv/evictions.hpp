#pragma once

#include <functional>
#include <string>
#include <vector>

#include <terse/core/types.hpp>

#include "prompt.hpp"

namespace terse::bench {

/// One layer of an engine in float: keys [kv_heads, tokens, dim] and the last queries [heads, window, dim], packed.
struct attention_inputs {
    static constexpr index kv_heads = 2, heads = 8, dim = 128;
    index tokens, window;
    aligned<float> keys{}, queries{};
};

/// What SnapKV keeps: `keep` slots, the window among them, scores averaged over `kernel` neighbours.
struct snapkv_settings {
    index keep, kernel;
};

struct snapkv_peer {
    std::string name;
    std::function<slots(attention_inputs const&, snapkv_settings)> solve;
};
inline std::vector<snapkv_peer> snapkv_peers;

}  // namespace terse::bench

// Deep Forcing's choice of tokens between sink and recent frames, against whole products in Eigen.
#include <Eigen/Core>

#include <terse/kv/deep_forcing.hpp>

#include "eigen.hpp"

namespace terse::bench {
namespace {

/// The paper's shares of a window of 21 frames, of a cache of any length.
kv::deep_forcing policy(index n) { return {.frame = n / 21, .capacity = 21, .keep = 16, .sinks = 10, .recent = 4}; }

slots by_eigen(prompt const& p) {
    kv::deep_forcing const s = policy(p.tokens);
    Eigen::VectorXf scores = Eigen::VectorXf::Zero(p.tokens);
    for (index kv = 0; kv < prompt::kv_heads; ++kv) {
        Eigen::VectorXf sum = Eigen::VectorXf::Zero(prompt::dim);
        for (index h = kv * prompt::group; h < (kv + 1) * prompt::group; ++h) sum += p.queries_of(h).colwise().sum();
        scores.noalias() += p.keys_of(kv) * sum;
    }
    return {kept_by(higher(scores), p.tokens, s.keep * s.frame, s.recent * s.frame, s.sinks * s.frame)};
}

bool const added = [] {
    add_prompt_rows("deep-forcing",
                    {.ours = [](prompt const& p, arena& memory) { return policy(p.tokens)(p.layer(), memory); },
                     .theirs = by_eigen});
    return true;
}();

}  // namespace
}  // namespace terse::bench

// The evictions that read keys and values against what an engine author writes with Eigen: whole expressions over the
// rows, nth_element.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

#include <Eigen/Core>

#include <terse/kv/cur.hpp>
#include <terse/kv/key_norm.hpp>
#include <terse/kv/keydiff.hpp>
#include <terse/kv/lagkv.hpp>
#include <terse/kv/q_filter.hpp>
#include <terse/kv/recursive_lagkv.hpp>
#include <terse/kv/think.hpp>
#include <terse/kv/threshold.hpp>
#include <terse/score/norm.hpp>

#include "eigen.hpp"

namespace terse::bench {
namespace {

using column = Eigen::ArrayXf;
using channels = Eigen::Array<float, 1, Eigen::Dynamic>;

constexpr index budget = 1024, sinks = 4, block = 16, lag = 128, kept_channels = 64;
constexpr float longest = -6.5F;  // uniform keys of 128 channels are some 6.53 long

/// For each kv head the highest of score(prompt, head), of equals the earlier.
template <class Score>
slots by(prompt const& p, index keep, Score score) {
    slots kept;
    for (index kv = 0; kv < prompt::kv_heads; ++kv) {
        column const scores = score(p, kv);
        kept.push_back(kept_by(higher_or_earlier(scores), scores.size(), keep));
    }
    return kept;
}

column key_norm(prompt const& p, index kv) { return -p.keys_of(kv).rowwise().norm().array(); }

column keydiff(prompt const& p, index kv) {
    auto const keys = p.keys_of(kv);
    Eigen::VectorXf const inverse = keys.rowwise().norm().cwiseInverse();
    Eigen::VectorXf const anchor = (keys.transpose() * inverse).normalized();
    return -(keys * anchor).array() * inverse.array();
}

tokens_view<float> filters() {
    static auto const values = random_values(prompt::kv_heads * prompt::dim, 9);
    return view(values.data(), prompt::kv_heads, prompt::dim);
}

column q_filter(prompt const& p, index kv) {
    Eigen::VectorXf const filter = filters().map().row(kv);
    return -(p.keys_of(kv) * filter).array();
}

column cur(prompt const& p, index kv) {
    column keys = p.keys_of(kv).rowwise().squaredNorm(), values = p.values_of(kv).rowwise().squaredNorm();
    for (index at = 0; at < p.tokens; at += block) {
        keys.segment(at, block) /= keys.segment(at, block).sum();
        values.segment(at, block) /= values.segment(at, block).sum();
    }
    column scores = keys * values;
    scores /= scores.sum();
    scores.head(sinks) = 1;
    return scores;
}

template <class Rows>
column lag_softmax(Rows const& rows, index first) {
    auto const next = rows.middleRows(first + lag, lag);
    channels const low = next.colwise().minCoeff(), range = next.colwise().maxCoeff().array() - low;
    matrix z = rows.middleRows(first, lag).rowwise() - low.matrix();
    z.array().rowwise() /= range;
    z.colwise() -= z.rowwise().mean().eval();
    column const deviation = (z.rowwise().squaredNorm().array() / static_cast<float>(prompt::dim - 1)).sqrt();
    column const power = (deviation - deviation.maxCoeff()).exp();
    return power / power.sum();
}

column lagkv(prompt const& p, index kv) {
    column scores = column::Ones(p.tokens);
    auto const keys = p.keys_of(kv), values = p.values_of(kv);
    std::vector<index> order(lag);
    for (index first = sinks; first + 2 * lag <= p.tokens; first += lag) {
        column const both = (lag_softmax(keys, first) + lag_softmax(values, first)) / 2;
        std::iota(order.begin(), order.end(), index{0});
        std::sort(order.begin(), order.end(), [&](index a, index b) { return both[a] < both[b]; });
        for (index rank = 0; rank < lag; ++rank)
            scores[first + order[static_cast<std::size_t>(rank)]] = static_cast<float>(rank) / static_cast<float>(lag);
    }
    return scores;
}

column think(prompt const& p, index kv) {
    channels const keys = p.keys_of(kv).array().square().colwise().mean();
    channels queries = channels::Zero(prompt::dim);
    for (index h = kv * prompt::group; h < (kv + 1) * prompt::group; ++h)
        queries += p.queries_of(h).array().square().colwise().mean();
    return (keys * queries).transpose();
}

/// For each kv head the slots whose score(prompt, head) is at least `least`, and the last `recent`.
template <class Score>
slots above(prompt const& p, float least, index recent, Score score) {
    slots kept;
    for (index kv = 0; kv < prompt::kv_heads; ++kv) {
        column const scores = score(p, kv);
        auto& head = kept.emplace_back();
        for (index t = 0; t < p.tokens; ++t)
            if (scores[t] >= least || t >= p.tokens - recent) head.push_back(static_cast<token>(t));
    }
    return kept;
}

bool const added = [] {
    add_prompt_rows("key-norm",
                    {[](prompt const& p, arena& memory) { return kv::key_norm{.keep = budget}(p.layer(), memory); },
                     [](prompt const& p) { return by(p, budget, key_norm); }});
    add_prompt_rows("keydiff",
                    {[](prompt const& p, arena& memory) { return kv::keydiff{.keep = budget}(p.layer(), memory); },
                     [](prompt const& p) { return by(p, budget, keydiff); }});
    add_prompt_rows("q-filter", {[](prompt const& p, arena& memory) {
                                     return kv::q_filter{.keep = budget, .filters = filters()}(p.layer(), memory);
                                 },
                                 [](prompt const& p) { return by(p, budget, q_filter); }});
    add_prompt_rows("cur", {[](prompt const& p, arena& memory) {
                                return kv::cur{.keep = budget, .sinks = sinks, .block = block}(p.layer(), memory);
                            },
                            [](prompt const& p) { return by(p, budget, cur); }});
    add_prompt_rows("lagkv", {[](prompt const& p, arena& memory) {
                                  return kv::lagkv{.keep = budget, .sinks = sinks, .lag = lag}(p.layer(), memory);
                              },
                              [](prompt const& p) { return by(p, budget, lagkv); },
                              0.05});  // slots of nearly equal scores change ranks
    add_prompt_rows("recursive-lagkv", {[](prompt const& p, arena& memory) {
                                            return kv::recursive_lagkv{.sinks = sinks, .lag = lag}(p.layer(), memory);
                                        },
                                        // half of each partition that has ranks
                                        [](prompt const& p) { return above(p, 0.5F, 0, lagkv); }});
    add_prompt_rows("think",
                    {[](prompt const& p, arena& memory) { return kv::think{.keep = kept_channels}(p.layer(), memory); },
                     [](prompt const& p) { return by(p, kept_channels, think); }});
    add_prompt_rows("threshold", {[](prompt const& p, arena& memory) {
                                      return kv::threshold<score::norm>{.least = longest, .recent = lag}(p.layer(),
                                                                                                         memory);
                                  },
                                  [](prompt const& p) { return above(p, longest, lag, key_norm); }});
    return true;
}();

}  // namespace
}  // namespace terse::bench

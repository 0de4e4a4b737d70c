// Evictions by keys and values alone.
#include <algorithm>

#include <terse/core/arena.hpp>
#include <terse/kv/channels.hpp>
#include <terse/kv/cur.hpp>
#include <terse/kv/key_norm.hpp>
#include <terse/kv/keydiff.hpp>
#include <terse/kv/lagkv.hpp>
#include <terse/kv/q_filter.hpp>
#include <terse/kv/think.hpp>

#include "cli/layers.hpp"
#include "cli/method.hpp"

namespace cli {
namespace {

void knorm(case_input const& in, outputs& out) {
    score_and_keep(terse::kv::key_norm{.keep = in.integer("budget", 1)}, key_layer(in), out);
}

void keydiff(case_input const& in, outputs& out) {
    score_and_keep(terse::kv::keydiff{.keep = in.integer("budget", 1)}, key_layer(in), out);
}

void q_filter(case_input const& in, outputs& out) {
    layer const l = key_layer(in);
    terse::kv::q_filter const policy{.keep = in.integer("budget", 1),
                                     .filters = in.tokens("filters", l.kv_heads(), l.keys.dim)};
    score_and_keep(policy, l, out);
}

void cur(case_input const& in, outputs& out) {
    layer const l = key_value_layer(in);
    using enum terse::score::norm_of;
    terse::kv::cur const policy{
        .keep = in.integer("budget", 1),
        .sinks = in.integer("sink"),
        .what = in.choice<terse::score::norm_of>(
            "leverage", {{"key", keys}, {"value", values}, {"kv_avg", mean}, {"kv_product", product}}),
        .block = in.flag("local") ? in.integer("local_window", 1) : 0};
    terse::arena memory;
    auto const scores = value(policy.scorer()(l, memory));
    std::vector<float> all(scores.values.begin(), scores.values.end());
    for (index h = 0; h < l.kv_heads(); ++h)
        std::fill_n(all.begin() + h * l.tokens(), std::min(policy.sinks, l.tokens()), 1.0F);
    out.floats("scores", {l.kv_heads(), l.tokens()}, all);
    keep(policy, l, out);
}

void lagkv(case_input const& in, outputs& out) {
    terse::kv::lagkv const policy{.keep = in.integer("budget", 1),
                                  .sinks = in.integer("sink"),
                                  .lag = in.integer("lag", 1),
                                  .cross_scoring = in.flag("cross_scoring")};
    score_and_keep(policy, key_value_layer(in), out);
}

void think(case_input const& in, outputs& out) {
    layer l = key_layer(in);
    index const window = in.integer("window", 1), heads = l.kv_heads(), dim = l.keys.dim;
    l.queries = in.heads("queries", any, any, dim);
    terse::kv::think const policy{.keep = dim - static_cast<index>(static_cast<double>(dim) * in.number("ratio", 0, 1)),
                                  .window = window};
    terse::arena memory;
    auto const kept = value(policy(l, memory));
    auto pruned = mask_of(kept, heads, dim);
    for (auto& channel : pruned) channel = channel == 0;
    out.mask("pruned_mask", {heads, dim}, pruned);

    auto const given = in.floats("keys", {heads, l.tokens(), dim});
    std::vector<float> keys(given.begin(), given.end());
    check(terse::kv::zero_channels(terse::head_major(keys.data(), heads, l.tokens(), dim), kept));
    out.floats("keys", {heads, l.tokens(), dim}, keys);
}

}  // namespace

std::vector<method> kv_keys_methods() {
    parameter const budget{"budget", "tokens to keep for each head"};
    parameter const sink{"sink", "first tokens, always kept", 4};
    return {
        {"knorm", "", "kv", "Keeps the tokens with the shortest keys", {budget}, knorm},
        {"keydiff", "", "kv", "Keeps the tokens whose keys are least like the mean key", {budget}, keydiff},
        {"qfilter", "", "kv", "Keeps the tokens whose keys reach least along a filter", {budget}, q_filter},
        {"cur",
         "",
         "kv",
         "Keeps the tokens whose keys and values are longest beside their neighbours'",
         {budget,
          sink,
          {"leverage", "key, value, kv_avg or kv_product", "kv_product"},
          {"local", "compare the tokens of a block first", true},
          {"local_window", "tokens of a block", 16}},
         cur},
        {"lagkv",
         "",
         "kv",
         "Keeps the tokens that stand out in the scale of those after them",
         {budget,
          sink,
          {"lag", "tokens of a partition", 128},
          {"cross_scoring", "compare scores across partitions, instead of ranks", false}},
         lagkv},
        {"think",
         "",
         "kv",
         "Drops the channels of keys that add least to the logits of the last queries",
         {{"window", "last queries that vote", 32}, {"ratio", "share of the channels to drop"}},
         think},
    };
}

}  // namespace cli

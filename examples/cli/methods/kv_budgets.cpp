// How many tokens layers keep, and evictions whose heads share a budget.
#include <algorithm>

#include <terse/budget/layers.hpp>
#include <terse/budget/proportional.hpp>
#include <terse/budget/pyramid.hpp>
#include <terse/core/arena.hpp>
#include <terse/kv/adakv.hpp>
#include <terse/kv/criticalkv.hpp>
#include <terse/kv/pyramidkv.hpp>
#include <terse/score/output_norm.hpp>

#include "cli/layers.hpp"
#include "cli/method.hpp"

namespace cli {
namespace {

void layer_budgets(std::vector<index> const& counts, outputs& out) {
    out.integers("budgets", {std::ssize(counts)}, {counts.begin(), counts.end()});
}

void pyramid_on(terse::budget::pyramid const& rule, case_input const& in, outputs& out) {
    std::vector<index> counts(size(in.integer("layers", 1)));
    check(terse::budget::fill(rule, in.integer("length"), counts));
    layer_budgets(counts, out);
}

void pyramidkv_factory(case_input const& in, outputs& out) {
    index const window = in.integer("window");
    pyramid_on({.keep = in.integer("max_capacity", std::max<index>(window, 1)),
                .window = window,
                .beta = in.integer("beta", 1),
                .form = terse::budget::pyramid_form::kvcache_factory},
               in, out);
}

void pyramidkv_press(case_input const& in, outputs& out) {
    double const mean = static_cast<double>(in.integer("length", 1)) * (1 - in.number("compression_ratio", 0, 1));
    pyramid_on({.window = in.integer("window"),
                .beta = in.integer("beta", 1),
                .form = terse::budget::pyramid_form::kvpress,
                .mean_keep = mean},
               in, out);
}

void pyramidkv_tokens(case_input const& in, outputs& out) {
    index const window = in.integer("window", 1), layers = in.integer("layers", 1);
    terse::kv::pyramidkv const policy{.keep = in.integer("budget", 1),
                                      .layer_index = in.integer("layer", 0, layers - 1),
                                      .layers = layers,
                                      .window = window,
                                      .beta = in.integer("beta", 1),
                                      .pool = pooling_of(in),
                                      .kernel = in.integer("kernel", 1),
                                      .group = group_reduce(in)};
    keep(policy, query_layer(in, window), out);
}

void compresskv_layers(case_input const& in, outputs& out) {
    auto const importance = in.floats("layer_scores", {any});
    terse::budget::proportional const rule{.least = in.integer("min_tokens", 1),
                                           .most = in.integer("max_tokens", 1),
                                           .total = in.integer("total_budget", 1)};
    std::vector<index> counts(importance.size());
    check(rule(importance, terse::max_tokens, counts));
    layer_budgets(counts, out);
}

void adakv_press(case_input const& in, outputs& out) {
    auto const scores = scores_of(in);
    layer const l = bare_layer(scores.all.heads, scores.all.tokens);
    terse::kv::adakv<given_scores> const policy{.score = scores,
                                                .keep = in.integer("budget", 1),
                                                .share = {.floor = in.number("alpha_safeguard", 0, 1), .least = 0}};
    terse::arena memory;
    keep_mask(value(policy(l, memory)), l.kv_heads(), l.tokens(), out);
}

void adakv_factory(case_input const& in, outputs& out) {
    index const length = in.integer("length", 1), window = in.integer("window", 0, length);
    auto const scores = scores_of(in, any, length - window);
    layer const l = bare_layer(scores.all.heads, length);
    terse::kv::adakv<given_scores> const policy{.score = scores,
                                                .keep = in.integer("max_capacity", window),
                                                .share = {.floor = in.number("floor", 0, 1),
                                                          .normalise = in.flag("normalize"),
                                                          .form = terse::budget::heads_form::kvcache_factory},
                                                .recent = window};
    terse::arena memory;
    keep_mask(value(policy(l, memory)), l.kv_heads(), length, out);
}

using critical = terse::kv::criticalkv<given_scores>;

layer value_layer(case_input const& in, given_scores const& scores) {
    auto const values = in.heads("values", scores.all.heads, scores.all.tokens);
    return {.keys = values, .values = values};
}

critical criticalkv_policy(case_input const& in, given_scores const& scores) {
    return {.score = scores,
            .projection = in.tokens("output_weight"),
            .keep = in.integer("budget", 1),
            .by_score = in.number("first_stage_ratio", 0, 1),
            .epsilon = static_cast<float>(in.number("epsilon", 0, 1))};
}

void criticalkv_uniform(case_input const& in, outputs& out) {
    auto const scores = scores_of(in, in.integer("kv_heads", 1));
    layer const l = value_layer(in, scores);
    critical const policy = criticalkv_policy(in, scores);
    index const heads = l.kv_heads(), tokens = l.tokens();
    terse::arena memory;
    auto const kept = value(policy(l, memory));
    auto const norms = value(policy.norms()(l, memory));
    auto const weighed = value(terse::score::weigh(scores.all, norms, policy.epsilon, memory));
    // The first stage alone: a budget of as many, by scores.
    critical first = policy;
    first.keep = std::max<index>(static_cast<index>(static_cast<double>(policy.keep) * policy.by_score), 1);
    first.by_score = 1;
    auto const stage = value(first(l, memory));
    auto const chosen = mask_of(stage, heads, tokens);
    std::vector<float> second(weighed.values.begin(), weighed.values.end());
    for (std::size_t i = 0; i < second.size(); ++i)
        if (chosen[i] == 1) second[i] = 0;
    out.scores("norms", norms, tokens);
    out.mask("stage1", {heads, tokens}, chosen);
    out.floats("scores", {heads, tokens}, second);
    out.keep("keep", kept, heads);
}

void criticalkv_adaptive(case_input const& in, outputs& out) {
    auto const scores = scores_of(in, in.integer("kv_heads", 1));
    layer const l = value_layer(in, scores);
    critical policy = criticalkv_policy(in, scores);
    policy.adaptive = true;
    policy.share = {.floor = in.number("alpha_safeguard", 0, 1), .least = 0};
    terse::arena memory;
    out.scores("norms", value(policy.norms()(l, memory)), l.tokens());
    keep_mask(value(policy(l, memory)), l.kv_heads(), l.tokens(), out);
}

}  // namespace

std::vector<method> kv_budgets_methods() {
    parameter const budget{"budget", "tokens to keep for each head"}, window{"window", "last tokens, always kept", 32};
    parameter const layers{"layers", "layers that share the budget"}, length{"length", "tokens of the prompt"};
    parameter const beta{"beta", "the last layer has 1 / beta of the average", 20};
    parameter const ratio{"compression_ratio", "share of the tokens to drop"};
    parameter const floor{"alpha_safeguard", "share of the budget that every head gets", 0.2};
    std::vector<parameter> const critical_parameters = {budget,
                                                        {"kv_heads", "key heads"},
                                                        {"first_stage_ratio", "share chosen by scores alone", 0.5},
                                                        {"epsilon", "joins the scores", 1e-4}};
    auto adaptive_parameters = critical_parameters;
    adaptive_parameters.push_back(floor);
    return {
        {"pyramidkv",
         "kvcache-factory",
         "kv",
         "How many tokens each layer keeps, falling with depth",
         {layers, length, {"max_capacity", "tokens a layer, on average"}, window, beta},
         pyramidkv_factory},
        {"pyramidkv",
         "kvpress",
         "kv",
         "How many tokens each layer keeps, falling with depth",
         {layers, length, ratio, window, beta},
         pyramidkv_press},
        {"pyramidkv",
         "tokens",
         "kv",
         "Keeps what the last queries attend to, as many tokens as are the layer's",
         {{"budget", "tokens to keep for each head and layer on average, window included"},
          {"layer", "the layer's place", 0},
          layers,
          {"window", "last queries that vote", 32},
          beta,
          {"kernel", "width of the pooling", 5},
          {"pooling", "avg or max", "avg"},
          {"group_reduce", "mean, max or sum over the query heads of a key head", "mean"}},
         pyramidkv_tokens},
        {"compresskv",
         "layers",
         "kv",
         "How many tokens each layer keeps, by what it loses",
         {{"total_budget", "tokens of all layers together"},
          {"min_tokens", "what every layer keeps", 32},
          {"max_tokens", "what no layer exceeds"}},
         compresskv_layers},
        {"adakv", "kvpress", "kv", "Heads share a budget by their scores", {budget, floor}, adakv_press},
        {"adakv",
         "kvcache-factory",
         "kv",
         "Heads share a budget by their scores, the authors' way",
         {length,
          window,
          {"max_capacity", "tokens for each head on average, window included"},
          {"floor", "share of the budget that every head gets", 0.2},
          {"normalize", "weigh heads by how concentrated they are", true}},
         adakv_factory},
        {"criticalkv", "uniform", "kv", "Keeps by scores, then by scores times values behind the output projection",
         critical_parameters, criticalkv_uniform},
        {"criticalkv", "adaptive", "kv", "The same with a budget that heads share by their scores", adaptive_parameters,
         criticalkv_adaptive},
    };
}

}  // namespace cli

// Evictions by statistics of keys and queries.
#include <terse/core/arena.hpp>
#include <terse/kv/compactor.hpp>
#include <terse/kv/expected_attention.hpp>
#include <terse/kv/leverage.hpp>
#include <terse/kv/non_causal_attention.hpp>

#include "cli/layers.hpp"
#include "cli/method.hpp"

namespace cli {
namespace {

/// Settings are floats, parameters doubles.
float number(case_input const& in, std::string const& name) { return static_cast<float>(in.number(name, 0, 1e30)); }

/// Keys, values and the queries of all tokens.
layer prompt_layer(case_input const& in) { return whole_layer(in, in.shape_of("keys", 3)[1]); }

void expected_attention(case_input const& in, outputs& out) {
    layer const l = prompt_layer(in);
    index const heads = l.heads(), dim = l.keys.dim, n = l.tokens(), sinks = in.integer("sink", 0, n);
    bool const squares = in.flag("use_covariance");
    std::vector<float> means(size(heads * dim)), covariances(size(squares ? heads * dim * dim : 0));
    terse::kv::query_moments moments{.mean = means, .covariance = covariances, .heads = heads, .dim = dim};
    auto queries = l.queries;
    queries.data += sinks * queries.token_stride, queries.tokens -= sinks;
    terse::arena memory;
    check(moments.add(queries, memory));
    terse::kv::expected_attention const policy{.keep = in.integer("budget", 1),
                                               .sinks = sinks,
                                               .moments = moments,
                                               .encoding = {in.floats("inv_freq", {dim / 2})},
                                               .future = in.integer("future", 1),
                                               .use_covariance = squares,
                                               .value_norm = in.flag("use_vnorm"),
                                               .epsilon = number(in, "epsilon")};
    out.scores("scores", value(policy.scorer()(l, memory)), n - sinks, sinks);
    out.keep("keep", value(policy(l, memory)), l.kv_heads());
}

/// The sketch of each head, `sketch_dimension` wide.
terse::heads_view<float> sketch_of(case_input const& in, layer const& l) {
    return in.heads("sketch", l.kv_heads(), l.keys.dim, in.integer("sketch_dimension", 1));
}

void leverage(case_input const& in, outputs& out) {
    layer const l = key_layer(in);
    terse::kv::leverage const policy{.keep = in.integer("budget", 1), .sketch = sketch_of(in, l)};
    score_and_keep(policy, l, out);
}

void non_causal_attention(case_input const& in, outputs& out) {
    layer const l = prompt_layer(in);
    terse::kv::non_causal_attention const policy{.keep = in.integer("budget", 1), .chunk = in.integer("chunk", 1)};
    score_and_keep(policy, l, out);
}

void compactor(case_input const& in, outputs& out) {
    layer const l = prompt_layer(in);
    index const n = l.tokens(), sinks = in.integer("sink_start", 0, n), recent = in.integer("sink_end", 0, n - sinks);
    terse::kv::compactor const policy{.keep = in.integer("budget", 1),
                                      .sinks = sinks,
                                      .recent = recent,
                                      .blending = number(in, "blending"),
                                      .pre_rope_keys = in.heads("pre_rope_keys", l.kv_heads(), n, l.keys.dim),
                                      .sketch = sketch_of(in, l),
                                      .chunk = in.integer("chunk", 1)};
    terse::arena memory;
    out.scores("scores", value(policy.scorer(n)(l, memory)), n - sinks - recent, sinks);
    out.keep("keep", value(policy(l, memory)), l.kv_heads());
}

}  // namespace

std::vector<method> kv_statistics_methods() {
    parameter const budget{"budget", "tokens to keep for each head"};
    parameter const chunk{"chunk", "tokens that attend to each other", 256};
    parameter const sketch{"sketch_dimension", "columns of in.sketch", 48};
    return {
        {"expected-attention",
         "",
         "kv",
         "Keeps what queries to come are expected to attend to",
         {budget,
          {"future", "positions to come that count", 512},
          {"sink", "first tokens, always kept", 4},
          {"use_covariance", "whether the queries' covariance counts", true},
          {"use_vnorm", "whether the values' lengths count", true},
          {"epsilon", "joins the probability", 0.0}},
         expected_attention},
        {"leverage", "", "kv", "Keeps keys that stand out from what the others span", {budget, sketch}, leverage},
        {"non-causal-attention",
         "",
         "kv",
         "Keeps what a chunk's queries attend to without a mask",
         {budget, chunk},
         non_causal_attention},
        {"compactor",
         "",
         "kv",
         "Keeps keys that stand out or that their chunk attends to",
         {budget,
          {"sink_start", "first tokens, always kept", 8},
          {"sink_end", "last tokens, always kept", 4},
          chunk,
          sketch,
          {"blending", "weight of the leverage"}},
         compactor},
    };
}

}  // namespace cli

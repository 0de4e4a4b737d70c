// Evictions by what the last queries attend to.
#include <algorithm>

#include <terse/core/arena.hpp>
#include <terse/kv/compresskv.hpp>
#include <terse/kv/prompt_distill.hpp>
#include <terse/kv/r_kv.hpp>
#include <terse/kv/snapkv.hpp>
#include <terse/kv/tova.hpp>
#include <terse/move/compose.hpp>

#include "cli/layers.hpp"
#include "cli/method.hpp"

namespace cli {
namespace {

void snapkv(case_input const& in, outputs& out) {
    index const window = in.integer("window", 1);
    layer const l = whole_layer(in, window);
    terse::kv::snapkv const policy{
        .keep = in.integer("budget", 1),
        .window = window,
        .pool = pooling_of(in),
        .kernel = in.integer("kernel", 1),
        .mean_queries = in.choice<bool>("query_reduce", {{"mean", true}, {"sum", false}}),
        .group = group_reduce(in),
        .pool_first = in.choice<bool>("group_order", {{"after_pooling", true}, {"before_pooling", false}})};
    terse::arena memory;
    auto const kept = value(policy(l, memory));
    if (policy.keep <= l.tokens()) out.scores("scores", value(policy.scorer()(l, memory)), l.tokens() - window);
    out.keep("keep", kept, l.kv_heads());
    out.rows("keys", kept, l.keys);
    out.rows("values", kept, l.values);
}

void tova_on(layer const& l, index recent, case_input const& in, outputs& out) {
    terse::kv::tova const policy{.keep = in.integer("budget", 1), .recent = recent};
    terse::arena memory;
    auto const scores = value(policy.scorer()(l, memory));
    out.scores("scores", scores.row(0).first(size(l.tokens() - recent)));
    out.keep("keep", value(policy(l, memory))[0]);
}

void tova_official(case_input const& in, outputs& out) {
    tova_on(attention_layer(1, in.heads("attention", any, 1)), 0, in, out);
}

void tova_press(case_input const& in, outputs& out) { tova_on(query_layer(in, 1), 1, in, out); }

void r_kv(case_input const& in, outputs& out) {
    index const window = in.integer("window", 1);
    layer const l = query_layer(in);
    enum class way { last, last_percent, first, first_percent };
    auto const forgiven = in.choice<way>("retain_direction", {{"last", way::last},
                                                              {"last_percent", way::last_percent},
                                                              {"first", way::first},
                                                              {"first_percent", way::first_percent}});
    bool const share = forgiven == way::last_percent || forgiven == way::first_percent;
    double const ratio = in.number("retain_ratio", 0, 1);
    terse::kv::r_kv const policy{
        .keep = in.integer("budget", 1),
        .window = window,
        .kernel = in.integer("kernel", 1),
        .importance = static_cast<float>(in.number("mix_lambda", 0, 1)),
        .threshold = static_cast<float>(in.number("threshold", -1, 1)),
        .forgive = share ? std::max<index>(static_cast<index>(static_cast<double>(l.tokens()) * ratio), 1) : 1,
        .forgive_oldest = forgiven == way::first || forgiven == way::first_percent,
        .published = in.flag("published")};
    terse::arena memory;
    auto const kept = value(policy(l, memory));
    out.scores("scores", value(policy.scorer()(l, memory)), l.tokens() - window);
    out.keep("keep", kept, l.kv_heads());
}

void compresskv(case_input const& in, outputs& out) {
    index const window = in.integer("window", 1);
    layer const l = whole_layer(in, window);
    auto heads = in.counts("heads", {any}, 0, l.heads() - 1);
    heads.resize(std::min(heads.size(), size(in.integer("first_k", 1))));
    std::sort(heads.begin(), heads.end());
    terse::kv::compresskv const policy{.heads = heads,
                                       .keep = in.integer("budget", 1),
                                       .window = window,
                                       .pool = pooling_of(in),
                                       .kernel = in.integer("kernel", 1)};
    terse::arena memory;
    auto const kept = value(policy(l, memory));
    if (policy.keep <= l.tokens()) out.scores("scores", value(policy.scorer()(l, memory)).row(0));
    out.keep("keep", kept[0]);
    out.rows("keys", kept, l.keys);
    out.rows("values", kept, l.values);
}

void prompt_distill(case_input const& in, outputs& out) {
    index const stages = in.integer("stages", 1), kernel = in.integer("kernel", 1);
    auto const top = in.integers("n_topk", 1);
    bool const pools = in.flag("pooling");
    if (std::ssize(top) != stages) throw case_error("parameter 'n_topk' is not a number for each stage");
    terse::arena memory;
    terse::plan before;
    index recent = 0;  // tokens from the prompt's last one on
    for (index stage = 0; stage < stages; ++stage) {
        std::string const suffix = stages == 1 ? "" : std::string(".") + std::to_string(stage);
        layer const l = query_layer(in, 1, suffix);
        if (stage == 0) recent = l.tokens() - in.integer("prompt_end", 0, l.tokens() - 1);
        terse::kv::prompt_distill const policy{
            .keep = top[size(stage)] + recent,
            .recent = recent,
            .pool = pools ? terse::score::pooling::average : terse::score::pooling::none,
            .kernel = kernel};
        auto const kept = value(policy(l, memory))[0];
        before = stage == 0 ? kept : value(terse::compose(kept, before, memory));
        out.scores("scores" + suffix, value(policy.scorer()(l, memory)).row(0));
        out.keep("keep" + suffix, before);
    }
}

std::vector<parameter> snapkv_parameters(parameter const& group) {
    return {{"budget", "tokens to keep for each head, window included"},
            {"window", "last queries that vote", 32},
            {"kernel", "width of the pooling", 5},
            {"pooling", "avg or max", "avg"},
            {"query_reduce", "mean or sum over the window", "sum"},
            group,
            {"group_order", "after_pooling or before_pooling", "before_pooling"}};
}

}  // namespace

std::vector<method> kv_attention_methods() {
    parameter const budget{"budget", "tokens to keep for each head"};
    parameter const group{"group_reduce", "mean, max or sum over the query heads of a key head", "mean"};
    return {
        {"snapkv", "", "kv", "Keeps what the last queries attend to", snapkv_parameters(group), snapkv},
        {"tova", "official", "kv", "Keeps what the last query attends to, from its attention", {budget}, tova_official},
        {"tova", "kvpress", "kv", "Keeps what the last query attends to, and the last token", {budget}, tova_press},
        {"r-kv",
         "",
         "kv",
         "Keeps what the last queries attend to and other keys do not repeat",
         {{"budget", "tokens to keep for each head, window included"},
          {"window", "last queries that vote", 8},
          {"kernel", "width of the maximum pooling", 7},
          {"mix_lambda", "what attention counts against redundancy", 0.07},
          {"threshold", "cosine above which two keys are alike", 0.5},
          {"retain_direction", "last, first, last_percent or first_percent", "last"},
          {"retain_ratio", "keys to forgive of the percent modes, as a share of all", 0.2},
          {"published", "forgive what the authors' code does, one key; false: as the paper", true}},
         r_kv},
        {"compresskv",
         "tokens",
         "kv",
         "Keeps what the last queries attend to in the heads that fetch answers",
         {{"budget", "tokens to keep, window included"},
          {"window", "last queries that vote", 8},
          {"kernel", "width of the pooling", 5},
          {"pooling", "avg or max", "avg"},
          {"first_k", "heads that vote, the first of in.heads", 4}},
         compresskv},
        {"prompt-distill",
         "",
         "kv",
         "Keeps the tokens with the highest logits with the prompt's last query",
         {{"prompt_end", "position of the prompt's last token"},
          {"n_topk", "tokens before it to keep, for each stage"},
          {"stages", "how often tokens are selected", 1},
          {"pooling", "whether logits are averaged over neighbours", true},
          {"kernel", "width of the pooling", 5}},
         prompt_distill},
    };
}

}  // namespace cli

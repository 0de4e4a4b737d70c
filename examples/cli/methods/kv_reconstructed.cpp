// Evictions without published code, and such as models are trained for: no recorded outputs to compare with.
#include <limits>
#include <utility>

#include <terse/core/arena.hpp>
#include <terse/kv/deep_forcing.hpp>
#include <terse/kv/ems.hpp>
#include <terse/kv/razor_attention.hpp>
#include <terse/kv/recursive_lagkv.hpp>
#include <terse/kv/retention.hpp>
#include <terse/kv/threshold.hpp>
#include <terse/kv/zipvl.hpp>
#include <terse/score/repetition.hpp>

#include "cli/layers.hpp"
#include "cli/method.hpp"

namespace cli {
namespace {

void ems(case_input const& in, outputs& out) {
    layer const l = query_layer(in);
    terse::kv::ems const policy{.keep = in.integer("budget", 1),
                                .window = in.integer("window", 1),
                                .sinks = in.integer("sink"),
                                .sum = in.choice<bool>("combine", {{"max", false}, {"sum", true}}),
                                .group = group_reduce(in)};
    terse::arena memory;
    auto const kept = value(policy(l, memory));
    if (policy.keep <= l.tokens()) out.scores("scores", value(policy.scorer()(l, memory)), l.tokens() - policy.window);
    out.keep("keep", kept, l.kv_heads());
}

void zipvl(case_input const& in, outputs& out) {
    layer l = query_layer(in);
    std::vector<terse::token> places;
    if (in.has("query_positions")) places = in.positions("query_positions", {l.window()}, l.tokens());
    l.query_positions = places;
    index const most = in.integer("max_tokens");
    terse::kv::zipvl const policy{.share = in.number("tau", 0, 1),
                                  .least = in.integer("min_tokens", 1),
                                  .most = most > 0 ? most : terse::max_tokens,
                                  .sinks = in.integer("sink"),
                                  .recent = in.integer("recent")};
    terse::arena memory;
    out.keep("keep", value(policy(l, memory))[0]);
}

void razor_rows(case_input const& in, outputs& out) {
    layer const l = key_value_layer(in);
    std::vector<unsigned char> local;
    if (in.has("local_mask")) {
        auto const given = in.counts("local_mask", {l.kv_heads()}, 0, 1);
        local.assign(given.begin(), given.end());
    }
    terse::kv::razor_attention const policy{.sinks = in.integer("sink"),
                                            .recent = in.integer("recent"),
                                            .compression = in.integer("compression", 1),
                                            .compensate = in.flag("compensate"),
                                            .local = local};
    terse::arena memory;
    auto const kept = value(policy(l, memory));
    for (index h = 0; h < l.kv_heads(); ++h) {
        auto const number = "." + std::to_string(h);
        std::vector<float> bias(size(kept[h].kept()));
        check(terse::kv::log_bias(kept[h], {}, bias));
        out.keep("keep" + number, kept[h]);
        out.rows("keys" + number, kept[h], l.keys.head(h));
        out.rows("values" + number, kept[h], l.values.head(h));
        out.scores("log_bias" + number, bias);
    }
}

void razor_heads(case_input const& in, outputs& out) {
    auto const heads = in.shape_of("echo", 2);
    terse::kv::retrieval_heads const policy{.induction = in.number("induction_ratio", 0, 1),
                                            .echo = in.number("echo_ratio", 0, 1)};
    terse::arena memory;
    auto const local = value(policy({in.floats("echo", heads), in.floats("induction", heads)}, memory));
    out.mask("local_mask", heads, {local.begin(), local.end()});
}

void razor_head_score(case_input const& in, outputs& out) {
    terse::score::repetition const scorer{.prefix = in.integer("prefix"), .period = in.integer("period", 1)};
    terse::arena memory;
    auto const found = value(scorer(query_layer(in), memory));
    out.scores("echo", found.echo);
    out.scores("induction", found.induction);
}

void deep_forcing(case_input const& in, outputs& out) {
    layer const l = query_layer(in);
    terse::kv::deep_forcing const policy{.frame = in.integer("frame", 1),
                                         .capacity = in.integer("capacity"),
                                         .keep = in.integer("budget", 1),
                                         .sinks = in.integer("sink"),
                                         .recent = in.integer("recent"),
                                         .adjacent = in.flag("adjacent")};
    std::vector<terse::token> times;
    if (in.has("times")) {
        auto const given = in.counts("times", {l.tokens()}, 0, terse::max_tokens);
        times.assign(given.begin(), given.end());
    }
    terse::arena memory;
    auto const kept = value(policy(l, memory))[0];
    std::vector<terse::token> next(size(kept.kept()));
    check(policy.realign(kept, times, next));
    out.keep("keep", kept);
    out.integers("times", {kept.kept()}, {next.begin(), next.end()});
}

std::vector<terse::kv::token_type> types_of(case_input const& in) {
    std::vector<terse::kv::token_type> types;
    for (auto const type : in.counts("types", {any}, 0, 2)) types.push_back(static_cast<terse::kv::token_type>(type));
    return types;
}

void voco_llama(case_input const& in, outputs& out) {
    auto const types = types_of(in);
    terse::kv::voco_llama const policy{.hide_prefix = in.flag("hide_prefix"), .keep = in.integer("budget")};
    terse::arena memory;
    auto const kept = value(policy(types, memory));
    std::vector<std::uint8_t> mask(types.size() * types.size());
    check(policy.fill(types, mask));
    out.mask("mask", {std::ssize(types), std::ssize(types)}, mask);
    out.keep("keep", kept[0]);
}

void meta_tokens(case_input const& in, outputs& out) {
    terse::kv::meta_tokens const policy{
        .sinks = in.integer("sink"), .recent = in.integer("recent"), .keep = in.integer("budget")};
    terse::arena memory;
    out.keep("keep", value(policy(types_of(in), memory))[0]);
}

template <class Policy>
void score_and_mask(Policy const& policy, terse::result<terse::scores> const& scores, layer const& l, outputs& out,
                    terse::arena& memory) {
    out.scores("scores", value(scores), l.tokens());
    keep_mask(value(policy(l, memory)), l.kv_heads(), l.tokens(), out);
}

void recursive_lagkv(case_input const& in, outputs& out) {
    layer l = key_value_layer(in);
    std::vector<terse::token> places;
    if (in.has("positions")) {
        places = in.positions("positions", {l.kv_heads(), l.tokens()}, terse::max_tokens);
        l.positions = terse::view(std::as_const(places).data(), l.kv_heads(), l.tokens());
    }
    terse::kv::recursive_lagkv const policy{
        .ratio = 1 - in.number("compression_ratio", 0, 1), .sinks = in.integer("sink"), .lag = in.integer("lag", 1)};
    terse::arena memory;
    score_and_mask(policy, policy.scorer()(l, memory), l, out, memory);
}

template <class Score>
void threshold_of(Score const& score, layer const& l, case_input const& in, outputs& out) {
    constexpr double most = std::numeric_limits<float>::max();
    terse::kv::threshold<Score> const policy{.score = score,
                                             .least = static_cast<float>(in.number("threshold", -most, most)),
                                             .sinks = in.integer("sink"),
                                             .recent = in.integer("recent")};
    terse::arena memory;
    score_and_mask(policy, score(l, memory), l, out, memory);
}

void threshold_given(case_input const& in, outputs& out) {
    auto const scores = scores_of(in);
    threshold_of(scores, bare_layer(scores.all.heads, scores.all.tokens), in, out);
}

void threshold_scorer(case_input const& in, outputs& out) {
    layer const l = key_layer(in);
    with_scorer(in, [&](auto const& score) { threshold_of(score, l, in, out); });
}

}  // namespace

std::vector<method> kv_reconstructed_methods() {
    parameter const at_most{"budget", "tokens that may be kept; 0: any number", 0};
    parameter const sink{"sink", "first tokens, always kept", 0};
    auto const recent = [](index count) { return parameter{"recent", "last tokens, always kept", count}; };
    parameter const threshold{"threshold", "the lowest score that stays"};
    return {
        {"ems",
         "",
         "kv",
         "Keeps what all queries or the last ones attend to",
         {{"budget", "tokens to keep for each head, window included"},
          {"window", "last queries of the local score", 32},
          sink,
          {"combine", "max or sum of the global and the local score", "max"},
          {"group_reduce", "mean, max or sum over the query heads of a key head", "mean"}},
         ems},
        {"zipvl",
         "",
         "kv",
         "Keeps as many tokens as carry a share of the attention of probing queries",
         {{"tau", "share of the attention", 0.975},
          {"min_tokens", "tokens to keep at least", 1},
          {"max_tokens", "tokens to keep at most; 0: any number", 0},
          sink,
          recent(0)},
         zipvl},
        {"razor-attention",
         "rows",
         "kv",
         "Keeps sinks, recent tokens and the mean of the others in local heads",
         {{"sink", "first tokens, always kept", 4},
          {"recent", "last tokens to keep at least", 4000},
          {"compression", "the recent tokens are at least all tokens divided by this", 5},
          {"compensate", "put the mean in the place of what goes", true}},
         razor_rows},
        {"razor-attention",
         "heads",
         "kv",
         "Which heads are local, from the scores of all layers",
         {{"induction_ratio", "share of the heads to keep whole by induction", 0.14},
          {"echo_ratio", "share of the heads to keep whole by echo", 0.01}},
         razor_heads},
        {"razor-attention",
         "head-score",
         "kv",
         "How much heads attend to what a repeated prompt repeats, and to what followed it",
         {{"prefix", "tokens before the first period", 1}, {"period", "tokens of a period", 2500}},
         razor_head_score},
        {"deep-forcing",
         "",
         "kv",
         "Keeps first and recent frames, and the tokens between that recent queries point at",
         {{"frame", "tokens of a frame", 1560},
          {"capacity", "frames of a full cache", 21},
          {"budget", "frames to keep", 16},
          {"sink", "first frames, always kept", 10},
          {"recent", "last frames, always kept", 4},
          {"adjacent", "move the last sink one before the frame that follows, not onto its time", false}},
         deep_forcing},
        {"voco-llama",
         "",
         "kv",
         "Drops visual tokens that compression tokens stand for",
         {{"hide_prefix", "hide all that stands before them, as the authors' code", false}, at_most},
         voco_llama},
        {"meta-tokens",
         "",
         "kv",
         "Keeps compression tokens, sinks and recent tokens",
         {sink, recent(512), at_most},
         meta_tokens},
        {"recursive-lagkv",
         "",
         "kv",
         "Thins each partition of a growing cache once, by how it stands out in the scale of the next",
         {{"compression_ratio", "share of a partition to drop", 0.5},
          {"sink", "first tokens, always kept", 16},
          {"lag", "tokens of a partition", 1024}},
         recursive_lagkv},
        {"threshold",
         "given",
         "kv",
         "Keeps the tokens whose scores reach a threshold",
         {threshold, sink, recent(128)},
         threshold_given},
        {"threshold",
         "scorer",
         "kv",
         "The same by the scores of a scorer of keys",
         {{"scorer", "keydiff or knorm", "keydiff"}, threshold, sink, recent(128)},
         threshold_scorer},
    };
}

}  // namespace cli

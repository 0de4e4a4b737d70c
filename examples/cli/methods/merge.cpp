#include <terse/core/arena.hpp>
#include <terse/merge/tome.hpp>
#include <terse/merge/tome_kth.hpp>
#include <terse/move/apply.hpp>
#include <terse/move/compose.hpp>

#include "cli/method.hpp"

namespace cli {
namespace {

std::vector<float> sizes_after(terse::plan const& p, std::span<float const> before) {
    std::vector<float> after(static_cast<std::size_t>(p.kept()));
    check(terse::sizes(p, before, after));
    return after;
}

std::vector<float> applied(terse::plan const& p, terse::tokens_view<float> in) {
    std::vector<float> rows(static_cast<std::size_t>(p.kept() * in.dim));
    check(apply(p, in, terse::view(rows.data(), p.kept(), in.dim)));
    return rows;
}

terse::merge::tome tome_from(case_input const& in, index remove) {
    return {.remove = remove,
            .class_token = in.flag("class_token"),
            .keep_order = in.choice<bool>("order", {{"official", false}, {"ascending", true}})};
}

void tome(case_input const& in, outputs& out) {
    auto const tokens = in.tokens("tokens");
    auto const metric = in.tokens("metric", tokens.tokens);
    auto const sizes = in.has("size") ? in.floats("size", {tokens.tokens}) : std::span<float const>{};
    auto policy = tome_from(in, in.integer("r"));
    policy.distill_token = in.flag("distill_token");
    terse::arena memory;
    auto const merged = value(policy(metric, sizes, memory));

    auto const rows = applied(merged, tokens);
    std::vector<float> unmerged(static_cast<std::size_t>(tokens.tokens * tokens.dim));
    check(terse::unmerge(merged, terse::view(rows.data(), merged.kept(), tokens.dim),
                         terse::view(unmerged.data(), tokens.tokens, tokens.dim)));
    out.floats("tokens", {merged.kept(), tokens.dim}, rows);
    out.floats("size", {merged.kept()}, sizes_after(merged, sizes));
    out.floats("unmerged", {tokens.tokens, tokens.dim}, unmerged);
    out.source("source", merged);
    out.assign("assign", merged);
}

void tome_layers(case_input const& in, outputs& out) {
    auto const remove = in.integers("r");
    auto const layers = std::ssize(remove);
    auto const input = in.tokens("tokens");
    auto const weights = in.heads("metric_weight", layers, input.dim);

    terse::arena memory;
    auto all = value(terse::keep_all(input.tokens, memory));
    std::vector<float> sizes(static_cast<std::size_t>(input.tokens), 1.0F);
    std::vector<std::int64_t> counts;
    for (index l = 0; l < layers; ++l) {
        auto const rows = applied(all, input);
        auto const tokens = terse::view(rows.data(), all.kept(), input.dim);
        terse::row_major<float> const metric = tokens.map() * weights.head(l).map();
        auto const merged =
            value(tome_from(in, remove[static_cast<std::size_t>(l)])(terse::view(metric), sizes, memory));
        all = value(terse::compose(merged, all, memory));
        sizes = sizes_after(merged, sizes);
        counts.push_back(all.kept());
        out.floats("size." + std::to_string(l), {all.kept()}, sizes);
        out.assign("assign." + std::to_string(l), all);
    }
    out.rows("tokens", all, input);
    out.floats("size", {all.kept()}, sizes);
    out.source("source", all);
    out.assign("assign", all);
    out.integers("counts", {layers}, counts);
}

void tome_kth(case_input const& in, outputs& out) {
    auto const tokens = in.tokens("tokens");
    terse::arena memory;
    auto const merged = value(terse::merge::tome_kth{.every = in.integer("k", 1)}(tokens, memory));
    out.rows("tokens", merged, tokens);
    out.floats("size", {merged.kept()}, sizes_after(merged, {}));
    out.source("source", merged);
}

}  // namespace

std::vector<method> merge_methods() {
    parameter const class_token{"class_token", "token 0 is never merged away", false};
    parameter const order{"order", "of the rows: official or ascending", "official"};
    return {
        {"tome",
         "",
         "merge",
         "Merges the most similar pairs between even and odd tokens",
         {{"r", "tokens to remove"}, class_token, {"distill_token", "nothing is merged into token 1", false}, order},
         tome},
        {"tome-layers",
         "",
         "merge",
         "The same at every layer of a network, on projections of the tokens",
         {{"r", "tokens to remove, for each layer"}, class_token, order},
         tome_layers},
        {"tome-kth",
         "",
         "merge",
         "Keeps every k-th token and merges the others into the nearest of them",
         {{"k", "one token stays of so many", 2}},
         tome_kth},
    };
}

}  // namespace cli

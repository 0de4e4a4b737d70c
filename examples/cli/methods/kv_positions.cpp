// Evictions by position: first and recent tokens, of all heads, of some, or of lazy layers; and keys that move.
#include <numeric>

#include <terse/core/arena.hpp>
#include <terse/kv/duo_attention.hpp>
#include <terse/kv/moa.hpp>
#include <terse/kv/rotate.hpp>
#include <terse/kv/simlayerkv.hpp>
#include <terse/kv/streaming_llm.hpp>
#include <terse/move/apply.hpp>

#include "cli/layers.hpp"
#include "cli/method.hpp"

namespace cli {
namespace {

void stream(terse::kv::streaming_llm const& policy, case_input const& in, outputs& out) {
    auto const keys = in.heads("keys");
    terse::arena memory;
    auto const kept = value(policy(keys.tokens, memory));
    out.keep("keep", kept[0]);
    out.rows("keys", kept, keys);
}

void streaming_official(case_input const& in, outputs& out) {
    stream({.sinks = in.integer("sink"), .recent = in.integer("recent"), .coming = in.integer("num_coming")}, in, out);
}

void streaming_press(case_input const& in, outputs& out) {
    index const sinks = in.integer("sink"), budget = in.integer("budget", sinks);
    stream({.sinks = sinks, .recent = budget - sinks}, in, out);
}

void streaming_factory(case_input const& in, outputs& out) {
    index const window = in.integer("window"), budget = in.integer("budget", window);
    stream({.sinks = budget - window, .recent = window}, in, out);
}

void simlayerkv(case_input const& in, outputs& out) {
    index const last = in.integer("n_last", 1);
    layer const l = query_layer(in, last);
    terse::kv::simlayerkv const policy{.threshold = static_cast<float>(in.number("lazy_threshold", 0, 1)),
                                       .last = last,
                                       .recent = in.integer("n_recent"),
                                       .sinks = in.integer("n_initial")};
    terse::arena memory;
    auto const kept = value(policy(l, memory));
    bool lazy = false;
    if (policy.applies_to(l.tokens())) {
        auto const found = value(policy.judge(l, memory));
        lazy = found.lazy;
        out.floats("score", {1}, {found.share});
    }
    out.mask("lazy", {1}, {static_cast<std::uint8_t>(lazy)});
    out.keep("keep", kept[0]);
}

/// Every layer of in.attention [layers, heads, queries, tokens], judged by its last queries.
void simlayerkv_layers(case_input const& in, outputs& out, terse::kv::simlayerkv policy) {
    policy.threshold = static_cast<float>(in.number("lazy_threshold", 0, 1));
    policy.recent = in.integer("n_recent");
    policy.sinks = in.integer("n_initial");
    auto const& shape = in.shape_of("attention", 4);
    auto const attention = in.floats("attention", {any, any, any, any});
    index const layers = shape[0], heads = shape[1], queries = shape[2], n = shape[3];
    std::vector<float> shares;
    std::vector<std::uint8_t> lazy, mask;
    std::vector<std::uint8_t> const everything(size(n), 1);
    terse::arena memory;
    for (index i = 0; i < layers; ++i) {
        auto const rows = terse::head_major(attention.data() + i * heads * queries * n, heads, queries, n);
        layer const l = attention_layer(1, rows);
        auto const found = value(policy.judge(l, memory));
        shares.push_back(found.share);
        lazy.push_back(found.lazy);
        auto const kept = found.lazy ? mask_of(value(policy.kept_when_lazy()(l, memory)), 1, n) : everything;
        mask.insert(mask.end(), kept.begin(), kept.end());
    }
    out.floats("score", {layers}, shares);
    out.mask("lazy", {layers}, lazy);
    out.mask("keep_mask", {layers, n}, mask);
}

void simlayerkv_decode(case_input const& in, outputs& out) {
    simlayerkv_layers(in, out, {.judged = terse::kv::simlayerkv::judged_recent::newest});
}

void simlayerkv_prefill(case_input const& in, outputs& out) {
    simlayerkv_layers(in, out,
                      {.last = in.integer("n_last", 1), .judged = terse::kv::simlayerkv::judged_recent::before_each});
}

void duo_masks(terse::kv::streaming_heads const& classes, case_input const& in, outputs& out) {
    auto const scores = in.tokens("head_scores");
    index const layers = scores.tokens, heads = scores.dim, n = in.integer("length");
    terse::arena memory;
    auto const streaming = value(classes(std::span{scores.data, size(layers * heads)}, memory));
    std::vector<std::uint8_t> mask;
    layer const l = bare_layer(heads, n);
    for (index i = 0; i < layers; ++i) {
        terse::kv::duo_attention const policy{.sinks = in.integer("sink"),
                                              .recent = in.integer("recent"),
                                              .streaming = streaming.subspan(size(i * heads), size(heads))};
        auto const kept = value(policy(l, memory));
        auto const more = mask_of(kept, heads, n);
        mask.insert(mask.end(), more.begin(), more.end());
    }
    out.mask("streaming_mask", {layers, heads}, {streaming.begin(), streaming.end()});
    out.mask("keep_mask", {layers, heads, n}, mask);
}

void duo_attention(case_input const& in, outputs& out) {
    duo_masks({.share = in.number("head_compression_ratio", 0, 1)}, in, out);
}

void duo_sparsity(case_input const& in, outputs& out) {
    duo_masks({.share = in.number("sparsity"), .quantile = true}, in, out);
}

void head_score(case_input const& in, outputs& out) {
    layer const l = query_layer(in);
    terse::kv::head_reach const scorer{.encoding = {in.floats("inv_freq", {l.keys.dim / 2})},
                                       .span = in.integer("span", 1)};
    terse::arena memory;
    out.scores("scores", value(scorer(l, memory)).row(0));
}

using span_list = std::vector<terse::budget::elastic_span>;

/// in.alphas and in.betas, whatever their shape.
span_list spans(case_input const& in, shape const& expected) {
    auto const base = in.floats("alphas", expected), slope = in.floats("betas", expected);
    span_list all;
    for (std::size_t i = 0; i < base.size(); ++i)
        all.push_back({static_cast<double>(base[i]), static_cast<double>(slope[i])});
    return all;
}

void moa_cache_size(case_input const& in, outputs& out) {
    auto const heads = in.shape_of("alphas", 2);
    auto const all = spans(in, heads);
    terse::kv::moa const policy{.spans = all,
                                .sinks = in.integer("sink"),
                                .minimum = in.integer("minimum", 1),
                                .multiple = in.integer("split", 1),
                                .coming = in.integer("max_new_tokens")};
    check(policy.check());
    std::vector<std::int64_t> sizes, fixed;
    for (auto const& span : all) {
        auto const cache = policy.cache(span, in.integer("length"));
        sizes.push_back(cache.size);
        fixed.push_back(cache.fixed);
    }
    out.integers("cache_size", heads, sizes);
    out.integers("static_size", heads, fixed);
}

void moa_cache(case_input const& in, outputs& out) {
    auto const heads = in.shape_of("cache_size", 1);
    auto const sizes = in.counts("cache_size", heads, 1, terse::max_tokens);
    index const tokens = in.integer("length") + in.integer("steps");
    std::vector<std::int64_t> slots, valid;
    for (std::size_t h = 0; h < sizes.size(); ++h) {
        terse::kv::ring_slots const cache{sizes[h], in.counts("static_size", heads, 0, terse::max_tokens)[h]};
        if (cache.fixed > cache.size) throw case_error("in.static_size is above in.cache_size");
        std::vector<std::int64_t> own(size(cache.size), -1);
        for (index t = 0; t < tokens; ++t)
            if (index const slot = cache.slot(t); slot >= 0) own[size(slot)] = t;
        for (index slot = 0; slot < cache.size; ++slot)
            if (own[size(slot)] != cache.held(slot, tokens)) throw case_error("slot and held disagree");
        slots.insert(slots.end(), own.begin(), own.end());
        valid.push_back(cache.used(tokens));
    }
    out.integers("slots", {std::ssize(slots)}, slots);
    out.integers("valid", heads, valid);
}

/// out.mask: sees(span, query, key) for every head.
template <class Sees>
void span_mask(case_input const& in, outputs& out, Sees const& sees) {
    auto const all = spans(in, in.shape_of("alphas", 1));
    index const n = in.integer("length");
    std::vector<std::uint8_t> mask;
    for (auto const& span : all)
        for (index q = 0; q < n; ++q)
            for (index k = 0; k < n; ++k) mask.push_back(sees(span, q, k));
    out.mask("mask", {std::ssize(all), n, n}, mask);
}

void moa_block_mask(case_input const& in, outputs& out) {
    index const n = in.integer("length"), block = in.integer("block", 1);
    span_mask(in, out,
              [&](auto const& span, index q, index k) { return terse::kv::block_band::of(span, n, block).sees(q, k); });
}

void moa_token_span(case_input const& in, outputs& out) {
    span_mask(in, out, [](auto const& span, index q, index k) { return terse::kv::token_band{span}.sees(q, k); });
}

void key_rerotation(case_input const& in, outputs& out) {
    auto const keys = in.heads("keys");
    index const kept = in.shape_of("keep", 2)[1];
    auto const positions = in.positions("keep", {keys.heads, kept}, keys.tokens);
    std::vector<terse::plan> selections;
    std::vector<terse::token> next(positions.size());
    for (index h = 0; h < keys.heads; ++h) {
        selections.push_back(terse::select_rows(std::span{positions}.subspan(size(h * kept), size(kept)), keys.tokens));
        std::iota(next.begin() + h * kept, next.begin() + (h + 1) * kept, 0);
    }
    std::vector<float> rotated(size(keys.heads * kept * keys.dim));
    auto const rows = terse::head_major(rotated.data(), keys.heads, kept, keys.dim);
    check(apply(terse::plans{selections}, keys, rows));
    check(terse::kv::rotate(rows, positions, next, rope_of(in, keys.dim)));
    out.floats("keys", {keys.heads, kept, keys.dim}, rotated);
}

}  // namespace

std::vector<method> kv_positions_methods() {
    parameter const budget{"budget", "tokens to keep for each head"};
    parameter const length{"length", "tokens"};
    parameter const sink{"sink", "first tokens, always kept", 128}, recent{"recent", "last tokens to keep", 256};
    parameter const threshold{"lazy_threshold", "share of the attention above which a layer is lazy", 0.9};
    parameter const lazy_recent{"n_recent", "recent tokens", 1024}, lazy_sinks{"n_initial", "first tokens", 4};
    parameter const last{"n_last", "last queries that judge", 1};
    return {
        {"streaming-llm",
         "official",
         "kv",
         "Keeps attention sinks and recent tokens",
         {{"sink", "first tokens, always kept", 4},
          {"recent", "last tokens to keep", 2000},
          {"num_coming", "tokens about to come, to make room for", 0}},
         streaming_official},
        {"streaming-llm",
         "kvpress",
         "kv",
         "Keeps attention sinks and recent tokens",
         {budget, {"sink", "first tokens, always kept", 4}},
         streaming_press},
        {"streaming-llm",
         "kvcache-factory",
         "kv",
         "Keeps first and recent tokens",
         {budget, {"window", "last tokens, always kept", 32}},
         streaming_factory},
        {"simlayerkv",
         "kvpress",
         "kv",
         "Keeps first and recent tokens in lazy layers",
         {threshold, last, lazy_recent, lazy_sinks},
         simlayerkv},
        {"simlayerkv",
         "official-decode",
         "kv",
         "The same by the attention of the first step of decoding",
         {threshold, lazy_recent, lazy_sinks},
         simlayerkv_decode},
        {"simlayerkv",
         "official-prefill",
         "kv",
         "The same by the attention of a prompt",
         {threshold, last, lazy_recent, lazy_sinks},
         simlayerkv_prefill},
        {"duo-attention",
         "ratio",
         "kv",
         "Keeps sinks and recent tokens of the heads with the lowest scores",
         {length, sink, recent, {"head_compression_ratio", "share of streaming heads"}},
         duo_attention},
        {"duo-attention",
         "sparsity",
         "kv",
         "The same for the heads below a quantile",
         {length, sink, recent, {"sparsity", "the quantile"}},
         duo_sparsity},
        {"duo-attention",
         "head-score",
         "kv",
         "How far back heads look, from mean queries and keys",
         {{"span", "positions"}},
         head_score},
        {"moa",
         "cache-size",
         "kv",
         "Cache sizes of heads whose span grows with the length",
         {length,
          {"max_new_tokens", "tokens to be generated", 1024},
          {"sink", "first tokens, always kept", 64},
          {"minimum", "least size", 128},
          {"split", "sizes are multiples of this", 64}},
         moa_cache_size},
        {"moa",
         "cache",
         "kv",
         "The tokens in the slots of such caches",
         {length, {"steps", "decoding steps"}},
         moa_cache},
        {"moa",
         "block-mask",
         "kv",
         "What each query of a prompt sees under a span of blocks",
         {length, {"block", "tokens of a block", 64}},
         moa_block_mask},
        {"moa",
         "token-span",
         "kv",
         "What each query of a prompt sees under a span of tokens",
         {length},
         moa_token_span},
        {"key-rerotation",
         "",
         "kv",
         "Rotates kept keys to consecutive positions",
         {{"rope_layout", "half or interleaved", "half"}},
         key_rerotation},
    };
}

}  // namespace cli

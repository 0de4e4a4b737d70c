// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

#include <algorithm>
#include <array>
#include <random>
#include <stdexcept>
#include <string>

#include <terse/core/arena.hpp>
#include <terse/kv.hpp>

namespace llm {
namespace {

using terse::arena;
using terse::plans;
using terse::result;
namespace kv = terse::kv;

/// A scorer like the library's own: `kv::evict` makes a policy of it.
struct dice {
    std::uint32_t seed;

    result<terse::scores> operator()(terse::layer<float> const& seen, arena& memory,
                                     terse::serial const&) const noexcept {
        index const heads = seen.kv_heads(), tokens = seen.tokens();
        auto const values = memory.take<float>(heads * tokens);
        if (!terse::taken(values)) return terse::errc::out_of_memory;
        std::mt19937 draw(seed);
        for (float& value : values) value = static_cast<float>(draw() >> 8U);  // 24 bits: exact in a float
        return terse::scores{values, heads, tokens, tokens};
    }
};

constexpr index sinks = 4;
constexpr index window = 16;

/// A window of 16 queries votes. With a character a token, a fact spans more slots than the authors' kernel of 5.
constexpr terse::score::attention votes(index kernel) {
    return kv::snapkv{.window = window, .pool = terse::score::pooling::max, .kernel = kernel}.scorer();
}

template <index Kernel>
result<plans> snapkv(prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
    return kv::evict<terse::score::attention>{votes(Kernel), {keep}, 0, window}(seen.rows, memory);
}

/// The kernel that covers a whole fact: what the other policies by attention are tried with.
constexpr index whole_fact = 13;

result<plans> expected_attention(prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
    auto const& queries = seen.plain_queries;
    index const heads = queries.heads, dim = queries.dim;
    auto const mean = memory.take<float>(heads * dim), covariance = memory.take<float>(heads * dim * dim);
    if (!terse::taken(mean, covariance)) return terse::errc::out_of_memory;
    kv::query_moments moments{.mean = mean, .covariance = covariance, .heads = heads, .dim = dim};
    if (auto const error = moments.add(queries, memory); error != terse::errc::ok) return error;
    return kv::expected_attention{
        .keep = keep, .sinks = sinks, .recent = 1, .moments = moments, .encoding = seen.rope, .future = 64}(seen.rows,
                                                                                                            memory);
}

constexpr std::array table{
    policy{"full", "keeps everything",
           [](prompt_layer const& seen, index, std::uint32_t, arena& memory) {
               return kv::streaming_llm{.sinks = 0, .recent = seen.rows.tokens()}(seen.rows, memory);
           }},
    policy{"streaming", "4 sinks and the most recent",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               index const first = std::min(sinks, keep - 1);
               return kv::streaming_llm{.sinks = first, .recent = keep - first}(seen.rows, memory);
           }},
    policy{"random", "drawn evenly for each head",
           [](prompt_layer const& seen, index keep, std::uint32_t seed, arena& memory) {
               return kv::evict<dice>{.score = {seed}, .budget = {keep}, .recent = 1}(seen.rows, memory);
           }},
    policy{"knorm", "the shortest keys",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               return kv::key_norm{.keep = keep, .recent = 1}(seen.rows, memory);
           }},
    policy{"keydiff", "keys unlike the mean direction",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               return kv::keydiff{.keep = keep, .recent = 1}(seen.rows, memory);
           }},
    policy{"lagkv", "keys and values that stand out in the scale of the next 64",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               return kv::lagkv{.keep = keep, .sinks = sinks, .lag = 64}(seen.rows, memory);
           }},
    policy{"cur", "long keys and values beside their neighbours'",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               return kv::cur{.keep = keep, .sinks = sinks, .recent = 1}(seen.rows, memory);
           }},
    policy{"leverage", "keys that the others do not span",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               return kv::leverage{.keep = keep, .sinks = sinks, .recent = 1, .pre_rope_keys = seen.plain_keys}(
                   seen.rows, memory);
           }},
    policy{"compactor", "leverage and attention without a mask",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               return kv::compactor{.keep = keep, .sinks = sinks, .recent = 4, .pre_rope_keys = seen.plain_keys}(
                   seen.rows, memory);
           }},
    policy{"expected", "by the attention that later queries may give, from the moments of these", expected_attention},
    policy{"h2o", "half by the attention of all queries, half most recent",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               return kv::h2o{.keep = keep, .recent = keep - keep / 2}(seen.rows, memory);
           }},
    policy{"scissorhands", "by how many of the last 400 queries gave a slot more than its share",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               index const tokens = seen.rows.tokens();
               return kv::scissorhands{.keep = keep, .drop = std::max<index>(tokens - keep, 1), .recent = 10}(seen.rows,
                                                                                                              memory);
           }},
    policy{"ems", "by the attention of all queries or of the last 16, whichever is higher",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               return kv::ems{.keep = keep, .window = window}(seen.rows, memory);
           }},
    policy{"tova", "by the attention of the last query, over all heads",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               return kv::tova{.keep = keep, .recent = 1}(seen.rows, memory);
           }},
    policy{"snapkv1", "by the attention of the last 16 queries", snapkv<1>},
    policy{"snapkv7", "by the attention of the last 16 queries, maximum over 7 neighbours", snapkv<7>},
    policy{"snapkv13", "by the attention of the last 16 queries, maximum over 13 neighbours", snapkv<whole_fact>},
    policy{"finch", "by the attention of the last 16 queries, each times the keys that it sees",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               return kv::finch<>{.budget = {keep}, .window = window}(seen.rows, memory);
           }},
    policy{"pyramidkv", "snapkv13, lower layers more than higher ones",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               return kv::pyramidkv{.keep = keep,
                                    .layer_index = seen.number,
                                    .layers = seen.layers,
                                    .window = window,
                                    .pool = terse::score::pooling::max,
                                    .kernel = whole_fact}(seen.rows, memory);
           },
           false},
    policy{"adakv", "snapkv13, heads with high scores more than others",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               return kv::adakv<terse::score::attention>{.score = votes(whole_fact), .keep = keep, .recent = window}(
                   seen.rows, memory);
           },
           false},
    policy{"criticalkv", "half by snapkv13's scores, half by these times what the values add to the output",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               return kv::criticalkv<terse::score::attention>{
                   .score = votes(whole_fact), .projection = seen.output, .keep = keep, .recent = window}(seen.rows,
                                                                                                          memory);
           }},
    policy{"r-kv", "by the attention of the last 16 queries, less what other keys say already",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               return kv::r_kv{.keep = keep, .window = window, .kernel = whole_fact}(seen.rows, memory);
           }},
    policy{"chunkkv", "snapkv1 over whole chunks of 13",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               return kv::chunkkv<terse::score::attention>{
                   .score = votes(1), .keep = keep, .chunk = whole_fact, .recent = window}(seen.rows, memory);
           }},
};

terse::heads_view<float> by_head(matrix const& rows, index dim) {
    return terse::token_major(rows.data(), rows.cols() / dim, rows.rows(), dim);
}

}  // namespace

prefilled::prefilled(model const& lm, std::span<token const> prompt, index more)
    : lm_{&lm},
      cache_{lm.make_cache(std::ssize(prompt) + more)},
      frequencies_{lm.rope_frequencies()},
      last_{prompt.back()} {
    lm.forward(prompt, cache_, &seen_);
}

prompt_layer prefilled::layer(index l) const {
    auto const at = static_cast<std::size_t>(l);
    index const dim = lm_->shape().head_dim;
    auto const& output = lm_->output_projection(l);
    return {.rows = {.keys = cache_.keys(l), .values = cache_.values(l), .queries = by_head(seen_.queries[at], dim)},
            .plain_queries = by_head(seen_.plain_queries[at], dim),
            .plain_keys = by_head(seen_.plain_keys[at], dim),
            .output = terse::view(output),
            .rope = {frequencies_},
            .number = l,
            .layers = lm_->shape().layers};
}

std::span<policy const> policies() { return table; }

policy const& find_policy(std::string_view name) {
    auto const found = std::find_if(table.begin(), table.end(), [&](policy const& p) { return p.name == name; });
    if (found == table.end()) throw std::invalid_argument("no policy is named '" + std::string(name) + "'");
    return *found;
}

result<plans> decide(policy const& choice, prefilled const& prompt, index l, index keep, std::uint32_t seed,
                     arena& memory) {
    return choice.plan(prompt.layer(l), keep, seed + static_cast<std::uint32_t>(l) * 0x9E37'79B9U, memory);
}

void compress(policy const& choice, prefilled const& prompt, cache& kv, index keep, std::uint32_t seed, arena& memory) {
    for (index l = 0; l < kv.layers(); ++l) {
        memory.rewind();
        plans const kept = decide(choice, prompt, l, keep, seed, memory).value();
        for (auto const heads : {kv.keys(l), kv.values(l)}) {
            if (auto const error = terse::kv::compact(heads, kept); error != terse::errc::ok)
                throw terse::bad_result(error);
        }
        for (index h = 0; h < kv.keys(l).heads; ++h) kv.keep(l, h, kept[h].kept());
    }
}

}  // namespace llm

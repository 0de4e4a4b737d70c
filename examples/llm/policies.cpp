// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

#include <algorithm>
#include <array>
#include <random>
#include <stdexcept>
#include <string>

#include <terse/budget/proportional.hpp>
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

calibration::of_layer const& of_layer(prompt_layer const& seen) {
    return seen.known->layers[static_cast<std::size_t>(seen.number)];
}

/// The classes of the layer's kv heads, of those of all layers.
std::span<unsigned char const> of_layer(prompt_layer const& seen, std::span<unsigned char const> classes) {
    auto const heads = static_cast<std::size_t>(seen.rows.kv_heads());
    return classes.subspan(static_cast<std::size_t>(seen.number) * heads, heads);
}

/// Blocks of 4 slots go whole, those that the last 16 queries attend to least.
kv::block_eviction blocks(index keep) {
    return {.keep = keep, .sinks = sinks, .recent = sinks, .block = sinks, .snapkv_window = window, .pool = whole_fact};
}

result<plans> kvcrush(prompt_layer const& seen, index keep, std::uint32_t seed, arena& memory) {
    index const rescued = keep < seen.rows.tokens() ? keep / 4 / sinks : 0;
    auto policy = blocks(keep - rescued * sinks);
    policy.rescued = rescued;
    policy.seed = seed;
    return policy(seen.rows, memory);
}

result<plans> adaptive_r_kv(prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
    auto policy = blocks(keep);
    policy.aggregation = kv::block_aggregation::adaptive_rkv;
    return policy(seen.rows, memory);
}

result<plans> compresskv(prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
    auto const losses = memory.take<float>(seen.layers);
    auto const counts = memory.take<index>(seen.layers);
    if (!terse::taken(losses, counts)) return terse::errc::out_of_memory;
    std::transform(seen.known->layers.begin(), seen.known->layers.end(), losses.begin(),
                   [](calibration::of_layer const& l) { return l.loss; });
    terse::budget::proportional const shared{.keep = keep, .least = std::min(window, keep), .most = 3 * keep};
    if (auto const error = shared(losses, seen.rows.tokens(), counts); error != terse::errc::ok) return error;
    return kv::compresskv{.heads = of_layer(seen).answering,
                          .keep = counts[static_cast<std::size_t>(seen.number)],
                          .window = window,
                          .pool = terse::score::pooling::max,
                          .kernel = whole_fact}(seen.rows, memory);
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
    policy{"lagkv-recursive", "the same of each 64 that are complete, as a growing cache is thinned",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               double const ratio = static_cast<double>(keep) / static_cast<double>(seen.rows.tokens());
               return kv::recursive_lagkv{.ratio = ratio, .sinks = sinks, .lag = 64}(seen.rows, memory);
           },
           share::own},
    policy{"keydiff-blocks", "keydiff, whenever 128 tokens have joined what is kept",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               return kv::by_blocks<terse::score::key_difference>{.keep = keep, .recent = 1}(seen.rows, memory);
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
    policy{"non-causal", "by the attention without a mask in chunks of 256",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               return kv::non_causal_attention{.keep = keep, .sinks = sinks, .recent = 4}(seen.rows, memory);
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
           share::on_average},
    policy{"adakv", "snapkv13, heads with high scores more than others",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               return kv::adakv<terse::score::attention>{.score = votes(whole_fact), .keep = keep, .recent = window}(
                   seen.rows, memory);
           },
           share::on_average},
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
    policy{"blocks", "blocks of 4, by the attention of the last 16 queries, maximum over 13 neighbours",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               return blocks(keep)(seen.rows, memory);
           },
           share::own},
    policy{"kvcrush", "three quarters of them so, and blocks that represent the others", kvcrush, share::own},
    policy{"adaptive-r-kv", "blocks that have nine tenths of that attention, and of the others the most diverse",
           adaptive_r_kv, share::own},
    policy{"compresskv", "snapkv13 by the heads that fetch answers, layers that lose more get more", compresskv,
           share::on_average, true},
    policy{"q-filter", "keys that lie along the direction of most queries",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               matrix const& filters = of_layer(seen).filters;
               return kv::q_filter{.keep = keep, .filters = terse::view(filters), .sinks = sinks, .recent = 1}(
                   seen.rows, memory);
           },
           share::each_head, true},
    policy{"zipvl", "slots that carry a share of the attention of the last 16 queries",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               double const kept = static_cast<double>(keep) / static_cast<double>(seen.rows.tokens());
               return zipvl(seen, seen.known->mass_of(kept), memory);
           },
           share::own, true},
    policy{"simlayerkv", "of layers whose last query attends to little else, 4 sinks and the most recent",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               index const first = std::min(sinks, keep - 1);
               return kv::simlayerkv{.recent = keep - first,
                                     .sinks = first,
                                     .judged = kv::simlayerkv::judged_recent::newest}(seen.rows, memory);
           },
           share::own},
    policy{"duo-attention", "of the half of all heads that copy least, 4 sinks and the most recent",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) -> result<plans> {
               auto const classes = kv::streaming_heads{}(seen.known->induction, memory);
               if (!classes) return classes.error();
               index const first = std::min(sinks, keep - 1);
               return kv::duo_attention{.sinks = first, .recent = keep - first, .streaming = of_layer(seen, *classes)}(
                   seen.rows, memory);
           },
           share::own, true},
    policy{"razor-attention", "of heads that do not copy, 4 sinks, the most recent, and the mean of the others",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) -> result<plans> {
               auto const classes = kv::retrieval_heads{}({seen.known->echo, seen.known->induction}, memory);
               if (!classes) return classes.error();
               index const first = std::clamp<index>(keep - 2, 0, sinks);
               return kv::razor_attention{.sinks = first,
                                          .recent = std::max<index>(keep - first - 1, 1),
                                          .compression = seen.rows.tokens(),
                                          .local = of_layer(seen, *classes)}(seen.rows, memory);
           },
           share::own, true},
    policy{"think", "the channels of keys that count most for the last 32 queries",
           [](prompt_layer const& seen, index keep, std::uint32_t, arena& memory) {
               index const dim = seen.rows.keys.dim;
               return kv::think{.keep = std::max<index>(dim * keep / seen.rows.tokens(), 1)}(seen.rows, memory);
           },
           share::own, false, true},
};

terse::heads_view<float> by_head(matrix const& rows, index dim) {
    return terse::token_major(rows.data(), rows.cols() / dim, rows.rows(), dim);
}

}  // namespace

prefilled::prefilled(model const& lm, std::span<token const> prompt, index more, calibration const* known)
    : lm_{&lm},
      cache_{lm.make_cache(std::ssize(prompt) + more)},
      frequencies_{lm.rope_frequencies()},
      known_{known},
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
            .layers = lm_->shape().layers,
            .known = known_};
}

std::span<policy const> policies() { return table; }

policy const& find_policy(std::string_view name) {
    auto const found = std::find_if(table.begin(), table.end(), [&](policy const& p) { return p.name == name; });
    if (found == table.end()) throw std::invalid_argument("no policy is named '" + std::string(name) + "'");
    return *found;
}

result<plans> zipvl(prompt_layer const& seen, double mass, arena& memory) {
    auto last = seen.rows;
    index const probes = std::min(window, last.queries.tokens);
    last.queries.data = last.queries.row(0, last.queries.tokens - probes);
    last.queries.tokens = probes;
    return kv::zipvl{.share = mass, .least = mass < 1 ? 1 : last.tokens(), .recent = 1}(last, memory);
}

result<plans> decide(policy const& choice, prefilled const& prompt, index l, index keep, std::uint32_t seed,
                     arena& memory) {
    if (choice.calibrated && prompt.known() == nullptr) return terse::errc::bad_setting;
    return choice.plan(prompt.layer(l), keep, seed + static_cast<std::uint32_t>(l) * 0x9E37'79B9U, memory);
}

void compress(policy const& choice, prefilled const& prompt, cache& kv, index keep, std::uint32_t seed, arena& memory) {
    for (index l = 0; l < kv.layers(); ++l) {
        memory.rewind();
        plans const kept = decide(choice, prompt, l, keep, seed, memory).value();
        if (choice.channels)
            kv.keep_channels(l, kept);
        else
            kv.keep(l, kept);
    }
}

}  // namespace llm

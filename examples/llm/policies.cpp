// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

#include <algorithm>
#include <array>
#include <random>
#include <stdexcept>
#include <string>

#include <terse/core/arena.hpp>
#include <terse/kv/compact.hpp>
#include <terse/kv/evict.hpp>
#include <terse/kv/h2o.hpp>
#include <terse/kv/key_norm.hpp>
#include <terse/kv/snapkv.hpp>
#include <terse/kv/streaming_llm.hpp>
#include <terse/kv/tova.hpp>

namespace llm {
namespace {

using terse::arena;
using terse::plans;
using terse::result;
using layer = terse::layer<float>;

/// A scorer like the library's own: `kv::evict` makes a policy of it.
struct dice {
    std::uint32_t seed;

    result<terse::scores> operator()(layer const& seen, arena& memory, terse::serial const&) const noexcept {
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
template <index Kernel>
result<plans> snapkv(layer const& seen, index keep, std::uint32_t, arena& memory) {
    return terse::kv::snapkv{.keep = keep, .window = window, .pool = terse::score::pooling::max, .kernel = Kernel}(
        seen, memory);
}

constexpr std::array table{
    policy{"full", "keeps everything",
           [](layer const& seen, index, std::uint32_t, arena& memory) {
               return terse::kv::streaming_llm{.sinks = 0, .recent = seen.tokens()}(seen, memory);
           }},
    policy{"streaming", "4 sinks and the most recent",
           [](layer const& seen, index keep, std::uint32_t, arena& memory) {
               index const first = std::min(sinks, keep - 1);
               return terse::kv::streaming_llm{.sinks = first, .recent = keep - first}(seen, memory);
           }},
    policy{"random", "drawn evenly for each head",
           [](layer const& seen, index keep, std::uint32_t seed, arena& memory) {
               return terse::kv::evict<dice>{.score = {seed}, .budget = {keep}, .recent = 1}(seen, memory);
           }},
    policy{"knorm", "the shortest keys",
           [](layer const& seen, index keep, std::uint32_t, arena& memory) {
               return terse::kv::key_norm{.keep = keep, .recent = 1}(seen, memory);
           }},
    policy{"h2o", "half by the attention of all queries, half most recent",
           [](layer const& seen, index keep, std::uint32_t, arena& memory) {
               return terse::kv::h2o{.keep = keep, .recent = keep - keep / 2}(seen, memory);
           }},
    policy{"tova", "by the attention of the last query, over all heads",
           [](layer const& seen, index keep, std::uint32_t, arena& memory) {
               return terse::kv::tova{.keep = keep, .recent = 1}(seen, memory);
           }},
    policy{"snapkv1", "by the attention of the last 16 queries", snapkv<1>},
    policy{"snapkv7", "by the attention of the last 16 queries, maximum over 7 neighbours", snapkv<7>},
    policy{"snapkv13", "by the attention of the last 16 queries, maximum over 13 neighbours", snapkv<13>},
};

}  // namespace

std::span<policy const> policies() { return table; }

policy const& find_policy(std::string_view name) {
    auto const found = std::find_if(table.begin(), table.end(), [&](policy const& p) { return p.name == name; });
    if (found == table.end()) throw std::invalid_argument("no policy is named '" + std::string(name) + "'");
    return *found;
}

result<plans> decide(policy const& choice, cache const& kv, std::span<matrix const> queries, index l, index keep,
                     std::uint32_t seed, arena& memory) {
    auto const keys = kv.keys(l);
    matrix const& q = queries[static_cast<std::size_t>(l)];
    layer const seen{.keys = keys,
                     .values = kv.values(l),
                     .queries = terse::token_major(q.data(), q.cols() / keys.dim, q.rows(), keys.dim)};
    return choice.plan(seen, keep, seed + static_cast<std::uint32_t>(l) * 0x9E37'79B9U, memory);
}

void compress(policy const& choice, cache& kv, std::span<matrix const> queries, index keep, std::uint32_t seed,
              arena& memory) {
    for (index l = 0; l < kv.layers(); ++l) {
        memory.rewind();
        plans const kept = decide(choice, kv, queries, l, keep, seed, memory).value();
        for (auto const heads : {kv.keys(l), kv.values(l)}) {
            if (auto const error = terse::kv::compact(heads, kept); error != terse::errc::ok)
                throw terse::bad_result(error);
        }
        for (index h = 0; h < kv.keys(l).heads; ++h) kv.keep(l, h, kept[h].kept());
    }
}

}  // namespace llm

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include <terse/core/layer.hpp>
#include <terse/core/plan.hpp>

#include "cache.hpp"

namespace llm {

/// A KV policy under a name. All keep the last prompt token, which is read again on top of the compressed cache.
struct policy {
    std::string_view name;
    std::string_view summary;
    /// Which of the layer's tokens each kv head keeps: `keep` of them. Only `random` reads the seed.
    terse::result<terse::plans> (*plan)(terse::layer<float> const& seen, index keep, std::uint32_t seed,
                                        terse::arena& memory);
};

/// Every policy, in the order of the table.
[[nodiscard]] std::span<policy const> policies();

/// Throws std::invalid_argument when no policy has the name.
[[nodiscard]] policy const& find_policy(std::string_view name);

/// What a policy keeps of layer `l` of a cache.
/// @param queries  of every layer: the rotated queries of the tokens in the cache, [tokens, heads * head_dim]
[[nodiscard]] terse::result<terse::plans> decide(policy const& choice, cache const& kv, std::span<matrix const> queries,
                                                 index l, index keep, std::uint32_t seed, terse::arena& memory);

/// Compresses every layer of a cache: the plans of `decide` move its keys and values.
///
/// @pre            every head holds the same number of tokens
/// Throws terse::bad_result when the policy refuses the budget.
void compress(policy const& choice, cache& kv, std::span<matrix const> queries, index keep, std::uint32_t seed,
              terse::arena& memory);

}  // namespace llm

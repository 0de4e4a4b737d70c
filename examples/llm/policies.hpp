// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include <terse/core/layer.hpp>
#include <terse/core/plan.hpp>
#include <terse/core/rope.hpp>

#include "engine.hpp"

namespace llm {

/// One layer of a prompt that has been read: all that a policy may ask for.
struct prompt_layer {
    terse::layer<float> rows;                            ///< keys and values as cached, the queries of all tokens
    terse::heads_view<float> plain_queries, plain_keys;  ///< before rotation
    terse::tokens_view<float> output;                    ///< [width, heads * head_dim]: the output projection
    terse::rope rope;
    index number, layers;
};

/// A prompt that has been read: its cache, and what policies decide by.
class prefilled {
  public:
    /// Reads a prompt of at least one token, leaving room for `more` tokens.
    prefilled(model const& lm, std::span<token const> prompt, index more);

    [[nodiscard]] llm::cache const& kv() const { return cache_; }
    /// The last token, which is read again on top of a compressed cache.
    [[nodiscard]] token last() const { return last_; }

    [[nodiscard]] prompt_layer layer(index l) const;

  private:
    model const* lm_;
    llm::cache cache_;
    trace seen_;
    std::vector<float> frequencies_;
    token last_;
};

/// A KV policy under a name. All keep the last prompt token, which is read again on top of the compressed cache.
struct policy {
    std::string_view name;
    std::string_view summary;
    /// Which of the layer's tokens each kv head keeps: `keep` of them, or as many on average. Only `random` reads the
    /// seed.
    terse::result<terse::plans> (*plan)(prompt_layer const& seen, index keep, std::uint32_t seed, terse::arena& memory);
    bool even = true;  ///< every head of every layer keeps the same number
};

/// Every policy, in the order of the table.
[[nodiscard]] std::span<policy const> policies();

/// Throws std::invalid_argument when no policy has the name.
[[nodiscard]] policy const& find_policy(std::string_view name);

/// What a policy keeps of layer `l` of a prompt.
[[nodiscard]] terse::result<terse::plans> decide(policy const& choice, prefilled const& prompt, index l, index keep,
                                                 std::uint32_t seed, terse::arena& memory);

/// Compresses every layer of a copy of the prompt's cache: the plans of `decide` move its keys and values.
/// Throws terse::bad_result when the policy refuses the budget.
void compress(policy const& choice, prefilled const& prompt, cache& kv, index keep, std::uint32_t seed,
              terse::arena& memory);

}  // namespace llm

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include <terse/core/layer.hpp>
#include <terse/core/plan.hpp>
#include <terse/core/rope.hpp>

#include "calibration.hpp"
#include "engine.hpp"

namespace llm {

/// One layer of a prompt that has been read: all that a policy may ask for.
struct prompt_layer {
    terse::layer<float> rows;                            ///< keys and values as cached, the queries of all tokens
    terse::heads_view<float> plain_queries, plain_keys;  ///< before rotation
    terse::tokens_view<float> output;                    ///< [width, heads * head_dim]: the output projection
    terse::rope rope;
    index number, layers;
    calibration const* known;  ///< of the model; null where nothing was calibrated
};

/// A prompt that has been read: its cache, and what policies decide by.
class prefilled {
  public:
    /// Reads a prompt of at least one token, leaving room for `more` tokens.
    prefilled(model const& lm, std::span<token const> prompt, index more, calibration const* known = nullptr);

    [[nodiscard]] llm::cache const& kv() const { return cache_; }
    /// The last token, which is read again on top of a compressed cache.
    [[nodiscard]] token last() const { return last_; }

    [[nodiscard]] prompt_layer layer(index l) const;
    [[nodiscard]] calibration const* known() const { return known_; }

  private:
    model const* lm_;
    llm::cache cache_;
    trace seen_;
    std::vector<float> frequencies_;
    calibration const* known_;
    token last_;
};

/// How what a policy keeps follows from the number it is given.
enum class share : unsigned char {
    each_head,   ///< every head of every layer keeps so many slots
    on_average,  ///< so many are kept of each head on average, over all layers
    own,         ///< it bounds a part of the cache; the model or the prompt decide of the rest
};

/// A KV policy under a name. All keep the last prompt token, which is read again on top of the compressed cache.
struct policy {
    std::string_view name;
    std::string_view summary;
    /// Which of the layer's tokens each kv head keeps, or which channels. The seed is for what is drawn.
    terse::result<terse::plans> (*plan)(prompt_layer const& seen, index keep, std::uint32_t seed, terse::arena& memory);
    share kept = share::each_head;
    bool calibrated = false;  ///< needs a calibration
    bool channels = false;    ///< its plans are over the channels of keys
};

/// Every policy, in the order of the table.
[[nodiscard]] std::span<policy const> policies();

/// ZipVL's choice: the slots of a layer that carry `mass` of the attention of its last queries.
[[nodiscard]] terse::result<terse::plans> zipvl(prompt_layer const& seen, double mass, terse::arena& memory);

/// Throws std::invalid_argument when no policy has the name.
[[nodiscard]] policy const& find_policy(std::string_view name);

/// What a policy keeps of layer `l` of a prompt; errc::bad_setting where a calibration is missing.
[[nodiscard]] terse::result<terse::plans> decide(policy const& choice, prefilled const& prompt, index l, index keep,
                                                 std::uint32_t seed, terse::arena& memory);

/// Compresses every layer of a copy of the prompt's cache: the plans of `decide` move its keys and values.
/// Throws terse::bad_result when the policy refuses the budget.
void compress(policy const& choice, prefilled const& prompt, cache& kv, index keep, std::uint32_t seed,
              terse::arena& memory);

}  // namespace llm

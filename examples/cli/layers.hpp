// SPDX-License-Identifier: Apache-2.0
// What the methods over a KV cache read and write alike.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <terse/core/arena.hpp>
#include <terse/core/layer.hpp>
#include <terse/core/rope.hpp>
#include <terse/score/key_difference.hpp>
#include <terse/score/norm.hpp>
#include <terse/score/scores.hpp>
#include <terse/score/shape.hpp>

#include "cli/method.hpp"

namespace cli {

using layer = terse::layer<float>;

/// in.keys
inline layer key_layer(case_input const& in) { return {.keys = in.heads("keys")}; }

/// in.keys and in.values
inline layer key_value_layer(case_input const& in) {
    layer l = key_layer(in);
    l.values = in.heads("values", l.kv_heads(), l.tokens());
    return l;
}

/// in.keys and so many queries, in.queries
inline layer query_layer(case_input const& in, index queries = any, std::string const& suffix = "") {
    auto const keys = in.heads("keys" + suffix);
    return {.keys = keys, .queries = in.heads("queries" + suffix, any, queries, keys.dim)};
}

/// All three, queries as above.
inline layer whole_layer(case_input const& in, index queries) {
    layer l = key_value_layer(in);
    l.queries = in.heads("queries", any, queries, l.keys.dim);
    return l;
}

/// A layer that has nothing but its shape.
inline layer bare_layer(index kv_heads, index tokens) {
    return {.keys = terse::head_major<float const>(nullptr, kv_heads, tokens, 1)};
}

/// A layer that has nothing but its shape and its attention [heads, queries, tokens].
inline layer attention_layer(index kv_heads, terse::attention_view attention) {
    if (kv_heads < 1 || attention.heads % kv_heads != 0)
        throw case_error("the heads of in.attention do not fit kv_heads");
    layer l = bare_layer(kv_heads, attention.dim);
    l.attention = attention;
    return l;
}

/// The scorer of a layer whose scores are given.
struct given_scores {
    terse::scores all;

    template <class Input, class Run = terse::serial>
    [[nodiscard]] terse::result<terse::scores> operator()(Input const&, terse::arena&, Run const& = {}) const noexcept {
        return all;
    }
};

/// in.scores [heads, tokens], of which the last may have none.
inline given_scores scores_of(case_input const& in, index heads = any, index tokens = any) {
    auto const all = in.tokens("scores", heads, tokens);
    return {{{all.data, size(all.tokens * all.dim)}, all.tokens, all.dim, all.stride}};
}

inline terse::score::reduction group_reduce(case_input const& in) {
    using enum terse::score::reduction;
    return in.choice<terse::score::reduction>("group_reduce", {{"mean", mean}, {"max", max}, {"sum", sum}});
}

inline terse::score::pooling pooling_of(case_input const& in) {
    using enum terse::score::pooling;
    return in.choice<terse::score::pooling>("pooling", {{"avg", average}, {"max", max}});
}

/// Calls run with the scorer of keys that the parameter "scorer" names.
template <class Run>
void with_scorer(case_input const& in, Run const& run) {
    if (in.choice<bool>("scorer", {{"keydiff", true}, {"knorm", false}}))
        run(terse::score::key_difference{});
    else
        run(terse::score::norm{});
}

/// in.inv_freq and the layout of the pairs, for keys of so many channels.
inline terse::rope rope_of(case_input const& in, index dim) {
    using enum terse::rope_layout;
    return {in.floats("inv_freq", {dim / 2}),
            in.choice<terse::rope_layout>("rope_layout", {{"half", half_split}, {"interleaved", interleaved}})};
}

/// [heads, tokens]: 1 for what each head keeps.
inline std::vector<std::uint8_t> mask_of(terse::plans const& kept, index heads, index tokens) {
    std::vector<std::uint8_t> mask(size(heads * tokens));
    for (index h = 0; h < heads; ++h)
        for (auto const t : kept[h].sources) mask[size(h * tokens + t)] = 1;
    return mask;
}

/// out.keep_mask [heads, tokens] and out.budgets, its row sums
inline void keep_mask(terse::plans const& kept, index heads, index tokens, outputs& out) {
    std::vector<std::int64_t> counts;
    for (index h = 0; h < heads; ++h) counts.push_back(kept[h].kept());
    out.mask("keep_mask", {heads, tokens}, mask_of(kept, heads, tokens));
    out.integers("budgets", {heads}, counts);
}

/// out.keep
template <class Policy>
void keep(Policy const& policy, layer const& l, outputs& out) {
    terse::arena memory;
    out.keep("keep", value(policy(l, memory)), l.kv_heads());
}

/// out.scores and out.keep
template <class Policy>
void score_and_keep(Policy const& policy, layer const& l, outputs& out) {
    terse::arena memory;
    out.scores("scores", value(policy.scorer()(l, memory)), l.tokens());
    keep(policy, l, out);
}

}  // namespace cli

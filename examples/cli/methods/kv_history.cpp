// Evictions by the attention of many queries, which a state keeps.
#include <algorithm>
#include <numeric>

#include <terse/core/arena.hpp>
#include <terse/kv/h2o.hpp>
#include <terse/kv/hit_counts.hpp>
#include <terse/kv/scissorhands.hpp>
#include <terse/move/apply.hpp>
#include <terse/score/attention.hpp>

#include "cli/layers.hpp"
#include "cli/method.hpp"

namespace cli {
namespace {

/// [heads, n, n]
terse::heads_view<float> square(case_input const& in, std::string const& name) {
    auto const all = in.heads(name);
    return in.heads(name, all.heads, all.dim, all.dim);
}

void h2o_on(layer const& l, terse::kv::h2o const& policy, outputs& out) {
    terse::arena memory;
    out.scores("scores", value(policy.scorer()(l, memory)), l.tokens() - policy.recent);
    out.keep("keep", value(policy(l, memory)), l.kv_heads());
}

void h2o_observed(case_input const& in, outputs& out) {
    h2o_on(attention_layer(in.integer("kv_heads", 1), square(in, "attention")),
           {.keep = in.integer("budget", 1), .recent = 0, .per_visible = true}, out);
}

void h2o_factory(case_input const& in, outputs& out) {
    layer const l = query_layer(in, in.heads("keys").tokens);
    h2o_on(l,
           {.keep = in.integer("budget", 1), .recent = in.integer("window", 0, l.tokens()), .group = group_reduce(in)},
           out);
}

/// A cache whose slots hold the positions of their tokens, with H2O's sums: the engine's side of a run of steps.
class h2o_cache {
  public:
    h2o_cache(index heads, index capacity)
        : positions_(size(heads * capacity)),
          values_(size(heads * capacity)),
          sums_{.values = values_, .heads = heads, .capacity = capacity} {}

    /// Adds what the layer's queries attend to. Its slots past those in use are new, at positions first, first + 1, ...
    void add(layer const& l, index first) {
        index const used = sums_.used;
        check(sums_.add(l, memory_));
        for (index h = 0; h < sums_.heads; ++h)
            std::iota(row(h) + used, row(h) + sums_.used, static_cast<terse::token>(first));
    }

    void evict(terse::kv::h2o const& policy) {
        memory_.rewind();
        auto const kept = value(policy(sums_, memory_));
        for (index h = 0; h < sums_.heads; ++h) {
            std::vector<terse::token> next(size(kept[h].kept()));
            check(terse::pick(kept[h], positions(h), std::span{next}, -1));
            std::copy(next.begin(), next.end(), row(h));
        }
        check(sums_.compact(kept));
    }

    [[nodiscard]] index used() const { return sums_.used; }
    [[nodiscard]] std::span<terse::token const> positions(index h) const {
        return std::span{positions_}.subspan(size(h * sums_.capacity), size(sums_.used));
    }

    void write(index step, outputs& out) const {
        std::vector<std::int64_t> keep;
        for (index h = 0; h < sums_.heads; ++h) keep.insert(keep.end(), positions(h).begin(), positions(h).end());
        out.integers("keep." + std::to_string(step), {sums_.heads, used()}, keep);
        out.scores("scores." + std::to_string(step), {sums_.values, sums_.heads, used(), sums_.capacity}, used());
    }

  private:
    [[nodiscard]] terse::token* row(index h) { return positions_.data() + h * sums_.capacity; }

    std::vector<terse::token> positions_;
    std::vector<float> values_;
    terse::kv::column_sums sums_;
    terse::arena memory_;
};

void h2o_real_drop(case_input const& in, outputs& out) {
    index const heavy = in.integer("heavy"), recent = in.integer("recent"), steps = in.integer("steps");
    auto const prefill = square(in, "attention");
    index const heads = prefill.heads, n = prefill.tokens, slots = heavy + recent + 1;
    auto const decode = in.floats("decode_attention", {steps, heads, slots});

    terse::kv::h2o const policy{.keep = heavy + recent, .recent = recent};
    h2o_cache cache(heads, std::max(n, slots));
    cache.add(attention_layer(heads, prefill), 0);
    cache.evict(policy);
    cache.write(0, out);
    for (index step = 0; step < steps; ++step) {
        auto attention = terse::head_major(decode.data() + step * heads * slots, heads, 1, slots);
        attention.dim = cache.used() + 1;
        cache.add(attention_layer(heads, attention), n + step);
        cache.evict(policy);
        cache.write(step + 1, out);
    }
}

/// Layers whose logits are given: a query that is a row of logits, against unit vectors as keys.
class logits_layers {
  public:
    explicit logits_layers(terse::heads_view<float> logits) : logits_{logits}, units_(size(logits.dim * logits.dim)) {
        for (index i = 0; i < logits.dim; ++i) units_[size(i * (logits.dim + 1))] = 1;
    }

    /// Queries [first, last), which see the keys up to their own.
    [[nodiscard]] layer rows(index first, index last) const {
        auto keys = terse::head_major(units_.data(), logits_.heads, last, logits_.dim);
        keys.head_stride = 0;
        auto queries = logits_;
        queries.data = logits_.row(0, first);
        queries.tokens = last - first;
        return {.keys = keys, .queries = queries, .scale = 1};
    }

  private:
    terse::heads_view<float> logits_;
    std::vector<float> units_;
};

/// A mask [heads, n, n] that lets every query see its last `recent` predecessors and itself.
std::vector<std::uint8_t> band(index heads, index n, index recent) {
    std::vector<std::uint8_t> mask(size(heads * n * n));
    for (index i = 0; i < heads * n; ++i)
        std::fill_n(mask.begin() + i * n + std::max<index>(0, i % n - recent), std::min(recent, i % n) + 1, 1);
    return mask;
}

void h2o_mask(case_input const& in, outputs& out) {
    auto const logits = square(in, "logits");
    logits_layers const layers(logits);
    index const heavy = in.integer("heavy", 1), recent = in.integer("recent");
    index const heads = logits.heads, n = logits.tokens, first = std::min(heavy, n);
    auto mask = band(heads, n, recent);
    for (index i = 0; i < heads * n; ++i)
        if (i % n < first) std::fill_n(mask.begin() + i * n, i % n + 1, 1);

    h2o_cache cache(heads, first + 1);
    cache.add(layers.rows(0, first), 0);
    for (index i = first; i < n; ++i) {
        // The slot of token i comes first and replaces the lightest; then the row counts for the slots that are left.
        std::vector<float> seen(size(heads * (heavy + 1)));
        cache.add(attention_layer(heads, terse::head_major<float const>(seen.data(), heads, 1, heavy + 1)), i);
        cache.evict({.keep = heavy, .recent = 1});
        terse::arena memory;
        auto const row = value(terse::score::attention{}(layers.rows(i, i + 1), memory));
        for (index h = 0; h < heads; ++h) {
            for (index slot = 0; slot < heavy; ++slot) {
                auto const position = cache.positions(h)[size(slot)];
                seen[size(h * heavy + slot)] = row.row(h)[size(position)];
                mask[size((h * n + i) * n + position)] = 1;
            }
        }
        cache.add(attention_layer(heads, terse::head_major<float const>(seen.data(), heads, 1, heavy)), i);
    }
    out.mask("mask", {heads, n, n}, mask);
}

void h2o_global_mask(case_input const& in, outputs& out) {
    auto const logits = square(in, "logits");
    index const heads = logits.heads, n = logits.tokens;
    logits_layers const layers(logits);
    terse::kv::h2o const policy{.keep = in.integer("heavy", 1), .recent = 0};
    terse::arena memory;
    auto const heavy = value(policy(layers.rows(0, n), memory));
    auto mask = band(heads, n, in.integer("recent"));
    for (index h = 0; h < heads; ++h)
        for (auto const j : heavy[h].sources)
            for (index i = j; i < n; ++i) mask[size((h * n + i) * n + j)] = 1;
    out.mask("mask", {heads, n, n}, mask);
}

void scissorhands(case_input const& in, outputs& out) {
    index const rounds = in.integer("rounds", 1);
    auto const& shape = in.shape_of("attention", 4);
    auto const attention = in.floats("attention", {rounds, any, any, any});
    index const heads = shape[1], queries = shape[2], n = shape[3];
    terse::kv::scissorhands const policy{.keep = in.integer("budget", 1),
                                         .history = in.integer("history_window"),
                                         .recent = in.integer("recent"),
                                         .sinks = in.integer("sink"),
                                         .counted = terse::score::hit::attention,
                                         .decay = static_cast<float>(in.number("decay", 0, 1))};
    std::vector<float> memory_of_counts(size(heads * n));
    terse::kv::hit_counts counts{.values = memory_of_counts, .heads = heads, .capacity = n};
    terse::arena memory;
    for (index round = 0; round < rounds; ++round) {
        auto const rows = terse::head_major(attention.data() + round * heads * queries * n, heads, queries, n);
        check(policy.observe(counts, attention_layer(heads, rows), memory));
    }
    out.scores("scores", {counts.values, heads, n, n}, n);
    out.keep("keep", value(policy(counts, memory)), heads);
}

}  // namespace

std::vector<method> kv_history_methods() {
    parameter const budget{"budget", "tokens to keep for each head"};
    parameter const group{"group_reduce", "mean, max or sum over the query heads of a key head", "mean"};
    parameter const heavy{"heavy", "heavy hitters to keep"}, recent{"recent", "last tokens, always kept"};
    return {
        {"h2o",
         "observed-attention",
         "kv",
         "Keeps the tokens with the highest mean attention of those that see them",
         {budget, {"kv_heads", "key heads, which the heads of the attention share"}},
         h2o_observed},
        {"h2o",
         "kvcache-factory",
         "kv",
         "Keeps heavy hitters of the prompt and recent tokens",
         {budget, {"window", "last tokens, always kept", 32}, group},
         h2o_factory},
        {"h2o",
         "h2o-real-drop",
         "kv",
         "Evicts all but heavy hitters and recent tokens at every step",
         {heavy, recent, {"steps", "decoding steps"}},
         h2o_real_drop},
        {"h2o", "h2o-mask", "kv", "What each query of a prompt would see under eviction", {heavy, recent}, h2o_mask},
        {"h2o",
         "h2o-global-mask",
         "kv",
         "The same with heavy hitters of the whole prompt",
         {heavy, recent},
         h2o_global_mask},
        {"scissorhands",
         "",
         "kv",
         "Keeps what received most attention over a history of queries",
         {{"budget", "tokens to keep for each head"},
          {"rounds", "how often the importance is updated", 1},
          {"history_window", "last queries of a round that count; 0: all", 0},
          {"decay", "what a round leaves of the importance so far", 1.0},
          {"recent", "last tokens, always kept", 10},
          {"sink", "first tokens, always kept", 0}},
         scissorhands},
    };
}

}  // namespace cli

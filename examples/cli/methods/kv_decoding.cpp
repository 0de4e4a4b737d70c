// Evictions from a cache that grows, step by step.
#include <algorithm>

#include <terse/core/arena.hpp>
#include <terse/kv/block_eviction.hpp>
#include <terse/kv/block_scores.hpp>
#include <terse/kv/compact.hpp>
#include <terse/kv/key_norm.hpp>
#include <terse/kv/keydiff.hpp>
#include <terse/kv/ledger.hpp>

#include "cli/layers.hpp"
#include "cli/method.hpp"

namespace cli {
namespace {

/// A state with its memory.
class layer_scores {
  public:
    layer_scores(index capacity, index history)
        : sums_(size(capacity)), since_(size(capacity)), history_(size(history * capacity)) {
        state = {.since = since_, .history = history_, .capacity = capacity};
        if (history == 0) state.sums = sums_;
    }

    terse::kv::block_scores state;

  private:
    std::vector<double> sums_;
    std::vector<terse::token> since_;
    std::vector<float> history_;
};

/// A row for each layer, of equal lengths.
template <class T>
class table {
  public:
    template <class Row>
    void add(Row const& row) {
        ++rows_;
        for (auto const x : row) values_.push_back(static_cast<T>(x));
    }
    [[nodiscard]] bool empty() const { return values_.empty(); }
    [[nodiscard]] shape shape_of() const { return {rows_, std::ssize(values_) / rows_}; }
    [[nodiscard]] std::vector<T> const& values() const { return values_; }

  private:
    std::vector<T> values_;
    index rows_ = 0;
};

terse::kv::block_eviction policy_of(case_input const& in) {
    using enum terse::kv::block_aggregation;
    using enum terse::select::anchor;
    return {.keep = in.integer("max_cache", 1),
            .sinks = in.integer("start"),
            .recent = in.integer("recent"),
            .block = in.integer("block", 1),
            .aggregation = in.choice<terse::kv::block_aggregation>(
                "aggregation", {{"sum", sum}, {"norm_sum", norm_sum}, {"adaptive_rkv", adaptive_rkv}}),
            .snapkv_window = in.integer("snapkv_window"),
            .pool = in.integer("max_pool_window", 1),
            .newer_wins = true,
            .rescued = in.integer("kvcrush_budget"),
            .anchor = in.choice<terse::select::anchor>(
                "kvcrush_anchor",
                {{"random", random}, {"zeros", zeros}, {"ones", ones}, {"mean", mean}, {"alternating", alternating}}),
            .mass = in.number("attention_mass", 0, 1)};
}

void block_eviction(case_input const& in, outputs& out) {
    auto const policy = policy_of(in);
    check(policy.check());
    index const layers = in.integer("layers", 1), steps = in.integer("steps");
    auto const voters = in.integers("snapkv_scores");
    if (std::ssize(voters) < steps) throw case_error("parameter 'snapkv_scores' has fewer entries than steps");
    index capacity = 1;
    for (index t = 0; t < steps; ++t) capacity = std::max(capacity, in.shape_of("scores." + std::to_string(t), 2)[1]);
    std::vector<layer_scores> states;
    for (index l = 0; l < layers; ++l)
        states.emplace_back(capacity, policy.adaptive() ? in.integer("rkv_window", 1) : 0);

    std::vector<std::int64_t> ranges;
    for (index t = 0; t < steps; ++t) {
        auto const number = std::string(".") + std::to_string(t);
        auto const scores = in.tokens("scores" + number, layers);
        table<float> tracked, of_blocks;
        table<std::int64_t> counters, evicted;
        terse::range evictable;
        for (index l = 0; l < layers; ++l) {
            auto& state = states[size(l)].state;
            check(policy.add(state, {scores.row(l), size(scores.dim)}, voters[size(t)]));
            terse::arena memory;
            index const first = std::min(policy.sinks, state.used);
            tracked.add(value(state.values(first, state.used, policy.pool, memory)));
            std::vector<index> count;
            for (index slot = first; slot < state.used; ++slot) count.push_back(state.count(slot));
            counters.add(count);

            evictable = policy.evictable(state.used);
            terse::kv::block_choice choice;
            if (policy.adaptive() && evictable.size() > 0) {
                auto const all = in.heads("diversity" + number, layers, evictable.size());
                choice = value(policy.choose(state, all.head(l), memory));
            } else if (evictable.size() > 0) {
                choice = value(policy.choose(state, memory));
            }
            of_blocks.add(choice.scores);
            evicted.add(choice.evicted);
            if (evictable.size() > 0) check(state.compact(choice.kept));
        }
        ranges.insert(ranges.end(), {evictable.begin, evictable.end});
        out.floats("scores" + number, tracked.shape_of(), tracked.values());
        if (policy.aggregation == terse::kv::block_aggregation::norm_sum)
            out.integers("counters" + number, counters.shape_of(), counters.values());
        if (!of_blocks.empty()) out.floats("block_scores" + number, of_blocks.shape_of(), of_blocks.values());
        if (!evicted.empty()) out.integers("evicted" + number, evicted.shape_of(), evicted.values());
    }
    out.integers("ranges", {steps, 2}, ranges);
}

/// A cache of keys that is read token by token and shrunk every so often: the engine's side of a ledger.
class step_cache {
  public:
    explicit step_cache(terse::heads_view<float> all)
        : all_{all},
          rows_(size(all.heads * all.tokens * all.dim)),
          bytes_(size(terse::kv::ledger<float>::bytes({.kv_heads = all.heads, .capacity = all.tokens}))),
          ledger_{value(terse::kv::ledger<float>::open({.kv_heads = all.heads, .capacity = all.tokens}, bytes_))} {}

    [[nodiscard]] terse::kv::ledger<float> const& ledger() const { return ledger_; }

    void prefill(index tokens) {
        ledger_.begin_prompt();
        append(tokens);
        ledger_.end_prompt();
    }

    void append(index tokens) {
        index const first = ledger_.next_position(), held = ledger_.length(0);
        check(ledger_.append(tokens));
        auto const keys = cache();
        for (index h = 0; h < all_.heads; ++h)
            for (index t = 0; t < tokens; ++t) std::copy_n(all_.row(h, first + t), all_.dim, keys.row(h, held + t));
    }

    template <class Policy>
    bool evict_if_needed(Policy const& policy, terse::kv::trigger const& when) {
        memory_.rewind();
        auto const keys = cache();
        auto const evicted = value(ledger_.evict_if_needed(policy, layer{.keys = keys}, when, memory_));
        if (!evicted.evicts()) return false;
        check(terse::kv::compact(keys, evicted.kept));
        check(ledger_.commit(evicted));
        return true;
    }

    void write(std::string const& name, outputs& out) const {
        std::vector<std::int64_t> keep;
        for (index h = 0; h < all_.heads; ++h)
            keep.insert(keep.end(), ledger_.positions(h).begin(), ledger_.positions(h).end());
        out.integers(name, {all_.heads, ledger_.length(0)}, keep);
    }

  private:
    [[nodiscard]] terse::heads_span<float> cache() {
        return {rows_.data(), all_.heads, ledger_.length(0), all_.dim, all_.tokens * all_.dim, all_.dim};
    }

    terse::heads_view<float> all_;
    std::vector<float> rows_;
    std::vector<std::byte> bytes_;
    terse::kv::ledger<float> ledger_;
    terse::arena memory_{};
};

void decoding(case_input const& in, outputs& out) {
    index const prompt = in.integer("prompt"), steps = in.integer("steps");
    auto const keys = in.heads("keys", any, prompt + steps);
    terse::kv::trigger const when{.after_prompt = false, .every = in.integer("interval", 1)};
    bool const by_norm = in.choice<bool>("scorer", {{"knorm", true}, {"keydiff", false}});
    // What may stay follows from the target, or from the tokens so far.
    index const target = in.integer("target");
    double const ratio = in.number("target_ratio", 0, 1);

    step_cache cache(keys);
    cache.prefill(prompt);
    std::vector<std::int64_t> lengths, events;
    for (index step = 0; step < steps; ++step) {
        cache.append(1);
        auto const seen = static_cast<double>(cache.ledger().next_position());
        index const keep = target > 0 ? target : std::max<index>(1, static_cast<index>(seen * (1 - ratio)));
        bool const evicts = by_norm ? cache.evict_if_needed(terse::kv::key_norm{.keep = keep}, when)
                                    : cache.evict_if_needed(terse::kv::keydiff{.keep = keep}, when);
        if (evicts) {
            cache.write("keep." + std::to_string(events.size()), out);
            events.push_back(step);
        }
        lengths.push_back(cache.ledger().length(0));
    }
    cache.write("keep", out);
    out.integers("lengths", {steps}, lengths);
    out.integers("events", {std::ssize(events)}, events);
}

}  // namespace

std::vector<method> kv_decoding_methods() {
    return {
        {"openvino-cache-eviction",
         "",
         "kv",
         "Evicts whole blocks with the lowest scores, step by step",
         {{"block", "tokens of a block", 32},
          {"layers", "layers", 1},
          {"start", "first tokens, always kept", 32},
          {"recent", "last tokens, always kept", 128},
          {"max_cache", "tokens to keep", 672},
          {"aggregation", "sum, norm_sum or adaptive_rkv", "norm_sum"},
          {"snapkv_window", "last queries of the prompt that score it; 0: all", 8},
          {"max_pool_window", "scores that a token takes the largest of", 7},
          {"kvcrush_budget", "blocks that stay as representatives of the evicted ones", 0},
          {"kvcrush_anchor", "random, zeros, ones, mean or alternating", "random"},
          {"attention_mass", "share of the scores that blocks are kept up to", 0.9},
          {"rkv_window", "steps that adaptive_rkv remembers", 8},
          {"steps", "calls of the model"},
          {"snapkv_scores", "queries behind the scores of each step; 0: all"}},
         block_eviction},
        {"decoding-press",
         "",
         "kv",
         "Shrinks a cache every so many tokens of decoding",
         {{"prompt", "tokens before the first step"},
          {"steps", "tokens that are decoded"},
          {"interval", "tokens from one eviction to the next", 512},
          {"target", "tokens to keep; 0: by target_ratio", 0},
          {"target_ratio", "share of the tokens so far to drop", 0.0},
          {"scorer", "knorm or keydiff"}},
         decoding},
    };
}

}  // namespace cli

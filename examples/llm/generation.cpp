// SPDX-License-Identifier: Apache-2.0
#include "generation.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>

#include <terse/kv.hpp>

namespace llm {
namespace {

using terse::arena;
using terse::plans;
using terse::result;
using layer = terse::layer<float>;

void check(terse::errc error) {
    if (error != terse::errc::ok) throw terse::bad_result(error);
}

/// A policy that remembers nothing.
template <class Policy>
class stateless : public evictor {
  public:
    explicit stateless(Policy const& policy) : policy_{policy} {}
    result<plans> decide(layer const& l, arena& memory) const override { return policy_(l, memory); }

  private:
    Policy policy_;
};

template <class Policy>
std::unique_ptr<evictor> make_stateless(Policy const& policy) {
    return std::make_unique<stateless<Policy>>(policy);
}

/// Attention of all queries so far.
class heavy_hitters : public evictor {
  public:
    heavy_hitters(index kv_heads, index capacity, index keep)
        : values_(static_cast<std::size_t>(kv_heads * capacity)),
          sums_{.values = values_, .heads = kv_heads, .capacity = capacity},
          policy_{.keep = keep, .recent = keep - keep / 2} {}

    void observe(layer const& l, arena& memory) override { check(sums_.add(l, memory)); }
    result<plans> decide(layer const&, arena& memory) const override { return policy_(sums_, memory); }
    void compact(plans const& kept) override { check(sums_.compact(kept)); }
    std::size_t bytes() const override { return values_.size() * sizeof(float); }

  private:
    std::vector<float> values_;
    terse::kv::column_sums sums_;
    terse::kv::h2o policy_;
};

/// Queries that gave a slot more than its share.
class persistent : public evictor {
  public:
    persistent(index kv_heads, index capacity, index keep)
        : values_(static_cast<std::size_t>(kv_heads * capacity)),
          counts_{.values = values_, .heads = kv_heads, .capacity = capacity},
          policy_{.keep = keep, .drop = keep / 4} {}

    void observe(layer const& l, arena& memory) override { check(policy_.observe(counts_, l, memory)); }
    result<plans> decide(layer const&, arena& memory) const override { return policy_(counts_, memory); }
    void compact(plans const& kept) override { check(counts_.compact(kept)); }
    std::size_t bytes() const override { return values_.size() * sizeof(float); }

  private:
    std::vector<float> values_;
    terse::kv::hit_counts counts_;
    terse::kv::scissorhands policy_;
};

constexpr index block = 8;

/// Scores of whole blocks, as a paged cache evicts them.
class blockwise : public evictor {
  public:
    blockwise(index capacity, index keep)
        : sums_(static_cast<std::size_t>(capacity)),
          since_(static_cast<std::size_t>(capacity)),
          scores_{.sums = sums_, .since = since_, .capacity = capacity},
          policy_{.keep = keep, .sinks = block, .recent = 2 * block, .block = block} {}

    void observe(layer const& l, arena& memory) override { check(scores_.add(l, policy_.pool, 0, memory)); }
    result<plans> decide(layer const& l, arena& memory) const override {
        auto const choice = policy_.choose(scores_, l, memory);
        if (!choice) return choice.error();
        return choice->kept;
    }
    void compact(plans const& kept) override { check(scores_.compact(kept)); }
    std::size_t bytes() const override { return sums_.size() * sizeof(double) + since_.size() * sizeof(token); }

  private:
    std::vector<double> sums_;
    std::vector<token> since_;
    terse::kv::block_scores scores_;
    terse::kv::block_eviction policy_;
};

constexpr index sinks = 4;

constexpr std::array table{
    step_policy{.name = "streaming",
                .summary = "4 sinks and the most recent, renumbered every 16 tokens",
                .make =
                    [](index, index, index keep) {
                        return make_stateless(terse::kv::streaming_llm{.sinks = sinks, .recent = keep - sinks});
                    },
                .every = 16,
                .positions = terse::kv::numbering::renumber},
    step_policy{.name = "knorm",
                .summary = "the shortest keys, 4 sinks and 16 recent ones",
                .make =
                    [](index, index, index keep) {
                        return make_stateless(terse::kv::key_norm{.keep = keep, .sinks = sinks, .recent = 16});
                    }},
    step_policy{.name = "keydiff",
                .summary = "keys unlike the mean direction, 4 sinks and 16 recent ones",
                .make =
                    [](index, index, index keep) {
                        return make_stateless(terse::kv::keydiff{.keep = keep, .sinks = sinks, .recent = 16});
                    }},
    step_policy{.name = "h2o",
                .summary = "half by the attention received so far, half most recent",
                .make = [](index kv_heads, index capacity, index keep) -> std::unique_ptr<evictor> {
                    return std::make_unique<heavy_hitters>(kv_heads, capacity, keep);
                }},
    step_policy{.name = "tova",
                .summary = "by the attention of the last query, over all heads",
                .make = [](index, index, index keep) { return make_stateless(terse::kv::tova{.keep = keep}); }},
    step_policy{.name = "scissorhands",
                .summary = "by how many queries gave a slot more than its share, a quarter goes at a time",
                .make = [](index kv_heads, index capacity, index keep) -> std::unique_ptr<evictor> {
                    return std::make_unique<persistent>(kv_heads, capacity, keep);
                }},
    step_policy{.name = "blocks",
                .summary = "blocks of 8 by the mean attention of their slots",
                .make = [](index, index capacity, index keep) -> std::unique_ptr<evictor> {
                    return std::make_unique<blockwise>(capacity, keep);
                },
                .every = block},
    step_policy{
        .name = "r-kv",
        .summary = "by the attention of the last 8 queries, less what other keys say already, every 16 tokens",
        .make = [](index, index, index keep) { return make_stateless(terse::kv::r_kv{.keep = keep, .sinks = sinks}); },
        .window = 8,
        .every = 16},
    step_policy{.name = "snapkv",
                .summary = "by the attention of the last 16 queries, every 16 tokens",
                .make =
                    [](index, index, index keep) {
                        return make_stateless(terse::kv::snapkv{.keep = keep, .window = 16, .sinks = sinks});
                    },
                .window = 16,
                .every = 16},
};

}  // namespace

std::span<step_policy const> step_policies() { return table; }

step_policy const& find_step_policy(std::string_view name) {
    auto const found = std::find_if(table.begin(), table.end(), [&](step_policy const& p) { return p.name == name; });
    if (found == table.end())
        throw std::invalid_argument("no policy for generations is named '" + std::string(name) + "'");
    return *found;
}

generation::generation(model const& lm, step_policy const& policy, index keep)
    : lm_{&lm},
      policy_{&policy},
      keep_{keep},
      cache_{lm.make_cache(keep + policy.every)},
      frequencies_{lm.rope_frequencies()} {
    llm::shape const& s = lm.shape();
    terse::kv::ledger<float>::shape const sizes{.kv_heads = s.kv_heads,
                                                .capacity = keep + policy.every,
                                                .heads = s.heads,
                                                .dim = s.head_dim,
                                                .window = policy.window};
    for (index l = 0; l < s.layers; ++l) {
        std::vector<std::byte> memory(static_cast<std::size_t>(terse::kv::ledger<float>::bytes(sizes)));
        auto const ledger = terse::kv::ledger<float>::open(sizes, memory).value();
        layers_.push_back({std::move(memory), ledger, policy.make(s.kv_heads, sizes.capacity, keep)});
    }
}

std::size_t generation::bytes() const {
    std::size_t sum = cache_.capacity_bytes() + memory_.peak();
    for (layer_books const& l : layers_) sum += l.memory.size() + l.decides->bytes();
    return sum;
}

matrix generation::read(token next) {
    trace seen;
    matrix state = lm_->forward({&next, 1}, cache_, &seen);
    for (index l = 0; l < cache_.layers(); ++l) evict(l, seen.queries[static_cast<std::size_t>(l)]);
    cache_.move_to(layers_.front().ledger.next_position());
    return state;
}

void generation::evict(index l, matrix const& queries) {
    auto& ledger = layers_[static_cast<std::size_t>(l)].ledger;
    auto& decides = layers_[static_cast<std::size_t>(l)].decides;
    llm::shape const& s = lm_->shape();
    layer const seen{.keys = cache_.keys(l), .values = cache_.values(l)};
    memory_.rewind();
    check(ledger.append(1, terse::token_major(queries.data(), s.heads, 1, s.head_dim)));

    auto newest = seen;
    newest.queries = terse::token_major(queries.data(), s.heads, 1, s.head_dim);
    decides->observe(newest, memory_);
    auto const policy = [&](layer const& known, arena& memory, terse::serial const&) noexcept {
        return decides->decide(known, memory);
    };
    auto const evicted =
        ledger.evict_if_needed(policy, seen, {.after_prompt = false, .every = policy_->every, .above = keep_}, memory_);
    if (!evicted) throw terse::bad_result(evicted.error());
    if (!evicted->evicts()) return;

    auto const before = cache_.keys(l);
    for (auto const& rows : {before, cache_.values(l)}) check(terse::kv::compact(rows, evicted->kept));
    if (policy_->positions == terse::kv::numbering::renumber)
        check(terse::kv::renumber(before, evicted->kept, evicted->positions, {frequencies_}));
    decides->compact(evicted->kept);
    for (index h = 0; h < s.kv_heads; ++h) cache_.keep(l, h, evicted->kept[h].kept());
    check(ledger.commit(*evicted, policy_->positions));
}

}  // namespace llm

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include <terse/core/arena.hpp>
#include <terse/kv/ledger.hpp>
#include <terse/kv/rotate.hpp>

#include "engine.hpp"

namespace llm {

/// Decides for one layer of a cache that does not grow: a policy, with what it remembers from token to token.
class evictor {
  public:
    virtual ~evictor() = default;

    /// A token has been appended to the layer, whose last query is its own.
    virtual void observe(terse::layer<float> const&, terse::arena&) {}

    /// What stays.
    [[nodiscard]] virtual terse::result<terse::plans> decide(terse::layer<float> const& l, terse::arena&) const = 0;

    /// The cache was compacted so.
    virtual void compact(terse::plans const&) {}

    /// Bytes of what it remembers.
    [[nodiscard]] virtual std::size_t bytes() const { return 0; }
};

/// A policy for a long generation under a name.
struct step_policy {
    std::string_view name;
    std::string_view summary;
    /// For a layer of `kv_heads` heads with at most `capacity` slots, of which `keep` stay.
    std::unique_ptr<evictor> (*make)(index kv_heads, index capacity, index keep);
    index window = 1;  ///< last queries that it reads
    index every = 1;   ///< tokens from one eviction to the next
    terse::kv::numbering positions = terse::kv::numbering::keep;
};

/// Every policy that can bound a generation, in the order of the table.
[[nodiscard]] std::span<step_policy const> step_policies();

/// Throws std::invalid_argument when no policy has the name.
[[nodiscard]] step_policy const& find_step_policy(std::string_view name);

/// A model that reads token after token with a cache of fixed size.
class generation {
  public:
    /// Each head keeps `keep` slots of each layer, and holds at most policy.every more.
    generation(model const& lm, step_policy const& policy, index keep);

    /// Reads one more token and returns the normalised state [1, width] that `model::logits` takes.
    /// Throws terse::bad_result when the policy refuses.
    matrix read(token next);

    [[nodiscard]] cache const& kv() const { return cache_; }
    [[nodiscard]] terse::kv::ledger<float> const& books(index layer) const { return at(layer).ledger; }

    /// Bytes of the cache, the ledgers, the policies' memory and the arena: what does not grow with the text.
    [[nodiscard]] std::size_t bytes() const;

  private:
    struct layer_books {
        std::vector<std::byte> memory;
        terse::kv::ledger<float> ledger;
        std::unique_ptr<evictor> decides;
    };

    [[nodiscard]] layer_books const& at(index layer) const { return layers_[static_cast<std::size_t>(layer)]; }
    void evict(index layer, matrix const& queries);

    model const* lm_;
    step_policy const* policy_;
    index keep_;
    cache cache_;
    std::vector<layer_books> layers_;
    std::vector<float> frequencies_;
    terse::arena memory_;
};

}  // namespace llm

#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <Eigen/Core>

#include <terse/core/arena.hpp>
#include <terse/core/layer.hpp>
#include <terse/core/plan.hpp>

#include "../compare.hpp"

namespace terse::bench {

/// One layer of a prompt as large engines hold it, in float: what every eviction of a prompt is measured on.
struct prompt {
    static constexpr index kv_heads = 8, group = 4, heads = kv_heads * group, dim = 128, window = 32;
    static constexpr std::array<index, 3> lengths = {4096, 32768, 131072};

    index tokens = 0;
    aligned<float> keys, values, queries;  ///< [kv_heads, tokens, dim] twice, [heads, window, dim]; on [-1, 1)

    explicit prompt(index n)
        : tokens{n},
          keys(random(kv_heads * n * dim, 1)),
          values(random(kv_heads * n * dim, 2)),
          queries(random(heads * window * dim, 3)) {}

    [[nodiscard]] terse::layer<float> layer(index queries_used = window) const {
        auto all = head_major(queries.data(), heads, window, dim);
        all.data = all.row(0, window - queries_used), all.tokens = queries_used;
        return {.keys = head_major(keys.data(), kv_heads, tokens, dim),
                .values = head_major(values.data(), kv_heads, tokens, dim),
                .queries = all};
    }
    [[nodiscard]] auto keys_of(index kv) const { return view(keys.data() + kv * tokens * dim, tokens, dim).map(); }
    [[nodiscard]] auto values_of(index kv) const { return view(values.data() + kv * tokens * dim, tokens, dim).map(); }
    [[nodiscard]] auto queries_of(index h) const { return view(queries.data() + h * window * dim, window, dim).map(); }

  private:
    static aligned<float> random(index count, std::uint64_t seed) {
        aligned<float> x(static_cast<std::size_t>(count));
        for (float& value : x) {
            seed = seed * 6364136223846793005U + 1442695040888963407U;
            value = static_cast<float>(seed >> 40) * 0x1p-23F - 1.0F;
        }
        return x;
    }
};

/// The prompt of a length, made once: it takes as long as many a method on it.
[[nodiscard]] inline std::shared_ptr<prompt const> prompt_of(index tokens) {
    static std::map<index, std::shared_ptr<prompt const>> made;
    auto& p = made[tokens];
    if (p == nullptr) p = std::make_shared<prompt const>(tokens);
    return p;
}

/// For each kv head, or for all of them, the slots that stay, ascending.
using slots = std::vector<std::vector<token>>;
[[nodiscard]] slots as_slots(plans const& p);

/// Whether they differ in no more than this share of the slots.
[[nodiscard]] bool same(slots const& a, slots const& b, double share);

/// What a method does to a prompt, and the same by the book, in Eigen unless a peer is named.
struct prompt_method {
    std::function<result<plans>(prompt const&, arena&)> ours;
    std::function<slots(prompt const&)> theirs;
    double differ = 1e-3;  ///< share of the slots in which they may differ, where scores are nearly equal
    std::string peer = eigen_name();
};

/// Adds a row for each length: the time beside one pass over the keys, and beside the peer.
void add_prompt_rows(std::string const& kernel, prompt_method const& method,
                     std::vector<index> const& lengths = {prompt::lengths.begin(), prompt::lengths.end()});

}  // namespace terse::bench

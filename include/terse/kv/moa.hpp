// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>

#include <terse/budget/elastic_span.hpp>
#include <terse/core/layer.hpp>
#include <terse/core/parallel.hpp>
#include <terse/core/plan.hpp>
#include <terse/select/top_k.hpp>

namespace terse::kv {

/// The slots of one head's cache of a fixed size: the first tokens for good, then a ring of the latest.
struct ring_slots {
    index size = 0;   ///< slots
    index fixed = 0;  ///< first slots, never written again

    /// The slot that token t is written to, over the token that had it; -1 where there is no ring and t is too late.
    [[nodiscard]] constexpr index slot(index t) const noexcept {
        if (t < fixed) return t;
        return size > fixed ? fixed + (t - fixed) % (size - fixed) : -1;
    }
    /// The token in a slot once `tokens` were written; -1 while it is empty.
    [[nodiscard]] constexpr index held(index slot, index tokens) const noexcept {
        if (slot < fixed || tokens <= size) return slot < tokens ? slot : -1;
        index const ring = size - fixed, latest = tokens - 1 - fixed;
        return fixed + latest - (latest - (slot - fixed)) % ring;
    }
    /// Slots in use once `tokens` were written.
    [[nodiscard]] constexpr index used(index tokens) const noexcept { return std::min(size, tokens); }
};

/// Keeps of each head the first slots and as many recent ones as the head's span asks for at this length.
///
/// Source: Fu et al., "MoA: Mixture of Sparse Attention for Automatic Large Language Model Compression",
/// arXiv:2406.14909; sizes, slots and masks as its code. Differs: query heads that share a kv head get the longest of
/// their spans, where the code copies keys for each query head; spans are any numbers, where its kernels want two a
/// layer. `budget::span_search` finds spans. Positions stay.
struct moa {
    std::span<budget::elastic_span const> spans{};  ///< of the kv heads, or of the query heads
    index sinks = 64;                               ///< first slots, always kept
    index minimum = 128;                            ///< the least size of a head's cache
    index multiple = 64;                            ///< sizes are rounded up to multiples of this
    index coming = 1024;                            ///< tokens to be generated: they count for the length

    /// errc::bad_budget for sizes below one or negative counts, errc::bad_setting for a span that is not finite.
    [[nodiscard]] errc check() const noexcept {
        bool const counts = sinks >= 0 && coming >= 0 && minimum >= 1 && minimum <= max_tokens && multiple >= 1 &&
                            multiple <= max_tokens && coming <= max_tokens;
        if (!counts) return errc::bad_budget;
        bool const finite = std::all_of(spans.begin(), spans.end(), [](auto const& s) { return s.is_finite(); });
        return finite ? errc::ok : errc::bad_setting;
    }

    /// The cache of a head of this span for a prompt of `tokens`; more slots than tokens where the minimum is larger.
    [[nodiscard]] constexpr ring_slots cache(budget::elastic_span span, index tokens) const noexcept {
        index const n = tokens + coming;
        auto const wanted = static_cast<index>(std::clamp(span.at(n), 0.0, static_cast<double>(n)));
        index const size = (std::max(wanted, minimum) + multiple - 1) / multiple * multiple;
        return {size, std::min(size, sinks)};
    }
    /// The largest cache of the heads that share kv head h.
    [[nodiscard]] constexpr ring_slots cache_of(index h, index kv_heads, index tokens) const noexcept {
        index const group = std::ssize(spans) / kv_heads;
        ring_slots largest{};
        for (auto const& span : spans.subspan(static_cast<std::size_t>(h * group), static_cast<std::size_t>(group))) {
            auto const own = cache(span, tokens);
            if (own.size > largest.size) largest = own;
        }
        return largest;
    }

    /// @param l     its shape is read, how many slots each head holds, and `guarded`, whose slots stay
    /// @return      a selection for each kv head, of differing counts: what its `cache_of` holds after the prompt, and
    ///              the guarded slots. Errors of `check`; errc::bad_shape unless there are as many spans for each kv
    ///              head, at least one; errc::out_of_memory
    /// @complexity  O(kept + spans)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory, Run const& = {}) const noexcept {
        if (errc const error = check(); error != errc::ok) return error;
        index const heads = l.kv_heads();
        if (l.tokens() < 0 || l.tokens() > max_tokens || heads < 1) return errc::bad_shape;
        if (spans.empty() || std::ssize(spans) % heads != 0) return errc::bad_shape;
        rollback undo{memory};
        auto const items = memory.take<plan>(heads);
        auto const rows = select::rows_of(l, heads, l.tokens(), {.keep = max_tokens}, memory);
        if (!rows) return rows.error();
        if (!taken(items)) return errc::out_of_memory;
        for (index h = 0; h < heads; ++h) {
            auto [tokens, q] = (*rows)[static_cast<std::size_t>(h)];
            ring_slots const own = cache_of(h, heads, tokens);
            q.leading = own.fixed, q.trailing = own.size - own.fixed;
            auto const kept = memory.take<token>(q.fixed(tokens));
            if (!taken(kept)) return errc::out_of_memory;
            select::choose_fixed(q, tokens, kept);
            std::construct_at(&items[static_cast<std::size_t>(h)], select_rows(kept, tokens));
        }
        undo.keep();
        return plans{items};
    }
};

/// What a query of a prompt may see under a span that counts blocks: MoA's sparse kernels.
struct block_band {
    index block = 64;  ///< tokens of a block
    index width = 1;   ///< blocks that a query sees, its own included

    /// The band of a span over a prompt of `tokens`.
    [[nodiscard]] static block_band of(budget::elastic_span span, index tokens, index block) noexcept {
        auto const size = static_cast<double>(block), blocks = static_cast<double>(tokens) / size;
        double const width = std::floor(span.base / size) + span.slope * blocks;
        return {block, static_cast<index>(std::clamp(width, 1.0, std::max(blocks, 1.0)))};
    }
    /// Whether the query at `query` sees the key at `key`: in the first block, or near enough.
    [[nodiscard]] constexpr bool sees(index query, index key) const noexcept {
        return key <= query && (key < block || query / block - key / block < width);
    }
};

/// What a query of a prompt may see under a span at its own length: the latest keys, itself included.
struct token_band {
    budget::elastic_span span{};

    /// Keys that the query at `query` sees.
    [[nodiscard]] constexpr index width(index query) const noexcept {
        auto const length = static_cast<double>(query + 1);
        double wanted = span.base;
        if (length > span.base) {  // what the slope adds is rounded towards zero by itself
            double const most = length - span.base;
            wanted += static_cast<double>(static_cast<index>(std::clamp(span.slope * most, -most, most)));
        }
        return static_cast<index>(std::clamp(wanted, 0.0, length));
    }
    [[nodiscard]] constexpr bool sees(index query, index key) const noexcept {
        return key <= query && key > query - width(query);
    }
};

}  // namespace terse::kv

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <numeric>
#include <span>
#include <utility>

#include <terse/core/arena.hpp>
#include <terse/core/plan.hpp>
#include <terse/core/result.hpp>

namespace terse {

/// The one plan that does what `earlier` and then `later` do: the product later * earlier, where a source that comes in
/// several ways has the sum of its weights. Anchors and owners follow through both, where both plans have them. Two
/// selections give a selection.
///
/// @param later    made of the rows of `earlier`
/// @param earlier  [kept, tokens]
/// @return         errc::bad_shape when later.tokens is not earlier.kept(), or the product has more than max_tokens
///                 entries; errc::out_of_memory
/// @complexity     O(tokens + products * log(entries of a row)); scratch 8 bytes an input
[[nodiscard]] inline result<plan> compose(plan const& later, plan const& earlier, arena& memory) noexcept {
    if (later.tokens != earlier.kept()) return errc::bad_shape;
    rollback undo{memory};
    plan p{.tokens = earlier.tokens};
    index const kept = later.kept();
    auto const at = [](std::span<token const> map, token i) {
        return i < 0 ? token{-1} : map[static_cast<std::size_t>(i)];
    };

    if (std::ssize(later.anchor) == kept && std::ssize(earlier.anchor) == later.tokens) {
        auto const anchor = memory.take<token>(kept);
        if (!taken(anchor)) return errc::out_of_memory;
        for (std::size_t i = 0; i < anchor.size(); ++i) anchor[i] = at(earlier.anchor, later.anchor[i]);
        p.anchor = anchor;
    }
    if (std::ssize(later.owner) == later.tokens && std::ssize(earlier.owner) == p.tokens) {
        auto const owner = memory.take<token>(p.tokens);
        if (!taken(owner)) return errc::out_of_memory;
        for (std::size_t j = 0; j < owner.size(); ++j) owner[j] = at(later.owner, earlier.owner[j]);
        p.owner = owner;
    }

    if (later.is_selection() && earlier.is_selection()) {
        auto const sources = memory.take<token>(kept);
        if (!taken(sources)) return errc::out_of_memory;
        for (std::size_t i = 0; i < sources.size(); ++i) sources[i] = at(earlier.sources, later.sources[i]);
        p.sources = sources;
        undo.keep();
        return p;
    }

    // Calls visit(source, weight) for each product of row i.
    auto const products = [&](index i, auto visit) {
        plan::entries const outer = later.row(i);
        for (std::size_t k = 0; k < outer.sources.size(); ++k) {
            plan::entries const inner = earlier.row(outer.sources[k]);
            for (std::size_t l = 0; l < inner.sources.size(); ++l)
                visit(static_cast<std::size_t>(inner.sources[l]), outer.weight(k) * inner.weight(l));
        }
    };

    auto const offsets = memory.take<token>(kept + 1);
    if (!taken(offsets)) return errc::out_of_memory;
    auto const counted = memory.here();
    auto seen = memory.take<token>(p.tokens);  // the row that an input was last seen in
    if (!taken(seen)) return errc::out_of_memory;
    std::fill(seen.begin(), seen.end(), token{-1});
    index entries = 0, all = 0;
    offsets[0] = 0;
    for (index i = 0; i < kept; ++i) {
        products(i, [&](std::size_t source, float) {
            entries += std::exchange(seen[source], static_cast<token>(i)) != i;
            ++all;
        });
        if (entries > max_tokens) return errc::bad_shape;
        offsets[static_cast<std::size_t>(i) + 1] = static_cast<token>(entries);
    }
    memory.rewind(counted);
    bool const weighted = !later.weights.empty() || !earlier.weights.empty() || entries != all;

    auto const sources = memory.take<token>(entries);
    auto const weights = memory.take<float>(weighted ? entries : 0);
    auto const results = memory.here();
    seen = memory.take<token>(p.tokens);
    auto const sum = memory.take<float>(p.tokens);
    if (!taken(sources, weights, seen, sum)) return errc::out_of_memory;
    std::fill(seen.begin(), seen.end(), token{-1});
    auto next = sources.begin();
    for (index i = 0; i < kept; ++i) {
        auto const first = next;
        products(i, [&](std::size_t source, float weight) {
            if (std::exchange(seen[source], static_cast<token>(i)) != i) {
                *next++ = static_cast<token>(source);
                sum[source] = 0;
            }
            sum[source] += weight;
        });
        std::sort(first, next);
        if (!weighted) continue;
        auto weight = weights.begin() + (first - sources.begin());
        for (auto source = first; source != next; ++source) *weight++ = sum[static_cast<std::size_t>(*source)];
    }
    memory.rewind(results);
    p.sources = sources;
    p.offsets = offsets;
    p.weights = weights;
    undo.keep();
    return p;
}

/// The plan on tokens [first, first + inner.tokens) of a longer sequence, whose other tokens stay: rows before, the
/// plan's rows, rows after. Anchors and owners are those of the sequence, where the plan has them.
///
/// @param total  tokens of the sequence
/// @return       a selection if `inner` is one; errc::bad_shape when the span does not lie in the sequence, or the
///               result has more than max_tokens rows or entries; errc::out_of_memory
/// @complexity   O(total + entries)
[[nodiscard]] inline result<plan> lift(plan const& inner, index first, index total, arena& memory) noexcept {
    if (first < 0 || total > max_tokens || first > total || inner.tokens > total - first) return errc::bad_shape;
    index const others = total - inner.tokens, kept = inner.kept();
    index const entries = std::ssize(inner.sources);
    if (kept > max_tokens - others || entries > max_tokens - others) return errc::bad_shape;

    rollback undo{memory};
    plan p{.tokens = total};
    // 0, 1, ... before, the span's values moved up (-1 stays), and from `after` on for the tokens behind.
    auto const extend = [&](std::span<token const> middle, index moved, index after) -> std::span<token> {
        auto const out = memory.take<token>(std::ssize(middle) + others);
        if (!taken(out)) return {};
        auto const begin = out.begin() + first;
        std::iota(out.begin(), begin, token{0});
        auto const end = std::transform(middle.begin(), middle.end(), begin,
                                        [moved](token x) { return x < 0 ? x : static_cast<token>(x + moved); });
        std::iota(end, out.end(), static_cast<token>(after));
        return out;
    };

    auto const sources = extend(inner.sources, first, first + inner.tokens);
    if (!taken(sources)) return errc::out_of_memory;
    p.sources = sources;
    if (!inner.offsets.empty()) {
        auto const offsets = extend(inner.offsets, first, first + entries + 1);
        if (!taken(offsets)) return errc::out_of_memory;
        p.offsets = offsets;
    }
    if (!inner.weights.empty()) {
        auto const weights = memory.take<float>(entries + others);
        if (!taken(weights)) return errc::out_of_memory;
        std::fill(weights.begin(), weights.end(), 1.0F);
        std::copy(inner.weights.begin(), inner.weights.end(), weights.begin() + first);
        p.weights = weights;
    }
    if (std::ssize(inner.anchor) == kept) {
        auto const anchor = extend(inner.anchor, first, first + inner.tokens);
        if (!taken(anchor)) return errc::out_of_memory;
        p.anchor = anchor;
    }
    if (std::ssize(inner.owner) == inner.tokens) {
        auto const owner = extend(inner.owner, first, first + kept);
        if (!taken(owner)) return errc::out_of_memory;
        p.owner = owner;
    }
    undo.keep();
    return p;
}

}  // namespace terse

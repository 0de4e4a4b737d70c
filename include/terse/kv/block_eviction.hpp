// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/core/plan.hpp>
#include <terse/kv/block_scores.hpp>
#include <terse/score/block_diversity.hpp>
#include <terse/select/blocks.hpp>
#include <terse/select/hamming.hpp>

namespace terse::kv {

/// What the scores of a block are made of.
enum class block_aggregation : unsigned char {
    sum,           ///< what its slots have received so far
    norm_sum,      ///< the same, of each slot divided by the number of queries that scored it
    adaptive_rkv,  ///< the mean over the last steps; blocks without a share in it stay for their diversity
};

/// What block-wise eviction decides.
struct block_choice {
    range evictable{};                 ///< logical blocks that could go; empty where nothing has to
    std::span<double const> scores{};  ///< [evictable]
    std::span<token const> evicted{};  ///< logical blocks that go, ascending
    plans kept{};                      ///< the slots of the others: one selection that all heads share
};

/// Evicts whole blocks of a paged cache, those with the lowest scores between the first and the recent ones; all heads
/// share them. Nothing goes until a block more than `keep` is full, so the cache holds at most keep + block - 1 slots
/// after each call, and `rescued` blocks more.
///
/// Source: the cache eviction of OpenVINO GenAI, continuous_batching/cache; its adaptive R-KV follows Cai et al.,
/// "R-KV: Redundancy-aware KV Cache Compression for Reasoning Models", arXiv:2505.24133, its rescued blocks KVCrush
/// (`select::rescue`). Differs: of equal blocks the earlier stays, unless `newer_wins`; random anchors have a seed of
/// their own for each call; the diversity of blocks is computed for those that compete by it.
struct block_eviction {
    index keep = 672;    ///< slots to keep, sinks and recent ones included
    index sinks = 32;    ///< first slots, always kept
    index recent = 128;  ///< last slots in full blocks, always kept, besides those of a block that is not full
    index block = 32;    ///< slots of a block; divides sinks and recent
    block_aggregation aggregation = block_aggregation::norm_sum;
    index snapkv_window = 8;  ///< last queries of the prompt that score it; 0: all
    index pool = 7;           ///< a slot takes the largest of this many scores, from its own on
    bool newer_wins = false;  ///< of equal blocks the later stays, as published
    index rescued = 0;        ///< blocks that are to go and stay as representatives; not for adaptive_rkv
    select::anchor anchor = select::anchor::random;
    std::uint64_t seed = 0;  ///< of a random anchor
    double mass = 0.9;       ///< adaptive_rkv: share of all scores that the highest blocks are kept up to

    /// errc::bad_budget unless 0 <= sinks, recent and sinks + recent < keep; errc::bad_setting for a block that does
    /// not divide these two, a pool outside [1, simd::widest_forward_max], a mass outside [0, 1], a negative count, or
    /// blocks to rescue with adaptive_rkv.
    [[nodiscard]] constexpr errc check() const noexcept {
        if (keep < 1 || sinks < 0 || recent < 0 || sinks >= keep || recent >= keep - sinks) return errc::bad_budget;
        if (block < 1 || sinks % block != 0 || recent % block != 0) return errc::bad_setting;
        if (snapkv_window < 0 || rescued < 0 || pool < 1 || pool > simd::widest_forward_max) return errc::bad_setting;
        if (!(mass >= 0 && mass <= 1) || (rescued > 0 && adaptive())) return errc::bad_setting;
        return errc::ok;
    }

    [[nodiscard]] constexpr bool adaptive() const noexcept { return aggregation == block_aggregation::adaptive_rkv; }

    /// The logical blocks that may go of so many slots; none where nothing has to.
    [[nodiscard]] constexpr range evictable(index tokens) const noexcept {
        if (tokens < keep + block) return {};
        return {sinks / block, tokens / block - recent / block};
    }

    /// Slots left of so many.
    [[nodiscard]] constexpr index count(index tokens) const noexcept {
        range const blocks = evictable(tokens);
        index const surplus = std::max<index>(blocks.size() - places(), 0);
        return tokens - (surplus >= rescued ? surplus - rescued : surplus) * block;
    }

    /// Adds a step's scores to a state: see `block_scores::add`.
    errc add(block_scores& state, std::span<float const> scores, index voters = 0) const noexcept {
        return state.add(scores, pool, voters);
    }

    /// At any step, from the scores so far. Compact the state with the plan, as well as the cache.
    /// @param guarded  slots that must stay, ascending
    /// @return         `check`'s errors; errc::bad_shape unless the state has counters for norm_sum and a history for
    ///                 adaptive_rkv; errc::bad_budget when guarded slots leave too few blocks to evict;
    ///                 errc::out_of_memory
    /// @complexity     O(tokens)
    template <executor Run = serial>
    [[nodiscard]] result<block_choice> choose(block_scores const& state, arena& memory, Run const& = {},
                                              std::span<range const> guarded = {}) const noexcept {
        if (adaptive()) return errc::bad_shape;
        auto const none = [](range, std::span<token const>, arena&) noexcept -> result<scores> {
            return errc::bad_shape;
        };
        return decide(state, none, guarded_slots{guarded}, memory);
    }

    /// The same with the layer whose keys say how blocks differ, for adaptive_rkv; what it guards stays.
    /// @param l    as many slots as the state
    /// @return     also errc::bad_shape when the slots differ, or heads hold different numbers of them
    /// @complexity O(tokens), and for adaptive_rkv O(kv_heads * competing slots^2 * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<block_choice> choose(block_scores const& state, layer<T, Cache> const& l, arena& memory,
                                              Run const& run = {}) const noexcept {
        if (l.tokens() != state.tokens() || !is_even(l)) return errc::bad_shape;
        auto const diversity = [&](range slots, std::span<token const> blocks, arena& scratch) noexcept {
            return score::block_diversity{.block = block, .slots = slots, .competing = blocks}(l, scratch, run);
        };
        auto const own = l.positions_of(0);
        auto const guards = [&](range slots) {
            return std::any_of(l.guarded.begin(), l.guarded.end(), [&](range g) {
                if (own.empty()) return g.begin < slots.end && slots.begin < g.end;  // slots stand at their numbers
                auto const at = std::lower_bound(own.begin() + slots.begin, own.begin() + slots.end, g.begin);
                return at != own.begin() + slots.end && *at < g.end;
            });
        };
        return decide(state, diversity, guards, memory);
    }

    /// The same with a diversity that the engine has computed.
    /// @param diversity  [evictable blocks, their slots]: see `score::block_diversity`
    /// @return           also errc::bad_shape when it has another shape
    template <executor Run = serial>
    [[nodiscard]] result<block_choice> choose(block_scores const& state, tokens_view<float> diversity, arena& memory,
                                              Run const& = {}, std::span<range const> guarded = {}) const noexcept {
        auto const given = [&](range slots, std::span<token const> blocks, arena& out) noexcept -> result<scores> {
            if (diversity.tokens * block != slots.size() || diversity.dim != slots.size()) return errc::bad_shape;
            auto const means = out.take<float>(std::ssize(blocks));
            if (!taken(means)) return errc::out_of_memory;
            std::transform(blocks.begin(), blocks.end(), means.begin(), [&](token row) {
                double sum = 0;
                for (token const column : blocks)
                    for (index i = column * block; i < (column + 1) * block; ++i)
                        sum += static_cast<double>(diversity.row(row)[i]);
                return static_cast<float>(sum / static_cast<double>(std::ssize(blocks) * block));
            });
            return scores{means, 1, std::ssize(means), std::ssize(means)};
        };
        return decide(state, given, guarded_slots{guarded}, memory);
    }

    /// After a prompt, without state: scores from the attention of its last queries.
    /// @param l   reads keys and queries, or attention, of the last `snapkv_window` tokens
    /// @return    one selection that all heads share; `choose`'s errors, errc::bad_shape among them where heads hold
    ///            different numbers of slots, and those of `score::attention`
    /// @complexity O(heads * queries * tokens * dim)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        if (errc const error = check(); error != errc::ok) return error;
        index const n = l.tokens();
        if (n < 0 || n > max_tokens || !is_even(l)) return errc::bad_shape;
        rollback undo{memory};
        block_scores state{.capacity = n, .used = n};
        if (evictable(n).size() > 0) {
            state.used = 0;
            if (adaptive()) state.history = memory.take<float>(n);
            if (!adaptive()) state.sums = memory.take<double>(n);
            if (aggregation == block_aggregation::norm_sum) state.since = memory.take<token>(n);
            bool const counted = aggregation != block_aggregation::norm_sum || taken(state.since);
            if (!(adaptive() ? taken(state.history) : taken(state.sums)) || !counted) return errc::out_of_memory;
            errc const error = state.add(l, pool, snapkv_window, memory, run);
            if (error != errc::ok) return error;
        }
        result<block_choice> const choice = choose(state, l, memory, run);
        if (!choice) return choice.error();
        undo.keep();
        return choice->kept;
    }

  private:
    /// Blocks between sinks and recent ones that stay.
    [[nodiscard]] constexpr index places() const noexcept { return (keep - sinks - recent) / block; }

    /// Says whether any of so many slots is guarded.
    struct guarded_slots {
        std::span<range const> ranges;

        [[nodiscard]] constexpr bool operator()(range slots) const noexcept {
            return std::any_of(ranges.begin(), ranges.end(),
                               [=](range g) { return g.begin < slots.end && slots.begin < g.end; });
        }
    };

    template <class Diversity, class Guards>
    [[nodiscard]] result<block_choice> decide(block_scores const& state, Diversity const& diversity,
                                              Guards const& guards, arena& memory) const noexcept {
        if (errc const error = check(); error != errc::ok) return error;
        index const n = state.tokens();
        range const area = evictable(n);
        if (area.size() > 0) {
            if (errc const error = state.check(); error != errc::ok) return error;
            bool const counts = aggregation != block_aggregation::norm_sum || !state.since.empty();
            if (state.remembers() != adaptive() || !counts) return errc::bad_shape;
        }
        rollback undo{memory};
        index const blocks = area.size(), first = area.begin * block;
        auto const item = memory.take<plan>(1);
        auto const scores = memory.take<double>(blocks);
        auto const gone = memory.take<token>(std::max<index>(blocks - places(), 0));
        auto const kept = memory.take<token>(n);
        if (!taken(item, scores, gone, kept)) return errc::out_of_memory;
        auto const top = memory.here();

        index evicted = 0;
        if (blocks > 0) {
            auto const slots = state.values(first, area.end * block, pool, memory);
            if (!slots) return slots.error();
            if (aggregation == block_aggregation::norm_sum)
                simd::block_sums(*slots, state.since.subspan(static_cast<std::size_t>(first), slots->size()),
                                 static_cast<token>(state.queries), block, scores);
            else
                simd::block_sums(*slots, block, scores);
            result<index> const found = lowest(scores, *slots, first, diversity, guards, gone, memory);
            if (!found) return found.error();
            evicted = *found;
        }
        memory.rewind(top);

        auto const going = gone.first(static_cast<std::size_t>(evicted));
        for (token& b : going) b += static_cast<token>(area.begin);
        auto to = kept.begin();
        token next = 0;
        for (token const b : going) {
            auto const run = static_cast<token>(b * block) - next;
            std::iota(to, to + run, next);
            to += run;
            next += run + static_cast<token>(block);
        }
        std::iota(to, to + (n - next), next);
        std::construct_at(item.data(), select_rows(kept.first(static_cast<std::size_t>(n - evicted * block)), n));
        undo.keep();
        return block_choice{area, scores, going, plans{item}};
    }

    /// The blocks that go, counted from the first evictable one, ascending; returns their number.
    template <class Diversity, class Guards>
    [[nodiscard]] result<index> lowest(std::span<double const> all, std::span<double const> slots, index first,
                                       Diversity const& diversity, Guards const& guards, std::span<token> gone,
                                       arena& memory) const noexcept {
        // Blocks that may go, and their scores.
        auto const open = memory.take<token>(std::ssize(all));
        auto const scores = memory.take<double>(std::ssize(all));
        if (!taken(open, scores)) return errc::out_of_memory;
        std::size_t count = 0;
        for (std::size_t b = 0; b < all.size(); ++b) {
            index const begin = first + static_cast<index>(b) * block;
            if (guards({begin, begin + block})) continue;
            open[count] = static_cast<token>(b);
            scores[count++] = all[b];
        }
        if (count < gone.size()) return errc::bad_budget;
        auto const ranked = scores.first(count);
        auto const stay = memory.take<token>(static_cast<index>(count - gone.size()));
        auto const rest = memory.take<token>(static_cast<index>(count));
        if (!taken(stay, rest)) return errc::out_of_memory;
        if (adaptive()) {
            result<index> const leading = select::leaders(ranked, mass, newer_wins, stay, memory);
            if (!leading) return leading.error();
            auto const competing = rest.first(count - static_cast<std::size_t>(*leading));
            select::complement(stay.first(static_cast<std::size_t>(*leading)), static_cast<index>(count), competing);
            for (token& b : competing) b = open[static_cast<std::size_t>(b)];
            return least_diverse({first, first + std::ssize(slots)}, competing, diversity, gone, memory);
        }
        errc const error = select::top_k(ranked, newer_wins, stay, memory);
        if (error != errc::ok) return error;
        select::complement(stay, static_cast<index>(count), gone);
        for (token& b : gone) b = open[static_cast<std::size_t>(b)];
        if (rescued == 0 || std::ssize(gone) < rescued) return std::ssize(gone);
        return without_rescued(slots, gone, memory);
    }

    /// Of competing blocks, gone.size() with the lowest diversity.
    template <class Diversity>
    [[nodiscard]] result<index> least_diverse(range slots, std::span<token const> competing, Diversity const& diversity,
                                              std::span<token> gone, arena& memory) const noexcept {
        if (competing.size() == gone.size()) {
            std::copy(competing.begin(), competing.end(), gone.begin());
            return std::ssize(gone);
        }
        result<terse::scores> const s = diversity(slots, competing, memory);
        if (!s) return s.error();
        auto const unlike = memory.take<double>(s->tokens);
        auto const stay = memory.take<token>(std::ssize(competing) - std::ssize(gone));
        if (!taken(unlike, stay)) return errc::out_of_memory;
        std::copy_n(s->row(0).begin(), unlike.size(), unlike.begin());
        if (errc const error = select::top_k(unlike, newer_wins, stay, memory); error != errc::ok) return error;
        select::complement(stay, std::ssize(competing), gone);
        for (token& b : gone) b = competing[static_cast<std::size_t>(b)];
        return std::ssize(gone);
    }

    [[nodiscard]] result<index> without_rescued(std::span<double const> slots, std::span<token> gone,
                                                arena& memory) const noexcept {
        auto const saved = memory.take<token>(rescued);
        if (!taken(saved)) return errc::out_of_memory;
        errc const error = select::rescue(slots, block, gone, anchor, seed, saved, memory);
        if (error != errc::ok) return error;
        auto const stays = [&](token b) { return std::binary_search(saved.begin(), saved.end(), b); };
        return std::remove_if(gone.begin(), gone.end(), stays) - gone.begin();
    }
};

}  // namespace terse::kv

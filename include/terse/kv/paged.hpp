// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <span>

#include <terse/core/arena.hpp>
#include <terse/core/parallel.hpp>
#include <terse/core/plan.hpp>
#include <terse/core/result.hpp>
#include <terse/core/view.hpp>
#include <terse/kv/compact.hpp>
#include <terse/kv/moves.hpp>
#include <terse/simd/rows.hpp>

namespace terse::kv {

// What an eviction means for the block table of a paged cache. `compact` keeps slots in their order, and moves most
// rows; here whole blocks go without a move, or as few rows move as it takes for whole blocks to come free. Blocks are
// named by their place in the sequence's table: one block may be in the tables of several sequences, and is then not
// written.

/// What becomes of a block table when whole blocks are evicted.
struct block_edit {
    plan table{};                    ///< of the table's entries: a selection of those that stay, in their order
    std::span<token const> freed{};  ///< places of the others, ascending; their blocks go back to the pool
};

/// The edit that evicts what the plans evict, where those are whole blocks: no row moves. Apply it to the table with
/// `compact`; blocks that other sequences share are left to them.
///
/// @return      errc::bad_shape without plans, for plans of different token counts or block_tokens below one;
///              errc::bad_plan unless all heads keep the same whole blocks, in order; errc::out_of_memory
/// @complexity  O(heads * kept)
[[nodiscard]] inline result<block_edit> drop_blocks(plans p, index block_tokens, arena& memory) noexcept {
    if (p.items.empty() || block_tokens < 1) return errc::bad_shape;
    index const n = p[0].tokens, blocks = (n + block_tokens - 1) / block_tokens;
    if (errc const error = check_compaction(p, std::ssize(p.items), n); error != errc::ok) return error;
    auto const same = [&](plan const& item) { return std::ranges::equal(item.sources, p[0].sources); };
    if (!std::all_of(p.items.begin(), p.items.end(), same)) return errc::bad_plan;

    rollback undo{memory};
    auto const stay = memory.take<token>(blocks), freed = memory.take<token>(blocks);
    if (!taken(stay, freed)) return errc::out_of_memory;
    std::size_t kept = 0, gone = 0;
    auto next = p[0].sources.begin();
    for (token b = 0; b < blocks; ++b) {
        index const begin = b * block_tokens, end = std::min(begin + block_tokens, n);
        auto const first = next;
        while (next != p[0].sources.end() && *next < end) ++next;
        if (next != first && next - first != end - begin) return errc::bad_plan;
        (next == first ? freed[gone++] : stay[kept++]) = b;
    }
    undo.keep();
    return block_edit{select_rows(stay.first(kept), blocks), freed.first(gone)};
}

/// How the rows that plans keep come to fill whole blocks, so that the other blocks come free.
struct packing {
    plan table{};                       ///< of the table's entries: a selection of those that stay, in their new order
    std::span<token const> freed{};     ///< places of the others, ascending; their blocks go back to the pool
    std::span<token const> copied{};    ///< places in the new table that get rows, and whose blocks others share
    plans slots{};                      ///< selections, slot after <- slot before; in no order of time
    std::span<row_move const> moves{};  ///< row by row, of all plans, one after the other; none is read and written
    std::span<token const> offsets{};   ///< [plans + 1]: where a plan's moves begin
    index block_tokens = 1;

    [[nodiscard]] constexpr std::span<row_move const> moves_of(index head) const noexcept {
        auto const i = slots.shared() ? 0 : static_cast<std::size_t>(head);
        auto const begin = static_cast<std::size_t>(offsets[i]);
        return moves.subspan(begin, static_cast<std::size_t>(offsets[i + 1]) - begin);
    }

    /// The new block table.
    /// @param old    the table before
    /// @param fresh  blocks for the `copied` places, which are in no table
    /// @param out    [table.kept()]; must not overlap `old`
    /// @return       errc::bad_shape when a size differs or there are too few fresh blocks
    [[nodiscard]] errc edit(std::span<token const> old, std::span<token const> fresh,
                            std::span<token> out) const noexcept {
        if (std::ssize(old) != table.tokens || out.size() != table.sources.size() || fresh.size() < copied.size())
            return errc::bad_shape;
        for (std::size_t i = 0; i < out.size(); ++i) out[i] = old[static_cast<std::size_t>(table.sources[i])];
        for (std::size_t i = 0; i < copied.size(); ++i) out[static_cast<std::size_t>(copied[i])] = fresh[i];
        return errc::ok;
    }
};

/// Packs what the plans keep into as few blocks as the head that keeps most needs, with the fewest row moves: the
/// blocks that hold most stay, rows of the others fill their holes. With plans that keep different counts the moves are
/// few, not always the fewest. `move_rows` does it; positions and whatever else is stored once a slot follow by `pick`
/// with `slots`, and masks must go by positions, since slots are no longer in the order of time.
///
/// @param p       selections, ascending, for each head or shared
/// @param shared  places in the table, ascending, of blocks that other sequences hold as well: they stay without a copy
///                only where no row is written to them
/// @return        errc::bad_shape without plans, for plans of different token counts, block_tokens below one, or a
///                shared place beyond the table; errc::bad_plan when a plan is something else; errc::out_of_memory
/// @complexity    O(heads * tokens + blocks * log(blocks))
[[nodiscard]] inline result<packing> pack(plans p, index block_tokens, arena& memory,
                                          std::span<token const> shared = {}) noexcept {
    if (p.items.empty() || block_tokens < 1) return errc::bad_shape;
    index const n = p[0].tokens, blocks = (n + block_tokens - 1) / block_tokens, heads = std::ssize(p.items);
    if (errc const error = check_compaction(p, heads, n); error != errc::ok) return error;
    if (!std::all_of(shared.begin(), shared.end(), [=](token b) { return 0 <= b && b < blocks; }))
        return errc::bad_shape;
    index most = 0, total = 0;
    for (plan const& item : p.items) most = std::max(most, item.kept()), total += item.kept();
    if (total > max_tokens) return errc::bad_shape;
    index const need = blocks_in_use(p, block_tokens);
    index const in_last = most - (need - 1) * block_tokens;  // slots of the last block that will be in use

    rollback undo{memory};
    auto const table = memory.take<token>(need), freed = memory.take<token>(blocks - need);
    auto const copied = memory.take<token>(need), offsets = memory.take<token>(heads + 1);
    auto const slots = memory.take<token>(total), place = memory.take<token>(blocks);
    auto const items = memory.take<plan>(heads);
    auto const order = memory.take<std::uint64_t>(blocks);
    auto const held = memory.take<token>(blocks), front = memory.take<token>(blocks);
    if (!taken(table, freed, copied, offsets, slots, place, items, order, held, front)) return errc::out_of_memory;

    // How many rows need not move if a block stays, as a full one or as the last. A shared block that is to be written
    // is copied: none of its rows is where it was.
    std::fill(held.begin(), held.end(), token{0});
    std::fill(front.begin(), front.end(), token{0});
    for (plan const& item : p.items) {
        for (token const s : item.sources) {
            auto const b = static_cast<std::size_t>(s / block_tokens);
            ++held[b];
            front[b] += s % block_tokens < in_last;
        }
    }
    for (token const b : shared) {
        auto const at = static_cast<std::size_t>(b);
        if (held[at] < heads * block_tokens) held[at] = front[at] = 0;
        if (in_last < block_tokens) front[at] = 0;
    }
    for (std::size_t b = 0; b < order.size(); ++b)
        order[b] = static_cast<std::uint64_t>(held[b]) << 32 | (0xFFFF'FFFF - b);
    std::sort(order.begin(), order.end(), std::greater<>{});
    auto const block_at = [&](index i) {
        return static_cast<std::size_t>(0xFFFF'FFFF - (order[static_cast<std::size_t>(i)] & 0xFFFF'FFFF));
    };
    index last = need - 1;  // in `order`: the block that becomes the last
    auto const gain = [&](index i) {
        index const instead = i < need - 1 ? held[block_at(need - 1)] - held[block_at(i)] : 0;
        return instead + front[block_at(i)];
    };
    for (index i = 0; i < blocks && need > 0; ++i)
        if (gain(i) > gain(last) || (gain(i) == gain(last) && block_at(i) > block_at(last))) last = i;

    std::fill(place.begin(), place.end(), token{-1});
    for (index i = 0; i < need - (last >= need - 1 ? 1 : 0); ++i) place[block_at(i)] = 0;
    if (need > 0) place[block_at(last)] = -1;
    token next = 0, gone = 0;
    for (std::size_t b = 0; b < place.size(); ++b) {
        if (need > 0 && b == block_at(last)) continue;
        if (place[b] < 0) {
            freed[static_cast<std::size_t>(gone++)] = static_cast<token>(b);
        } else {
            place[b] = next;
            table[static_cast<std::size_t>(next++)] = static_cast<token>(b);
        }
    }
    if (need > 0) {
        place[block_at(last)] = next;
        table[static_cast<std::size_t>(next)] = static_cast<token>(block_at(last));
    }

    // Rows that may stay take their slots; the slots left open are as many as the rows that move.
    auto const slot_after = [&](token s) -> index {
        token const b = place[static_cast<std::size_t>(s / block_tokens)];
        return b < 0 ? -1 : b * block_tokens + s % block_tokens;
    };
    std::fill(slots.begin(), slots.end(), token{-1});
    std::fill(copied.begin(), copied.end(), token{0});
    index begin = 0, moved = 0;
    for (index h = 0; h < heads; ++h) {
        auto const row = slots.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(p[h].kept()));
        for (token const s : p[h].sources)
            if (index const to = slot_after(s); to >= 0 && to < std::ssize(row)) row[static_cast<std::size_t>(to)] = s;
        offsets[static_cast<std::size_t>(h)] = static_cast<token>(moved);
        moved += std::count(row.begin(), row.end(), token{-1});
        std::construct_at(&items[static_cast<std::size_t>(h)], select_rows(row, n));
        begin += p[h].kept();
    }
    offsets[static_cast<std::size_t>(heads)] = static_cast<token>(moved);
    auto const moves = memory.take<row_move>(moved);
    if (!taken(moves)) return errc::out_of_memory;
    auto move = moves.begin();
    begin = 0;
    for (index h = 0; h < heads; ++h) {
        auto const row = slots.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(p[h].kept()));
        auto hole = row.begin();
        for (token const s : p[h].sources) {
            if (index const to = slot_after(s); to >= 0 && to < std::ssize(row)) continue;
            hole = std::find(hole, row.end(), token{-1});
            *hole = s;
            index const to = hole - row.begin();
            *move++ = {s, static_cast<token>(to), 1};
            copied[static_cast<std::size_t>(to / block_tokens)] = 1;
        }
        begin += p[h].kept();
    }
    std::size_t copies = 0;
    for (std::size_t b = 0; b < copied.size(); ++b)
        if (copied[b] != 0 && std::find(shared.begin(), shared.end(), table[b]) != shared.end())
            copied[copies++] = static_cast<token>(b);
    undo.keep();
    return packing{.table = select_rows(table, blocks),
                   .freed = freed,
                   .copied = copied.first(copies),
                   .slots = plans{items},
                   .moves = moves,
                   .offsets = offsets,
                   .block_tokens = block_tokens};
}

/// Copies the rows that a packing moves, and the blocks that it copies. Then the new table is the sequence's.
///
/// @param cache  [heads, tokens, dim] with the table before
/// @param table  the one after, by `packing::edit`
/// @return       errc::bad_shape when heads, tokens or blocks do not fit the packing; errc::aliased, before anything is
///               written, when the new table names a block for a shared one that the old table has
/// @complexity   O(moves * dim), and whole blocks that are copied; no allocation
template <class T, executor Run = serial>
[[nodiscard]] errc move_rows(paged_span<T> cache, std::span<token const> table, packing const& p,
                             Run const& run = {}) noexcept {
    index const each = p.block_tokens;
    if (p.slots.items.empty() || cache.block_tokens != each || std::ssize(cache.blocks) < p.table.tokens)
        return errc::bad_shape;
    if (table.size() != p.table.sources.size() || cache.tokens != p.slots[0].tokens) return errc::bad_shape;
    if (!p.slots.shared() && std::ssize(p.slots.items) != cache.heads) return errc::bad_shape;
    for (token const b : p.copied)
        if (std::ranges::find(cache.blocks, table[static_cast<std::size_t>(b)]) != cache.blocks.end())
            return errc::aliased;
    paged_span<T> after = cache;
    after.blocks = table;
    index const bytes = std::ssize(p.moves) * cache.dim * 2 * size_of<T>;
    share_out(run, cache.heads, bytes, [&](index begin, index end, index) noexcept {
        for (index h = begin; h < end; ++h) {
            auto const slots = p.slots[h].sources;
            auto const copy = [&](index from, index to) noexcept {
                simd::copy_row(static_cast<T const*>(cache.row(h, from)), after.row(h, to), cache.dim);
            };
            for (token const b : p.copied)
                for (index to = b * each; to < std::min((b + 1) * each, std::ssize(slots)); ++to)
                    copy(slots[static_cast<std::size_t>(to)], to);
            for (row_move const& m : p.moves_of(h)) copy(m.from, m.to);
        }
    });
    return errc::ok;
}

}  // namespace terse::kv

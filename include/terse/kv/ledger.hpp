// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <type_traits>

#include <terse/core/layer.hpp>
#include <terse/core/parallel.hpp>
#include <terse/core/plan.hpp>
#include <terse/core/view.hpp>
#include <terse/kv/compact.hpp>
#include <terse/simd/rows.hpp>

namespace terse::kv {

/// When `ledger::evict_if_needed` asks the policy.
struct trigger {
    bool in_prompt = false;    ///< after every chunk of a prompt
    bool after_prompt = true;  ///< once after its end
    index every = 1;           ///< while decoding: once in so many tokens; 0: never
    index above = 0;           ///< only while a head holds more slots than this: the budget and some slack
};

/// What happens to the positions of the slots that stay.
enum class numbering : unsigned char {
    keep,      ///< they stay, and the next token's position is the number of tokens so far
    renumber,  ///< 0, 1, ...: the engine turns the keys (`kv::renumber`), and the next token comes right behind
};

/// What an eviction decided: nothing where `kept` is empty.
struct eviction {
    plans kept{};                    ///< a selection for each kv head, or one for all: moves keys, values and all state
    tokens_view<token> positions{};  ///< [kv_heads, slots]: before the eviction; the ledger's own, until `commit`
    index next = 0;                  ///< position of the next token, where positions stay

    [[nodiscard]] constexpr bool evicts() const noexcept { return !kept.items.empty(); }

    /// Position of the next token once this is committed.
    /// @pre where positions are renumbered, it evicts, and heads keep the same number
    [[nodiscard]] constexpr index next_position(numbering how = numbering::keep) const noexcept {
        return how == numbering::keep ? next : kept[0].kept();
    }

    /// By how much row i of head h turns when positions are renumbered. Turn keys before `commit`.
    [[nodiscard]] constexpr index delta(index h, index i) const noexcept {
        return i - positions.row(h)[kept[h].sources[static_cast<std::size_t>(i)]];
    }
};

/// The books of one layer's cache, from the first prompt to the last token: which position each slot of each kv head
/// has, the queries of the last tokens, and when to evict. The rows themselves are the engine's.
///
///     append to the cache;  books.append(added, queries);
///     auto const e = books.evict_if_needed(policy, {.keys = keys, .values = values}, {}, memory);
///     if (e && e->evicts()) { compact(keys, e->kept); compact(values, e->kept); books.commit(*e); }
///
/// A cache that only grows has no room made in it, but not all that is new need enter: guard what it holds, positions
/// [0, first new one), and what the policy keeps of the tokens appended is let in; no other row moves.
///
/// All of it lies in one stretch of the engine's memory: to save it or to fork a beam, copy those bytes along with the
/// cache and `attach` to the copy. Not for several threads at once.
template <real T = float>
class ledger {
  public:
    /// Sizes of the layer and of the cache.
    struct shape {
        index kv_heads = 0;
        index capacity = 0;  ///< the most slots of a head
        index heads = 0;     ///< query heads; these three may be 0 where no policy reads queries
        index dim = 0;       ///< of a query
        index window = 0;    ///< last queries that are held: the policy's, and as many more as are ever taken back
    };

    /// Memory that a ledger takes, aligned to 64 bytes. O(kv_heads * capacity + heads * window * dim)
    [[nodiscard]] static constexpr index bytes(shape const& s) noexcept { return places_of(s).end; }

    /// Opens an empty ledger in `memory`.
    /// @return  errc::bad_shape for a shape that is negative, too large or without kv heads, or whose heads do not
    ///          divide; errc::out_of_memory when `memory` is smaller than bytes(shape) or not aligned
    [[nodiscard]] static result<ledger> open(shape const& s, std::span<std::byte> memory) noexcept {
        if (!is_valid(s)) return errc::bad_shape;
        if (!fits(s, memory)) return errc::out_of_memory;
        std::construct_at(reinterpret_cast<header*>(memory.data()), header{.sizes = s});
        ledger l{memory.data()};
        std::fill_n(l.lengths(), s.kv_heads, token{0});
        return l;
    }

    /// The ledger that was saved or copied to `memory`.
    /// @return      errc::bad_shape when there is no ledger for rows of T, or one that does not hold together;
    ///              errc::out_of_memory when `memory` is too small or not aligned
    /// @complexity  O(kv_heads * slots)
    [[nodiscard]] static result<ledger> attach(std::span<std::byte> memory) noexcept {
        if (!is_aligned(memory) || std::ssize(memory) < index{sizeof(header)}) return errc::out_of_memory;
        ledger const l{memory.data()};
        header const& h = *l.head_;
        if (h.mark != header{}.mark || !is_valid(h.sizes)) return errc::bad_shape;
        if (!fits(h.sizes, memory)) return errc::out_of_memory;
        index const places = std::max<index>(h.sizes.window, 1);
        if (h.held < 0 || h.held > h.sizes.window || h.newest < 0 || h.newest >= places) return errc::bad_shape;
        for (index head = 0; head < h.sizes.kv_heads; ++head) {
            index const length = l.lengths()[head];
            if (length < 0 || length > h.sizes.capacity) return errc::bad_shape;
            index before = -1;
            for (token const p : l.positions(head)) {
                if (p <= before || p >= h.next) return errc::bad_shape;
                before = p;
            }
        }
        return l;
    }

    [[nodiscard]] shape const& sizes() const noexcept { return head_->sizes; }
    /// Position of the next token.
    [[nodiscard]] index next_position() const noexcept { return head_->next; }
    /// Slots that kv head h holds.
    [[nodiscard]] index length(index h) const noexcept { return lengths()[h]; }
    /// [kv_heads]: the same of all heads, as a ragged cache reads them.
    [[nodiscard]] std::span<token const> all_lengths() const noexcept {
        return {lengths(), static_cast<std::size_t>(sizes().kv_heads)};
    }
    /// Slots of the fullest head.
    [[nodiscard]] index longest() const noexcept {
        auto const all = all_lengths();
        return *std::max_element(all.begin(), all.end());
    }
    /// Positions of kv head h's slots, ascending.
    [[nodiscard]] std::span<token const> positions(index h) const noexcept {
        return {slots(h), static_cast<std::size_t>(length(h))};
    }
    /// Whether anything was ever evicted: such a cache is not the one that its tokens alone would give.
    [[nodiscard]] bool lossy() const noexcept { return head_->lossy; }
    /// Equal for caches of the same shape that hold the same positions: with the tokens, names a cache to share.
    [[nodiscard]] std::uint64_t digest() const noexcept {
        std::uint64_t state = 0xCBF29CE484222325;  // FNV-1a
        auto const add = [&](index n) { state = (state ^ static_cast<std::uint64_t>(n)) * 0x100000001B3; };
        for (index h = 0; h < sizes().kv_heads; ++h) {
            add(length(h));
            for (token const p : positions(h)) add(p);
        }
        return state;
    }

    /// A prompt begins: the first, or another turn. It may come in chunks.
    void begin_prompt() noexcept { head_->stage = stage::prompt; }

    /// Its last chunk has been appended.
    void end_prompt() noexcept {
        head_->stage = stage::prompt_ended;
        head_->since = 0;
    }

    /// Enters `added` tokens, whose rows stand behind those of each kv head.
    ///
    /// @param queries  [heads, last tokens, dim], position-encoded: of these tokens, or of the last `window` of them
    /// @return         errc::bad_shape when a head would hold more than its capacity, positions would exceed `token`,
    ///                 or queries do not fit or are too few for a window
    /// @complexity     O(kv_heads * added + heads * window * dim)
    errc append(index added, heads_view<T> queries = {}) noexcept {
        shape const& s = sizes();
        if (added < 0 || added > s.capacity - longest() || added > max_tokens - head_->next) return errc::bad_shape;
        index const newest = std::min(added, s.window);
        if (s.window > 0) {
            if (queries.heads != s.heads || queries.dim != s.dim || queries.tokens > added) return errc::bad_shape;
            if (queries.tokens < newest || (newest > 0 && queries.data == nullptr)) return errc::bad_shape;
        }
        for (index h = 0; h < s.kv_heads; ++h) {
            std::iota(slots(h) + length(h), slots(h) + length(h) + added, static_cast<token>(head_->next));
            lengths()[h] += static_cast<token>(added);
        }
        head_->next += added;
        head_->since += added;
        for (index i = 0; i < newest; ++i) hold(queries, queries.tokens - newest + i, head_->next - newest + i);
        return errc::ok;
    }

    /// Takes back the last tokens of every head: those that speculation got wrong. Guard them until they are accepted,
    /// so that nothing is evicted in their favour.
    /// @return  errc::bad_shape when there are fewer
    errc take_back(index tokens) noexcept {
        if (tokens < 0 || tokens > head_->next) return errc::bad_shape;
        head_->next -= tokens;
        head_->since = std::max<index>(head_->since - tokens, 0);
        for (index h = 0; h < sizes().kv_heads; ++h) {
            auto const own = positions(h);
            auto const end = std::lower_bound(own.begin(), own.end(), head_->next);
            lengths()[h] = static_cast<token>(end - own.begin());
        }
        index const lost = std::min(tokens, head_->held);
        head_->held -= lost;
        if (lost > 0) head_->newest = (head_->newest + sizes().window - lost) % sizes().window;
        return errc::ok;
    }

    /// A layer with what the ledger knows of it: the slots' positions, and the last queries where it has none.
    template <class Cache>
    [[nodiscard]] layer<T, Cache> complete(layer<T, Cache> l) const noexcept {
        shape const& s = sizes();
        l.positions = {slots(0), s.kv_heads, longest(), s.capacity};
        if (l.queries.data == nullptr && !l.has_attention() && head_->held > 0) {
            index const first = (head_->newest + s.window - head_->held) % s.window;
            l.queries = {held_queries() + first * s.dim, s.heads, head_->held, s.dim, 2 * s.window * s.dim, s.dim};
            l.query_positions = {held_positions() + first, static_cast<std::size_t>(head_->held)};
        }
        return l;
    }

    /// Asks the policy what stays, if it is time to. Changes nothing that the engine sees: apply the plans to the
    /// cache, then `commit`.
    ///
    /// @param policy  called with the completed layer: any policy of this family that returns selections
    /// @param l       keys, and what else the policy reads; what must stay (`guarded`)
    /// @return        nothing to evict, or the plans, in the arena; errc::bad_shape when the layer does not hold as
    ///                many slots as the ledger; errc::bad_plan when a plan is not a selection of slots in their order;
    ///                the policy's errors
    template <class Policy, class Cache, executor Run = serial>
    [[nodiscard]] result<eviction> evict_if_needed(Policy const& policy, layer<T, Cache> const& l, trigger const& when,
                                                   arena& memory, Run const& run = {}) noexcept {
        if (!is_due(when)) return nothing();
        auto const decided = longest() > when.above ? decide(policy, l, memory, run) : nothing();
        if (!decided) return decided;
        head_->since = 0;
        if (head_->stage == stage::prompt_ended) head_->stage = stage::decoding;
        return decided;
    }

    /// The same at once, so that `coming` tokens can be appended: policies with a setting `keep` keep no more than that
    /// leaves, those whose recent slots give way to `coming` ones (`streaming_llm`) make room by themselves.
    /// @return  errc::bad_budget when there is no room for as many, or the policy left too little
    template <class Policy, class Cache, executor Run = serial>
    [[nodiscard]] result<eviction> make_room(Policy policy, layer<T, Cache> const& l, index coming, arena& memory,
                                             Run const& run = {}) const noexcept {
        index const room = sizes().capacity - coming;
        if (coming < 0 || room < 1) return errc::bad_budget;
        if (longest() <= room) return nothing();
        if constexpr (requires { policy.recent - policy.coming; }) {  // moa's is no room: its spans count it
            policy.coming = coming;
        } else if constexpr (requires { policy.keep; }) {
            policy.keep = std::min<index>(policy.keep, room);
        }
        rollback undo{memory};
        auto const decided = decide(policy, l, memory, run);
        if (!decided) return decided;
        for (index h = 0; h < sizes().kv_heads; ++h) {
            if ((decided->evicts() ? decided->kept[h].kept() : length(h)) > room) return errc::bad_budget;
        }
        undo.keep();
        return decided;
    }

    /// Enters an eviction that was applied to the cache. The plans may also be those of another ledger with the same
    /// slots. Renumbering forgets the queries held, whose positions are gone.
    /// @return  errc::bad_shape, errc::bad_plan when the plans do not fit the slots, or heads that keep different
    ///          numbers are to be renumbered
    errc commit(eviction const& e, numbering how = numbering::keep) noexcept {
        if (!e.evicts()) return errc::ok;
        if (errc const error = check(e.kept); error != errc::ok) return error;
        shape const& s = sizes();
        for (index h = 0; how == numbering::renumber && h < s.kv_heads; ++h)
            if (e.kept[h].kept() != e.kept[0].kept()) return errc::bad_plan;
        for (index h = 0; h < s.kv_heads; ++h) {
            index const kept = e.kept[h].kept();
            simd::compact_rows(slots(h), 1, e.kept[h].sources, 1);
            head_->lossy = head_->lossy || kept < length(h);
            lengths()[h] = static_cast<token>(kept);
            if (how == numbering::renumber) std::iota(slots(h), slots(h) + kept, token{0});
        }
        if (how == numbering::renumber) {
            head_->next = length(0);
            head_->held = head_->newest = 0;
        }
        return errc::ok;
    }

  private:
    enum class stage : unsigned char { decoding, prompt, prompt_ended };

    struct header {
        std::uint64_t mark = 0x7465'7273'6531'0000 + (std::is_same_v<T, float> ? 0 : std::is_same_v<T, half> ? 1 : 2);
        shape sizes{};
        index next = 0;    // position of the next token
        index since = 0;   // tokens since the policy was last asked
        index held = 0;    // queries held
        index newest = 0;  // place for the next query, in [0, window)
        ledger::stage stage = ledger::stage::decoding;
        bool lossy = false;
    };

    /// Where things begin, in bytes.
    struct places {
        index lengths, slots, query_positions, queries, end;
    };

    [[nodiscard]] static constexpr places places_of(shape const& s) noexcept {
        constexpr index line = 64;
        auto const after = [](index at, index size) { return (at + size + line - 1) / line * line; };
        places p{};
        p.lengths = after(0, sizeof(header));
        p.slots = after(p.lengths, s.kv_heads * index{sizeof(token)});
        p.query_positions = after(p.slots, s.kv_heads * s.capacity * index{sizeof(token)});
        p.queries = after(p.query_positions, 2 * s.window * index{sizeof(token)});
        p.end = after(p.queries, s.heads * 2 * s.window * s.dim * index{sizeof(T)});
        return p;
    }

    [[nodiscard]] static constexpr bool is_valid(shape const& s) noexcept {
        constexpr index most = index{1} << 24;
        if (s.kv_heads < 1 || s.kv_heads > most || s.capacity < 1 || s.capacity > max_tokens) return false;
        if (s.window < 0 || s.window > s.capacity) return false;
        if (s.window == 0) return true;
        return s.heads > 0 && s.heads <= most && s.heads % s.kv_heads == 0 && s.dim > 0 && s.dim <= most &&
               s.heads * s.dim <= (index{1} << 56) / (2 * s.window);
    }

    [[nodiscard]] static bool is_aligned(std::span<std::byte const> memory) noexcept {
        return memory.data() != nullptr && reinterpret_cast<std::uintptr_t>(memory.data()) % alignof(header) == 0;
    }
    [[nodiscard]] static bool fits(shape const& s, std::span<std::byte const> memory) noexcept {
        return is_aligned(memory) && std::ssize(memory) >= bytes(s);
    }

    explicit ledger(std::byte* memory) noexcept : head_{reinterpret_cast<header*>(memory)} {}

    template <class U>
    [[nodiscard]] U* at(index place) const noexcept {
        return reinterpret_cast<U*>(reinterpret_cast<std::byte*>(head_) + place);
    }
    [[nodiscard]] token* lengths() const noexcept { return at<token>(places_of(sizes()).lengths); }
    [[nodiscard]] token* slots(index h) const noexcept {
        return at<token>(places_of(sizes()).slots) + h * sizes().capacity;
    }
    // Rings of `window`, written twice, one behind the other: the queries held always stand in a row.
    [[nodiscard]] token* held_positions() const noexcept { return at<token>(places_of(sizes()).query_positions); }
    [[nodiscard]] T* held_queries() const noexcept { return at<T>(places_of(sizes()).queries); }

    void hold(heads_view<T> queries, index row, index position) noexcept {
        shape const& s = sizes();
        for (index const place : {head_->newest, head_->newest + s.window}) {
            held_positions()[place] = static_cast<token>(position);
            for (index h = 0; h < s.heads; ++h)
                std::copy_n(queries.row(h, row), s.dim, held_queries() + (h * 2 * s.window + place) * s.dim);
        }
        head_->newest = (head_->newest + 1) % s.window;
        head_->held = std::min(head_->held + 1, s.window);
    }

    [[nodiscard]] bool is_due(trigger const& when) const noexcept {
        switch (head_->stage) {
            case stage::prompt:
                return when.in_prompt && head_->since > 0;
            case stage::prompt_ended:
                if (when.after_prompt) return true;
                break;
            case stage::decoding:
                break;
        }
        return when.every > 0 && head_->since >= when.every;
    }

    [[nodiscard]] errc check(plans const& kept) const noexcept {
        if (!kept.shared() && std::ssize(kept.items) != sizes().kv_heads) return errc::bad_shape;
        for (index h = 0; h < sizes().kv_heads; ++h)
            if (kept[h].tokens != length(h)) return errc::bad_shape;
        for (plan const& item : kept.items)
            if (errc const error = check_compaction(plans{{&item, 1}}, 1, item.tokens); error != errc::ok) return error;
        return errc::ok;
    }

    template <class Policy, class Cache, executor Run>
    [[nodiscard]] result<eviction> decide(Policy const& policy, layer<T, Cache> const& l, arena& memory,
                                          Run const& run) const noexcept {
        if (l.kv_heads() != sizes().kv_heads) return errc::bad_shape;
        for (index h = 0; h < l.kv_heads(); ++h)
            if (l.length(h) != length(h)) return errc::bad_shape;
        rollback undo{memory};
        auto const known = complete(l);
        result<plans> const kept = policy(known, memory, run);
        if (!kept) return kept.error();
        if (errc const error = check(*kept); error != errc::ok) return error;
        bool goes = false;
        for (index h = 0; h < l.kv_heads(); ++h) goes = goes || (*kept)[h].kept() < length(h);
        if (!goes) return nothing();
        undo.keep();
        return eviction{*kept, known.positions, head_->next};
    }
    [[nodiscard]] result<eviction> nothing() const noexcept { return eviction{.next = head_->next}; }

    header* head_ = nullptr;

    friend class result<ledger>;
    ledger() noexcept = default;
};

}  // namespace terse::kv

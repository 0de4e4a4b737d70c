// The books of a full cache at a step of decoding: a token and its queries come, the policy is asked, a slot goes.
// Beside a copy of all positions, of which those behind the slot that goes have to move.
#include <algorithm>
#include <cstddef>
#include <memory>
#include <numeric>
#include <vector>

#include <Eigen/Core>

#include <terse/kv/ledger.hpp>
#include <terse/kv/streaming_llm.hpp>

#include "prompt.hpp"

namespace terse::bench {
namespace {

using books_type = kv::ledger<float>;

constexpr index kv_heads = prompt::kv_heads, heads = prompt::heads, dim = prompt::dim, window = prompt::window;
constexpr index sinks = 4;

books_type::shape shape_of(index n) {
    return {.kv_heads = kv_heads, .capacity = n, .heads = heads, .dim = dim, .window = window};
}

/// A cache that holds n - 1 tokens, and has room for n.
struct state {
    aligned<float> before = random_values(heads * window * dim, 1), query = random_values(heads * dim, 2);
    aligned<std::byte> bytes;
    books_type books;
    arena memory{};

    explicit state(index n)
        : bytes(static_cast<std::size_t>(books_type::bytes(shape_of(n)))),
          books(*books_type::open(shape_of(n), bytes)) {
        books.begin_prompt();
        keep(books.append(n - 1, head_major<float const>(before.data(), heads, window, dim)));
        books.end_prompt();
    }
    void step(index n) {
        memory.rewind();
        keep(books.append(1, head_major<float const>(query.data(), heads, 1, dim)));
        layer<float> const l{.keys = {.heads = kv_heads, .tokens = n, .dim = dim}};
        kv::streaming_llm const policy{.sinks = sinks, .recent = n - 1 - sinks};
        auto const found = books.evict_if_needed(policy, l, {}, memory);
        if (found) keep(books.commit(*found));
    }
};

/// The same by the book: the slots that stay, and each head's positions gathered by them.
struct state_by_the_book {
    std::vector<std::vector<token>> positions;
    std::vector<token> kept{};
    aligned<float> query, ring;
    token next;
    index place = 0;

    state_by_the_book(index n, state const& s)
        : positions(kv_heads), query{s.query}, ring{s.before}, next{static_cast<token>(n - 1)} {
        for (auto& own : positions) {
            own.resize(static_cast<std::size_t>(n - 1));
            std::iota(own.begin(), own.end(), token{0});
        }
    }
    void step(index n) {
        for (index h = 0; h < heads; ++h)
            std::copy_n(query.data() + h * dim, dim, ring.data() + (h * window + place) * dim);
        place = (place + 1) % window;
        kept.resize(static_cast<std::size_t>(n - 1));
        std::iota(kept.begin(), kept.begin() + sinks, token{0});
        std::iota(kept.begin() + sinks, kept.end(), static_cast<token>(sinks + 1));
        for (auto& own : positions) {
            own.push_back(next);
            for (std::size_t i = 0; i < kept.size(); ++i) own[i] = own[static_cast<std::size_t>(kept[i])];
            own.resize(kept.size());
        }
        ++next;
        keep(ring);
    }
    [[nodiscard]] bool agrees(books_type const& books) const {
        for (std::size_t h = 0; h < positions.size(); ++h)
            if (!std::ranges::equal(positions[h], books.positions(static_cast<index>(h)))) return false;
        return books.next_position() == next;
    }
};

contest ledger_step(index n) {
    auto const ours = std::make_shared<state>(n);
    auto const theirs = std::make_shared<state_by_the_book>(n, *ours);
    for (index call = 0; call < 2 * window; ++call) ours->step(n), theirs->step(n);
    return {.bound = copy_limit(static_cast<std::size_t>(kv_heads * n) * sizeof(token), 1),
            .candidates = {{"terse", [=](std::size_t) { ours->step(n); }},
                           {std_name("gather"), [=](std::size_t) { theirs->step(n); }}},
            .agree = theirs->agrees(ours->books)};
}

bool const added = [] {
    for (index const n : prompt::lengths)
        add({"ledger-step", {{"n", n}, {"kv_heads", kv_heads}, {"heads", heads}, {"d", dim}}},
            [n] { return ledger_step(n); });
    return true;
}();

}  // namespace
}  // namespace terse::bench

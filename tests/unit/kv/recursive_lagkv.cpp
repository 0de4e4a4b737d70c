#include <cmath>
#include <limits>

#include <terse/kv/compact.hpp>
#include <terse/kv/lagkv.hpp>
#include <terse/kv/ledger.hpp>
#include <terse/kv/recursive_lagkv.hpp>

#include "key_layers.hpp"

namespace terse::test {
namespace {

/// An engine's side: the rows of the cache and their ledger, of tokens that come in any portions.
template <class T>
struct cache {
    random_layer<T> const& all;  ///< of every token that will ever come
    index capacity;
    std::vector<T> keys, values;
    fixed_memory memory;
    kv::ledger<T> books;
    arena scratch{};

    cache(random_layer<T> const& tokens, index room)
        : all{tokens},
          capacity{room},
          keys(static_cast<std::size_t>(all.keys.heads * room * all.keys.dim)),
          values(static_cast<std::size_t>(all.values.heads * room * all.values.dim)),
          memory{static_cast<std::size_t>(kv::ledger<T>::bytes(shape()))},
          books{kv::ledger<T>::open(shape(), memory.bytes()).value()} {}

    [[nodiscard]] typename kv::ledger<T>::shape shape() const {
        return {.kv_heads = all.keys.heads, .capacity = capacity};
    }
    [[nodiscard]] heads_span<T> rows(std::vector<T>& of) const {
        index const dim = all.keys.dim;
        return {of.data(), all.keys.heads, books.longest(), dim, capacity * dim, dim};
    }

    void append(index added) {
        for (index h = 0; h < all.keys.heads; ++h)
            for (index t = 0; t < added; ++t) {
                index const from = books.next_position() + t, to = books.length(h) + t, dim = all.keys.dim;
                std::copy_n(all.keys.row(from, h), dim, rows(keys).row(h, to));
                std::copy_n(all.values.row(from, h), dim, rows(values).row(h, to));
            }
        REQUIRE(books.append(added) == errc::ok);
    }
    bool evict(kv::recursive_lagkv const& policy, kv::trigger const& when = {}, std::span<range const> guarded = {}) {
        scratch.rewind();
        layer<T> const l{.keys = rows(keys), .values = rows(values), .guarded = guarded};
        auto const e = books.evict_if_needed(policy, l, when, scratch).value();
        if (e.evicts()) {
            REQUIRE(kv::compact(rows(keys), e.kept) == errc::ok);
            REQUIRE(kv::compact(rows(values), e.kept) == errc::ok);
            REQUIRE(books.commit(e) == errc::ok);
        }
        return e.evicts();
    }
    [[nodiscard]] std::vector<tokens_list> positions() const {
        std::vector<tokens_list> lists;
        for (index h = 0; h < all.keys.heads; ++h) lists.push_back(list(books.positions(h)));
        return lists;
    }
    [[nodiscard]] bool holds_its_tokens() {
        bool same = true;
        for (index h = 0; h < all.keys.heads; ++h)
            for (index t = 0; t < books.length(h); ++t) {
                index const from = books.positions(h)[static_cast<std::size_t>(t)], dim = all.keys.dim;
                same = same && std::equal(all.keys.row(from, h), all.keys.row(from, h) + dim, rows(keys).row(h, t)) &&
                       std::equal(all.values.row(from, h), all.values.row(from, h) + dim, rows(values).row(h, t));
            }
        return same;
    }
};

/// The softmax over rows [0, lag) of their deviations in the scale of rows [lag, 2 * lag), by the book.
std::vector<double> deviations(rows const& x, std::size_t lag) {
    std::vector<double> e;
    for (std::size_t j = 0; j < lag; ++j) {
        std::vector<double> z;
        for (std::size_t c = 0; c < x[0].size(); ++c) {
            double low = std::numeric_limits<double>::infinity(), high = -low;
            for (std::size_t t = lag; t < 2 * lag; ++t) low = std::min(low, x[t][c]), high = std::max(high, x[t][c]);
            z.push_back((x[j][c] - low) / (high - low));
        }
        double mean = 0, squares = 0;
        for (double const v : z) mean += v / static_cast<double>(z.size());
        for (double const v : z) squares += (v - mean) * (v - mean);
        e.push_back(std::sqrt(squares / static_cast<double>(z.size() - 1)));
    }
    return softmax(e);
}

/// The recursion with a head's cache as a list of its tokens, of which `thinned` are not looked at again.
struct by_the_book {
    index keep, sinks, lag;
    tokens_list held{};
    index thinned = sinks;

    template <class T>
    void step(random_layer<T> const& all, index h, index added) {
        token const next = held.empty() ? 0 : held.back() + 1;
        for (index t = 0; t < added; ++t) held.push_back(next + static_cast<token>(t));
        while (std::ssize(held) >= thinned + 2 * lag) {
            rows keys, values;
            for (index t = thinned; t < thinned + 2 * lag; ++t) {
                index const at = held[static_cast<std::size_t>(t)];
                keys.push_back(head_rows(all.keys, h, at + 1).back());
                values.push_back(head_rows(all.values, h, at + 1).back());
            }
            auto const k = deviations(keys, static_cast<std::size_t>(lag));
            auto const v = deviations(values, static_cast<std::size_t>(lag));
            std::vector<double> both;
            for (std::size_t j = 0; j < k.size(); ++j) both.push_back(k[j] + v[j]);
            tokens_list stay(held.begin(), held.begin() + thinned);
            for (token const j : highest(both, static_cast<std::size_t>(keep)))
                stay.push_back(held[static_cast<std::size_t>(thinned + j)]);
            stay.insert(stay.end(), held.begin() + thinned + lag, held.end());
            held = stay;
            thinned += keep;
        }
    }
};

}  // namespace

TEST_CASE("recursive_lagkv thins a partition when the next one is complete, by hand", "[kv][recursive_lagkv]") {
    // A sink, and partitions of two. In the scale of the next, the second of each stands out: of (0 0) (0 2) in that of
    // (0 0) (1 1), and of these in that of (0 0) (2 1).
    random_layer<> r{1, 1, 7, 2, 1, 1};
    r.keys.values = r.values.values = {9, 9, 0, 0, 0, 2, 0, 0, 1, 1, 0, 0, 2, 1};
    cache<float> c{r, 7};
    kv::recursive_lagkv const policy{.ratio = 0.5, .sinks = 1, .lag = 2};
    std::vector<tokens_list> const after = {{0},          {0, 1},          {0, 1, 2},      {0, 1, 2, 3},
                                            {0, 2, 3, 4}, {0, 2, 3, 4, 5}, {0, 2, 4, 5, 6}};
    for (tokens_list const& want : after) {
        c.append(1);
        CHECK(c.evict(policy) == (want.back() == 4 || want.back() == 6));
        CHECK(c.positions()[0] == want);
        CHECK_FALSE(c.evict(policy, {.every = 0}));
    }
    CHECK(policy.count(7).value() == 5);
    CHECK(policy.count(4).value() == 4);
    CHECK(policy.count(0).value() == 0);
    CHECK(kv::recursive_lagkv{.ratio = 1, .sinks = 1, .lag = 2}.count(7).value() == 7);

    arena memory;
    layer<float> l = r.view();
    CHECK(kept(policy(l, memory)) == tokens_list{0, 2, 4, 5, 6});  // at once
    CHECK(kept(kv::recursive_lagkv{.ratio = 1, .sinks = 1, .lag = 2}(l, memory)).size() == 7);
    CHECK(kept(kv::recursive_lagkv{.ratio = 0.1, .sinks = 1, .lag = 2}(l, memory)).size() == 5);
    CHECK(kept(kv::recursive_lagkv{.ratio = 0.5, .sinks = 4, .lag = 2}(l, memory)).size() == 7);
}

TEMPLATE_LIST_TEST_CASE("recursive_lagkv is the recursion by the book, however tokens come", "[kv][recursive_lagkv]",
                        storages) {
    struct setting {
        index kv_heads, dim, sinks, lag, keep;
    };
    for (setting const& s : {setting{1, 8, 0, 4, 1}, setting{2, 13, 4, 16, 4}, setting{4, 5, 3, 7, 5}}) {
        index const tokens = s.sinks + 12 * s.lag + s.lag / 2;
        random_layer<TestType> const r{s.kv_heads, s.kv_heads, tokens, s.dim, 1, static_cast<unsigned>(s.lag)};
        kv::recursive_lagkv const policy{
            .ratio = static_cast<double>(s.keep) / static_cast<double>(s.lag), .sinks = s.sinks, .lag = s.lag};
        std::vector<by_the_book> wanted(static_cast<std::size_t>(s.kv_heads), {s.keep, s.sinks, s.lag});
        auto const advance = [&](index added) {
            std::vector<tokens_list> lists;
            for (index h = 0; h < s.kv_heads; ++h) {
                auto& own = wanted[static_cast<std::size_t>(h)];
                own.step(r, h, added);
                lists.push_back(own.held);
            }
            return lists;
        };
        for (index const prompt : {index{0}, s.sinks, s.sinks + 5 * s.lag + 2, tokens}) {
            for (index const portion : {index{1}, s.lag + 1, 3 * s.lag}) {
                CAPTURE(s.lag, prompt, portion);
                for (auto& own : wanted) own = {s.keep, s.sinks, s.lag};
                cache<TestType> c{r, tokens};
                if (prompt > 0) {
                    c.books.begin_prompt();
                    c.append(prompt);
                    c.books.end_prompt();
                    c.evict(policy);
                    REQUIRE(c.positions() == advance(prompt));
                    REQUIRE(c.books.length(0) == policy.count(prompt).value());
                }
                while (c.books.next_position() < tokens) {
                    index const added = std::min(portion, tokens - c.books.next_position());
                    c.append(added);
                    c.evict(policy);
                    REQUIRE(c.positions() == advance(added));
                }
                REQUIRE(c.holds_its_tokens());
                REQUIRE(c.books.length(0) == policy.count(tokens).value());
            }
        }

        // A prompt in chunks.
        cache<TestType> c{r, tokens};
        c.books.begin_prompt();
        while (c.books.next_position() < tokens) {
            c.append(std::min(2 * s.lag, tokens - c.books.next_position()));
            c.evict(policy, {.in_prompt = true});
        }
        CHECK(c.positions() == advance(0));
    }
}

TEST_CASE("recursive_lagkv keeps what is guarded, and goes on behind it", "[kv][recursive_lagkv]") {
    random_layer<> const r{2, 2, 200, 8, 1, 3};
    kv::recursive_lagkv const policy{.ratio = 0.25, .sinks = 4, .lag = 16};
    std::vector<range> const guarded = {{0, 40}, {60, 64}, {70, 71}};
    cache<float> free{r, 200}, c{r, 200};
    for (index t = 0; t < 200; ++t) {
        free.append(1), free.evict(policy);
        c.append(1), c.evict(policy, {}, guarded);
    }
    auto const of = [](tokens_list const& all, token begin, token end) {
        tokens_list part;
        std::copy_if(all.begin(), all.end(), std::back_inserter(part), [&](token t) { return begin <= t && t < end; });
        return part;
    };
    for (std::size_t h = 0; h < 2; ++h) {
        auto const all = c.positions()[h], others = free.positions()[h];
        CHECK(std::ssize(of(all, 0, 40)) == 40);
        CHECK(std::ssize(of(all, 36, 52)) == 4);  // as many as the share
        CHECK(of(all, 60, 64) == tokens_list{60, 61, 62, 63});
        CHECK(std::ssize(of(all, 52, 68)) == 4);
        CHECK(std::ssize(of(all, 68, 84)) == 4);
        CHECK(of(all, 70, 71).size() == 1);
        CHECK(of(all, 84, 200) == of(others, 84, 200));
    }
    CHECK(c.holds_its_tokens());
}

TEST_CASE("recursive_lagkv goes on where tokens were taken back", "[kv][recursive_lagkv]") {
    random_layer<> const r{1, 1, 100, 8, 1, 4};
    kv::recursive_lagkv const policy{.ratio = 0.5, .sinks = 2, .lag = 8};
    cache<float> straight{r, 100}, c{r, 100};
    for (index t = 0; t < 100; ++t) straight.append(1), straight.evict(policy);
    while (c.books.next_position() < 100) {
        index const draft = std::min<index>(3, 100 - c.books.next_position());
        c.append(draft);
        if (draft > 1) REQUIRE(c.books.take_back(draft - 1) == errc::ok);
        c.evict(policy);
    }
    CHECK(c.positions() == straight.positions());
}

TEST_CASE("recursive_lagkv thins the heads that have a partition to thin", "[kv][recursive_lagkv]") {
    // The first head has two whole partitions; the second lost slots up to its last one.
    random_layer<> r{2, 2, 4, 2, 1, 1};
    r.keys.values = r.values.values = {0, 0, 0, 2, 0, 0, 1, 1, 0, 0, 0, 2, 0, 0, 1, 1};
    tokens_list const positions = {0, 1, 2, 3, 0, 2, 4, 6};
    layer<float> l = r.view();
    l.positions = view(positions.data(), 2, 4);
    arena memory;
    auto const plans = kv::recursive_lagkv{.ratio = 0.5, .sinks = 0, .lag = 2}(l, memory).value();
    CHECK(list(plans[0].sources) == tokens_list{1, 2, 3});
    CHECK(list(plans[1].sources) == tokens_list{0, 1, 2, 3});
}

TEST_CASE("recursive_lagkv of ragged heads, of what is no number, and what does not fit", "[kv][recursive_lagkv]") {
    random_layer<> r{2, 2, 70, 8, 1, 5};
    kv::recursive_lagkv const policy{.ratio = 0.5, .sinks = 2, .lag = 8};
    arena memory;
    uneven const held{70, {70, 31}};
    auto const both = policy(r.view(held), memory).value();
    auto shorter = r.view();
    shorter.keys.tokens = shorter.values.tokens = 31;
    require_same_plan(both[0], policy(r.view(), memory).value()[0]);
    require_same_plan(both[1], policy(shorter, memory).value()[1]);
    for (index const workers : worker_counts) {
        auto const again = policy(r.view(held), memory, threads{workers}).value();
        for (index h = 0; h < 2; ++h) require_same_plan(again[h], both[h]);
    }
    CHECK(kept(policy(random_layer<>{2, 2, 0, 8, 1, 5}.view(), memory)).empty());

    for (float const poison : {not_a_number, infinity}) {
        auto bad = r;
        for (index t = 10; t < 16; ++t) bad.keys.row(t)[3] = poison;
        auto const slots = kept(policy(bad.view(), memory));
        CHECK(std::ssize(slots) == policy.count(70).value());
        CHECK(std::count_if(slots.begin(), slots.end(), [](token t) { return 10 <= t && t < 18; }) == 4);
        for (token const t : {16, 17}) CHECK(std::count(slots.begin(), slots.end(), t) == 1);
    }

    memory.rewind();
    auto const error = [&](kv::recursive_lagkv const& wrong, layer<float> const& l) {
        auto const e = wrong(l, memory).error();
        CHECK(memory.used() == 0);
        return e;
    };
    layer<float> l = r.view();
    for (double const ratio : {0.0, -0.5, 1.5, std::numeric_limits<double>::quiet_NaN()})
        CHECK(error({.ratio = ratio, .sinks = 2, .lag = 8}, l) == errc::bad_budget);
    CHECK(error({.sinks = -1, .lag = 8}, l) == errc::bad_setting);
    CHECK(error({.lag = 0}, l) == errc::bad_setting);
    CHECK(policy(l, memory));
    CHECK(kv::recursive_lagkv{.lag = std::numeric_limits<index>::max()}(l, memory));
    CHECK(kv::recursive_lagkv{.sinks = std::numeric_limits<index>::max(), .lag = 1}(l, memory));
    memory.rewind();
    std::vector<token> const few(69);
    l.positions = {few.data(), 1, 69, 69};
    CHECK(error(policy, l) == errc::bad_shape);
    CHECK(score::lag{.once = true}(l, memory).error() == errc::bad_shape);
    l.positions = {};
    l.values = {};
    CHECK(error(policy, l) == errc::bad_shape);
    l.keys.heads = 0;
    CHECK(error(policy, l) == errc::bad_shape);
    require_exact_peak([&](arena& m) { return policy(r.view(), m, threads{2}); });
}
}  // namespace terse::test

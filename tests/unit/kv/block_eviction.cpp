#include <cmath>
#include <deque>
#include <numeric>

#include <terse/kv/block_eviction.hpp>
#include <terse/kv/rotate.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {

using kv::block_aggregation;

/// The sum of blocks of four: 4 sinks, 4 recent, room for two blocks between them.
constexpr kv::block_eviction small{.keep = 16,
                                   .sinks = 4,
                                   .recent = 4,
                                   .block = 4,
                                   .aggregation = block_aggregation::sum,
                                   .snapkv_window = 0,
                                   .pool = 1};

/// The state of one call with the given scores.
struct state_of {
    std::vector<double> sums;
    std::vector<token> since;
    std::vector<float> history;
    kv::block_scores state;

    state_of(kv::block_eviction const& policy, index capacity, index window = 8)
        : sums(static_cast<std::size_t>(policy.adaptive() ? 0 : capacity)),
          since(static_cast<std::size_t>(capacity)),
          history(static_cast<std::size_t>(policy.adaptive() ? capacity * window : 0)),
          state{.sums = sums, .since = since, .history = history, .capacity = capacity} {}
};

struct decision {
    tokens_list evicted, kept;
    std::vector<double> scores;
    range evictable;
};

decision chosen(result<kv::block_choice> const& r) {
    auto const& c = r.value();
    CHECK(c.kept.shared());
    CHECK(is_valid(c.kept[0]));
    return {list(c.evicted), list(c.kept[0].sources), {c.scores.begin(), c.scores.end()}, c.evictable};
}

decision of_scores(kv::block_eviction const& policy, std::vector<float> const& scores) {
    state_of s(policy, std::ssize(scores));
    CHECK(policy.add(s.state, scores) == errc::ok);
    arena memory;
    return chosen(policy.choose(s.state, memory));
}

/// Scores of blocks of four, as their slots' scores.
std::vector<float> blocks_of(std::vector<float> const& of_blocks, std::size_t more = 0) {
    std::vector<float> all;
    for (float const x : of_blocks) all.insert(all.end(), {x / 2, x / 2, 0, 0});
    all.resize(all.size() + more);
    return all;
}

/// What OpenVINO's algorithm does, written from its description in the plainest way.
class reference {
  public:
    explicit reference(kv::block_eviction const& policy, std::size_t window) : p_{policy}, window_{window} {}

    void add(std::vector<float> const& all, index voters) {
        std::vector<double> x(all.begin() + p_.sinks, all.end());
        std::size_t const before = scores_.size(), n = x.size();
        if (!p_.adaptive()) x = pooled(x);
        if (p_.adaptive()) {
            bool const first = queries_ == 0;
            if (history_.size() == window_) history_.pop_front();
            history_.push_back(x);
            scores_.assign(n, 0.0);
            for (auto const& row : history_)
                for (std::size_t i = 0; i < row.size(); ++i)
                    scores_[i] += row[i] / static_cast<double>(history_.size());
            if (!first) scores_ = pooled(scores_);
        } else {
            scores_.resize(n);
            for (std::size_t i = 0; i < n; ++i) scores_[i] += x[i];
        }
        for (index& c : counters_) c += static_cast<index>(n - before);
        for (std::size_t i = before; i < n; ++i) {
            auto const left = static_cast<index>(n - i);
            counters_.push_back(queries_ == 0 && voters > 0 ? std::min(voters, left) : left);
        }
        queries_ += n;
    }

    tokens_list evict(std::vector<std::vector<double>> const& diversity) {
        index const length = p_.sinks + std::ssize(scores_);
        if (length <= p_.keep + p_.block - 1) return {};
        index const first = p_.sinks / p_.block, end = length / p_.block - p_.recent / p_.block;
        auto const blocks = static_cast<std::size_t>(end - first), size = static_cast<std::size_t>(p_.block);
        auto const room = static_cast<std::size_t>((p_.keep - p_.sinks - p_.recent) / p_.block);
        std::vector<double> sums(blocks);
        for (std::size_t i = 0; i < blocks * size; ++i)
            sums[i / size] += p_.aggregation == block_aggregation::norm_sum
                                  ? scores_[i] / static_cast<double>(counters_[i])
                                  : scores_[i];
        auto const descending = [](std::vector<double> const& x, std::vector<std::size_t> which) {
            std::stable_sort(which.begin(), which.end(), [&](std::size_t a, std::size_t b) { return x[a] > x[b]; });
            return which;
        };
        std::vector<std::size_t> all(blocks);
        std::iota(all.begin(), all.end(), std::size_t{0});
        auto order = descending(sums, all);
        std::vector<std::size_t> gone(order.begin() + static_cast<std::ptrdiff_t>(room), order.end());
        if (p_.adaptive()) {
            double const total = std::accumulate(sums.begin(), sums.end(), 0.0);
            double reached = 0;
            std::size_t leaders = 0;
            while (leaders < room && reached < p_.mass * total) reached += sums[order[leaders++]];
            std::vector<std::size_t> rest(order.begin() + static_cast<std::ptrdiff_t>(leaders), order.end());
            std::sort(rest.begin(), rest.end());
            std::vector<double> unlike(blocks);
            for (std::size_t const b : rest)
                for (std::size_t const column : rest)
                    for (std::size_t i = column * size; i < (column + 1) * size; ++i) unlike[b] += diversity[b][i];
            rest = descending(unlike, rest);
            gone.assign(rest.begin() + static_cast<std::ptrdiff_t>(room - leaders), rest.end());
        }
        std::sort(gone.begin(), gone.end());
        auto const budget = static_cast<std::size_t>(p_.rescued);
        if (budget > 0 && gone.size() >= budget) {
            std::vector<double> const x(scores_.begin(), scores_.begin() + static_cast<std::ptrdiff_t>(blocks * size));
            std::vector<std::size_t> slots(x.size());
            std::iota(slots.begin(), slots.end(), std::size_t{0});
            slots = descending(x, slots);
            std::vector<int> bits(x.size());
            for (std::size_t i = 0; i < x.size() / 2; ++i) bits[slots[i]] = 1;
            auto const distance = [&](std::size_t b) {
                int d = 0;
                for (std::size_t i = 0; i < size; ++i) d += bits[b * size + i] != static_cast<int>(i % 2);
                return d;
            };
            auto near = gone;
            std::stable_sort(near.begin(), near.end(),
                             [&](std::size_t a, std::size_t b) { return distance(a) < distance(b); });
            for (std::size_t i = 0; i < budget; ++i) std::erase(gone, near[i * (near.size() / budget)]);
        }
        std::vector<double> scores;
        std::vector<index> counters;
        for (std::size_t i = 0; i < scores_.size(); ++i) {
            if (std::find(gone.begin(), gone.end(), i / size) != gone.end()) continue;
            scores.push_back(scores_[i]);
            counters.push_back(counters_[i]);
        }
        scores_ = scores, counters_ = counters;
        history_.clear();
        tokens_list evicted;
        for (std::size_t const b : gone) evicted.push_back(static_cast<token>(b) + static_cast<token>(first));
        return evicted;
    }

  private:
    [[nodiscard]] std::vector<double> pooled(std::vector<double> const& x) const {
        auto y = x;
        for (std::size_t i = 0; i < x.size(); ++i)
            for (std::size_t j = i; j < x.size() && j < i + static_cast<std::size_t>(p_.pool); ++j)
                y[i] = std::max(y[i], x[j]);
        return y;
    }

    kv::block_eviction p_;
    std::size_t window_, queries_ = 0;
    std::vector<double> scores_;
    std::vector<index> counters_;
    std::deque<std::vector<double>> history_;
};

}  // namespace

TEST_CASE("nothing goes before a block more than the budget is full", "[kv][block_eviction]") {
    for (index n = 0; n <= 40; ++n) {
        CAPTURE(n);
        std::vector<float> const scores(static_cast<std::size_t>(n), 1.0F);
        auto const d = of_scores(small, scores);
        CHECK(std::ssize(d.kept) == small.count(n));
        CHECK(small.count(n) <= small.keep + small.block - 1);
        CHECK((n <= 19) == d.evicted.empty());
        if (n <= 19) CHECK(std::ssize(d.kept) == n);
        CHECK(d.evictable.size() == (n <= 19 ? 0 : n / 4 - 2));
    }
}

TEST_CASE("the lowest blocks between sinks and recent ones go", "[kv][block_eviction]") {
    auto const d = of_scores(small, blocks_of({0, 7, 3, 5, 4, 0}, 3));  // a last block that is not full
    CHECK(d.evictable.begin == 1);
    CHECK(d.evictable.end == 5);
    CHECK(d.scores == std::vector<double>{7, 3, 5, 4});
    CHECK(d.evicted == tokens_list{2, 4});
    CHECK(d.kept == tokens_list{0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 24, 25, 26});

    CHECK(of_scores(small, blocks_of({0, 5, 5, 5, 0})).evicted == tokens_list{3});
    auto newer = small;
    newer.newer_wins = true;
    CHECK(of_scores(newer, blocks_of({0, 5, 5, 5, 0})).evicted == tokens_list{1});
    auto part = small;
    part.keep = 18;  // half a block more is none
    CHECK(of_scores(part, blocks_of({0, 7, 3, 5, 4, 0})).evicted == tokens_list{2, 4});
    CHECK(part.count(24) == 16);
    auto scores = blocks_of({0, 5, 4, 6, 0});
    scores[6] = not_a_number;  // no score: minus infinity
    CHECK(of_scores(small, scores).evicted == tokens_list{1});
}

TEST_CASE("norm_sum divides by the queries behind a slot", "[kv][block_eviction]") {
    auto policy = small;
    policy.aggregation = block_aggregation::norm_sum;
    // The same sums: the later, which fewer queries have seen, weigh more.
    CHECK(of_scores(small, blocks_of({0, 5, 5, 5, 0})).evicted == tokens_list{3});
    auto const d = of_scores(policy, blocks_of({0, 5, 5, 5, 0}));
    CHECK(d.evicted == tokens_list{1});
    CHECK(d.scores[0] == Approx(2.5 / 16 + 2.5 / 15));
    state_of s(policy, 20);
    s.state.since = {};
    CHECK(s.state.add(blocks_of({0, 5, 5, 5, 0})) == errc::ok);
    arena memory;
    CHECK(policy.choose(s.state, memory).error() == errc::bad_shape);
}

TEST_CASE("adaptive R-KV keeps the mass, then what is unlike the rest", "[kv][block_eviction]") {
    auto policy = small;
    policy.keep = 20;
    policy.aggregation = block_aggregation::adaptive_rkv;
    policy.mass = 0.5;
    // Blocks 1 .. 5 may go, three stay: 10 of 20 is the mass, block 1; of the others 3 and 5 are diverse.
    state_of s(policy, 28);
    CHECK(policy.add(s.state, blocks_of({0, 10, 4, 3, 2, 1, 0})) == errc::ok);
    std::vector<float> diversity(5 * 20);
    for (std::size_t row = 0; row < 5; ++row)
        for (std::size_t column = 0; column < 20; ++column)  // the column of block 1 must not count
            diversity[row * 20 + column] = column < 4     ? 100.0F * static_cast<float>(row % 2)
                                           : row % 2 == 0 ? -1.0F
                                                          : -2.0F;
    arena memory;
    auto const d = chosen(policy.choose(s.state, view(diversity.data(), 5, 20), memory));
    CHECK(d.evicted == tokens_list{2, 4});
    CHECK(policy.choose(s.state, view(diversity.data(), 4, 20), memory).error() == errc::bad_shape);
    CHECK(policy.choose(s.state, memory).error() == errc::bad_shape);  // by what?

    CHECK(policy.choose(s.state, view(diversity.data(), 5, 19), memory).error() == errc::bad_shape);

    // The first is guarded: the second and third have the mass of the others, or there is none and diversity decides.
    std::vector<range> const guarded = {{5, 6}};
    auto const spared = [&] {
        auto const given = view(diversity.data(), 5, 20);
        return chosen(policy.choose(s.state, given, memory, serial{}, guarded)).evicted;
    };
    CHECK(spared() == tokens_list{4, 5});
    policy.mass = 0;
    CHECK(spared() == tokens_list{2, 4});

    policy.mass = 1;  // all places by mass
    CHECK(chosen(policy.choose(s.state, view(diversity.data(), 5, 20), memory)).evicted == tokens_list{4, 5});
}

TEST_CASE("of blocks that are equal in mass and diversity the earlier stay, or the later", "[kv][block_eviction]") {
    auto policy = small;
    policy.keep = 20;
    policy.aggregation = block_aggregation::adaptive_rkv;
    policy.mass = 0.2;  // one block's
    state_of s(policy, 28);
    CHECK(policy.add(s.state, blocks_of({0, 3, 3, 3, 3, 3, 0})) == errc::ok);
    std::vector<float> const equal(5 * 20, -1.0F);
    arena memory;
    CHECK(chosen(policy.choose(s.state, view(equal.data(), 5, 20), memory)).evicted == tokens_list{4, 5});
    policy.newer_wins = true;
    CHECK(chosen(policy.choose(s.state, view(equal.data(), 5, 20), memory)).evicted == tokens_list{1, 2});
}

TEST_CASE("the diversity of the keys decides as their whole matrix does", "[kv][block_eviction]") {
    kv::block_eviction const policy{.keep = 48,
                                    .sinks = 8,
                                    .recent = 8,
                                    .block = 8,
                                    .aggregation = block_aggregation::adaptive_rkv,
                                    .pool = 3,
                                    .mass = 0.3};
    for (unsigned seed = 1; seed < 6; ++seed) {
        random_layer<> const r{2, 2, 99, 16, 1, seed};
        state_of s(policy, 99);
        CHECK(policy.add(s.state, uniform(99, seed, 0, 1)) == errc::ok);
        arena memory;
        auto const by_keys = chosen(policy.choose(s.state, r.view(), memory));
        index const n = by_keys.evictable.size() * 8;
        std::vector<float> unlike(static_cast<std::size_t>(n / 8 * n));
        for (index h = 0; h < 2; ++h) {
            std::vector<double> c(static_cast<std::size_t>(n * n));
            auto const dot = [&](index i, index j) {
                double sum = 0;
                for (index k = 0; k < 16; ++k)
                    sum += static_cast<double>(r.keys.row(8 + i, h)[k]) * static_cast<double>(r.keys.row(8 + j, h)[k]);
                return sum;
            };
            for (index i = 0; i < n; ++i)
                for (index j = 0; j < n; ++j)
                    c[static_cast<std::size_t>(i * n + j)] = i == j ? 0 : dot(i, j) / std::sqrt(dot(i, i) * dot(j, j));
            for (index i = 0; i < n; ++i) {
                auto const row = c.begin() + i * n;
                double const mean = std::accumulate(row, row + n, 0.0) / static_cast<double>(n);
                for (index j = 0; j < n; ++j)
                    if (row[j] >= mean)
                        unlike[static_cast<std::size_t>(i / 8 * n + j)] -= static_cast<float>(row[j] / 2);
            }
        }
        CHECK(by_keys.evicted == chosen(policy.choose(s.state, view(unlike.data(), n / 8, n), memory)).evicted);
    }
}

TEST_CASE("KVCrush keeps representatives of what goes", "[kv][block_eviction]") {
    auto policy = small;
    policy.rescued = 1;
    policy.anchor = select::anchor::ones;
    // Four blocks may go, two of them must: 2 and 4; the high half has more of block 4.
    std::vector<float> scores = blocks_of({0, 9, 0, 9, 0, 0});
    for (std::size_t i = 16; i < 20; ++i) scores[i] = 0.5F;
    auto const d = of_scores(policy, scores);
    CHECK(d.evicted == tokens_list{2});
    CHECK(policy.count(24) == 20);
    policy.rescued = 2;
    CHECK(of_scores(policy, scores).evicted.empty());
    CHECK(policy.count(24) == 24);
    policy.rescued = 3;  // more than go: none is rescued
    CHECK(of_scores(policy, scores).evicted == tokens_list{2, 4});
    CHECK(policy.count(24) == 16);
}

TEST_CASE("guarded slots stay with their blocks", "[kv][block_eviction]") {
    auto const scores = blocks_of({0, 7, 3, 5, 4, 0});
    state_of s(small, 24);
    CHECK(small.add(s.state, scores) == errc::ok);
    arena memory;
    std::vector<range> guarded = {{9, 10}};
    CHECK(chosen(small.choose(s.state, memory, serial{}, guarded)).evicted == tokens_list{3, 4});
    random_layer<> const r{1, 1, 24, 4, 1, 1};
    auto l = r.view();
    l.guarded = guarded;
    CHECK(chosen(small.choose(s.state, l, memory)).evicted == tokens_list{3, 4});
    // The first and the last slot of a block, without its neighbours.
    for (auto const& [slots, evicted] : {std::pair{range{12, 13}, tokens_list{2, 4}}, {{11, 12}, {3, 4}}}) {
        guarded = {slots};
        CHECK(chosen(small.choose(s.state, memory, serial{}, guarded)).evicted == evicted);
        CHECK(chosen(small.choose(s.state, l, memory)).evicted == evicted);
    }
    guarded = {{7, 17}};
    CHECK(small.choose(s.state, memory, serial{}, guarded).error() == errc::bad_budget);

    // By positions: from slot 8 on they are ten more.
    tokens_list positions(24);
    for (token t = 0; t < 24; ++t) positions[static_cast<std::size_t>(t)] = t < 8 ? t : t + 10;
    l.positions = view<token const>(positions.data(), 1, 24);
    for (auto const& [held, evicted] :
         {std::pair{range{19, 20}, tokens_list{3, 4}}, {{9, 17}, {2, 4}}, {{17, 18}, {2, 4}}, {{18, 19}, {3, 4}}}) {
        CAPTURE(held.begin);
        guarded = {held};
        CHECK(chosen(small.choose(s.state, l, memory)).evicted == evicted);
    }
}

TEST_CASE("hundreds of steps agree with the published algorithm", "[kv][block_eviction]") {
    struct setting {
        block_aggregation aggregation;
        index block, pool, window, rescued;
    };
    auto const at = GENERATE(values<setting>({{block_aggregation::sum, 4, 1, 0, 0},
                                              {block_aggregation::sum, 8, 7, 5, 0},
                                              {block_aggregation::norm_sum, 4, 3, 0, 0},
                                              {block_aggregation::norm_sum, 8, 7, 8, 0},
                                              {block_aggregation::norm_sum, 1, 2, 8, 0},
                                              {block_aggregation::sum, 4, 1, 0, 2},
                                              {block_aggregation::norm_sum, 8, 5, 3, 1},
                                              {block_aggregation::adaptive_rkv, 4, 3, 0, 0},
                                              {block_aggregation::adaptive_rkv, 8, 1, 0, 0}}));
    kv::block_eviction const policy{.keep = 10 * at.block,
                                    .sinks = at.block,
                                    .recent = 2 * at.block,
                                    .block = at.block,
                                    .aggregation = at.aggregation,
                                    .snapkv_window = at.window,
                                    .pool = at.pool,
                                    .rescued = at.rescued,
                                    .anchor = select::anchor::alternating,
                                    .mass = 0.6};
    index const prompt = 23 * at.block + 3;
    state_of s(policy, prompt + 1, 5);
    reference plain(policy, 5);
    for (index step = 0; step < 300; ++step) {
        CAPTURE(static_cast<int>(at.aggregation), at.block, step);
        index const n = step == 0 ? prompt : s.state.used + 1;
        auto const scores = uniform(n, static_cast<unsigned>(step), 0, 1);
        REQUIRE(policy.add(s.state, scores, step == 0 ? at.window : 0) == errc::ok);
        plain.add(scores, step == 0 ? at.window : 0);

        range const area = policy.evictable(n);
        auto const flat = uniform(area.size() * area.size() * at.block, static_cast<unsigned>(step + 1000), -1, 0);
        std::vector<std::vector<double>> diversity;
        for (index b = 0; b < area.size(); ++b)
            diversity.emplace_back(flat.begin() + b * area.size() * at.block,
                                   flat.begin() + (b + 1) * area.size() * at.block);
        arena memory;
        auto const given = view(flat.data(), area.size(), area.size() * at.block);
        auto const choice = policy.adaptive() ? policy.choose(s.state, given, memory) : policy.choose(s.state, memory);
        auto const d = chosen(choice);
        REQUIRE(d.evicted == plain.evict(diversity));
        REQUIRE(std::ssize(d.kept) == policy.count(n));
        REQUIRE(std::ssize(d.kept) <= policy.keep + at.block - 1 + at.rescued * at.block);
        if (area.size() > 0) REQUIRE(s.state.compact(choice->kept) == errc::ok);
    }
}

TEST_CASE("the cache stays within a block of its budget", "[kv][block_eviction]") {
    state_of s(small, 100);
    CHECK(small.add(s.state, uniform(57, 1, 0, 1)) == errc::ok);
    for (unsigned step = 0; step < 100; ++step) {
        arena memory;
        auto const choice = small.choose(s.state, memory).value();
        CHECK(s.state.compact(choice.kept) == errc::ok);
        CHECK(s.state.used <= small.keep + small.block - 1);
        CHECK(small.add(s.state, uniform(s.state.used + 1, step, 0, 1)) == errc::ok);
    }
}

TEST_CASE("after a prompt the attention of its last queries decides", "[kv][block_eviction]") {
    random_layer<> const r{4, 2, 61, 8, 12, 7};
    auto policy = small;
    policy.snapkv_window = 9;
    policy.aggregation = GENERATE(block_aggregation::sum, block_aggregation::norm_sum, block_aggregation::adaptive_rkv);
    arena memory;
    auto const got = policy(r.view(), memory).value();
    CHECK(got[0].kept() == policy.count(61));

    auto const all = attention_matrix(r.view());
    std::vector<float> scores(61);
    for (auto const& head : all)
        for (std::size_t i = 3; i < 12; ++i)
            for (std::size_t t = 0; t < 61; ++t) scores[t] += static_cast<float>(head[i][t] / 4);
    state_of s(policy, 61);
    CHECK(policy.add(s.state, scores, 9) == errc::ok);
    auto const want = policy.choose(s.state, r.view(), memory).value();
    require_same_plan(got[0], want.kept[0]);
}

TEST_CASE("turning evicted blocks' followers by whole blocks is turning each row", "[kv][block_eviction]") {
    std::vector<float> const frequencies = {1, 0.3F, 0.01F};
    kv::rope const rope{frequencies};
    auto const d = of_scores(small, blocks_of({0, 7, 3, 5, 4, 0, 0}, 2));
    index const n = 30, kept = std::ssize(d.kept);
    auto const keys = random_heads(2, n, 6, 3);

    // By plan: compacted, then numbered anew.
    auto by_plan = keys;
    auto const span = head_major(by_plan.values.data(), 2, n, 6);
    plan const p = select_rows(d.kept, n);
    CHECK(kv::compact(span, plans{{&p, 1}}) == errc::ok);
    CHECK(kv::renumber(span, plans{{&p, 1}}, {}, rope) == errc::ok);

    // By block: minus a block for each evicted one before it.
    for (token b = 0; b * 4 < n; ++b) {
        if (std::find(d.evicted.begin(), d.evicted.end(), b) != d.evicted.end()) continue;
        auto const before = std::count_if(d.evicted.begin(), d.evicted.end(), [=](token e) { return e < b; });
        index const rows = std::min<index>(4, n - b * 4);
        auto block = keys;
        heads_span<float> const part{block.row(b * 4), 2, rows, 6, n * 6, 6};
        tokens_list from(static_cast<std::size_t>(rows)), to;
        std::iota(from.begin(), from.end(), b * 4);
        for (token const t : from) to.push_back(t - static_cast<token>(4 * before));
        CHECK(kv::rotate(part, from, to, rope) == errc::ok);
        for (index h = 0; h < 2; ++h)
            for (index t = 0; t < rows; ++t)
                for (index c = 0; c < 6; ++c) {
                    index const row = b * 4 + t - 4 * before;
                    REQUIRE(row < kept);
                    CHECK(by_plan.row(row, h)[c] == part.row(h, t)[c]);
                }
    }
}

TEST_CASE("block eviction refuses what cannot be", "[kv][block_eviction]") {
    random_layer<> const r{2, 1, 40, 4, 40, 1};
    auto const error = [&](auto change) {
        auto policy = small;
        change(policy);
        arena memory;
        auto const e = policy(r.view(), memory).error();
        CHECK(memory.used() == 0);
        kv::block_scores const state;
        CHECK(policy.choose(state, memory).error() == e);
        return e;
    };
    CHECK(error([](auto& p) { p.keep = 0; }) == errc::bad_budget);
    CHECK(error([](auto& p) { p.keep = 8; }) == errc::bad_budget);
    CHECK(error([](auto& p) { p.sinks = -4; }) == errc::bad_budget);
    CHECK(error([](auto& p) { p.recent = -4; }) == errc::bad_budget);
    CHECK(error([](auto& p) { p.recent = std::numeric_limits<index>::max(); }) == errc::bad_budget);
    CHECK(error([](auto& p) { p.block = 0; }) == errc::bad_setting);
    CHECK(error([](auto& p) { p.block = 3; }) == errc::bad_setting);
    CHECK(error([](auto& p) { p.sinks = 3; }) == errc::bad_setting);
    CHECK(error([](auto& p) { p.recent = 3; }) == errc::bad_setting);
    CHECK(error([](auto& p) { p.snapkv_window = -1; }) == errc::bad_setting);
    CHECK(error([](auto& p) { p.pool = 0; }) == errc::bad_setting);
    CHECK(error([](auto& p) { p.pool = 1025; }) == errc::bad_setting);
    CHECK(error([](auto& p) { p.rescued = -1; }) == errc::bad_setting);
    CHECK(error([](auto& p) { p.mass = 1.5; }) == errc::bad_setting);
    CHECK(error([](auto& p) { p.mass = static_cast<double>(not_a_number); }) == errc::bad_setting);
    auto both = small;
    both.aggregation = block_aggregation::adaptive_rkv;
    both.rescued = 1;
    CHECK(both.check() == errc::bad_setting);

    arena memory;
    state_of s(small, 40);
    CHECK(small.add(s.state, uniform(40, 1, 0, 1)) == errc::ok);
    random_layer<> const other{2, 1, 39, 4, 1, 1};
    CHECK(small.choose(s.state, other.view(), memory).error() == errc::bad_shape);
    both.rescued = 0;
    CHECK(both.choose(s.state, r.view(), memory).error() == errc::bad_shape);  // sums are no history
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& m) { return small.choose(s.state, m); });
}

}  // namespace terse::test

#include <terse/kv/chunkkv.hpp>
#include <terse/kv/snapkv.hpp>

#include "attention_reference.hpp"
#include "scored.hpp"

namespace terse::test {
namespace {
using policy = kv::chunkkv<given_scores>;
}  // namespace

TEST_CASE("chunkkv keeps whole chunks for all heads", "[kv][chunkkv]") {
    // Sums over two heads: 2 2 2 | 10 0 0 | 3 3 3 | 6 4.
    std::vector<float> const both = {1, 2, 0, 9, 0, 0, 3, 3, 0, 5, 4, 1, 0, 2, 1, 0, 0, 0, 0, 3, 1, 0};
    struct row {
        char const* name;
        policy p;
        errc error;
        tokens_list kept;
    };
    given_scores const s{both, 2};
    auto const r = GENERATE_COPY(values<row>({
        {"whole chunks", {.score = s, .keep = 6, .chunk = 3, .exact = false}, errc::ok, {3, 4, 5, 9, 10}},
        {"trimmed", {.score = s, .keep = 4, .chunk = 3}, errc::ok, {3, 4, 9, 10}},
        {"sinks bring their chunk", {.score = s, .keep = 5, .chunk = 3, .sinks = 1}, errc::ok, {0, 1, 2, 9, 10}},
        {"recent ones too", {.score = s, .keep = 2, .chunk = 3, .recent = 1}, errc::ok, {9, 10}},
        {"all", {.score = s, .keep = 11, .chunk = 3}, errc::ok, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
        {"none", {.score = s, .keep = 0, .chunk = 3}, errc::bad_budget, {}},
        {"no chunk", {.score = s, .keep = 3, .chunk = 0}, errc::bad_setting, {}},
        {"more protected than kept",
         {.score = s, .keep = 3, .chunk = 3, .sinks = 2, .recent = 2},
         errc::bad_budget,
         {}},
        {"more chunks protected than kept",
         {.score = s, .keep = 3, .chunk = 3, .exact = false, .sinks = 1, .recent = 1},
         errc::bad_budget,
         {}},
    }));
    CAPTURE(r.name);
    arena memory;
    auto const got = r.p(bare_layer(2, 11), memory);
    REQUIRE(got.error() == r.error);
    if (!got) {
        CHECK(memory.used() == 0);
        return;
    }
    CHECK(got->shared());
    CHECK(list((*got)[1].sources) == r.kept);
    CHECK(is_valid((*got)[0]));
    if (r.p.exact) CHECK((*got)[0].kept() == r.p.count(11));
}

TEST_CASE("with less than a chunk every head keeps its own", "[kv][chunkkv]") {
    arena memory;
    auto const plans = policy{{{1, 2, 3, 3, 2, 1}, 2}, 1, 20}(bare_layer(2, 3), memory).value();
    CHECK(list(plans[0].sources) == tokens_list{2});
    CHECK(list(plans[1].sources) == tokens_list{0});
}

TEST_CASE("chunkkv refuses heads of different lengths, which share no chunk", "[kv][chunkkv]") {
    uneven const held{4, {4, 3}};
    auto const cache = held.of<float>(nullptr, 2, 1);
    layer<float, ragged_view<float>> const shorter{.keys = cache, .values = cache};
    arena memory;
    CHECK(policy{{{1, 2, 3, 4, 1, 2, 3, 4}, 2}, 2, 2}(shorter, memory).error() == errc::bad_shape);
    CHECK(memory.used() == 0);
}

TEST_CASE("chunkkv over SnapKV's scores keeps the window, guards, and no more than asked for", "[kv][chunkkv]") {
    std::vector<range> const guarded = {{7, 9}};
    for (index const n : {6, 21, 64, 250}) {
        random_layer<> const r{4, 2, n, 12, 5, static_cast<unsigned>(n)};
        auto l = r.view();
        l.guarded = guarded;
        for (index const keep : {index{12}, n - 1}) {
            kv::chunkkv<score::attention> const p{kv::snapkv{.window = 5}.scorer(), keep, 10};
            arena memory;
            auto const got = p(l, memory);
            CAPTURE(n, keep);
            if (keep < 7 && n > keep) continue;
            REQUIRE(got);
            auto const kept = list((*got)[0].sources);
            CHECK(std::ssize(kept) == p.count(n));
            for (index t = n - std::min<index>(n, 5); t < n; ++t) CHECK(std::count(kept.begin(), kept.end(), t) == 1);
            for (index const t : {7, 8})
                if (t < n) CHECK(std::count(kept.begin(), kept.end(), t) == 1);
            for (index const workers : worker_counts)
                require_same_plan(p(l, memory, threads{workers}).value()[0], (*got)[0]);
            require_exact_peak([&](arena& a) { return p(l, a); });
        }
    }
}
}  // namespace terse::test

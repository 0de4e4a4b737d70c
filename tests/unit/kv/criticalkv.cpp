#include <cmath>
#include <numeric>

#include <terse/kv/criticalkv.hpp>
#include <terse/score/attention.hpp>

#include "attention_reference.hpp"
#include "scored.hpp"

namespace terse::test {
namespace {

/// One head of one channel and a projection of 1: a slot's norm is its value's size.
struct one_channel {
    std::vector<float> values, projection = {1};
    [[nodiscard]] layer<float> view() const {
        auto const v = head_major(values.data(), 1, std::ssize(values), 1);
        return {.keys = v, .values = v};
    }
    [[nodiscard]] tokens_view<float> weight() const { return terse::view(projection.data(), 1, 1); }
};

using policy = kv::criticalkv<given_scores>;

/// By sorting, from scores and norms.
std::vector<tokens_list> reference(std::vector<std::vector<float>> const& scores,
                                   std::vector<std::vector<float>> const& norms, index keep, double share,
                                   std::vector<index> const& budgets, index safe) {
    std::vector<tokens_list> all;
    for (std::size_t h = 0; h < scores.size(); ++h) {
        index const own = budgets.empty() ? keep : budgets[h];
        tokens_list order(scores[h].size());
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](token a, token b) {
            return scores[h][static_cast<std::size_t>(a)] > scores[h][static_cast<std::size_t>(b)];
        });
        index const first = std::min(own, std::max(safe, static_cast<index>(static_cast<double>(own) * share)));
        std::sort(order.begin() + first, order.end());
        auto const weighed = [&](token t) {
            auto const i = static_cast<std::size_t>(t);
            return (scores[h][i] + 1e-4F) * norms[h][i];
        };
        std::stable_sort(order.begin() + first, order.end(), [&](token a, token b) { return weighed(a) > weighed(b); });
        order.resize(static_cast<std::size_t>(own));
        std::sort(order.begin(), order.end());
        all.push_back(order);
    }
    return all;
}

}  // namespace

TEST_CASE("criticalkv keeps the best scores, then the best scores times norms", "[kv][criticalkv]") {
    static one_channel const x{{1, -1, 9, 2, 1, -5}};  // which the rows refer to
    given_scores const s{{.6F, .5F, .1F, .3F, .05F, .2F}, 1};
    struct row {
        char const* name;
        policy p;
        errc error;
        tokens_list kept;
    };
    auto const r = GENERATE_COPY(values<row>({
        {"half and half", {s, x.weight(), 4}, errc::ok, {0, 1, 2, 5}},
        {"an odd one goes to the second", {s, x.weight(), 3}, errc::ok, {0, 2, 5}},
        {"scores alone", {s, x.weight(), 3, 1}, errc::ok, {0, 1, 3}},
        {"norms alone", {s, x.weight(), 3, 0}, errc::ok, {2, 3, 5}},
        {"what is protected counts for the first half",
         {.score = s, .projection = x.weight(), .keep = 4, .sinks = 1, .recent = 1},
         errc::ok,
         {0, 2, 3, 5}},
        {"all", {s, x.weight(), 6}, errc::ok, {0, 1, 2, 3, 4, 5}},
        // Of two that are not protected one at least: half of what heads share, not of all that they keep.
        {"what every head keeps by its scores",
         {.score = s,
          .projection = x.weight(),
          .keep = 4,
          .by_score = 0,
          .adaptive = true,
          .share = {.floor = .5},
          .sinks = 1,
          .recent = 1},
         errc::ok,
         {0, 1, 2, 5}},
        {"norms alone without epsilon: a tie", {s, x.weight(), 3, 0, 0}, errc::ok, {0, 2, 5}},
        {"none", {s, x.weight(), 0}, errc::bad_budget, {}},
        {"a share above one", {s, x.weight(), 3, 1.5}, errc::bad_setting, {}},
        {"a negative share", {s, x.weight(), 3, -0.5}, errc::bad_setting, {}},
        {"no number", {s, x.weight(), 3, static_cast<double>(not_a_number)}, errc::bad_setting, {}},
        {"a negative epsilon", {s, x.weight(), 3, .5, -1}, errc::bad_setting, {}},
        {"epsilon no number", {s, x.weight(), 3, .5, not_a_number}, errc::bad_setting, {}},
        {"epsilon without end", {s, x.weight(), 3, .5, infinity}, errc::bad_setting, {}},
        {"a floor above one",
         {.score = s, .projection = x.weight(), .keep = 3, .share = {.floor = 2}},
         errc::bad_budget,
         {}},
        {"no projection", {s, {}, 3}, errc::bad_shape, {}},
    }));
    CAPTURE(r.name);
    arena memory;
    auto const got = r.p(x.view(), memory);
    REQUIRE(got.error() == r.error);
    if (!got) {
        CHECK(memory.used() == 0);
        return;
    }
    CHECK(list((*got)[0].sources) == r.kept);
    CHECK(is_valid((*got)[0]));
}

TEST_CASE("criticalkv: NaN goes last, and one row of scores is not enough for two heads", "[kv][criticalkv]") {
    one_channel const x{{1, not_a_number, 9, 2}};
    arena memory;
    auto const kept = [&](std::vector<float> const& scores) {
        return list(policy{{scores, 1}, x.weight(), 2}(x.view(), memory).value()[0].sources);
    };
    CHECK(kept({.5F, .6F, .1F, .2F}) == tokens_list{1, 2});  // by its score, the first
    CHECK(kept({.7F, .6F, .1F, .2F}) == tokens_list{0, 2});
    CHECK(kept({not_a_number, not_a_number, .1F, not_a_number}) == tokens_list{0, 2});

    auto const two = random_heads(2, 4, 3, 1);
    auto const weight = random_tokens(5, 6, 2);
    layer<float> const l{.keys = two.by_head(), .values = two.by_head()};
    memory.rewind();
    CHECK(policy{{{1, 2, 3, 4}, 1}, weight.view(), 2}(l, memory).error() == errc::bad_shape);
    CHECK(memory.used() == 0);
}

TEST_CASE("criticalkv agrees with sorting, for equal and for shared budgets", "[kv][criticalkv]") {
    for (index const n : {7, 33, 100}) {
        random_layer<> const r{8, 4, n, 12, 4, static_cast<unsigned>(n)};
        auto const weight = random_tokens(30, 8 * 12, 77);
        auto const scores = uniform(4 * n, 5, 0, 1);
        for (index const keep : {index{1}, index{3}, n / 2, n - 1}) {
            for (bool const adaptive : {false, true}) {
                policy const p{.score = {scores, 4},
                               .projection = weight.view(),
                               .keep = keep,
                               .adaptive = adaptive,
                               .share = {.least = 0}};
                CAPTURE(n, keep, adaptive);
                arena memory;
                auto const norms = p.norms()(r.view(), memory).value();
                std::vector<std::vector<float>> s, w;
                for (index h = 0; h < 4; ++h) {
                    s.emplace_back(scores.begin() + h * n, scores.begin() + (h + 1) * n);
                    w.push_back(list(norms.row(h)));
                }
                std::vector<index> budgets(adaptive ? 4 : 0);
                if (adaptive) {
                    std::vector<index> const sizes(4, n);
                    REQUIRE(p.share(scores, sizes, 4 * keep, budgets, memory) == errc::ok);
                }
                auto const want = reference(s, w, keep, .5, budgets,
                                            adaptive ? static_cast<index>(.2 * static_cast<double>(keep)) : 0);
                for (index const workers : worker_counts) {
                    auto const got = p(r.view(), memory, threads{workers}).value();
                    for (index h = 0; h < 4; ++h) CHECK(list(got[h].sources) == want[static_cast<std::size_t>(h)]);
                }
                if (keep == 3) require_exact_peak([&](arena& a) { return p(r.view(), a); });
            }
        }
    }
}

TEST_CASE("criticalkv keeps what is guarded, and serves heads of different lengths", "[kv][criticalkv]") {
    auto const two = random_heads(2, 6, 3, 1);
    auto const weight = random_tokens(5, 6, 2);
    std::vector<float> const scores = {6, 5, 4, 3, 2, 1, 1, 2, 3, 4, not_a_number, not_a_number};
    policy const p{{scores, 2}, weight.view(), 3};
    arena memory;
    std::vector<range> const guarded = {{4, 6}};
    layer<float> l{.keys = two.by_head(), .values = two.by_head()};
    l.guarded = guarded;
    auto const kept = p(l, memory).value();
    for (index h = 0; h < 2; ++h) {
        CHECK(kept[h].kept() == 3);
        CHECK(kept[h].sources[1] == 4);
        CHECK(kept[h].sources[2] == 5);
    }
    uneven const held{6, {6, 4}};
    auto const cache = held.of(two);
    layer<float, ragged_view<float>> const shorter{.keys = cache, .values = cache};
    auto const less = p(shorter, memory).value();
    CHECK(less[1].tokens == 4);
    CHECK(less[1].kept() == 3);
    CHECK(less[1].sources.back() == 3);  // the best score

    // A floor that the short head cannot take.
    policy const authors{.score = {scores, 2},
                         .projection = weight.view(),
                         .keep = 3,
                         .adaptive = true,
                         .share = {.floor = 1, .form = budget::heads_form::kvcache_factory}};
    uneven const very{6, {6, 1}};
    auto const rows = very.of(two);
    auto const shared = authors(layer<float, ragged_view<float>>{.keys = rows, .values = rows}, memory).value();
    CHECK(shared[0].kept() == 3);
    CHECK(list(shared[1].sources) == tokens_list{0});
}
}  // namespace terse::test

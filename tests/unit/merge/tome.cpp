#include <array>
#include <cmath>
#include <map>
#include <numeric>

#include <terse/merge/tome.hpp>
#include <terse/move/apply.hpp>

#include "support.hpp"

namespace terse::test {
namespace {
using groups = std::vector<tokens_list>;

tensor<float> const seven{{1, 0, .9F, .1F, .8F, .6F, 0, 1, -1, .1F, .1F, 1, -.9F, .2F}, 1, 7, 2};

/// The published steps, one by one, in double precision: the rows as sets of tokens, in the published order.
template <class T>
groups reference(tensor<T> const& x, merge::tome const& policy) {
    index const n = x.tokens;
    int const guarded = (policy.class_token ? 1 : 0) + (policy.distill_token ? 1 : 0);
    index const r = policy.distill_token && n < 4 ? 0 : std::min(policy.remove, (n - guarded) / 2);
    auto const cosine = [&](index a, index b) {
        double dot = 0, left = 0, right = 0;
        for (index c = 0; c < x.dim; ++c) {
            double const u = static_cast<double>(static_cast<float>(x.row(a)[c]));
            double const v = static_cast<double>(static_cast<float>(x.row(b)[c]));
            dot += u * v, left += u * u, right += v * v;
        }
        return dot / std::sqrt(left * right);
    };
    struct link {
        index a, b;
        double similarity;
    };
    std::vector<link> links;
    for (index a = 0; a < n; a += 2) {
        link best{a, -1, -INFINITY};
        for (index b = 1; b < n; b += 2) {
            bool const barred = (policy.class_token && a == 0) || (policy.distill_token && b == 1);
            double const s = barred ? -INFINITY : cosine(a, b);
            if (best.b < 0 || s > best.similarity) best = {a, b, s};
        }
        links.push_back(best);
    }
    std::stable_sort(links.begin(), links.end(),
                     [](link const& u, link const& v) { return u.similarity > v.similarity; });
    std::vector<index> left;
    std::map<index, tokens_list> right;
    for (index b = 1; b < n; b += 2) right[b] = {static_cast<token>(b)};
    for (std::size_t i = 0; i < links.size(); ++i) {
        if (static_cast<index>(i) < r)
            right[links[i].b].push_back(static_cast<token>(links[i].a));
        else
            left.push_back(links[i].a);
    }
    if (policy.class_token) std::sort(left.begin(), left.end());
    groups rows;
    for (index const a : left) rows.push_back({static_cast<token>(a)});
    for (auto& [b, members] : right) {
        std::sort(members.begin(), members.end());
        rows.push_back(members);
    }
    if (policy.distill_token)
        std::rotate(rows.begin() + 1, rows.begin() + std::ssize(left), rows.begin() + std::ssize(left) + 1);
    return rows;
}
}  // namespace

TEST_CASE("tome merges the most similar pairs", "[merge][tome]") {
    struct row {
        char const* name;
        merge::tome policy;
        groups rows;
    };
    auto const r = GENERATE(values<row>({
        {"two", {.remove = 2}, {{6}, {4}, {0, 1, 2}, {3}, {5}}},
        {"the class token stays", {.remove = 2, .class_token = true}, {{0}, {4}, {1, 2}, {3, 6}, {5}}},
        {"at most half", {.remove = 9}, {{4}, {0, 1, 2}, {3, 6}, {5}}},
        {"in the order of the inputs", {.remove = 2, .keep_order = true}, {{0, 1, 2}, {3}, {4}, {5}, {6}}},
        {"nothing", {.remove = 0}, {{0}, {1}, {2}, {3}, {4}, {5}, {6}}},
        {"nothing joins the distil token",
         {.remove = 1, .class_token = true, .distill_token = true},
         {{0}, {1}, {4}, {6}, {3}, {2, 5}}},
    }));
    CAPTURE(r.name);
    arena memory;
    auto const p = r.policy(seven.view(), memory).value();
    CHECK(rows_of(p) == r.rows);
    CHECK(p.kept() == r.policy.count(7));
    CHECK(is_valid(p));
    for (index i = 0; i < p.kept(); ++i) {
        auto const members = p.row(i).sources;
        token const anchor = p.anchor[static_cast<std::size_t>(i)];
        CHECK(std::count(members.begin(), members.end(), anchor) == 1);
        if (members.size() > 1) CHECK(anchor % 2 == 1);
    }
}

TEMPLATE_TEST_CASE("tome merges as the published steps do", "[merge][tome]", float, half, bfloat16) {
    auto const n = GENERATE(as<index>{}, 2, 3, 20, 33, 98, 197);
    auto const remove = GENERATE(as<index>{}, 1, 7, 16, 500);
    auto const flags = GENERATE(0, 1, 2, 3);
    merge::tome const policy{.remove = remove, .class_token = flags % 2 != 0, .distill_token = flags > 1};
    CAPTURE(n, remove, flags);
    auto const x = cast<TestType>(random_tokens(n, 20, static_cast<unsigned>(n)));
    arena memory;
    auto const p = policy(x.view(), memory).value();
    if (policy.removed(n) > 0) {
        CHECK(rows_of(p) == reference(x, policy));
    } else {
        CHECK(p.is_selection());
    }
    CHECK(p.kept() == policy.count(n));
    for (index const workers : worker_counts) require_same_plan(p, policy(x.view(), memory, threads{workers}).value());
}

TEST_CASE("tome over layers weighs every input alike", "[merge][tome]") {
    auto const x = random_tokens(60, 16, 4);
    merge::tome const policy{.remove = 11, .class_token = true};
    arena memory;
    std::vector<float> tokens = x.values, counts(60, 1.0F);
    std::vector<tokens_list> inputs;  // of each row
    for (token t = 0; t < 60; ++t) inputs.push_back({t});
    for (int layer = 0; layer < 3; ++layer) {
        auto const now = view(std::as_const(tokens).data(), std::ssize(counts), 16);
        auto const p = policy(now, counts, memory).value();
        std::vector<float> next(static_cast<std::size_t>(p.kept() * 16)),
            sizes_of_next(static_cast<std::size_t>(p.kept()));
        REQUIRE(apply(p, now, view(next.data(), p.kept(), 16)) == errc::ok);
        REQUIRE(sizes(p, counts, sizes_of_next) == errc::ok);
        std::vector<tokens_list> joined;
        for (auto const& sources : rows_of(p)) {
            auto& row = joined.emplace_back();
            for (token const s : sources)
                row.insert(row.end(), inputs[static_cast<std::size_t>(s)].begin(),
                           inputs[static_cast<std::size_t>(s)].end());
        }
        tokens = next, counts = sizes_of_next, inputs = joined;
    }
    REQUIRE(inputs.size() == 60 - 3 * 11);
    CHECK(inputs[0] == tokens_list{0});
    for (std::size_t row = 0; row < inputs.size(); ++row) {
        CHECK(counts[row] == static_cast<float>(inputs[row].size()));
        for (index c = 0; c < 16; ++c) {
            double sum = 0;
            for (token const t : inputs[row]) sum += static_cast<double>(x.row(t)[c]);
            CHECK(static_cast<double>(tokens[row * 16 + static_cast<std::size_t>(c)]) ==
                  Approx(sum / static_cast<double>(inputs[row].size())).margin(1e-6));
        }
    }
}

TEST_CASE("tome keeps its count whatever the tokens hold", "[merge][tome]") {
    arena memory;
    merge::tome const policy{.remove = 3};
    auto const check = [&](tensor<float> const& x) {
        auto const p = policy(x.view(), memory).value();
        CHECK(p.kept() == policy.count(x.tokens));
        CHECK(is_valid(p));
        CHECK(p.is_partition());
        CHECK(p.is_row_stochastic());
        CHECK(std::count(p.owner.begin(), p.owner.end(), token{-1}) == 0);
    };
    check({std::vector<float>(8 * 3, not_a_number), 1, 8, 3});
    check({std::vector<float>(8 * 3, 0.0F), 1, 8, 3});
    check({std::vector<float>(8 * 3, 1.0F), 1, 8, 3});
    check({std::vector<float>(8 * 3, infinity), 1, 8, 3});
    check({{}, 1, 0, 3});
    check({{1}, 1, 1, 1});
    check({{}, 1, 9, 0});
}

TEST_CASE("tome refuses what does not fit", "[merge][tome]") {
    arena memory;
    std::vector<float> const six(6, 1.0F);
    std::vector<float> broken(7, 1.0F);
    CHECK(merge::tome{.remove = -1}(seven.view(), memory).error() == errc::bad_setting);
    CHECK(merge::tome{}(seven.view(), six, memory).error() == errc::bad_shape);
    for (float const size : {0.0F, -1.0F, not_a_number, infinity}) {
        broken[3] = size;
        CHECK(merge::tome{.remove = 1}(seven.view(), broken, memory).error() == errc::bad_setting);
    }
    tokens_view<float> endless = seven.view();
    endless.tokens = max_tokens + 1;
    CHECK(merge::tome{}(endless, memory).error() == errc::bad_shape);
    CHECK(memory.used() == 0);
    auto const x = random_tokens(33, 8, 1);
    require_exact_peak([&](arena& m) { return merge::tome{.remove = 5}(x.view(), m); });
}

TEST_CASE("the bias of proportional attention is the logarithm of sizes", "[merge][tome]") {
    std::vector<float> sizes = {1, 2, 10};
    std::vector<float> bias(3);
    REQUIRE(merge::log_sizes(sizes, bias) == errc::ok);
    CHECK(bias == std::vector<float>{0, std::log(2.0F), std::log(10.0F)});
    REQUIRE(merge::log_sizes(sizes, sizes) == errc::ok);
    CHECK(sizes == bias);
    CHECK(merge::log_sizes(sizes, std::span{bias}.first(2)) == errc::bad_shape);
}
}  // namespace terse::test

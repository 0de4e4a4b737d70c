#include <array>
#include <cmath>

#include <terse/move/apply.hpp>
#include <terse/pool/average.hpp>

#include "support.hpp"

using terse::arena;
using terse::errc;
using terse::grid;
using terse::per_axis;
using terse::pool::adaptive_average;
using terse::pool::average;
using terse::pool::border;
using terse::test::list;
using terse::test::tensor;
using terse::test::tokens_list;

namespace {

struct row_t {
    char const* name;
    average policy;
    terse::index tokens;
    std::vector<tokens_list> rows;
    std::vector<std::vector<float>> weights;
    tokens_list anchor, owner;
};

constexpr float third = 1.0F / 3;

// Bins of one axis, written from the input's side: does cell i of `out` touch input j of `length`?
bool in_bin(terse::index i, terse::index j, terse::index length, terse::index out) {
    return (j + 1) * out > i * length && j * out < (i + 1) * length;
}

// Means over exact bins, in double precision.
tensor<float> reference(tensor<float> const& x, grid g, grid out) {
    tensor<float> y{std::vector<float>(static_cast<std::size_t>(out.frames * out.rows * out.columns * x.dim)), 1,
                    out.frames * out.rows * out.columns, x.dim};
    for (terse::index o = 0; o < y.tokens; ++o) {
        terse::index const of = o / (out.rows * out.columns), r = o / out.columns % out.rows, c = o % out.columns;
        std::vector<double> sum(static_cast<std::size_t>(x.dim));
        double members = 0;
        for (terse::index t = 0; t < x.tokens; ++t) {
            if (!in_bin(of, t / (g.rows * g.columns), g.frames, out.frames)) continue;
            if (!in_bin(r, t / g.columns % g.rows, g.rows, out.rows)) continue;
            if (!in_bin(c, t % g.columns, g.columns, out.columns)) continue;
            ++members;
            for (std::size_t k = 0; k < sum.size(); ++k) sum[k] += x.row(t)[k];
        }
        for (std::size_t k = 0; k < sum.size(); ++k) y.row(o)[k] = static_cast<float>(sum[k] / members);
    }
    return y;
}

template <class T>
tensor<T> applied(terse::plan const& p, tensor<T> const& x) {
    tensor<T> y{std::vector<T>(static_cast<std::size_t>(p.kept() * x.dim)), 1, p.kept(), x.dim};
    REQUIRE(terse::apply(p, x.view(), terse::view(y.values.data(), p.kept(), x.dim)) == errc::ok);
    return y;
}

void require_close(tensor<float> const& a, tensor<float> const& b, float tolerance) {
    REQUIRE(a.values.size() == b.values.size());
    float worst = 0;
    for (std::size_t i = 0; i < a.values.size(); ++i) worst = std::max(worst, std::abs(a.values[i] - b.values[i]));
    REQUIRE(worst <= tolerance);
}

}  // namespace

TEST_CASE("average pooling by hand", "[pool][average]") {
    auto const r = GENERATE(values<row_t>({
        {"dropped rest",
         {.grid = {.columns = 5}, .kernel = {.columns = 2}, .border = border::drop},
         5,
         {{0, 1}, {2, 3}},
         {{0.5F, 0.5F}, {0.5F, 0.5F}},
         {0, 2},
         {0, 0, 1, 1, -1}},
        {"partial rest",
         {.grid = {.columns = 5}, .kernel = {.columns = 2}},
         5,
         {{0, 1}, {2, 3}, {4}},
         {{0.5F, 0.5F}, {0.5F, 0.5F}, {1}},
         {0, 2, 4},
         {0, 0, 1, 1, 2}},
        {"padding averaged in",
         {.grid = {.columns = 4},
          .kernel = {.columns = 3},
          .stride = {.columns = 2},
          .padding = {.columns = 1},
          .border = border::drop,
          .count_padding = true},
         4,
         {{0, 1}, {1, 2, 3}},
         {{third, third}, {third, third, third}},
         {0, 2},
         {0, 0, 1, 1}},
        {"blocks of an image with odd sides",
         {.grid = {.rows = 3, .columns = 3}, .kernel = {.rows = 2, .columns = 2}},
         9,
         {{0, 1, 3, 4}, {2, 5}, {6, 7}, {8}},
         {{0.25F, 0.25F, 0.25F, 0.25F}, {0.5F, 0.5F}, {0.5F, 0.5F}, {1}},
         {0, 2, 6, 8},
         {0, 0, 1, 0, 0, 1, 2, 2, 3}},
        {"frames alone",
         {.grid = {.frames = 2, .rows = 1, .columns = 3}, .kernel = {.frames = 2}},
         6,
         {{0, 3}, {1, 4}, {2, 5}},
         {{0.5F, 0.5F}, {0.5F, 0.5F}, {0.5F, 0.5F}},
         {0, 1, 2},
         {0, 1, 2, 0, 1, 2}},
        {"overlapping windows: the first owns",
         {.grid = {.columns = 5}, .kernel = {.columns = 3}, .stride = {.columns = 1}},
         5,
         {{0, 1, 2}, {1, 2, 3}, {2, 3, 4}},
         {{third, third, third}, {third, third, third}, {third, third, third}},
         {1, 2, 3},
         {0, 0, 0, 1, 2}},
        {"windows of one token apart",
         {.grid = {.columns = 5}, .kernel = {.columns = 1}, .stride = {.columns = 2}},
         5,
         {{0}, {2}, {4}},
         {{1}, {1}, {1}},
         {0, 2, 4},
         {0, -1, 1, -1, 2}},
        {"nothing pooled", {.grid = {.columns = 3}}, 3, {{0}, {1}, {2}}, {{1}, {1}, {1}}, {0, 1, 2}, {0, 1, 2}},
        {"a single token, padded",
         {.grid = {}, .kernel = {.columns = 2}, .padding = {.columns = 1}, .count_padding = true},
         1,
         {{0}},
         {{0.5F}},
         {0},
         {0}},
    }));
    CAPTURE(r.name);
    arena memory;
    auto const p = r.policy(r.tokens, memory);
    REQUIRE(p);
    CHECK(terse::test::rows_of(*p) == r.rows);
    CHECK(terse::test::weights_of(*p) == r.weights);
    CHECK(list(p->anchor) == r.anchor);
    CHECK(list(p->owner) == r.owner);
    CHECK(p->tokens == r.tokens);
    CHECK(r.policy.count(r.tokens).value() == p->kept());
    CHECK(terse::is_valid(*p));
}

TEST_CASE("positions of a pooled sequence are the means rounded down", "[pool][average]") {
    arena memory;
    auto const p = average{.grid = {.columns = 576}, .kernel = {.columns = 8}}(576, memory);
    REQUIRE(p);
    REQUIRE(p->kept() == 72);
    for (terse::index i = 0; i < 72; ++i) CHECK(p->anchor[static_cast<std::size_t>(i)] == 8 * i + 3);
}

TEST_CASE("average pooling refuses what it cannot do", "[pool][average]") {
    arena memory;
    struct refusal {
        char const* name;
        average policy;
        terse::index tokens;
        errc error;
    };
    terse::index const huge = terse::max_tokens;
    auto const r = GENERATE_COPY(values<refusal>({
        {"a grid of other tokens", {.grid = {.rows = 3, .columns = 4}}, 11, errc::bad_shape},
        {"no tokens", {.grid = {.columns = 0}}, 0, errc::bad_shape},
        {"no tokens on a grid of one", {}, 0, errc::bad_shape},
        {"negative sides", {.grid = {.rows = -3, .columns = -4}}, 12, errc::bad_shape},
        {"sides whose product wraps", {.grid = {.frames = huge, .rows = huge, .columns = huge}}, -1, errc::bad_shape},
        {"more than a token counts", {.grid = {.rows = 2, .columns = huge}}, 2 * huge, errc::bad_shape},
        {"negative kernel", {.grid = {.columns = 4}, .kernel = {.columns = -1}}, 4, errc::bad_setting},
        {"negative stride", {.grid = {.columns = 4}, .stride = {.columns = -1}}, 4, errc::bad_setting},
        {"negative padding",
         {.grid = {.columns = 4}, .kernel = {.columns = 2}, .padding = {.columns = -1}},
         4,
         errc::bad_setting},
        {"padding above half the kernel",
         {.grid = {.rows = 4}, .kernel = {.rows = 3}, .padding = {.rows = 2}},
         4,
         errc::bad_setting},
        {"padding without a kernel", {.grid = {.rows = 4}, .padding = {.rows = 1}}, 4, errc::bad_setting},
        {"a kernel that does not fit",
         {.grid = {.frames = 4}, .kernel = {.frames = 5}, .border = border::drop},
         4,
         errc::bad_setting},
        {"more entries than a token counts",
         {.grid = {.columns = 100000},
          .kernel = {.columns = 50001},
          .stride = {.columns = 1},
          .padding = {.columns = 25000}},
         100000,
         errc::bad_shape},
    }));
    CAPTURE(r.name);
    CHECK(r.policy(r.tokens, memory).error() == r.error);
    CHECK(r.policy.count(r.tokens).error() == r.error);
    CHECK(memory.used() == 0);
}

TEST_CASE("adaptive pooling by hand", "[pool][adaptive]") {
    arena memory;
    auto const p = adaptive_average{.grid = {.columns = 5}, .out = {.columns = 3}}(5, memory);
    REQUIRE(p);
    CHECK(terse::test::rows_of(*p) == std::vector<tokens_list>{{0, 1}, {1, 2, 3}, {3, 4}});
    CHECK(terse::test::weights_of(*p) ==
          std::vector<std::vector<float>>{{0.5F, 0.5F}, {third, third, third}, {0.5F, 0.5F}});
    CHECK(list(p->anchor) == tokens_list{0, 2, 3});
    CHECK(list(p->owner) == tokens_list{0, 0, 1, 1, 2});
    CHECK_FALSE(p->is_partition());

    auto const even = adaptive_average{.grid = {.rows = 4, .columns = 2}, .out = {.rows = 2}}(8, memory);
    REQUIRE(even);
    CHECK(terse::test::rows_of(*even) == std::vector<tokens_list>{{0, 2}, {1, 3}, {4, 6}, {5, 7}});
    CHECK(even->is_partition());

    auto const larger = adaptive_average{.grid = {.columns = 2}, .out = {.columns = 4}}(2, memory);
    REQUIRE(larger);
    CHECK(terse::test::rows_of(*larger) == std::vector<tokens_list>{{0}, {0}, {1}, {1}});

    CHECK(adaptive_average{.grid = {.rows = 2, .columns = 3}}(6, memory)->is_selection());
    CHECK(adaptive_average{.grid = {.columns = 4}, .out = {.columns = -1}}(4, memory).error() == errc::bad_setting);
    CHECK(adaptive_average{.grid = {.columns = 4}, .out = {.columns = 2}}(5, memory).error() == errc::bad_shape);
    CHECK(adaptive_average{.grid = {.columns = 4}, .out = {.columns = 2}}.count(5).error() == errc::bad_shape);
}

TEST_CASE("adaptive pooling is the mean of its bins", "[pool][adaptive]") {
    struct shape {
        grid in, out;
    };
    auto const s = GENERATE(values<shape>({
        {{1, 24, 24}, {1, 12, 12}},
        {{1, 24, 24}, {1, 16, 16}},
        {{5, 7, 3}, {3, 4, 2}},
        {{2, 3, 5}, {4, 3, 7}},
        {{1, 1, 17}, {1, 1, 1}},
        {{9, 1, 1}, {4, 1, 1}},
    }));
    terse::index const tokens = s.in.frames * s.in.rows * s.in.columns;
    CAPTURE(s.in.frames, s.in.rows, s.in.columns);
    auto const x = terse::test::random_tokens(tokens, 19, 7);
    arena memory;
    adaptive_average const policy{s.in, {s.out.frames, s.out.rows, s.out.columns}};
    auto const p = policy(x.view(), memory);
    REQUIRE(p);
    CHECK(terse::is_valid(*p));
    CHECK(p->is_row_stochastic());
    CHECK(policy.count(tokens).value() == p->kept());

    auto const expected = reference(x, s.in, s.out);
    require_close(applied(*p, x), expected, 1e-6F);
    require_close(terse::test::cast<float>(applied(*p, terse::test::cast<terse::half>(x))), expected, 1e-3F);
    require_close(terse::test::cast<float>(applied(*p, terse::test::cast<terse::bfloat16>(x))), expected, 8e-3F);
}

TEST_CASE("average pooling where windows fit is adaptive pooling", "[pool][average]") {
    arena memory;
    auto const fixed = average{.grid = {4, 6, 9}, .kernel = {2, 3, 3}}(216, memory);
    auto const bins = adaptive_average{.grid = {4, 6, 9}, .out = {2, 2, 3}}(216, memory);
    REQUIRE(fixed);
    REQUIRE(bins);
    terse::test::require_same_plan(*fixed, *bins);
    CHECK(fixed->is_partition());
    CHECK(fixed->is_row_stochastic());
    CHECK(fixed->keeps_order());
}

TEST_CASE("the plan of average pooling serves max pooling", "[pool][average]") {
    tensor<float> const x{{1, 5, 2, 9, -3, -4}, 1, 6, 1};
    arena memory;
    auto const p = average{.grid = {.rows = 2, .columns = 3}, .kernel = {.rows = 2, .columns = 2}}(x.view(), memory);
    REQUIRE(p);
    std::array<float, 2> out{};
    REQUIRE(terse::apply_max(*p, x.view(), terse::view(out.data(), 2, 1)) == errc::ok);
    CHECK(out == std::array<float, 2>{9, 2});
}

TEST_CASE("pooling needs its peak of memory and no less", "[pool][average]") {
    average const policy{.grid = {.rows = 9, .columns = 11}, .kernel = {.rows = 2, .columns = 3}};
    terse::test::require_exact_peak([&](arena& memory) { return policy(99, memory); });
    terse::test::require_exact_peak([](arena& memory) { return average{.grid = {.columns = 99}}(99, memory); });
    adaptive_average const bins{.grid = {.rows = 9, .columns = 11}, .out = {.rows = 4, .columns = 4}};
    terse::test::require_exact_peak([&](arena& memory) { return bins(99, memory); });
}

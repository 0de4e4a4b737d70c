#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <catch2/catch.hpp>

#include <terse/core/arena.hpp>
#include <terse/move/apply.hpp>

using terse::errc;
using terse::token;

namespace {

// Rows cut one by one, last first: a result that depends on the cut shows.
struct backwards {
    [[nodiscard]] static constexpr terse::index workers() noexcept { return 1; }
    template <class Body>
    void operator()(terse::index count, Body&& body) const noexcept {
        for (terse::index i = count; i-- > 0;) body(i, i + 1, terse::index{0});
    }
};

// Three rows of five inputs: a copy, a weighted pair, nothing; input 4 is dropped.
std::vector<token> const offsets{0, 1, 3, 3};
std::vector<token> const sources{2, 0, 3};
std::vector<float> const weights{1, 0.25F, 0.5F};
std::vector<token> const anchor{2, 3, -1};
std::vector<token> const owner{1, -1, 0, 1, -1};
terse::plan const mixed{
    .tokens = 5, .sources = sources, .offsets = offsets, .weights = weights, .anchor = anchor, .owner = owner};
std::vector<token> const picked{1, 4};
terse::plan const selection = terse::select_rows(picked, 5);

template <class T>
std::vector<T> ramp(std::size_t n) {
    std::vector<T> x(n);
    for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<T>(static_cast<float>(i));
    return x;
}

template <class T>
std::vector<float> floats(std::vector<T> const& x) {
    std::vector<float> y;
    for (T const v : x) y.push_back(static_cast<float>(v));
    return y;
}

}  // namespace

TEMPLATE_TEST_CASE("apply sums the weighted sources", "[move][apply]", float, terse::half, terse::bfloat16) {
    auto const in = ramp<TestType>(10);  // [5, 2]: 0 1, 2 3, 4 5, 6 7, 8 9
    std::vector<TestType> out(6, TestType{-1.0F});
    CHECK(terse::apply(mixed, terse::view(in.data(), 5, 2), terse::view(out.data(), 3, 2)) == errc::ok);
    CHECK(floats(out) == std::vector<float>{4, 5, 3, 3.75F, 0, 0});
    CHECK(terse::apply_mean(mixed, terse::view(in.data(), 5, 2), terse::view(out.data(), 3, 2)) == errc::ok);
    CHECK(floats(out) == std::vector<float>{4, 5, 4, 5, 0, 0});
    CHECK(terse::apply_max(mixed, terse::view(in.data(), 5, 2), terse::view(out.data(), 3, 2)) == errc::ok);
    CHECK(floats(out) == std::vector<float>{4, 5, 6, 7, 0, 0});
    out.resize(4);
    CHECK(terse::apply(selection, terse::view(in.data(), 5, 2), terse::view(out.data(), 2, 2)) == errc::ok);
    CHECK(floats(out) == std::vector<float>{2, 3, 8, 9});
}

TEMPLATE_TEST_CASE("apply agrees with a product in double", "[move][apply]", float, terse::half, terse::bfloat16) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (terse::index const dim : {1, 3, 7, 8, 9, 16, 31, 64, 67, 200}) {
        constexpr terse::index tokens = 23;
        std::vector<token> begin{0}, from;
        std::vector<float> weight;
        for (int i = 0; i < 11; ++i) {
            for (token j = 0; j < tokens; ++j) {
                if (random() % 5 != 0) continue;
                from.push_back(j);
                weight.push_back(normal(random));
            }
            begin.push_back(static_cast<token>(from.size()));
        }
        terse::plan const p{.tokens = tokens, .sources = from, .offsets = begin, .weights = weight};
        REQUIRE(is_valid(p));
        terse::index const in_stride = dim + 3, out_stride = dim + 5;
        std::vector<TestType> in(static_cast<std::size_t>(tokens * in_stride));
        for (TestType& x : in) x = static_cast<TestType>(normal(random));
        std::vector<TestType> out(static_cast<std::size_t>(p.kept() * out_stride), TestType{-9.0F}), cut = out;
        terse::tokens_view<TestType> const x = terse::view(in.data(), tokens, dim, in_stride);
        auto const y = terse::view(out.data(), p.kept(), dim, out_stride);
        CHECK(terse::apply(p, x, y) == errc::ok);
        CHECK(terse::apply(p, x, terse::view(cut.data(), p.kept(), dim, out_stride), backwards{}) == errc::ok);
        CHECK(floats(out) == floats(cut));
        double const unit = std::is_same_v<TestType, float>         ? 1e-6
                            : std::is_same_v<TestType, terse::half> ? 1e-3
                                                                    : 8e-3;
        for (terse::index i = 0; i < p.kept(); ++i) {
            for (terse::index c = 0; c < dim; ++c) {
                double sum = 0, scale = 1e-6;
                for (std::size_t k = 0; k < p.row(i).sources.size(); ++k) {
                    double const term = static_cast<double>(p.row(i).weight(k)) *
                                        static_cast<double>(static_cast<float>(x.row(p.row(i).sources[k])[c]));
                    sum += term;
                    scale += std::abs(term);
                }
                CHECK(std::abs(static_cast<double>(static_cast<float>(y.row(i)[c])) - sum) <= unit * scale);
            }
            for (terse::index c = dim; c < out_stride; ++c)  // padding is not touched
                CHECK(static_cast<float>(out[static_cast<std::size_t>(i * out_stride + c)]) == -9);
        }
    }
}

TEST_CASE("integral rows can be selected and not summed", "[move][apply]") {
    std::vector<std::uint8_t> const in{0, 1, 2, 3, 4, 5, 6, 7, 250, 255};
    std::vector<std::uint8_t> out(6, 99);
    CHECK(terse::apply(selection, terse::view(in.data(), 5, 2), terse::view(out.data(), 2, 2)) == errc::ok);
    CHECK(out == std::vector<std::uint8_t>{2, 3, 250, 255, 99, 99});
    auto const before = out;
    CHECK(terse::apply(mixed, terse::view(in.data(), 5, 2), terse::view(out.data(), 3, 2)) == errc::bad_plan);
    CHECK(out == before);
}

TEST_CASE("apply_mean of a row whose weights cancel is zero", "[move][apply]") {
    std::vector<token> const begin{0, 2}, from{0, 1};
    std::vector<float> const weight{1, -1};
    terse::plan const p{.tokens = 2, .sources = from, .offsets = begin, .weights = weight};
    std::vector<float> const in{3, 5};
    std::vector<float> out{9};
    CHECK(terse::apply_mean(p, terse::view(in.data(), 2, 1), terse::view(out.data(), 1, 1)) == errc::ok);
    CHECK(out == std::vector<float>{0});
}

TEST_CASE("apply_max lets NaN through", "[move][apply]") {
    float const undefined = std::numeric_limits<float>::quiet_NaN();
    std::vector<token> const begin{0, 2, 4}, from{0, 1, 0, 2};
    terse::plan const p{.tokens = 3, .sources = from, .offsets = begin};
    std::vector<float> in(27, -2), out(18);  // [3, 9]: a whole register and a tail
    in[0] = undefined;                       // before a number
    in[9 + 1] = undefined;                   // after one
    in[9 + 8] = undefined;                   // in the tail
    in[18 + 5] = -1;
    CHECK(terse::apply_max(p, terse::view(in.data(), 3, 9), terse::view(out.data(), 2, 9)) == errc::ok);
    for (std::size_t c = 0; c < 9; ++c) {
        CAPTURE(c);
        CHECK(std::isnan(out[c]) == (c == 0 || c == 1 || c == 8));
        CHECK(std::isnan(out[9 + c]) == (c == 0));
    }
    CHECK(out[2] == -2);
    CHECK(out[9 + 5] == -1);
}

TEST_CASE("apply takes a plan a head", "[move][apply]") {
    std::vector<token> const one{0, 2}, other{1};
    std::vector<terse::plan> const each{terse::select_rows(one, 3), terse::select_rows(other, 3)};
    std::vector<float> const in{0, 1, 2, 10, 11, 12};  // [2, 3, 1]
    std::vector<float> out(4, -1);
    auto const x = terse::head_major(in.data(), 2, 3, 1);
    auto const y = terse::head_major(out.data(), 2, 2, 1);
    CHECK(terse::apply(terse::plans{each}, x, y) == errc::ok);
    CHECK(out == std::vector<float>{0, 2, 11, -1});  // the second head has one row
    out.assign(4, -1);
    CHECK(terse::apply(terse::plans{each}, x, y, backwards{}) == errc::ok);
    CHECK(out == std::vector<float>{0, 2, 11, -1});
    CHECK(terse::apply(terse::plans{std::span{each}.first(1)}, x, y) == errc::ok);
    CHECK(out == std::vector<float>{0, 2, 10, 12});

    out.assign(4, -1);
    auto const short_one = terse::head_major(out.data(), 2, 1, 1);
    CHECK(terse::apply(terse::plans{each}, x, short_one) == errc::bad_shape);
    CHECK(terse::apply(terse::plans{}, x, y) == errc::bad_shape);
    CHECK(terse::apply(terse::plans{each}, terse::head_major(in.data(), 1, 3, 1), y) == errc::bad_shape);
    CHECK(terse::apply(terse::plans{each}, terse::head_major(in.data(), 2, 2, 1), y) == errc::bad_shape);
    CHECK(terse::apply(terse::plans{each}, terse::head_major(in.data(), 2, 3, 1),
                       terse::head_major(out.data(), 2, 1, 2)) == errc::bad_shape);
    CHECK(out == std::vector<float>(4, -1));
}

TEST_CASE("pick follows the anchors", "[move][apply]") {
    std::vector<std::int64_t> const positions{10, 11, 12, 13, 14};
    std::vector<std::int64_t> ids(3, 99);
    CHECK(terse::pick(mixed, positions, std::span{ids}, -5) == errc::ok);
    CHECK(ids == std::vector<std::int64_t>{12, 13, -5});
    CHECK(terse::pick(mixed, std::span{positions}.first(4), std::span{ids}, 0) == errc::bad_shape);
    CHECK(terse::pick(mixed, positions, std::span{ids}.first(2), 0) == errc::bad_shape);
    CHECK(terse::pick(terse::plan{.tokens = 5, .sources = picked}, positions, std::span{ids}.first(2), 0) ==
          errc::bad_plan);
    CHECK(ids == std::vector<std::int64_t>{12, 13, -5});
    std::vector<std::int64_t> both(6, 7);
    CHECK(terse::pick(mixed, std::span{both}.first(5), std::span{both}.last(3), 0) == errc::aliased);
    CHECK(both == std::vector<std::int64_t>(6, 7));

    std::vector<std::int32_t> const in{0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    std::vector<std::int32_t> rows(6, 99);
    CHECK(terse::pick(mixed, terse::view(in.data(), 5, 2), terse::view(rows.data(), 3, 2)) == errc::ok);
    CHECK(rows == std::vector<std::int32_t>{4, 5, 6, 7, 0, 0});
    CHECK(terse::pick(terse::plan{.tokens = 5, .sources = picked}, terse::view(in.data(), 5, 2),
                      terse::view(rows.data(), 2, 2)) == errc::bad_plan);
}

TEST_CASE("gather_concat puts sources side by side", "[move][apply]") {
    std::vector<token> const begin{0, 2, 4}, from{0, 2, 1, 3};
    terse::plan const p{.tokens = 4, .sources = from, .offsets = begin};
    std::vector<int> const in{0, 1, 10, 11, 20, 21, 30, 31};
    std::vector<int> out(8, -1);
    auto const x = terse::view(in.data(), 4, 2);
    auto const y = terse::view(out.data(), 2, 4);
    CHECK(terse::gather_concat(p, x, y, terse::channel_order::source_major) == errc::ok);
    CHECK(out == std::vector<int>{0, 1, 20, 21, 10, 11, 30, 31});
    CHECK(terse::gather_concat(p, x, y, terse::channel_order::channel_major) == errc::ok);
    CHECK(out == std::vector<int>{0, 20, 1, 21, 10, 30, 11, 31});

    out.assign(8, -1);
    auto const concat = [&](terse::plan const& q, terse::tokens_span<int> to) {
        return terse::gather_concat(q, x, to, terse::channel_order::source_major);
    };
    std::vector<token> const uneven{0, 1, 4};
    CHECK(concat({.tokens = 4, .sources = from, .offsets = uneven}, y) == errc::bad_plan);
    CHECK(concat(p, terse::view(out.data(), 2, 2)) == errc::bad_plan);
    CHECK(concat(p, terse::view(out.data(), 2, 3)) == errc::bad_shape);
    CHECK(concat(p, terse::view(out.data(), 1, 4)) == errc::bad_shape);
    CHECK(out == std::vector<int>(8, -1));
}

TEST_CASE("unmerge gives every input its row back", "[move][apply]") {
    std::vector<float> const rows{1, 2, 3, 4, 5, 6};
    std::vector<float> out(10, -1);
    auto const x = terse::view(rows.data(), 3, 2);
    auto const y = terse::view(out.data(), 5, 2);
    CHECK(terse::unmerge(mixed, x, y, terse::dropped::keep) == errc::ok);
    CHECK(out == std::vector<float>{3, 4, -1, -1, 1, 2, 3, 4, -1, -1});
    CHECK(terse::unmerge(mixed, x, y) == errc::ok);
    CHECK(out == std::vector<float>{3, 4, 0, 0, 1, 2, 3, 4, 0, 0});
    auto const before = out;
    CHECK(terse::unmerge(selection, terse::view(rows.data(), 2, 2), y) == errc::bad_plan);
    CHECK(terse::unmerge(mixed, terse::view(rows.data(), 2, 2), y) == errc::bad_shape);
    CHECK(terse::unmerge(mixed, x, terse::view(out.data(), 4, 2)) == errc::bad_shape);
    CHECK(terse::unmerge(mixed, x, terse::view(out.data(), 5, 1)) == errc::bad_shape);
    CHECK(terse::unmerge(mixed, terse::view(out.data(), 3, 2), y) == errc::aliased);
    CHECK(out == before);
}

TEST_CASE("sizes count what a row stands for", "[move][apply]") {
    std::vector<float> out(3, -1);
    CHECK(terse::sizes(mixed, {}, out) == errc::ok);
    CHECK(out == std::vector<float>{1, 2, 0});
    std::vector<float> const before{1, 2, 3, 4, 5};
    CHECK(terse::sizes(mixed, before, out) == errc::ok);
    CHECK(out == std::vector<float>{3, 5, 0});
    CHECK(terse::sizes(mixed, std::span{before}.first(4), out) == errc::bad_shape);
    CHECK(terse::sizes(mixed, before, std::span{out}.first(2)) == errc::bad_shape);
    std::vector<float> both(6, 7);
    CHECK(terse::sizes(mixed, std::span{both}.first(5), std::span{both}.last(3)) == errc::aliased);
    CHECK(both == std::vector<float>(6, 7));
}

TEST_CASE("a plan that does not fit changes nothing", "[move][apply]") {
    std::vector<float> memory(20, -1);
    terse::tokens_view<float> const x = terse::view(memory.data(), 5, 2);
    auto const y = terse::view(memory.data() + 10, 3, 2);
    auto const all = [](terse::plan const& p, terse::tokens_view<float> in, terse::tokens_span<float> out) {
        std::vector<errc> errors{terse::apply(p, in, out), terse::apply_mean(p, in, out), terse::apply_max(p, in, out),
                                 terse::pick(p, in, out)};
        CHECK(errors == std::vector<errc>(4, errors[0]));
        return errors[0];
    };
    CHECK(all(mixed, terse::view(memory.data(), 4, 2), y) == errc::bad_shape);
    CHECK(all(mixed, x, terse::view(memory.data() + 10, 2, 2)) == errc::bad_shape);
    CHECK(all(mixed, x, terse::view(memory.data() + 10, 3, 1)) == errc::bad_shape);
    CHECK(all(mixed, x, terse::view(memory.data() + 9, 3, 2)) == errc::aliased);
    CHECK(all(mixed, terse::view(memory.data() + 5, 5, 2), terse::view(memory.data(), 3, 2)) == errc::aliased);
    CHECK(memory == std::vector<float>(20, -1));
    CHECK(all(mixed, x, y) == errc::ok);

    terse::arena arena;
    auto const none = terse::keep_all(0, arena);
    CHECK(all(*none, terse::view(memory.data(), 0, 2), terse::view(memory.data(), 0, 2)) == errc::ok);
}

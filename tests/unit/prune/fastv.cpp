#include <cmath>
#include <numeric>

#include <terse/prune/fastv.hpp>

#include "support.hpp"

using terse::arena;
using terse::errc;
using terse::layer;
using terse::prune::fastv;
using terse::test::list;
using terse::test::not_a_number;
using terse::test::tensor;
using terse::test::tokens_list;

namespace {

// A layer that has attention [heads, window, tokens] and no data besides.
layer<float> with_attention(tensor<float> const& attention) {
    layer<float> l;
    l.keys = {.heads = 1, .tokens = attention.dim, .dim = 1};
    l.attention = attention.by_head();
    return l;
}

// Two heads, one query: their means are 0, 4, 1, 3, 2, 9.
tensor<float> const two_heads{{0, 8, 0, 0, 2, 9, 0, 0, 2, 6, 2, 9}, 2, 1, 6};

// Mean over heads of the softmax of the last query, in double precision.
std::vector<double> reference(layer<float> const& l, double scale) {
    std::vector<double> mean(static_cast<std::size_t>(l.tokens()));
    for (terse::index h = 0; h < l.heads(); ++h) {
        std::vector<double> p;
        for (terse::index t = 0; t < l.tokens(); ++t) {
            double dot = 0;
            for (terse::index c = 0; c < l.keys.dim; ++c)
                dot += static_cast<double>(l.queries.row(h, l.window() - 1)[c]) * l.keys.row(h / l.group(), t)[c];
            p.push_back(std::exp(dot * scale));
        }
        double const total = std::accumulate(p.begin(), p.end(), 0.0);
        for (std::size_t t = 0; t < p.size(); ++t) mean[t] += p[t] / total / static_cast<double>(l.heads());
    }
    return mean;
}

}  // namespace

TEST_CASE("fastv by hand", "[prune][fastv]") {
    struct row_t {
        char const* name;
        fastv policy;
        errc error;
        tokens_list kept;
    };
    auto const r = GENERATE(values<row_t>({
        {"the best of the image", {.image_start = 1, .image_tokens = 4, .keep = 2}, errc::ok, {0, 1, 3, 5}},
        {"image first", {.image_start = 0, .image_tokens = 3, .keep = 1}, errc::ok, {1, 3, 4, 5}},
        {"image last", {.image_start = 4, .image_tokens = 2, .keep = 1}, errc::ok, {0, 1, 2, 3, 5}},
        {"nothing else", {.image_start = 0, .image_tokens = 6, .keep = 3}, errc::ok, {1, 3, 5}},
        {"all of the image", {.image_start = 1, .image_tokens = 4, .keep = 4}, errc::ok, {0, 1, 2, 3, 4, 5}},
        {"more than the image", {.image_start = 1, .image_tokens = 4, .keep = 99}, errc::ok, {0, 1, 2, 3, 4, 5}},
        {"no image", {.image_start = 2, .image_tokens = 0, .keep = 1}, errc::ok, {0, 1, 2, 3, 4, 5}},
        {"no image at the end", {.image_start = 6, .image_tokens = 0, .keep = 1}, errc::ok, {0, 1, 2, 3, 4, 5}},
        {"none kept", {.image_start = 1, .image_tokens = 4, .keep = 0}, errc::bad_budget, {}},
        {"before the tokens", {.image_start = -1, .image_tokens = 4, .keep = 2}, errc::bad_shape, {}},
        {"past the tokens", {.image_start = 3, .image_tokens = 4, .keep = 2}, errc::bad_shape, {}},
        {"beyond the tokens", {.image_start = 7, .image_tokens = 0, .keep = 2}, errc::bad_shape, {}},
        {"negative image", {.image_start = 1, .image_tokens = -1, .keep = 2}, errc::bad_shape, {}},
    }));
    CAPTURE(r.name);
    arena memory;
    auto const p = r.policy(with_attention(two_heads), memory);
    REQUIRE(p.error() == r.error);
    if (!p) {
        CHECK(memory.used() == 0);
        return;
    }
    CHECK(list(p->sources) == r.kept);
    CHECK(p->kept() == r.policy.count(6));
    CHECK(p->is_selection());
    CHECK(p->keeps_order());
    CHECK(p->is_partition());
    CHECK(terse::is_valid(*p));
}

TEST_CASE("fastv: ties keep the earlier token and NaN goes first", "[prune][fastv]") {
    arena memory;
    tensor<float> const attention{{9, not_a_number, 1, 1, 1, 9}, 1, 1, 6};
    auto const p = fastv{.image_start = 1, .image_tokens = 4, .keep = 2}(with_attention(attention), memory);
    REQUIRE(p);
    CHECK(list(p->sources) == tokens_list{0, 2, 3, 5});
}

TEST_CASE("fastv reads the last query alone", "[prune][fastv]") {
    arena memory;
    tensor<float> const attention{{9, 9, 0, 0, 0, 0, 1, 2}, 1, 2, 4};
    auto const p = fastv{.image_start = 0, .image_tokens = 4, .keep = 2}(with_attention(attention), memory);
    REQUIRE(p);
    CHECK(list(p->sources) == tokens_list{2, 3});
}

TEST_CASE("fastv of no tokens", "[prune][fastv]") {
    arena memory;
    layer<float> const none;
    CHECK(fastv{.keep = 1}(none, memory)->kept() == 0);
}

TEST_CASE("fastv computes the attention that it is not given", "[prune][fastv]") {
    terse::index const tokens = 61, start = 9, image = 40, keep = 13;
    auto const keys = terse::test::random_heads(2, tokens, 20, 31);
    auto const queries = terse::test::random_heads(6, 3, 20, 32);
    auto const scale = GENERATE(0.0F, 1.5F);
    layer<float> l;
    l.keys = keys.by_head();
    l.queries = queries.by_head();
    l.scale = scale;

    auto const scores = reference(l, scale == 0 ? 1 / std::sqrt(20.0) : scale);
    tokens_list order(static_cast<std::size_t>(image));
    std::iota(order.begin(), order.end(), static_cast<terse::token>(start));
    auto const at = [&](terse::token t) { return scores[static_cast<std::size_t>(t)]; };
    std::sort(order.begin(), order.end(), [&](terse::token a, terse::token b) { return at(a) > at(b); });
    REQUIRE(at(order[keep - 1]) - at(order[keep]) > 1e-5);
    tokens_list expected(order.begin(), order.begin() + keep);
    for (terse::token t = 0; t < tokens; ++t)
        if (t < start || t >= start + image) expected.push_back(t);
    std::sort(expected.begin(), expected.end());

    arena memory;
    fastv const policy{start, image, keep};
    auto const p = policy(l, memory);
    REQUIRE(p);
    CHECK(list(p->sources) == expected);

    tensor<float> attention{{}, 6, 1, tokens};
    for (terse::index h = 0; h < 6; ++h)  // every head with the mean: the same choice
        attention.values.insert(attention.values.end(), scores.begin(), scores.end());
    layer<float> given = with_attention(attention);
    auto const same = policy(given, memory);
    REQUIRE(same);
    terse::test::require_same_plan(*same, *p);

    for (terse::index workers : terse::test::worker_counts) {
        auto const threaded = policy(l, memory, terse::test::threads{workers});
        REQUIRE(threaded);
        terse::test::require_same_plan(*threaded, *p);
    }
    terse::test::require_exact_peak([&](arena& a) { return policy(l, a); });
}

TEMPLATE_TEST_CASE("fastv in half precision", "[prune][fastv]", terse::half, terse::bfloat16) {
    auto const keys = terse::test::cast<TestType>(terse::test::random_heads(1, 30, 16, 41));
    auto const queries = terse::test::cast<TestType>(terse::test::random_heads(2, 1, 16, 42));
    auto const wide_keys = terse::test::cast<float>(keys), wide_queries = terse::test::cast<float>(queries);
    layer<TestType> l;
    l.keys = keys.by_head();
    l.queries = queries.by_head();
    layer<float> wide;
    wide.keys = wide_keys.by_head();
    wide.queries = wide_queries.by_head();
    fastv const policy{.image_start = 2, .image_tokens = 25, .keep = 8};
    arena memory;
    auto const p = policy(l, memory), expected = policy(wide, memory);
    REQUIRE(p);
    REQUIRE(expected);
    terse::test::require_same_plan(*p, *expected);
}

TEST_CASE("fastv refuses a layer that does not fit", "[prune][fastv]") {
    arena memory;
    fastv const policy{.image_start = 0, .image_tokens = 3, .keep = 1};
    auto const keys = terse::test::random_heads(2, 5, 4, 1), queries = terse::test::random_heads(3, 1, 4, 2);
    layer<float> l;
    l.keys = keys.by_head();
    CHECK(policy(l, memory).error() == errc::bad_shape);
    l.queries = queries.by_head();  // three heads over two
    CHECK(policy(l, memory).error() == errc::bad_shape);
    l.queries.heads = 2;
    l.scale = not_a_number;
    CHECK(policy(l, memory).error() == errc::bad_setting);
    l.scale = 0;
    CHECK(policy(l, memory));
}

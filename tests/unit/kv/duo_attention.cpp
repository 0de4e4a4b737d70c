#include <cmath>
#include <numbers>

#include <terse/kv/duo_attention.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {
using classes = std::vector<unsigned char>;

classes streaming(kv::streaming_heads const& policy, std::vector<float> const& scores) {
    arena memory;
    auto const mask = policy(scores, memory).value();
    return {mask.begin(), mask.end()};
}

/// The reach of a kv head by its definition: every key turned to its position, every position's sum of attention.
template <class T>
std::vector<double> reach(layer<T> const& l, kv::head_reach const& s) {
    index const dim = l.keys.dim, pairs = std::ssize(s.encoding.inverse_frequency);
    bool const split = s.encoding.layout == kv::rope_layout::half_split;
    auto const mean = [&](auto const& rows, index h) {
        std::vector<double> m(static_cast<std::size_t>(dim), 0.0);
        for (index t = 0; t < rows.tokens; ++t)
            for (index c = 0; c < dim; ++c)
                m[static_cast<std::size_t>(c)] +=
                    static_cast<double>(static_cast<float>(rows.row(h, t)[c])) / static_cast<double>(rows.tokens);
        return m;
    };
    auto const turned = [&](std::vector<double> x, index position) {
        for (index i = 0; i < pairs; ++i) {
            double& a = x[static_cast<std::size_t>(split ? i : 2 * i)];
            double& b = x[static_cast<std::size_t>(split ? i + pairs : 2 * i + 1)];
            double const angle = static_cast<double>(position) *
                                 static_cast<double>(s.encoding.inverse_frequency[static_cast<std::size_t>(i)]);
            double const was = a;
            a = was * std::cos(angle) - b * std::sin(angle);
            b = b * std::cos(angle) + was * std::sin(angle);
        }
        return x;
    };
    std::vector<double> out(static_cast<std::size_t>(l.kv_heads()), 0.0);
    for (index h = 0; h < l.queries.heads; ++h) {
        auto const query = turned(mean(l.queries, h), s.span - 1);
        std::vector<double> e;
        double sum = 0;
        for (index p = 0; p < s.span; ++p) {
            auto const key = turned(mean(l.keys, h / l.group()), p);
            double x = 0;
            for (std::size_t c = 0; c < key.size(); ++c) x += key[c] * query[c];
            e.push_back(std::exp(x * static_cast<double>(l.logit_scale())));
            sum += e.back();
        }
        double so_far = 0, total = 0;
        for (double const x : e) total += so_far += x / sum;
        out[static_cast<std::size_t>(h / l.group())] +=
            total / static_cast<double>(s.span) / static_cast<double>(l.group());
    }
    return out;
}
}  // namespace

TEST_CASE("the heads with the lowest scores stream", "[kv][duo_attention]") {
    std::vector<float> const scores = {.9F, .1F, .5F, .3F, .7F, .2F};
    CHECK(streaming({.share = 0.5}, scores) == classes{0, 1, 0, 1, 0, 1});
    CHECK(streaming({.share = 0.4}, scores) == classes{0, 1, 0, 0, 0, 1});   // 2.4
    CHECK(streaming({.share = 0.25}, scores) == classes{0, 1, 0, 0, 0, 1});  // 1.5, to the even one
    CHECK(kv::streaming_heads{.share = 0.25}.count(10) == 2);                // 2.5
    CHECK(streaming({.share = 0}, scores) == classes(6, 0));
    CHECK(streaming({.share = 1}, scores) == classes(6, 1));
    CHECK(streaming({}, {}).empty());
}

TEST_CASE("heads below a quantile stream", "[kv][duo_attention]") {
    std::vector<float> const scores = {.9F, .1F, .5F, .3F, .7F, .2F};
    auto const below = [&](double quantile) { return streaming({.share = quantile, .quantile = true}, scores); };
    CHECK(below(0.5) == classes{0, 1, 0, 1, 0, 1});  // between .3 and .5
    CHECK(below(0.1) == classes{0, 1, 0, 0, 0, 0});
    CHECK(below(0.2) == classes{0, 1, 0, 0, 0, 0});  // .2 itself, which is not below
    CHECK(below(0.21) == classes{0, 1, 0, 0, 0, 1});
    CHECK(below(0.99) == classes{0, 1, 1, 1, 1, 1});
    CHECK(below(0) == classes(6, 0));
    CHECK(below(-2) == classes(6, 0));
    CHECK(below(1) == classes(6, 1));
    CHECK(below(7) == classes(6, 1));
    CHECK(kv::streaming_heads{.share = 0.28, .quantile = true}.count(26) == 7);  // 7 of 25 steps, a bit more in double
    CHECK(streaming({.share = 0.5, .quantile = true}, {}).empty());
    CHECK(streaming({.share = 0.5, .quantile = true}, {3}) == classes{0});
}

TEST_CASE("equal, clipped and missing head scores", "[kv][duo_attention]") {
    CHECK(streaming({.share = 0.5}, {1, 1, 1, 1}) == classes{0, 0, 1, 1});
    CHECK(streaming({.share = 0.5}, {1.5F, 3, 2, 9}) == classes{0, 0, 1, 1});  // all are 1
    CHECK(streaming({.share = 0.5, .clip = false}, {1.5F, 3, 2, 9}) == classes{1, 0, 1, 0});
    CHECK(streaming({.share = 0.5}, {-3, .1F, -1, -2}) == classes{0, 0, 1, 1});
    CHECK(streaming({.share = 0.25}, {.1F, not_a_number, 0, .2F}) == classes{0, 1, 0, 0});
    CHECK(streaming({.share = 0.25}, {-infinity, not_a_number, infinity, .2F}) == classes{0, 1, 0, 0});
}

TEST_CASE("head classes refuse what is out of range", "[kv][duo_attention]") {
    std::vector<float> const scores(8, 0.5F);
    arena memory;
    for (double const share : {-0.1, 1.1, static_cast<double>(not_a_number), static_cast<double>(infinity)})
        CHECK(kv::streaming_heads{.share = share}(scores, memory).error() == errc::bad_setting);
    for (double const share : {static_cast<double>(not_a_number), static_cast<double>(infinity)})
        CHECK(kv::streaming_heads{.share = share, .quantile = true}(scores, memory).error() == errc::bad_setting);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& m) { return kv::streaming_heads{}(scores, m); });
}

TEST_CASE("duo_attention keeps all of retrieval heads, sinks and recent slots of the others", "[kv][duo_attention]") {
    classes const mask = {1, 0, 1};
    kv::duo_attention const policy{.sinks = 1, .recent = 2, .streaming = mask};
    arena memory;
    auto const plans = policy(bare_layer(3, 6), memory).value();
    REQUIRE(plans.items.size() == 3);
    CHECK(list(plans[0].sources) == tokens_list{0, 4, 5});
    CHECK(list(plans[1].sources) == tokens_list{0, 1, 2, 3, 4, 5});
    CHECK(list(plans[2].sources) == tokens_list{0, 4, 5});
    CHECK(policy.count(6) == 3);
    for (plan const& p : plans.items) {
        CHECK(is_valid(p));
        CHECK(p.keeps_order());
    }
    CHECK(list(policy(bare_layer(3, 3), memory).value()[0].sources) == tokens_list{0, 1, 2});
    CHECK(policy(bare_layer(3, 0), memory).value()[0].kept() == 0);
    auto const all = kv::duo_attention{.sinks = 0, .recent = 2}(bare_layer(2, 5), memory).value();
    CHECK(list(all[0].sources) == tokens_list{3, 4});
    CHECK(list(all[1].sources) == tokens_list{3, 4});
}

TEST_CASE("duo_attention goes by what each head holds, and spares what is guarded", "[kv][duo_attention]") {
    classes const mask = {1, 0, 1};
    uneven const held{9, {5, 7, 9}};
    std::vector<range> const guarded = {{3, 5}};
    layer<float, ragged_view<float>> const l{.keys = held.of<float>(nullptr, 3, 1), .guarded = guarded};
    arena memory;
    auto const plans = kv::duo_attention{.sinks = 1, .recent = 1, .streaming = mask}(l, memory).value();
    CHECK(list(plans[0].sources) == tokens_list{0, 3, 4});
    CHECK(list(plans[1].sources) == tokens_list{0, 1, 2, 3, 4, 5, 6});
    CHECK(list(plans[2].sources) == tokens_list{0, 3, 4, 8});
    for (index h = 0; h < 3; ++h) CHECK(plans[h].tokens == l.length(h));
}

TEST_CASE("duo_attention says what does not fit", "[kv][duo_attention]") {
    classes const mask = {1, 0};
    arena memory;
    CHECK(kv::duo_attention{.sinks = -1, .recent = 9}(bare_layer(2, 5), memory).error() == errc::bad_budget);
    CHECK(kv::duo_attention{.sinks = 9, .recent = -1}(bare_layer(2, 5), memory).error() == errc::bad_budget);
    CHECK(kv::duo_attention{.sinks = 0, .recent = 0}(bare_layer(2, 5), memory).error() == errc::bad_budget);
    for (index const heads : {1, 3})
        CHECK(kv::duo_attention{.streaming = mask}(bare_layer(heads, 5), memory).error() == errc::bad_shape);
    CHECK(kv::duo_attention{}(bare_layer(2, -1), memory).error() == errc::bad_shape);
    CHECK(kv::duo_attention{}(bare_layer(0, 5), memory).error() == errc::bad_shape);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& m) {
        return kv::duo_attention{.sinks = 40, .recent = 60, .streaming = mask}(bare_layer(2, 500), m);
    });
}

TEST_CASE("the reach of a head that looks nowhere, near and far", "[kv][duo_attention]") {
    // Equal logits: the mean over 1 / 4, 2 / 4, 3 / 4, 1.
    std::vector<float> const none = {0, 0}, frequency = {std::numbers::pi_v<float> / 4};
    layer<float> l{.keys = head_major(none.data(), 1, 1, 2), .queries = head_major(none.data(), 1, 1, 2)};
    arena memory;
    kv::head_reach const scorer{.encoding = {frequency}, .span = 4};
    CHECK(scorer(l, memory)->row(0)[0] == Approx(0.625));

    // Logits 100 cos(distance * 45 degrees): all attention to the query's own position, or all to the one 4 before.
    std::vector<float> const query = {20, 0}, near = {20, 0}, far = {-20, 0};
    l.queries = head_major(query.data(), 1, 1, 2);
    l.keys = head_major(near.data(), 1, 1, 2);
    kv::head_reach const five{.encoding = {frequency}, .span = 5};
    CHECK(five(l, memory)->row(0)[0] == Approx(0.2));
    l.keys = head_major(far.data(), 1, 1, 2);
    CHECK(five(l, memory)->row(0)[0] == Approx(1.0));

    // A quarter turn: the query's axis is the key's at distance 1, or at distance 3.
    std::vector<float> const quarter = {std::numbers::pi_v<float> / 2}, side = {0, 20};
    l.keys = head_major(side.data(), 1, 1, 2);
    CHECK(kv::head_reach{.encoding = {quarter}, .span = 4}(l, memory)->row(0)[0] == Approx(0.5));
    l.queries = head_major(side.data(), 1, 1, 2);
    l.keys = head_major(query.data(), 1, 1, 2);
    CHECK(kv::head_reach{.encoding = {quarter}, .span = 4}(l, memory)->row(0)[0] == Approx(1.0));
}

TEMPLATE_TEST_CASE("the reach is that of keys turned one by one", "[kv][duo_attention]", float, half, bfloat16) {
    struct row {
        index heads, kv_heads, tokens, window, dim, pairs, span;
    };
    for (auto const [heads, kv_heads, tokens, window, dim, pairs, span] : {row{4, 4, 30, 30, 8, 4, 40},
                                                                           {8, 2, 17, 5, 20, 10, 100},
                                                                           {6, 1, 33, 33, 19, 7, 33},
                                                                           {3, 3, 1, 1, 2, 1, 1},
                                                                           {2, 1, 7, 3, 16, 0, 9}}) {
        CAPTURE(heads, dim, span);
        random_layer<TestType> const r{heads, kv_heads, tokens, dim, window, static_cast<unsigned>(dim)};
        std::vector<float> frequency;
        for (index i = 0; i < pairs; ++i)
            frequency.push_back(std::pow(100.0F, -static_cast<float>(i) / static_cast<float>(pairs)));
        for (auto const layout : {kv::rope_layout::half_split, kv::rope_layout::interleaved}) {
            kv::head_reach const scorer{.encoding = {frequency, layout}, .span = span};
            arena memory;
            auto l = r.view();
            l.scale = 3;
            auto const got = scorer(l, memory).value();
            REQUIRE(got.heads == 1);
            REQUIRE(got.tokens == kv_heads);
            auto const expected = reach(l, scorer);
            for (std::size_t h = 0; h < expected.size(); ++h)
                CHECK(static_cast<double>(got.row(0)[h]) == Approx(expected[h]).epsilon(1e-5));
            for (index const workers : worker_counts)
                CHECK(list(scorer(l, memory, threads{workers})->row(0)) == list(got.row(0)));
        }
    }
}

TEST_CASE("the reach of a head is that of the slots that it holds", "[kv][duo_attention]") {
    random_layer<> r{4, 2, 20, 8, 6, 3};
    uneven const held{20, {20, 11}};
    std::fill_n(r.keys.row(11, 1), 9 * 8, not_a_number);
    std::vector<float> const w = {1, 0.3F, 0.1F, 0.03F};
    kv::head_reach const scorer{.encoding = {w}, .span = 15};
    arena memory;
    auto const got = scorer(r.view(held), memory).value();
    CHECK(got.row(0)[0] == scorer(r.alone(0, 20), memory)->row(0)[0]);
    CHECK(got.row(0)[1] == scorer(r.alone(1, 11), memory)->row(0)[0]);
}

TEST_CASE("the reach says what does not fit", "[kv][duo_attention]") {
    random_layer<> const r{4, 2, 20, 8, 6, 1};
    std::vector<float> const w(4, 0.5F), wide(5, 0.5F), endless(4, infinity), rows(4 * 6 * 20, 0.1F);
    arena memory;
    CHECK(kv::head_reach{.encoding = {w}}(r.view(), memory).error() == errc::bad_setting);
    CHECK(kv::head_reach{.encoding = {w}, .span = -1}(r.view(), memory).error() == errc::bad_setting);
    CHECK(kv::head_reach{.encoding = {wide}, .span = 9}(r.view(), memory).error() == errc::bad_shape);
    CHECK(kv::head_reach{.encoding = {endless}, .span = 9}(r.view(), memory).error() == errc::bad_setting);
    auto l = r.view();
    l.queries.dim = 7;
    CHECK(kv::head_reach{.encoding = {w}, .span = 9}(l, memory).error() == errc::bad_shape);
    l = r.view();
    l.attention = head_major(rows.data(), 4, 6, 20);
    CHECK(kv::head_reach{.encoding = {w}, .span = 9}(l, memory).error() == errc::bad_shape);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& m) { return kv::head_reach{.encoding = {w}, .span = 90}(r.view(), m); });
    random_layer<> nan{4, 2, 20, 8, 6, 1};
    nan.keys.row(3)[2] = not_a_number;
    CHECK(kv::head_reach{.encoding = {w}, .span = 9}(nan.view(), memory));
}
}  // namespace terse::test

#include <cmath>

#include <terse/kv/razor_attention.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {
using classes = std::vector<unsigned char>;

classes local(kv::retrieval_heads const& policy, std::vector<float> const& echo, std::vector<float> const& induction) {
    arena memory;
    auto const mask = policy({echo, induction}, memory).value();
    return {mask.begin(), mask.end()};
}
}  // namespace

TEST_CASE("retrieval heads are the best by induction and the best by echo", "[kv][razor_attention]") {
    std::vector<float> const echo = {.1F, .9F, .2F, .3F, .8F, 0, 0, 0, 0, 0},
                             induction = {.9F, 0, .8F, 0, 0, .7F, 0, 0, 0, 0};
    CHECK(local({}, echo, induction) == classes{0, 0, 1, 1, 1, 1, 1, 1, 1, 1});  // one each
    CHECK(local({.induction = 0.2, .echo = 0.2}, echo, induction) == classes{0, 0, 0, 1, 0, 1, 1, 1, 1, 1});
    CHECK(local({.induction = 0.25, .echo = 0}, echo, induction) == classes{0, 1, 0, 1, 1, 0, 1, 1, 1, 1});
    CHECK(local({.induction = 0, .echo = 0}, echo, induction) == classes(10, 1));
    CHECK(local({.induction = 1, .echo = 0}, echo, induction) == classes(10, 0));
    CHECK(local({}, {}, {}).empty());
    CHECK(local({.induction = 0.5, .echo = 0}, {0, 0}, {not_a_number, -1}) == classes{1, 0});
    CHECK(local({.induction = 0.5, .echo = 0}, {0, 0}, {1, 1}) == classes{0, 1});
}

TEST_CASE("retrieval heads refuse what is out of range", "[kv][razor_attention]") {
    std::vector<float> const ten(10), nine(9);
    arena memory;
    for (double const share : {-0.1, 1.1, static_cast<double>(not_a_number)}) {
        CHECK(kv::retrieval_heads{.induction = share}({ten, ten}, memory).error() == errc::bad_setting);
        CHECK(kv::retrieval_heads{.echo = share}({ten, ten}, memory).error() == errc::bad_setting);
    }
    CHECK(kv::retrieval_heads{}({ten, nine}, memory).error() == errc::bad_shape);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& m) { return kv::retrieval_heads{}({ten, ten}, m); });
}

TEST_CASE("a local head's rows are sinks, the mean of what goes, and the window", "[kv][razor_attention]") {
    classes const mask = {1, 0};
    kv::razor_attention const policy{.sinks = 1, .recent = 2, .local = mask};
    arena memory;
    auto const plans = policy(bare_layer(2, 7), memory).value();
    using rows = std::vector<tokens_list>;
    CHECK(rows_of(plans[0]) == rows{{0}, {1, 2, 3, 4}, {5}, {6}});
    CHECK(weights_of(plans[0]) == std::vector<std::vector<float>>{{1}, {.25F, .25F, .25F, .25F}, {1}, {1}});
    CHECK(list(plans[0].anchor) == tokens_list{0, 4, 5, 6});
    CHECK(rows_of(plans[1]) == rows{{0}, {1}, {2}, {3}, {4}, {5}, {6}});
    CHECK(policy.count(7) == 4);
    for (plan const& p : plans.items) {
        CHECK(is_valid(p));
        CHECK(p.keeps_order());
        CHECK(p.is_partition());
        CHECK(p.is_row_stochastic());
    }
    std::vector<float> bias(4);
    REQUIRE(kv::log_bias(plans[0], {}, bias) == errc::ok);
    CHECK(bias[0] == 0);
    CHECK(bias[1] == Approx(std::log(4.0)));
    CHECK(bias[3] == 0);
    CHECK(kv::log_bias(plans[0], {}, std::span{bias}.first(3)) == errc::bad_shape);

    CHECK(policy(bare_layer(2, 3), memory).value()[0].is_selection());  // all stay
    CHECK(policy.count(3) == 3);
    CHECK(rows_of(policy(bare_layer(2, 4), memory).value()[0]) == rows{{0}, {1}, {2}, {3}});  // the mean of one
    CHECK(policy.count(4) == 4);
    CHECK(policy(bare_layer(2, 0), memory).value()[0].kept() == 0);
    CHECK(rows_of(kv::razor_attention{.sinks = 0, .recent = 2}(bare_layer(1, 5), memory).value()[0]) ==
          rows{{0, 1, 2}, {3}, {4}});
    CHECK(rows_of(
              kv::razor_attention{.sinks = 2, .recent = 0, .compression = 100}(bare_layer(1, 5), memory).value()[0]) ==
          rows{{0}, {1}, {2, 3, 4}});
}

TEST_CASE("without compensation what goes is dropped", "[kv][razor_attention]") {
    arena memory;
    kv::razor_attention const policy{.sinks = 1, .recent = 2, .compensate = false};
    auto const p = policy(bare_layer(1, 7), memory).value()[0];
    CHECK(p.is_selection());
    CHECK(list(p.sources) == tokens_list{0, 5, 6});
    CHECK(policy.count(7) == 3);
}

TEST_CASE("ten thousand slots leave 4 + 1 + 4000 rows", "[kv][razor_attention]") {
    arena memory;
    kv::razor_attention const policy{};
    auto const p = policy(bare_layer(1, 10'000), memory).value()[0];
    CHECK(p.kept() == 4 + 1 + 4000);
    CHECK(policy.count(10'000) == 4005);
    CHECK(p.row(4).sources.size() == 5996);
    CHECK(p.row(4).sources.front() == 4);
    CHECK(p.row(4).sources.back() == 5999);
    CHECK(list(p.row(5).sources) == tokens_list{6000});
    CHECK(policy.window(20'000) == 4000);
    CHECK(policy.window(20'005) == 4001);
    CHECK(policy.count(100'000) == 4 + 1 + 20'000);
}

TEST_CASE("razor_attention goes by what each head holds, and spares what is guarded", "[kv][razor_attention]") {
    uneven const held{9, {9, 6, 9}};
    std::vector<range> const guarded = {{2, 4}, {7, 8}};
    layer<float, ragged_view<float>> const l{.keys = held.of<float>(nullptr, 3, 1), .guarded = guarded};
    arena memory;
    auto const plans = kv::razor_attention{.sinks = 1, .recent = 1}(l, memory).value();
    using rows = std::vector<tokens_list>;
    CHECK(rows_of(plans[0]) == rows{{0}, {2}, {3}, {1, 4, 5, 6}, {7}, {8}});
    CHECK(rows_of(plans[1]) == rows{{0}, {2}, {3}, {1, 4}, {5}});
    CHECK(rows_of(plans[2]) == rows_of(plans[0]));
    for (plan const& p : plans.items) {
        CHECK(is_valid(p));
        CHECK(p.keeps_order());
        CHECK(p.is_row_stochastic());
    }
}

TEST_CASE("razor_attention takes each head's own window and its own positions", "[kv][razor_attention]") {
    using rows = std::vector<tokens_list>;
    arena memory;
    uneven const held{9, {9, 6}};
    layer<float, ragged_view<float>> const shorter{.keys = held.of<float>(nullptr, 2, 1)};
    auto const windows = kv::razor_attention{.sinks = 1, .recent = 1, .compression = 2}(shorter, memory).value();
    CHECK(rows_of(windows[0]) == rows{{0}, {1, 2, 3, 4}, {5}, {6}, {7}, {8}});  // 9 / 2
    CHECK(rows_of(windows[1]) == rows{{0}, {1, 2}, {3}, {4}, {5}});             // 6 / 2

    // Position 2 is slot 2 of the first head and slot 1 of the second.
    tokens_list const positions = {0, 1, 2, 3, 4, 0, 2, 4, 6, 8};
    std::vector<range> const guarded = {{2, 3}};
    layer<float> l = bare_layer(2, 5);
    l.positions = view(positions.data(), 2, 5);
    l.guarded = guarded;
    auto const plans = kv::razor_attention{.sinks = 1, .recent = 1}(l, memory).value();
    CHECK(rows_of(plans[0]) == rows{{0}, {2}, {1, 3}, {4}});
    CHECK(rows_of(plans[1]) == rows{{0}, {1}, {2, 3}, {4}});
}

TEST_CASE("a mean that is there already counts as what it stands for", "[kv][razor_attention]") {
    std::vector<float> const sizes = {1, 6, 1, 1, 1};
    arena memory;
    kv::razor_attention const policy{.sinks = 1, .recent = 2};
    auto const p = policy(bare_layer(1, 5), view(sizes.data(), 1, 5), memory).value()[0];
    CHECK(rows_of(p) == std::vector<tokens_list>{{0}, {1, 2}, {3}, {4}});
    CHECK(weights_of(p)[1] == std::vector<float>{6.0F / 7, 1.0F / 7});
    std::vector<float> bias(4);
    REQUIRE(kv::log_bias(p, sizes, bias) == errc::ok);
    CHECK(bias[1] == Approx(std::log(7.0)));

    // Each head by its own sizes.
    std::vector<float> const of_two = {1, 6, 1, 1, 1, 1, 1, 3, 1, 1};
    auto const two = policy(bare_layer(2, 5), view(of_two.data(), 2, 5), memory).value();
    CHECK(weights_of(two[0])[1] == std::vector<float>{6.0F / 7, 1.0F / 7});
    CHECK(weights_of(two[1])[1] == std::vector<float>{0.25F, 0.75F});

    std::vector<float> const nothing = {1, 0, 0, 1, 1};
    CHECK(policy(bare_layer(1, 5), view(nothing.data(), 1, 5), memory).error() == errc::bad_setting);
    for (float const poison : {not_a_number, infinity, -3.0F}) {
        std::vector<float> const bad = {1, poison, 1, 1, 1};
        CHECK(policy(bare_layer(1, 5), view(bad.data(), 1, 5), memory).error() == errc::bad_setting);
    }
    CHECK(policy(bare_layer(1, 5), view(sizes.data(), 1, 4), memory).error() == errc::bad_shape);
    CHECK(policy(bare_layer(2, 5), view(sizes.data(), 1, 5), memory).error() == errc::bad_shape);
}

TEST_CASE("attention over what stays is the published sum", "[kv][razor_attention]") {
    index const n = 60, dim = 20;
    random_layer<> const r{1, 1, n, dim, 1, 8};
    kv::razor_attention const policy{.sinks = 3, .recent = 10};
    arena memory;
    auto const p = policy(r.view(), memory).value();
    index const kept = p[0].kept();
    REQUIRE(kept == 3 + 1 + 12);
    std::vector<float> keys(static_cast<std::size_t>(kept * dim)), values = keys, bias(static_cast<std::size_t>(kept));
    REQUIRE(apply(p, r.keys.by_head(), head_major(keys.data(), 1, kept, dim)) == errc::ok);
    REQUIRE(apply(p, r.values.by_head(), head_major(values.data(), 1, kept, dim)) == errc::ok);
    REQUIRE(kv::log_bias(p[0], {}, bias) == errc::ok);

    auto const product = [&](float const* key) {
        double x = 0;
        for (index c = 0; c < dim; ++c) x += static_cast<double>(r.queries.row(0)[c]) * static_cast<double>(key[c]);
        return x;
    };
    for (index c = 0; c < dim; ++c) {
        // What the engine computes: one softmax, with the bias on the logits.
        double sum = 0, out = 0;
        for (index i = 0; i < kept; ++i) {
            double const e =
                std::exp(product(keys.data() + i * dim) + static_cast<double>(bias[static_cast<std::size_t>(i)]));
            sum += e;
            out += e * static_cast<double>(values[static_cast<std::size_t>(i * dim + c)]);
        }
        // ( D e^{q.k^} v^ + sum_j e^{q.k_j} v_j ) / ( D e^{q.k^} + sum_j e^{q.k_j} )
        std::vector<double> mean_key(static_cast<std::size_t>(dim), 0.0);
        double mean_value = 0, above = 0, below = 0;
        index const gone = n - 15;
        for (index t = 0; t < n; ++t) {
            if (t >= 3 && t < n - 12) {
                for (index k = 0; k < dim; ++k)
                    mean_key[static_cast<std::size_t>(k)] +=
                        static_cast<double>(r.keys.row(t)[k]) / static_cast<double>(gone);
                mean_value += static_cast<double>(r.values.row(t)[c]) / static_cast<double>(gone);
            } else {
                double const e = std::exp(product(r.keys.row(t)));
                above += e * static_cast<double>(r.values.row(t)[c]);
                below += e;
            }
        }
        double x = 0;
        for (index k = 0; k < dim; ++k)
            x += static_cast<double>(r.queries.row(0)[k]) * mean_key[static_cast<std::size_t>(k)];
        double const e = static_cast<double>(gone) * std::exp(x);
        CHECK(out / sum == Approx((above + e * mean_value) / (below + e)).epsilon(1e-5).margin(1e-6));
    }
}

TEMPLATE_TEST_CASE("means hold over very many rows", "[kv][razor_attention]", float, half, bfloat16) {
    index const n = 100'000;
    tensor<TestType> x{std::vector<TestType>(static_cast<std::size_t>(n * 8), static_cast<TestType>(0.1F)), 1, n, 8};
    double exact = 0;
    for (index t = 0; t < n; ++t)
        x.row(t)[3] = static_cast<TestType>(static_cast<float>(t % 7)), exact += static_cast<double>(t % 7);
    arena memory;
    auto const p =
        kv::razor_attention{.sinks = 0, .recent = 1, .compression = max_tokens}(bare_layer(1, n + 1), memory).value();
    x.values.resize(x.values.size() + 8), x.tokens = n + 1;
    std::vector<TestType> out(16);
    REQUIRE(apply(p, x.by_head(), head_major(out.data(), 1, 2, 8)) == errc::ok);
    float const unit = std::same_as<TestType, float> ? 1e-5F : std::same_as<TestType, half> ? 6e-4F : 4e-3F;
    CHECK(static_cast<float>(out[0]) == Approx(static_cast<float>(static_cast<TestType>(0.1F))).epsilon(unit));
    CHECK(static_cast<float>(out[3]) == Approx(exact / static_cast<double>(n)).epsilon(unit));

    // The same in place.
    std::vector<float> keys(8, not_a_number), values(8, infinity), sizes(1);
    kv::compensation means{view(keys.data(), 1, 8), view(values.data(), 1, 8), sizes};
    layer<TestType> const l{.keys = x.by_head(), .values = x.by_head()};
    REQUIRE(means.add(l, {}, {0, n}) == errc::ok);
    CHECK(keys == values);
    CHECK(sizes[0] == static_cast<float>(n));
    CHECK(keys[0] == Approx(static_cast<float>(static_cast<TestType>(0.1F))).epsilon(1e-5));
    CHECK(keys[3] == Approx(exact / static_cast<double>(n)).epsilon(1e-5));
}

TEST_CASE("means roll as rows fall out, a step at a time or at once", "[kv][razor_attention]") {
    // (D k^ + k) / (D + 1)
    index const n = 9, dim = 300;
    tensor<> k = random_heads(3, n, dim, 1), v = random_heads(3, n, 5, 2);
    layer<float> const l{.keys = k.by_head(), .values = v.by_head()};
    classes const mask = {1, 0, 1};
    struct state {
        std::vector<float> keys = std::vector<float>(900), values = std::vector<float>(15),
                           sizes = std::vector<float>(3);
        kv::compensation view{terse::view(keys.data(), 3, 300), terse::view(values.data(), 3, 5), sizes};
    };
    state steps, bulk, cut;
    REQUIRE(bulk.view.add(l, mask, {2, 8}) == errc::ok);
    REQUIRE(cut.view.add(l, mask, {2, 8}, threads{3}) == errc::ok);
    for (index t = 2; t < 8; ++t) REQUIRE(steps.view.add(l, mask, {t, t + 1}) == errc::ok);
    CHECK(cut.keys == bulk.keys);
    CHECK(cut.values == bulk.values);
    CHECK(bulk.sizes == std::vector<float>{6, 0, 6});
    CHECK(steps.sizes == bulk.sizes);
    CHECK(bulk.view.log_bias(2) == Approx(std::log(6.0)));
    CHECK(bulk.view.log_bias(1) == -infinity);
    for (index h : {0, 2}) {
        for (index c = 0; c < dim; ++c) {
            double mean = 0;
            for (index t = 2; t < 8; ++t) mean += static_cast<double>(k.row(t, h)[c]) / 6;
            CHECK(static_cast<double>(bulk.view.keys.row(h)[c]) == Approx(mean).margin(1e-6));
            CHECK(static_cast<double>(steps.view.keys.row(h)[c]) == Approx(mean).margin(1e-6));
        }
    }
    CHECK(std::all_of(bulk.keys.begin() + 300, bulk.keys.begin() + 600, [](float x) { return x == 0; }));

    auto const before = k.values;
    auto const cache_keys = head_major(k.values.data(), 3, n, dim), cache_values = head_major(v.values.data(), 3, n, 5);
    REQUIRE(bulk.view.write(cache_keys, cache_values, mask, 2) == errc::ok);
    CHECK(std::equal(bulk.keys.begin(), bulk.keys.begin() + dim, k.row(2, 0)));
    CHECK(std::equal(bulk.values.end() - 5, bulk.values.end(), v.row(2, 2)));
    CHECK(std::equal(k.row(0, 1), k.row(0, 2), before.begin() + n * dim));  // not a local head

    CHECK(bulk.view.write(cache_keys, cache_values, mask, n) == errc::bad_shape);
    CHECK(bulk.view.write(cache_keys, cache_values, mask, -1) == errc::bad_shape);
    CHECK(bulk.view.add(l, mask, {2, n + 1}) == errc::bad_shape);
    CHECK(bulk.view.add(l, mask, {-1, 2}) == errc::bad_shape);
    CHECK(bulk.view.add(l, mask, {3, 2}) == errc::bad_shape);
    CHECK(bulk.view.add(l, std::span{mask}.first(2), {2, 3}) == errc::bad_shape);
    auto other = l;
    other.values = other.keys;
    CHECK(bulk.view.add(other, mask, {2, 3}) == errc::bad_shape);
    CHECK(bulk.sizes == std::vector<float>{6, 0, 6});
}

TEST_CASE("means are of local heads that have dropped something, and fit them", "[kv][razor_attention]") {
    uneven const held{4, {4, 1}};
    tensor<> k = random_heads(2, 4, 3, 1);
    auto const cache = held.of(k);
    layer<float, ragged_view<float>> const l{.keys = cache, .values = cache};
    std::vector<float> keys(6, not_a_number), values(6, not_a_number), sizes(2);
    kv::compensation means{view(keys.data(), 2, 3), view(values.data(), 2, 3), sizes};
    auto const before = k.values;
    heads_span<float> const rows = head_major(k.values.data(), 2, 4, 3);
    REQUIRE(means.write(rows, rows, {}, 0) == errc::ok);
    CHECK(k.values == before);  // there is nothing to write
    CHECK(means.add(l, {}, {1, 3}) == errc::bad_shape);
    classes const first = {1, 0};
    CHECK(means.add(l, first, {1, 3}) == errc::ok);  // the other head need not hold them
    CHECK(sizes == std::vector<float>{2, 0});

    layer<float> const even{.keys = rows, .values = rows};
    auto const error = [&](auto const& change) {
        auto changed = means;
        auto other = even;
        change(changed, other);
        return changed.add(other, {}, {1, 2});
    };
    CHECK(error([](auto& m, auto&) { m.sizes = m.sizes.first(1); }) == errc::bad_shape);
    CHECK(error([](auto& m, auto& o) { m.values.tokens = 1, o.values.heads = 1; }) == errc::bad_shape);
    CHECK(error([](auto&, auto& o) { o.values.tokens = 3; }) == errc::bad_shape);
    CHECK(sizes == std::vector<float>{2, 0});
}

TEST_CASE("razor_attention says what does not fit", "[kv][razor_attention]") {
    classes const mask = {1, 0};
    arena memory;
    CHECK(kv::razor_attention{.sinks = -1}(bare_layer(2, 5), memory).error() == errc::bad_budget);
    CHECK(kv::razor_attention{.recent = -1}(bare_layer(2, 5), memory).error() == errc::bad_budget);
    CHECK(kv::razor_attention{.sinks = 0, .recent = 0}(bare_layer(2, 5), memory).error() == errc::bad_budget);
    CHECK(kv::razor_attention{.compression = 0}(bare_layer(2, 5), memory).error() == errc::bad_setting);
    CHECK(kv::razor_attention{.compression = -5}(bare_layer(2, 5), memory).error() == errc::bad_setting);
    CHECK(kv::razor_attention{.local = mask}(bare_layer(3, 5), memory).error() == errc::bad_shape);
    CHECK(kv::razor_attention{}(bare_layer(0, 5), memory).error() == errc::bad_shape);
    CHECK(kv::razor_attention{}(bare_layer(1, -5), memory).error() == errc::bad_shape);
    CHECK(memory.used() == 0);
    require_exact_peak(
        [&](arena& m) { return kv::razor_attention{.recent = 40, .local = mask}(bare_layer(2, 500), m); });
}

TEST_CASE("the window of a head with linear biases", "[kv][razor_attention]") {
    // 2 * 3 * 4 - log(e^-6) = 30, over a slope of 1 / 2.
    CHECK(kv::alibi_window(3, 4, 0.5, std::exp(-6.0)) == Approx(60));
}
}  // namespace terse::test

#include <terse/kv/ems.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {
std::size_t at(index i) { return static_cast<std::size_t>(i); }

/// score::global_local by the whole attention matrix.
template <class T>
matrix reference(score::global_local const& s, layer<T> const& l, std::vector<matrix> const& a) {
    std::size_t const scored = at(l.tokens() - s.queries);
    matrix out;
    for (index kv = 0; kv < l.kv_heads(); ++kv) {
        std::vector<double> global(scored, 0.0), local(scored, 0.0);
        for (index h = kv * l.group(); h < (kv + 1) * l.group(); ++h) {
            for (index i = 0; i < l.window(); ++i)
                for (std::size_t t = 0; t < scored; ++t) {
                    global[t] += a[at(h)][at(i)][t];
                    if (i >= l.window() - s.queries) local[t] += a[at(h)][at(i)][t];
                }
        }
        double global_total = 0, local_total = 0;
        for (std::size_t t = 0; t < scored; ++t) global_total += global[t], local_total += local[t];
        auto& row = out.emplace_back();
        for (std::size_t t = 0; t < scored; ++t) {
            double const aligned = global_total > 0 ? global[t] * local_total / global_total : 0;
            double const x = s.sum ? aligned + local[t] : std::max(aligned, local[t]);
            row.push_back(s.group == score::reduction::mean ? x / static_cast<double>(l.group()) : x);
        }
    }
    return out;
}
}  // namespace

TEST_CASE("ems keeps what is high in either score", "[kv][ems]") {
    // All queries give .5, 1, 2, .5 to the first slots, the last one .5, 0, 0, .5: means 1 and .25.
    std::vector<float> const a = {0,   1, 0, 0,   0,  //
                                  0,   0, 1, 0,   0,  //
                                  0,   0, 1, 0,   0,  //
                                  .5F, 0, 0, .5F, 0};
    arena memory;
    layer<float> const l = given(a, 1, 4);
    CHECK(list(score::global_local{.queries = 1}(l, memory).value().values) == std::vector<float>{.5F, .25F, .5F, .5F});
    CHECK(list(score::global_local{.queries = 1, .sum = true}(l, memory).value().values) ==
          std::vector<float>{.625F, .25F, .5F, .625F});
    auto const kept = [&](kv::ems const& p) { return list(p(l, memory).value()[0].sources); };
    CHECK(kept({.keep = 4, .window = 1}) == tokens_list{0, 2, 3, 4});
    CHECK(kept({.keep = 3, .window = 1}) == tokens_list{0, 2, 4});
    CHECK(kept({.keep = 3, .window = 1, .sum = true}) == tokens_list{0, 3, 4});
    CHECK(kept({.keep = 3, .window = 1, .sinks = 2}) == tokens_list{0, 1, 4});
    CHECK(kept({.keep = 5, .window = 1}) == tokens_list{0, 1, 2, 3, 4});
    // Without a local score nothing but zeros is left; without a global one there is no local one either.
    std::vector<float> const early = {0, 1, 0, 0, 0, 0};
    CHECK(list(score::global_local{.queries = 1}(given(early, 1, 2), memory).value().values) ==
          std::vector<float>{0, 0});
    std::vector<float> const none(6, 0.0F);
    CHECK(list(score::global_local{.queries = 1}(given(none, 1, 2), memory).value().values) ==
          std::vector<float>{0, 0});
}

TEST_CASE("aligned scores leave NaN out of the means", "[kv][ems]") {
    std::vector<float> const global = {2, not_a_number, 6, 4}, local = {1, 3, 2, not_a_number};
    std::vector<float> out(4);
    score::combine_aligned(global, local, false, out);  // 8 and 3
    CHECK(std::vector<float>(out.begin(), out.begin() + 3) == std::vector<float>{1, 3, 2.25F});
    CHECK(simd::is_nan(out[3]));
}

TEMPLATE_TEST_CASE("global and local scores agree with the whole attention matrix", "[kv][ems]", float, half,
                   bfloat16) {
    for (scorer_shape const& s : scorer_shapes()) {
        random_layer<TestType> const r{s, 4};
        auto const a = attention_matrix(r.view());
        for (index const last : {index{1}, (s.window + 1) / 2})
            for (bool const sum : {false, true}) {
                CAPTURE(s.heads, s.kv_heads, s.tokens, s.dim, s.window, last, sum);
                auto const group = sum == (last == 1) ? score::reduction::mean : score::reduction::sum;
                score::global_local const scorer{last, sum, group};
                arena memory;
                auto const got = scorer(r.view(), memory).value();
                require_close(got, reference(scorer, r.view(), a), 4e-5, 1e-7);
                index const workers = 2 + s.tokens % 6;
                REQUIRE(list(scorer(r.view(), memory, threads{workers}).value().values) == list(got.values));
            }
    }
}

TEST_CASE("ems says what does not fit", "[kv][ems]") {
    random_layer<> const r{2, 2, 20, 8, 10, 1};
    arena memory;
    auto const error = [&](kv::ems const& p) { return p(r.view(), memory).error(); };
    CHECK(error({.keep = 8, .window = 0}) == errc::bad_setting);
    CHECK(error({.keep = 80, .window = 0}) == errc::bad_setting);  // also where nothing must go
    CHECK(kv::ems{.group = score::reduction::max}.scorer().group == score::reduction::max);
    CHECK(score::global_local{.queries = 0}(r.view(), memory).error() == errc::bad_setting);
    CHECK(error({.keep = 0, .window = 4}) == errc::bad_budget);
    CHECK(error({.keep = 3, .window = 4}) == errc::bad_budget);
    CHECK(error({.keep = 15, .window = 11}) == errc::bad_shape);
    CHECK(error({.keep = 8, .window = 4, .sinks = 5}) == errc::bad_budget);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& m) { return kv::ems{.keep = 8, .window = 4}(r.view(), m, threads{2}); });
}
}  // namespace terse::test

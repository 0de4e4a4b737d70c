#include <terse/score/channel_energy.hpp>

#include "key_layers.hpp"

namespace terse::test {

TEST_CASE("channel energy wants queries that fit", "[score][channel_energy]") {
    random_layer<> const r{4, 2, 9, 6, 5, 1};
    arena memory;
    auto const error = [&](auto change, score::channel_energy const& s = {}) {
        auto l = r.view();
        change(l);
        auto const e = s(l, memory).error();
        if (e != errc::ok) CHECK(memory.used() == 0);
        memory.rewind();
        return e;
    };
    auto const nothing = [](layer<float>&) {};
    CHECK(error(nothing) == errc::ok);
    CHECK(error(nothing, {.queries = 5}) == errc::ok);
    CHECK(error(nothing, {.queries = 6}) == errc::bad_shape);
    CHECK(error(nothing, {.queries = -1}) == errc::bad_setting);
    CHECK(error([](auto& l) { l.queries = {}; }) == errc::bad_shape);
    CHECK(error([](auto& l) { l.queries.heads = 3; }) == errc::bad_shape);
    CHECK(error([](auto& l) { l.queries.dim = 5; }) == errc::bad_shape);
    CHECK(error([](auto& l) { l.queries.tokens = 0; }) == errc::bad_shape);
    CHECK(error([](auto& l) { l.keys.heads = 0; }) == errc::bad_shape);
    CHECK(error([](auto& l) { l.keys.tokens = 0; }) == errc::ok);
    require_exact_peak([&](arena& m) { return score::channel_energy{}(r.view(), m, threads{2}); });
}

TEST_CASE("channel energy is the mean square of keys times that of the last queries", "[score][channel_energy]") {
    std::vector<float> const keys = {1, 2, 3, 0};                 // mean squares 5 and 2
    std::vector<float> const queries = {9, 9, 1, 0, 8, 8, 3, 2};  // two heads of two; of the last ones 5 and 2
    arena memory;
    layer<float> const l{.keys = head_major(keys.data(), 1, 2, 2), .queries = head_major(queries.data(), 2, 2, 2)};
    CHECK(list(score::channel_energy{.queries = 1}(l, memory).value().row(0)) == std::vector<float>{25, 4});
    CHECK(list(score::channel_energy{}(l, memory).value().row(0)) ==
          std::vector<float>{5 * (81 + 1 + 64 + 9) / 4.0F, 2 * (81 + 64 + 4) / 4.0F});
}

TEMPLATE_LIST_TEST_CASE("channel energy agrees with double precision", "[score][channel_energy]", storages) {
    for (index const group : {1, 4, 8}) {
        index const kv_heads = 8 / group;
        for (index const n : slot_counts) {
            for (index const dim : dims) {
                for (index const window : {index{1}, n / 2 + 1, n}) {
                    CAPTURE(group, n, dim, window);
                    random_layer<TestType> const r{8, kv_heads, n, dim, window, static_cast<unsigned>(n + dim)};
                    uneven const held{n, {n, n / 2 + 1, n / 3 + 1, n, n, n, n, n}};
                    auto const l = r.view(held);
                    arena memory;
                    index const voters = window / 2 + 1;
                    auto const got = score::channel_energy{.queries = voters}(l, memory, threads{3}).value();
                    REQUIRE(got.tokens == dim);
                    for (index h = 0; h < kv_heads; ++h) {
                        auto const keys = head_rows(r.keys, h, l.length(h));
                        for (index c = 0; c < dim; ++c) {
                            double of_keys = 0, of_queries = 0;
                            for (auto const& key : keys)
                                of_keys += std::pow(key[static_cast<std::size_t>(c)], 2) / double(keys.size());
                            for (index q = h * group; q < (h + 1) * group; ++q)
                                for (index i = window - voters; i < window; ++i)
                                    of_queries += std::pow(double(static_cast<float>(r.queries.row(i, q)[c])), 2) /
                                                  double(group * voters);
                            REQUIRE(got.row(h)[static_cast<std::size_t>(c)] ==
                                    Approx(of_keys * of_queries).epsilon(2e-5));
                        }
                    }
                }
            }
        }
    }
}
}  // namespace terse::test

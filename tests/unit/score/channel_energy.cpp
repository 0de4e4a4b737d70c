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
    layer<float> empty = l;
    empty.keys.tokens = 0;
    CHECK(list(score::channel_energy{}(empty, memory).value().row(0)) == std::vector<float>{0, 0});
}

TEMPLATE_LIST_TEST_CASE("channel energy agrees with double precision", "[score][channel_energy]", storages) {
    for (scorer_shape const& s : scorer_shapes()) {
        CAPTURE(s.heads, s.kv_heads, s.tokens, s.dim, s.window);
        random_layer<TestType> const r{s, static_cast<unsigned>(s.tokens + s.dim)};
        std::vector<index> lengths;  // no head without slots
        for (index const length : shortened(s)) lengths.push_back(std::max<index>(length, 1));
        uneven const held{s.tokens, lengths};
        auto const l = r.view(held);
        for (index const voters : {s.window / 2 + 1, index{0}}) {
            index const first = voters == 0 ? 0 : s.window - voters, count = s.window - first;
            matrix want;
            for (index h = 0; h < s.kv_heads; ++h) {
                auto const keys = head_rows(r.keys, h, l.length(h));
                std::vector<double> of_keys(static_cast<std::size_t>(s.dim), 0.0), of_queries = of_keys;
                for (auto const& key : keys)
                    for (std::size_t c = 0; c < key.size(); ++c) of_keys[c] += key[c] * key[c] / double(keys.size());
                for (index q = h * s.group(); q < (h + 1) * s.group(); ++q) {
                    auto const queries = head_rows(r.queries, q, s.window);
                    for (auto query = queries.begin() + first; query != queries.end(); ++query)
                        for (std::size_t c = 0; c < query->size(); ++c)
                            of_queries[c] += (*query)[c] * (*query)[c] / double(s.group() * count);
                }
                auto& row = want.emplace_back();
                for (std::size_t c = 0; c < of_keys.size(); ++c) row.push_back(of_keys[c] * of_queries[c]);
            }
            arena memory;
            require_close(score::channel_energy{.queries = voters}(l, memory, threads{3}).value(), want, 2e-5, 0);
        }
    }
}
}  // namespace terse::test

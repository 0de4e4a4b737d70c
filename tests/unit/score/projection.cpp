#include <terse/score/projection.hpp>

#include "key_layers.hpp"

namespace terse::test {

TEST_CASE("projections want one direction a head", "[score][projection]") {
    random_layer<> const r{2, 2, 5, 6, 1, 1};
    std::vector<float> const directions(12, 1.0F);
    arena memory;
    auto const error = [&](tokens_view<float> d) { return score::projection{d}(r.view(), memory).error(); };
    CHECK(error({}) == errc::bad_shape);
    CHECK(error(view(directions.data(), 1, 6)) == errc::bad_shape);
    CHECK(error(view(directions.data(), 2, 5)) == errc::bad_shape);
    CHECK(error(view(directions.data(), 2, 7)) == errc::bad_shape);
    CHECK(error(view(directions.data(), 2, 6)) == errc::ok);
    memory.rewind();
    CHECK(error(view(directions.data(), 3, 6)) == errc::bad_shape);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& m) { return score::projection{view(directions.data(), 2, 6)}(r.view(), m); });
}

TEST_CASE("a projection is the negated product with the head's direction", "[score][projection]") {
    std::vector<float> const keys = {1, 2, 0, 0, not_a_number, 1, -1, 3}, directions = {1, 10, 2, 0};
    arena memory;
    layer<float> const l{.keys = head_major(keys.data(), 2, 2, 2)};
    auto const s = score::projection{view(directions.data(), 2, 2)}(l, memory).value();
    CHECK(list(s.row(0)) == std::vector<float>{-21, 0});
    CHECK(std::isnan(s.row(1)[0]));
    CHECK(s.row(1)[1] == 2);
}

TEMPLATE_LIST_TEST_CASE("projections agree with double precision", "[score][projection]", storages) {
    for (scorer_shape const& s : key_shapes()) {
        CAPTURE(s.kv_heads, s.tokens, s.dim);
        auto const directions = random_tokens(s.kv_heads, s.dim, 9);
        random_layer<TestType> const r{s, static_cast<unsigned>(s.tokens)};
        uneven const held{s.tokens, shortened(s)};
        auto const l = r.view(held);
        matrix want;
        for (index h = 0; h < s.kv_heads; ++h) {
            auto const direction = head_rows(directions, 0, s.kv_heads)[static_cast<std::size_t>(h)];
            auto& row = want.emplace_back();
            for (auto const& key : head_rows(r.keys, h, l.length(h))) row.push_back(-product(key, direction));
            row.resize(static_cast<std::size_t>(s.tokens), NAN);
        }
        arena memory;
        require_close(score::projection{directions.view()}(l, memory, threads{3}).value(), want, 0, 2e-5);
    }
}
}  // namespace terse::test

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
    for (index const dim : dims) {
        auto const directions = random_tokens(3, dim, 9);
        for (index const n : slot_counts) {
            CAPTURE(n, dim);
            random_layer<TestType> const r{3, 3, n, dim, 1, static_cast<unsigned>(n)};
            uneven const held{n, {n, n - 1, n / 3}};
            auto const l = r.view(held);
            arena memory;
            auto const s = score::projection{directions.view()}(l, memory, threads{3}).value();
            for (index h = 0; h < 3; ++h) {
                auto const keys = head_rows(r.keys, h, n);
                auto const direction = head_rows(tensor<float>{directions.values, 3, 1, dim}, h, 1)[0];
                for (std::size_t t = 0; t < keys.size(); ++t) {
                    float const got = s.row(h)[t];
                    if (static_cast<index>(t) < l.length(h))
                        REQUIRE(static_cast<double>(got) == Approx(-product(keys[t], direction)).margin(2e-5));
                    else
                        REQUIRE(std::isnan(got));
                }
            }
        }
    }
}
}  // namespace terse::test

#include <terse/score/norm.hpp>

#include "key_layers.hpp"

namespace terse::test {

TEST_CASE("the norm of keys is negated unless the longest are wanted", "[score][norm]") {
    std::vector<float> const keys = {3, 4, 0, 0, 1, 0, -6, 8};  // two heads of two tokens
    layer<float> const l{.keys = head_major(keys.data(), 2, 2, 2)};
    arena memory;

    auto const low = score::norm{}(l, memory).value();
    CHECK(low.heads == 2);
    CHECK(list(low.row(0)) == std::vector<float>{-5, 0});
    CHECK(list(low.row(1)) == std::vector<float>{-1, -10});

    auto const high = score::norm{.longest = true}(view(keys.data(), 4, 2), memory).value();
    CHECK(list(high.row(0)) == std::vector<float>{5, 0, 1, 10});
}

TEMPLATE_LIST_TEST_CASE("norms agree with double precision", "[score][norm]", storages) {
    bool const longest = GENERATE(false, true);
    check_scores<TestType>(
        score::norm{longest},
        [=](rows const& keys, rows const&, index) {
            std::vector<double> all;
            for (auto const& key : keys) all.push_back((longest ? 1 : -1) * std::sqrt(product(key, key)));
            return all;
        },
        1e-6);
}

TEST_CASE("norms of rows that lie token by token", "[score][norm]") {
    auto const x = random_heads(3, 50, 37, 1);  // read as [tokens, heads, dim]
    arena memory;
    auto const got = score::norm{}(layer<float>{.keys = token_major(x.values.data(), 3, 50, 37)}, memory).value();
    auto const all = head_rows(token_major(x.values.data(), 1, 150, 37), 0, 150);
    for (std::size_t i = 0; i < 150; ++i)
        CHECK(got.row(static_cast<index>(i % 3))[i / 3] == Approx(-std::sqrt(product(all[i], all[i]))).epsilon(1e-6));
}

TEST_CASE("norms need memory", "[score][norm]") {
    auto const x = random_heads(2, 33, 8, 2);
    require_exact_peak([&](arena& memory) { return score::norm{}(layer<float>{.keys = x.by_head()}, memory); });
}

}  // namespace terse::test

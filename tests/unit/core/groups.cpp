#include <terse/core/groups.hpp>

#include "support.hpp"

namespace terse::test {
TEST_CASE("group means weigh a row's inputs by their sizes", "[core][groups]") {
    tokens_list const owner = {1, 0, -1, 1, 1}, anchor = {1, 3};
    std::vector<float> const sizes = {1, 4, 9, 2, 1};
    arena memory;
    auto const p = group_means(owner, anchor, sizes, memory).value();
    CHECK(rows_of(p) == std::vector<tokens_list>{{1}, {0, 3, 4}});
    CHECK(weights_of(p) == std::vector<std::vector<float>>{{1}, {.25F, .5F, .25F}});
    CHECK(list(p.anchor) == anchor);
    CHECK(list(p.owner) == owner);
    CHECK(is_valid(p));
    CHECK(p.is_partition());
    CHECK(p.is_row_stochastic());

    auto const plain = group_means(owner, anchor, {}, memory).value();
    CHECK(weights_of(plain)[1] == std::vector<float>(3, 1.0F / 3));
    CHECK(group_means({}, {}, {}, memory).value().kept() == 0);
}

TEST_CASE("group means refuse sizes that do not fit or are not positive", "[core][groups]") {
    tokens_list const owner = {0, 0}, anchor = {0};
    arena memory;
    auto const error = [&](std::vector<float> const& sizes) {
        return group_means(owner, anchor, sizes, memory).error();
    };
    CHECK(error({1}) == errc::bad_shape);
    CHECK(error({1, 0}) == errc::bad_setting);
    CHECK(error({1, -1}) == errc::bad_setting);
    CHECK(error({1, not_a_number}) == errc::bad_setting);
    CHECK(error({1, infinity}) == errc::bad_setting);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& m) { return group_means(owner, anchor, {}, m); });
}
}  // namespace terse::test

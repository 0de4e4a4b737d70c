#include <terse/score/shape.hpp>

#include "support.hpp"

namespace terse::test {

namespace {
std::vector<float> pooled(std::vector<float> const& in, score::pooling how, index kernel) {
    std::vector<float> out(in.size());
    score::pool_row(in, out, how, kernel);
    return out;
}

std::vector<float> reduced(std::vector<float> const& rows, std::size_t tokens, score::reduction how) {
    std::vector<float> out(tokens);
    score::reduce_rows(rows, out, how);
    return out;
}
}  // namespace

TEST_CASE("pooling pads averages with zeros and maxima with nothing", "[score][shape]") {
    using enum score::pooling;
    CHECK(pooled({1, 1, 1}, average, 3) == std::vector<float>{2.0F / 3, 1, 2.0F / 3});
    CHECK(pooled({-1, -5, -3, -4}, max, 3) == std::vector<float>{-1, -1, -3, -3});
    CHECK(pooled({1, 2, 4}, none, 7) == std::vector<float>{1, 2, 4});
    CHECK(pooled({1, 2, 4}, max, 1) == std::vector<float>{1, 2, 4});
    CHECK(pooled({}, average, 5).empty());

    // A kernel wider than the row reaches all of it, from every place.
    CHECK(pooled({3, 9}, max, 7) == std::vector<float>{9, 9});
    CHECK(pooled({3, 4}, average, 7) == std::vector<float>{1, 1});
}

TEST_CASE("rows of scores reduce to one", "[score][shape]") {
    using enum score::reduction;
    std::vector<float> const rows = {1, 6, 3, 2, 5, 7};
    CHECK(reduced(rows, 2, sum) == std::vector<float>{9, 15});
    CHECK(reduced(rows, 2, mean) == std::vector<float>{3, 5});
    CHECK(reduced(rows, 2, max) == std::vector<float>{5, 7});
    CHECK(reduced(rows, 6, mean) == rows);
}

}  // namespace terse::test

#include <cmath>

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
    CHECK(pooled({1, 1, 1}, average_inside, 3) == std::vector<float>{1, 1, 1});
    CHECK(pooled({4, 2, -6, 8}, average_inside, 5) == std::vector<float>{0, 2, 2, 4.0F / 3});
    CHECK(pooled({3, 5}, average_inside, 7) == std::vector<float>{4, 4});
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

TEST_CASE("z-scores are over what is finite", "[score][shape]") {
    auto const standard = [](std::vector<float> values) {
        score::standardise(values);
        return values;
    };
    auto const close = [](std::vector<float> const& got, std::vector<float> const& want) {
        REQUIRE(got.size() == want.size());
        for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == Approx(want[i]));
    };
    float const unit = std::sqrt(5.0F / 3);  // the deviation of 1, 2, 3, 4
    close(standard({1, 2, 3, 4}), {-1.5F / unit, -0.5F / unit, 0.5F / unit, 1.5F / unit});
    close(standard({1e6F + 1, 1e6F + 3}), {-std::sqrt(0.5F), std::sqrt(0.5F)});
    CHECK(standard({7}) == std::vector<float>{0});
    CHECK(standard({5, 5, 5}) == std::vector<float>{0, 0, 0});
    CHECK(standard({}).empty());
    close(standard({0, 1e-7F}), {-0.05F, 0.05F});  // no deviation below 1e-6

    auto const odd = standard({1, not_a_number, 3, infinity, -infinity});
    close({odd[0], odd[2]}, {-std::sqrt(0.5F), std::sqrt(0.5F)});
    CHECK(odd[1] != odd[1]);
    CHECK(odd[3] == infinity);
    CHECK(odd[4] == -infinity);
}

TEST_CASE("slots that are not scored stay, and those that are not there go first", "[score][shape]") {
    std::vector<float> row = {1, 2, 3, 4, 5, 6};
    score::frame_row(row, 1, 3, 5);
    CHECK(std::vector<float>(row.begin(), row.begin() + 5) == std::vector<float>{infinity, 2, 3, infinity, infinity});
    CHECK(row[5] != row[5]);
    score::frame_row(row, 0, 5, 5);
    CHECK(row[1] == 2);
    score::frame_row(row, 6, 6, 6);
    CHECK(row == std::vector<float>(6, infinity));
}

}  // namespace terse::test

#include <array>

#include <terse/window/axis.hpp>

#include "support.hpp"

using terse::window::adaptive;
using terse::window::cell;
using terse::window::sliding;

namespace {

using cells = std::vector<std::array<terse::index, 3>>;  // begin, end, divisor

template <class Axis>
cells cells_of(Axis const& a) {
    static_assert(terse::window::axis<Axis>);
    cells all;
    for (terse::index i = 0; i < a.count(); ++i) all.push_back({a[i].begin, a[i].end, a[i].divisor});
    return all;
}

struct sliding_row {
    char const* name;
    sliding axis;
    cells expected;
};

// PyTorch's rule, in floating point and from each input's side: is j in window i?
cells reference(sliding const& a) {
    double const steps = static_cast<double>(a.length + 2 * a.padding - a.kernel) / static_cast<double>(a.stride);
    auto windows = static_cast<terse::index>(a.partial ? std::ceil(steps) : std::floor(steps)) + 1;
    if ((windows - 1) * a.stride >= a.length + a.padding) --windows;
    cells all;
    for (terse::index i = 0; i < windows; ++i) {
        terse::index begin = a.length, end = 0, covered = 0;
        for (terse::index j = -a.padding; j < a.length + a.padding; ++j) {
            if (j + a.padding < i * a.stride || j + a.padding >= i * a.stride + a.kernel) continue;
            bool const real = 0 <= j && j < a.length;
            if (real) begin = std::min(begin, j), end = j + 1;
            if (real || a.count_padding) ++covered;
        }
        all.push_back({begin, end, covered});
    }
    return all;
}

}  // namespace

TEST_CASE("sliding windows by hand", "[window]") {
    auto const r = GENERATE(values<sliding_row>({
        {"one input", {.length = 1}, {{0, 1, 1}}},
        {"the rest is dropped", {.length = 5, .kernel = 2, .stride = 2, .partial = false}, {{0, 2, 2}, {2, 4, 2}}},
        {"the rest is a cell", {.length = 5, .kernel = 2, .stride = 2}, {{0, 2, 2}, {2, 4, 2}, {4, 5, 1}}},
        {"a gap", {.length = 7, .kernel = 2, .stride = 3}, {{0, 2, 2}, {3, 5, 2}, {6, 7, 1}}},
        {"overlap", {.length = 4, .kernel = 3, .stride = 1}, {{0, 3, 3}, {1, 4, 3}}},
        {"padding counts",
         {.length = 4, .kernel = 3, .stride = 2, .padding = 1, .partial = false, .count_padding = true},
         {{0, 2, 3}, {1, 4, 3}}},
        {"padding does not count",
         {.length = 4, .kernel = 3, .stride = 2, .padding = 1, .partial = false},
         {{0, 2, 2}, {1, 4, 3}}},
        {"a last cell that padding ends",
         {.length = 4, .kernel = 3, .stride = 2, .padding = 1, .count_padding = true},
         {{0, 2, 3}, {1, 4, 3}, {3, 4, 2}}},
        {"no cell of padding alone", {.length = 3, .kernel = 2, .stride = 4, .padding = 1}, {{0, 1, 1}}},
        {"a kernel wider than the axis", {.length = 3, .kernel = 4, .stride = 4}, {{0, 3, 3}}},
    }));
    CAPTURE(r.name);
    REQUIRE(r.axis.is_valid());
    CHECK(cells_of(r.axis) == r.expected);
}

TEST_CASE("sliding windows follow PyTorch's rule", "[window]") {
    int checked = 0;
    for (terse::index length = 1; length <= 13; ++length)
        for (terse::index kernel = 1; kernel <= 7; ++kernel)
            for (terse::index stride = 1; stride <= 8; ++stride)
                for (terse::index padding = 0; padding <= kernel / 2; ++padding)
                    for (bool partial : {false, true})
                        for (bool count_padding : {false, true}) {
                            sliding const a{length, kernel, stride, padding, partial, count_padding};
                            if (kernel > length + 2 * padding) continue;
                            CAPTURE(length, kernel, stride, padding, partial, count_padding);
                            REQUIRE(a.is_valid());
                            REQUIRE(cells_of(a) == reference(a));
                            ++checked;
                        }
    CHECK(checked > 5000);
}

TEST_CASE("sliding windows that cannot be", "[window]") {
    auto const huge = terse::max_tokens + 1;
    CHECK_FALSE(sliding{.length = 0}.is_valid());
    CHECK_FALSE(sliding{.length = huge}.is_valid());
    CHECK_FALSE(sliding{.kernel = 0}.is_valid());
    CHECK_FALSE(sliding{.kernel = huge}.is_valid());
    CHECK_FALSE(sliding{.stride = 0}.is_valid());
    CHECK_FALSE(sliding{.stride = huge}.is_valid());
    CHECK_FALSE(sliding{.length = 9, .kernel = 3, .padding = -1}.is_valid());
    CHECK_FALSE(sliding{.length = 9, .kernel = 3, .padding = 2}.is_valid());
    CHECK_FALSE(sliding{.length = 2, .kernel = 3, .partial = false}.is_valid());
    CHECK_FALSE(sliding{.length = 2, .kernel = 4, .stride = 1}.is_valid());
}

TEST_CASE("adaptive bins by hand", "[window]") {
    CHECK(cells_of(adaptive{5, 3}) == cells{{0, 2, 2}, {1, 4, 3}, {3, 5, 2}});
    CHECK(cells_of(adaptive{7, 4}) == cells{{0, 2, 2}, {1, 4, 3}, {3, 6, 3}, {5, 7, 2}});
    CHECK(cells_of(adaptive{4, 2}) == cells{{0, 2, 2}, {2, 4, 2}});
    CHECK(cells_of(adaptive{2, 4}) == cells{{0, 1, 1}, {0, 1, 1}, {1, 2, 1}, {1, 2, 1}});
    CHECK(cells_of(adaptive{2, 3}) == cells{{0, 1, 1}, {0, 2, 2}, {1, 2, 1}});
    CHECK(cells_of(adaptive{9, 1}) == cells{{0, 9, 9}});
    auto const uneven = cells_of(adaptive{24, 16});
    CHECK(cells(uneven.begin(), uneven.begin() + 4) == cells{{0, 2, 2}, {1, 3, 2}, {3, 5, 2}, {4, 6, 2}});

    CHECK(adaptive{7, 7}.is_identity());
    CHECK_FALSE(adaptive{7, 6}.is_identity());
    CHECK_FALSE(adaptive{0, 1}.is_valid());
    CHECK_FALSE(adaptive{1, 0}.is_valid());
    CHECK(adaptive{terse::max_tokens, terse::max_tokens}[terse::max_tokens - 1].end == terse::max_tokens);
}

TEST_CASE("the centre of a cell is the lower middle", "[window]") {
    CHECK(cell{4, 5}.centre() == 4);
    CHECK(cell{4, 6}.centre() == 4);
    CHECK(cell{4, 7}.centre() == 5);
    CHECK(cell{8, 16}.centre() == 11);
}

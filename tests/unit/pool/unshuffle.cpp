#include <numeric>

#include <terse/move/apply.hpp>
#include <terse/pool/unshuffle.hpp>

#include "support.hpp"

using terse::arena;
using terse::errc;
using terse::pool::unshuffle;
using terse::test::list;
using terse::test::tokens_list;

namespace {

// out[(c r + dy) r + dx, y, x] = in[c, y r + dy, x r + dx], token by token.
std::vector<float> reference(std::vector<float> const& in, terse::index rows, terse::index columns, terse::index dim,
                             terse::index r) {
    std::vector<float> out;
    for (terse::index y = 0; y < rows / r; ++y)
        for (terse::index x = 0; x < columns / r; ++x)
            for (terse::index c = 0; c < dim; ++c)
                for (terse::index dy = 0; dy < r; ++dy)
                    for (terse::index dx = 0; dx < r; ++dx)
                        out.push_back(in[static_cast<std::size_t>(((y * r + dy) * columns + x * r + dx) * dim + c)]);
    return out;
}

}  // namespace

TEST_CASE("unshuffle puts blocks side by side", "[pool][unshuffle]") {
    arena memory;
    unshuffle const policy{.grid = {.rows = 2, .columns = 4}, .factor = {.rows = 2, .columns = 2}};
    auto const p = policy(8, memory);
    REQUIRE(p);
    CHECK(terse::test::rows_of(*p) == std::vector<tokens_list>{{0, 1, 4, 5}, {2, 3, 6, 7}});
    CHECK(list(p->anchor) == tokens_list{0, 2});
    CHECK(list(p->owner) == tokens_list{0, 0, 1, 1, 0, 0, 1, 1});
    CHECK(p->weights.empty());
    CHECK(p->is_partition());
    CHECK(terse::is_valid(*p));
    CHECK(policy.count(8).value() == 2);

    auto const stacked = unshuffle{.grid = {.columns = 6}, .factor = {.columns = 3}}(6, memory);
    REQUIRE(stacked);
    CHECK(terse::test::rows_of(*stacked) == std::vector<tokens_list>{{0, 1, 2}, {3, 4, 5}});
    CHECK(list(stacked->anchor) == tokens_list{1, 4});

    auto const time = unshuffle{.grid = {.frames = 2, .columns = 2}, .factor = {.frames = 2}}(4, memory);
    REQUIRE(time);
    CHECK(terse::test::rows_of(*time) == std::vector<tokens_list>{{0, 2}, {1, 3}});

    CHECK(unshuffle{.grid = {.columns = 3}}(3, memory)->is_selection());
}

TEST_CASE("unshuffle is PyTorch's pixel_unshuffle, channel by channel", "[pool][unshuffle]") {
    terse::index const rows = 6, columns = 12, dim = 5;
    auto const factor = GENERATE(terse::index{1}, terse::index{2}, terse::index{3});
    std::vector<float> in(static_cast<std::size_t>(rows * columns * dim));
    std::iota(in.begin(), in.end(), 0.0F);
    arena memory;
    auto const x = terse::view(std::as_const(in).data(), rows * columns, dim);
    auto const p = unshuffle{.grid = {.rows = rows, .columns = columns}, .factor = {0, factor, factor}}(x, memory);
    REQUIRE(p);
    std::vector<float> out(in.size());
    REQUIRE(terse::gather_concat(*p, x, terse::view(out.data(), p->kept(), dim * factor * factor),
                                 terse::channel_order::channel_major) == errc::ok);
    CHECK(out == reference(in, rows, columns, dim, factor));
}

TEST_CASE("unshuffle refuses what it cannot do", "[pool][unshuffle]") {
    arena memory;
    auto const error = [&memory](unshuffle const& policy, terse::index tokens) {
        CHECK(policy.count(tokens).error() == policy(tokens, memory).error());
        return policy(tokens, memory).error();
    };
    CHECK(error({.grid = {.rows = 2, .columns = 4}}, 9) == errc::bad_shape);
    CHECK(error({.grid = {.columns = 0}}, 0) == errc::bad_shape);
    CHECK(error({.grid = {.columns = 5}, .factor = {.columns = 2}}, 5) == errc::bad_setting);
    CHECK(error({.grid = {.rows = 3, .columns = 4}, .factor = {.rows = 2, .columns = 2}}, 12) == errc::bad_setting);
    CHECK(error({.grid = {.columns = 4}, .factor = {.columns = 8}}, 4) == errc::bad_setting);
    CHECK(error({.grid = {.columns = 4}, .factor = {.columns = -2}}, 4) == errc::bad_setting);
    CHECK(memory.used() == 0);
    unshuffle const policy{.grid = {.rows = 10, .columns = 10}, .factor = {.rows = 2, .columns = 2}};
    terse::test::require_exact_peak([&](arena& a) { return policy(100, a); });
}

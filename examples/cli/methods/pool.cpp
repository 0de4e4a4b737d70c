#include <terse/core/arena.hpp>
#include <terse/move/apply.hpp>
#include <terse/pool/average.hpp>
#include <terse/pool/unshuffle.hpp>

#include "cli/method.hpp"

namespace cli {
namespace {

void adaptive_average(case_input const& in, outputs& out) {
    auto const tokens = in.tokens("tokens");
    auto const grid = in.integers("grid", 1), cells = in.integers("out_grid", 1);
    if (grid.size() != 3 || cells.size() != 3) throw case_error("grid and out_grid are not frames, rows and columns");
    terse::pool::adaptive_average const policy{.grid = {grid[0], grid[1], grid[2]},
                                               .out = {cells[0], cells[1], cells[2]}};
    terse::arena memory;
    out.rows("tokens", value(policy(tokens, memory)), tokens);
}

void unshuffle(case_input const& in, outputs& out) {
    auto const map = in.heads("map");  // [channels, rows, columns]
    index const channels = map.heads, rows = map.tokens, columns = map.dim, factor = in.integer("factor", 1);
    terse::pool::unshuffle const policy{.grid = {.rows = rows, .columns = columns},
                                        .factor = {.rows = factor, .columns = factor}};
    terse::arena memory;
    auto const blocks = value(policy(rows * columns, memory));

    // Images have a plane for each channel, tokens a row for each pixel.
    index const deep = channels * factor * factor;
    terse::row_major<float> const pixels = terse::view(map.data, channels, rows * columns).map().transpose();
    terse::row_major<float> gathered(blocks.kept(), deep);
    check(
        terse::gather_concat(blocks, terse::view(pixels), terse::view(gathered), terse::channel_order::channel_major));
    terse::row_major<float> const planes = gathered.transpose();
    out.floats("map", {deep, rows / factor, columns / factor}, {planes.data(), planes.data() + planes.size()});
}

}  // namespace

std::vector<method> pool_methods() {
    return {
        {"adaptive-avg-pool3d",
         "",
         "pool",
         "Averages a grid of frames, rows and columns down to another",
         {{"grid", "frames, rows and columns of the tokens"}, {"out_grid", "of the result"}},
         adaptive_average},
        {"pixel-unshuffle",
         "",
         "pool",
         "Puts the pixels of each block side by side as channels",
         {{"factor", "the side of a block", 2}},
         unshuffle},
    };
}

}  // namespace cli

// Space to depth of an image's tokens, planned and applied, against copies of rows in Eigen.
#include <memory>

#include <Eigen/Core>

#include <terse/move/apply.hpp>
#include <terse/pool/unshuffle.hpp>

#include "../compare.hpp"

namespace terse::bench {
namespace {

using matrix = row_major<float>;

constexpr index side = 32, dim = 1024, cells = side * side / 4;

void by_eigen(matrix const& x, matrix& out) {
    for (index r = 0; r < side; r += 2)
        for (index c = 0; c < side; c += 2)
            for (index i = 0; i < 4; ++i)
                out.block(r / 2 * (side / 2) + c / 2, i * dim, 1, dim) = x.row((r + i / 2) * side + c + i % 2);
}

contest unshuffle() {
    struct state {
        matrix x = matrix::Random(side * side, dim), ours = matrix::Zero(cells, 4 * dim), theirs = ours;
        arena memory{};
    };
    auto const s = std::make_shared<state>();
    auto const ours = [s](std::size_t) {
        s->memory.rewind();
        pool::unshuffle const policy{.grid = {.rows = side, .columns = side}, .factor = {.rows = 2, .columns = 2}};
        auto const p = policy(side * side, s->memory);
        keep(p ? gather_concat(*p, view(std::as_const(s->x)), view(s->ours), channel_order::source_major) : p.error());
    };
    auto const theirs = [s](std::size_t) {
        by_eigen(s->x, s->theirs);
        keep(s->theirs);
    };
    ours(0);
    theirs(0);
    return {.bound = copy_limit(static_cast<std::size_t>(s->x.size()) * sizeof(float), 1),
            .candidates = {{"terse", ours}, {eigen_name(), theirs}},
            .agree = s->ours == s->theirs};
}

bool const added = [] {
    add({"unshuffle", {{"side", side}, {"d", dim}}}, unshuffle);
    return true;
}();

}  // namespace
}  // namespace terse::bench

// Average pooling of pictures, planned and applied as the first call on a new shape does, against means of rows in
// Eigen.
#include <memory>

#include <Eigen/Core>

#include <terse/move/apply.hpp>
#include <terse/pool/average.hpp>

#include "../compare.hpp"

namespace terse::bench {
namespace {

using matrix = row_major<float>;

/// A video of `frames` pictures of side x side tokens, pooled to out x out a frame.
struct problem {
    index frames, side, out;

    [[nodiscard]] index tokens() const { return frames * side * side; }
    [[nodiscard]] index rows() const { return frames * out * out; }
};

void by_eigen(problem const& p, matrix const& x, matrix& y) {
    auto const begin = [&p](index i) { return i * p.side / p.out; };
    auto const end = [&p](index i) { return ((i + 1) * p.side + p.out - 1) / p.out; };
    for (index f = 0; f < p.frames; ++f)
        for (index r = 0; r < p.out; ++r)
            for (index c = 0; c < p.out; ++c) {
                auto mean = y.row((f * p.out + r) * p.out + c);
                mean.setZero();
                for (index i = begin(r); i < end(r); ++i)
                    for (index j = begin(c); j < end(c); ++j) mean += x.row((f * p.side + i) * p.side + j);
                mean /= static_cast<float>((end(r) - begin(r)) * (end(c) - begin(c)));
            }
}

contest average(problem const& p) {
    constexpr index dim = 1024;
    struct state {
        matrix x, ours, theirs;
        arena memory;
    };
    auto const s = std::make_shared<state>();
    s->x = matrix::Random(p.tokens(), dim);
    s->ours.setZero(p.rows(), dim);
    s->theirs = s->ours;
    auto const ours = [=](std::size_t) {
        s->memory.rewind();
        pool::adaptive_average const policy{.grid = {p.frames, p.side, p.side},
                                            .out = {.rows = p.out, .columns = p.out}};
        auto const plan = policy(p.tokens(), s->memory);
        keep(plan ? apply(*plan, view(std::as_const(s->x)), view(s->ours)) : plan.error());
    };
    auto const theirs = [=](std::size_t) {
        by_eigen(p, s->x, s->theirs);
        keep(s->theirs);
    };
    ours(0);
    theirs(0);
    auto const moved = static_cast<std::size_t>((s->x.size() + s->ours.size()) / 2) * sizeof(float);
    return {.bound = copy_limit(moved, 1),
            .candidates = {{"terse", ours}, {eigen_name(), theirs}},
            .agree = s->ours.isApprox(s->theirs, 1e-5F)};
}

// An image that fits the last cache, a video that does not, and cells that overlap.
bool const added = [] {
    for (problem const& p : {problem{1, 24, 12}, {16, 24, 12}, {16, 24, 16}})
        add({"average-pool", {{"frames", p.frames}, {"side", p.side}, {"out", p.out}}}, [p] { return average(p); });
    return true;
}();

}  // namespace
}  // namespace terse::bench

// The merge of a layer's features by ToMe's plan, a quarter of the tokens removed, against sums of rows in Eigen.
#include <memory>

#include <Eigen/Core>

#include <terse/merge/tome.hpp>
#include <terse/move/apply.hpp>

#include "../compare.hpp"

namespace terse::bench {
namespace {

template <class T>
contest merge_features(index n, index dim) {
    constexpr index metric_dim = 64;
    struct state {
        std::vector<row_major<T>> inputs;
        row_major<T> ours, theirs;
        arena memory;
        plan merged;
    };
    auto const s = std::make_shared<state>();
    auto const metric = random_values(n * metric_dim, 1);
    s->merged = merge::tome{.remove = n / 4}(view(metric.data(), n, metric_dim), s->memory).value();
    for (unsigned seed = 2; seed < 6; ++seed) {
        auto const values = random_values<T>(n * dim, seed);
        s->inputs.emplace_back(Eigen::Map<row_major<T> const>(values.data(), n, dim));
    }
    s->ours.resize(s->merged.kept(), dim);
    s->theirs.resize(s->merged.kept(), dim);

    auto const ours = [=](std::size_t input) {
        keep(apply(s->merged, view(std::as_const(s->inputs[input])), view(s->ours)));
        keep(s->ours);
    };
    auto const theirs = [=](std::size_t input) {
        Eigen::RowVectorXf sum(dim);
        for (index i = 0; i < s->theirs.rows(); ++i) {
            auto const row = s->merged.row(i);
            sum.setZero();
            for (std::size_t k = 0; k < row.sources.size(); ++k)
                sum += row.weight(k) * s->inputs[input].row(row.sources[k]).template cast<float>();
            s->theirs.row(i) = sum.cast<T>();
        }
        keep(s->theirs);
    };
    ours(0);
    theirs(0);
    auto const moved = static_cast<std::size_t>((n + s->merged.kept()) * dim / 2) * sizeof(T);
    return {.bound = copy_limit(moved, s->inputs.size()),
            .candidates = {{"terse", ours}, {eigen_name(), theirs}},
            .inputs = s->inputs.size(),
            .agree = s->ours.template cast<float>().isApprox(s->theirs.template cast<float>(),
                                                             std::same_as<T, float> ? 1e-5F : 1e-3F)};
}

bool const added = [] {
    index const n = 1025, dim = 1024;
    subject what{"apply", {{"n", n}, {"d", dim}, {"remove", n / 4}}};
    add(what, [=] { return merge_features<float>(n, dim); });
    what.dtype = dtype_name<half>();
    add(what, [=] { return merge_features<half>(n, dim); });
    return true;
}();

}  // namespace
}  // namespace terse::bench

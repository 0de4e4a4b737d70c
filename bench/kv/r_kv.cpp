// R-KV and CompressKV against what an engine author writes with Eigen: whole products, whole softmax rows, nth_element.
// R-KV compares all keys with all others: it runs while decoding, on its budget and 128 slots more; on 4,096 to see how
// it grows. No two of these random keys are alike, which is the most work there is for it. Where a key forgives a share
// of all, the threshold is so low that a quarter of the keys are alike.
#include <array>
#include <vector>

#include <Eigen/Core>

#include <terse/kv/compresskv.hpp>
#include <terse/kv/r_kv.hpp>

#include "eigen.hpp"

namespace terse::bench {
namespace {

constexpr index window = 8, keep = 1024;
constexpr float threshold = 0.5F, low_threshold = 0.05F, importance = 0.1F;
constexpr double share = 0.2;
constexpr std::array<index, 4> voting = {1, 9, 18, 30};

auto last_queries_of(prompt const& p, index h) { return p.queries_of(h).bottomRows(window); }

/// The highest of seven neighbours.
Eigen::RowVectorXf widened(Eigen::RowVectorXf const& in) {
    Eigen::RowVectorXf out = in;
    for (index shift = 1; shift <= 3; ++shift) {
        index const count = in.size() - shift;
        out.head(count) = out.head(count).cwiseMax(in.tail(count));
        out.tail(count) = out.tail(count).cwiseMax(in.head(count));
    }
    return out;
}

/// The last key that each is like.
void forgive_last(matrix& cosines) {
    index const n = cosines.rows();
    Eigen::RowVectorXf const numbers = Eigen::RowVectorXf::LinSpaced(n, 0, static_cast<float>(n - 1));
    for (index i = 0; i < n; ++i) {
        auto const last =
            static_cast<index>((cosines.row(i).array() > threshold).select(numbers.array(), -1.0F).maxCoeff());
        if (last >= 0) cosines(i, last) = 0;
    }
}

/// The last keys that each is like, at most a share of all.
void forgive_share(matrix& cosines) {
    index const n = cosines.rows();
    for (index i = 0; i < n; ++i) {
        auto left = static_cast<index>(share * static_cast<double>(n));
        for (index j = n - 1; j >= 0 && left > 0; --j)
            if (j != i && cosines(i, j) > low_threshold) cosines(i, j) = 0, --left;
    }
}

template <class Forgive>
slots r_kv(prompt const& p, Forgive const& forgive) {
    index const n = p.tokens, scored = n - window;
    slots kept;
    for (index kv = 0; kv < prompt::kv_heads; ++kv) {
        auto const past = p.keys_of(kv).topRows(scored);
        matrix logits = logits_of(last_queries_of(p, kv * prompt::group), past);
        for (index g = 1; g < prompt::group; ++g)
            logits = logits.cwiseMax(logits_of(last_queries_of(p, kv * prompt::group + g), past));
        softmax_rows(logits);
        auto const watched = widened(logits.colwise().mean());

        matrix const unit = p.keys_of(kv).rowwise().normalized();
        matrix cosines(n, n);
        cosines.noalias() = unit * unit.transpose();
        cosines.diagonal().setZero();
        forgive(cosines);
        Eigen::RowVectorXf repeated = cosines.colwise().mean();
        softmax_rows(repeated);
        Eigen::RowVectorXf const scores = importance * watched - (1 - importance) * repeated.head(scored);
        kept.push_back(kept_by(higher(scores), n, keep, window));
    }
    return kept;
}

slots compresskv(prompt const& p) {
    index const before = p.tokens - window;
    Eigen::RowVectorXf sums = Eigen::RowVectorXf::Zero(before);
    for (index const h : voting) sums += attention_of(p, h, window).leftCols(before).colwise().sum();
    auto const scores = pooled(sums, 5);
    return {kept_by(higher(scores), p.tokens, keep, window)};
}

bool const added = [] {
    kv::r_kv const last{.keep = keep, .window = window, .importance = importance, .threshold = threshold};
    auto several = last;
    several.threshold = low_threshold, several.forgive_share = share;
    std::vector<index> const lengths = {keep + 128, 4096};
    add_prompt_rows("r-kv",
                    {.ours = [=](prompt const& p, arena& memory) { return last(p.layer(window), memory); },
                     .theirs = [](prompt const& p) { return r_kv(p, forgive_last); }},
                    lengths);
    add_prompt_rows("r-kv-share",
                    {.ours = [=](prompt const& p, arena& memory) { return several(p.layer(window), memory); },
                     .theirs = [](prompt const& p) { return r_kv(p, forgive_share); }},
                    lengths);
    add_prompt_rows("compresskv", {.ours =
                                       [](prompt const& p, arena& memory) {
                                           return kv::compresskv{.heads = voting, .keep = keep, .window = window}(
                                               p.layer(window), memory);
                                       },
                                   .theirs = compresskv});
    return true;
}();

}  // namespace
}  // namespace terse::bench

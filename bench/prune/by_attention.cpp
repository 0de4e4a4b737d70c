// Pruning by the attention of one query, and by scores at hand, against Eigen and nth_element.
#include <algorithm>
#include <memory>
#include <numeric>

#include <Eigen/Core>

#include <terse/prune/fastv.hpp>
#include <terse/prune/top_k.hpp>

#include "../compare.hpp"

namespace terse::bench {
namespace {

constexpr index heads = 32, tokens = 640, image_start = 35, image_tokens = 576, keep_tokens = 288;

/// Ascending positions first + i of the highest of `scores`.
std::vector<token> highest(Eigen::Ref<Eigen::RowVectorXf const> const& scores, token first) {
    std::vector<token> order(static_cast<std::size_t>(scores.size()));
    std::iota(order.begin(), order.end(), first);
    std::nth_element(order.begin(), order.begin() + keep_tokens, order.end(),
                     [&](token a, token b) { return scores[a - first] > scores[b - first]; });
    order.resize(keep_tokens);
    std::sort(order.begin(), order.end());
    return order;
}

std::vector<token> fastv_by_eigen(aligned<float> const& attention) {
    Eigen::RowVectorXf const mean = view(attention.data(), heads, tokens).map().colwise().mean();
    std::vector<token> kept(image_start);
    std::iota(kept.begin(), kept.end(), token{0});
    auto const image = highest(mean.segment(image_start, image_tokens), image_start);
    kept.insert(kept.end(), image.begin(), image.end());
    for (token t = image_start + image_tokens; t < tokens; ++t) kept.push_back(t);
    return kept;
}

result<plan> fastv_by_terse(aligned<float> const& attention, arena& memory) {
    layer<float> const l{.keys = {.heads = heads, .tokens = tokens},
                         .attention = head_major(attention.data(), heads, 1, tokens)};
    return prune::fastv{.image_start = image_start, .image_tokens = image_tokens, .keep = keep_tokens}(l, memory);
}

std::vector<token> top_k_by_eigen(aligned<float> const& scores) {
    return highest(Eigen::Map<Eigen::RowVectorXf const>(scores.data(), std::ssize(scores)), 0);
}

result<plan> top_k_by_terse(aligned<float> const& scores, arena& memory) {
    return prune::top_k<>{.keep = keep_tokens}(scores, memory);
}

contest prune_by(index size, result<plan> (*ours)(aligned<float> const&, arena&),
                 std::vector<token> (*theirs)(aligned<float> const&)) {
    struct state {
        std::vector<aligned<float>> inputs;
        arena memory;
    };
    auto const s = std::make_shared<state>();
    s->inputs = random_inputs(1, size, 16);
    bool const agree = std::ranges::equal(ours(s->inputs[0], s->memory).value().sources, theirs(s->inputs[0]));
    auto const with_terse = [=](std::size_t input) {
        s->memory.rewind();
        keep(ours(s->inputs[input], s->memory));
    };
    auto const with_eigen = [=](std::size_t input) { keep(theirs(s->inputs[input])); };
    return {.bound = read_limit(static_cast<std::size_t>(size) * sizeof(float), s->inputs.size()),
            .candidates = {{"terse", with_terse}, {eigen_name(), with_eigen}},
            .inputs = s->inputs.size(),
            .agree = agree};
}

bool const added = [] {
    add({"fastv", {{"heads", heads}, {"n", tokens}, {"keep", keep_tokens}}},
        [] { return prune_by(heads * tokens, fastv_by_terse, fastv_by_eigen); });
    add({"prune-top-k", {{"n", image_tokens}, {"keep", keep_tokens}}},
        [] { return prune_by(image_tokens, top_k_by_terse, top_k_by_eigen); });
    return true;
}();

}  // namespace
}  // namespace terse::bench

// Pruning by the attention of one query, and by scores at hand, against Eigen and nth_element.
#include <algorithm>
#include <numeric>

#include <terse/prune/fastv.hpp>
#include <terse/prune/top_k.hpp>

#include "measure.hpp"

namespace terse::bench {
namespace {

constexpr index heads = 32, tokens = 640, image_start = 35, image_tokens = 576, keep = 288;

/// Ascending positions first + i of the highest of `scores`.
std::vector<token> highest(Eigen::Ref<Eigen::RowVectorXf const> const& scores, token first) {
    std::vector<token> order(static_cast<std::size_t>(scores.size()));
    std::iota(order.begin(), order.end(), first);
    std::nth_element(order.begin(), order.begin() + keep, order.end(),
                     [&](token a, token b) { return scores[a - first] > scores[b - first]; });
    order.resize(keep);
    std::sort(order.begin(), order.end());
    return order;
}

std::vector<token> fastv_by_eigen(std::vector<float> const& attention) {
    Eigen::RowVectorXf const mean = view(attention.data(), heads, tokens).map().colwise().mean();
    std::vector<token> kept(image_start);
    std::iota(kept.begin(), kept.end(), token{0});
    auto const image = highest(mean.segment(image_start, image_tokens), image_start);
    kept.insert(kept.end(), image.begin(), image.end());
    for (token t = image_start + image_tokens; t < tokens; ++t) kept.push_back(t);
    return kept;
}

result<plan> fastv_by_terse(std::vector<float> const& attention, arena& memory) {
    layer<float> const l{.keys = {.heads = heads, .tokens = tokens},
                         .attention = head_major(attention.data(), heads, 1, tokens)};
    return prune::fastv{.image_start = image_start, .image_tokens = image_tokens, .keep = keep}(l, memory);
}

std::vector<token> top_k_by_eigen(std::vector<float> const& scores) {
    return highest(Eigen::Map<Eigen::RowVectorXf const>(scores.data(), std::ssize(scores)), 0);
}

result<plan> top_k_by_terse(std::vector<float> const& scores, arena& memory) {
    return prune::top_k<>{.keep = keep}(scores, memory);
}

void run_terse(benchmark::State& state, index size, result<plan> (*ours)(std::vector<float> const&, arena&),
               std::vector<token> (*theirs)(std::vector<float> const&)) {
    auto const inputs = random_inputs(1, size);
    arena memory;
    if (!std::ranges::equal(ours(inputs[0], memory).value().sources, theirs(inputs[0])))
        state.SkipWithError("the answers differ");
    std::size_t next = 0;
    for (auto _ : state) {
        memory.rewind();
        auto p = ours(inputs[next++ % inputs.size()], memory);
        benchmark::DoNotOptimize(p);
    }
}

void run_eigen(benchmark::State& state, index size, std::vector<token> (*theirs)(std::vector<float> const&)) {
    auto const inputs = random_inputs(1, size);
    std::size_t next = 0;
    for (auto _ : state) {
        auto kept = theirs(inputs[next++ % inputs.size()]);
        benchmark::DoNotOptimize(kept.data());
    }
}

BENCHMARK_CAPTURE(run_terse, fastv, heads* tokens, fastv_by_terse, fastv_by_eigen)->Name("prune/fastv/terse");
BENCHMARK_CAPTURE(run_eigen, fastv, heads* tokens, fastv_by_eigen)->Name("prune/fastv/eigen");
BENCHMARK_CAPTURE(run_terse, top_k, image_tokens, top_k_by_terse, top_k_by_eigen)->Name("prune/top_k/terse");
BENCHMARK_CAPTURE(run_eigen, top_k, image_tokens, top_k_by_eigen)->Name("prune/top_k/nth_element");

}  // namespace
}  // namespace terse::bench

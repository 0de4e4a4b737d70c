// Each eviction against what an engine author writes with Eigen: whole products, whole softmax rows, nth_element.
#include <algorithm>
#include <cmath>
#include <numeric>

#include <Eigen/Core>

#include <terse/kv.hpp>

#include "measure.hpp"

namespace terse::bench {
namespace {

using matrix = row_major<float>;

/// One layer of an engine: 2 kv heads, 8 query heads, 128 channels.
struct engine {
    static constexpr index kv_heads = 2, heads = 8, dim = 128;
    index tokens, window;
    std::vector<float> keys, queries;

    engine(index n, index w, unsigned seed)
        : tokens{n},
          window{w},
          keys{random_values(kv_heads * n * dim, 2 * seed)},
          queries{random_values(heads * w * dim, 2 * seed + 1)} {}

    [[nodiscard]] terse::layer<float> layer() const {
        return {.keys = head_major(keys.data(), kv_heads, tokens, dim),
                .queries = head_major(queries.data(), heads, window, dim)};
    }
    [[nodiscard]] auto keys_of(index kv) const { return layer().keys.head(kv).map(); }
    [[nodiscard]] auto queries_of(index h) const { return layer().queries.head(h).map(); }
};

/// Sums over the window of query head h's attention, by the book.
Eigen::RowVectorXf attention_columns(engine const& e, index h) {
    matrix logits = e.queries_of(h) * e.keys_of(h / (e.heads / e.kv_heads)).transpose();
    logits *= 1.0F / std::sqrt(static_cast<float>(e.dim));
    for (index i = 0; i < e.window; ++i) {
        auto row = logits.row(i);
        row.tail(e.window - 1 - i).setConstant(-std::numeric_limits<float>::infinity());
        row = (row.array() - row.maxCoeff()).exp().matrix();
        row /= row.sum();
    }
    return logits.colwise().sum();
}

/// The mean over the query heads of a kv head, or over all of them.
matrix by_group(engine const& e, bool across_heads) {
    index const rows = across_heads ? 1 : e.kv_heads, group = e.heads / rows;
    matrix scores = matrix::Zero(rows, e.tokens);
    for (index h = 0; h < e.heads; ++h) scores.row(h / group) += attention_columns(e, h);
    return scores / static_cast<float>(group);
}

matrix pooled(matrix const& scores, index kernel) {
    matrix out = matrix::Zero(scores.rows(), scores.cols());
    for (index r = 0; r < scores.rows(); ++r)
        for (index t = 0; t < scores.cols(); ++t)
            for (index k = std::max<index>(0, t - kernel / 2); k <= std::min(scores.cols() - 1, t + kernel / 2); ++k)
                out(r, t) += scores(r, k) / static_cast<float>(kernel);
    return out;
}

/// Ascending slots of the highest scores before the last `recent`, and those.
std::vector<std::vector<token>> highest(matrix const& scores, index tokens, index keep, index recent) {
    std::vector<std::vector<token>> kept;
    for (index r = 0; r < scores.rows(); ++r) {
        std::vector<token> order(static_cast<std::size_t>(tokens - recent));
        std::iota(order.begin(), order.end(), token{0});
        auto const cut = order.begin() + (keep - recent);
        std::nth_element(order.begin(), cut, order.end(),
                         [&](token a, token b) { return scores(r, a) > scores(r, b); });
        std::sort(order.begin(), cut);
        order.erase(cut, order.end());
        for (index t = tokens - recent; t < tokens; ++t) order.push_back(static_cast<token>(t));
        kept.push_back(order);
    }
    return kept;
}

/// A policy and its peer, over the same engine.
struct contest {
    index window;  ///< queries of the engine; 0: all
    result<plans> (*ours)(engine const& e, arena& memory);
    matrix (*scores)(engine const& e);
    index keep, recent;
};

constexpr index keep = 256;

contest const snapkv{
    32, [](engine const& e, arena& memory) { return kv::snapkv{.keep = keep, .window = 32}(e.layer(), memory); },
    [](engine const& e) { return pooled(by_group(e, false).leftCols(e.tokens - 32), 5); }, keep, 32};
contest const tova{1, [](engine const& e, arena& memory) { return kv::tova{.keep = keep}(e.layer(), memory); },
                   [](engine const& e) { return by_group(e, true); }, keep, 1};
contest const h2o{
    0, [](engine const& e, arena& memory) { return kv::h2o{.keep = keep, .recent = keep / 2}(e.layer(), memory); },
    [](engine const& e) { return by_group(e, false); }, keep, keep / 2};
contest const key_norm{1, [](engine const& e, arena& memory) { return kv::key_norm{.keep = keep}(e.layer(), memory); },
                       [](engine const& e) {
                           matrix scores(e.kv_heads, e.tokens);
                           for (index h = 0; h < e.kv_heads; ++h)
                               scores.row(h) = -e.keys_of(h).rowwise().norm().transpose();
                           return scores;
                       },
                       keep, 0};

/// Whether every slot that we keep is, by the peer's scores, among the kept ones or level with the last of them.
bool agree(contest const& c, engine const& e) {
    arena memory;
    auto const plans = c.ours(e, memory).value();
    matrix const scores = c.scores(e);
    auto const theirs = highest(scores, e.tokens, c.keep, c.recent);
    for (index r = 0; r < scores.rows(); ++r) {
        auto const& own = theirs[static_cast<std::size_t>(r)];
        float lowest = std::numeric_limits<float>::infinity();
        for (token const t : own)
            if (t < e.tokens - c.recent) lowest = std::min(lowest, scores(r, t));
        for (token const t : plans[r].sources)
            if (t < e.tokens - c.recent && !(scores(r, t) >= lowest - 1e-4F * std::abs(lowest))) return false;
        if (plans[r].kept() != std::ssize(own)) return false;
    }
    return true;
}

std::vector<engine> engines(benchmark::State& state, contest const& c) {
    index const n = state.range(0);
    std::vector<engine> all;
    for (unsigned seed = 0; seed < 3; ++seed) all.emplace_back(n, c.window == 0 ? n : c.window, seed);
    if (!agree(c, all[0])) state.SkipWithError("the answers differ");
    return all;
}

void with_terse(benchmark::State& state, contest const& c) {
    auto const inputs = engines(state, c);
    arena memory;
    std::size_t next = 0;
    for (auto _ : state) {
        memory.rewind();
        auto plans = c.ours(inputs[next++ % inputs.size()], memory);
        benchmark::DoNotOptimize(plans);
    }
}

void with_eigen(benchmark::State& state, contest const& c) {
    auto const inputs = engines(state, c);
    std::size_t next = 0;
    for (auto _ : state) {
        engine const& e = inputs[next++ % inputs.size()];
        auto kept = highest(c.scores(e), e.tokens, c.keep, c.recent);
        benchmark::DoNotOptimize(kept.data());
    }
}

void long_prompts(benchmark::internal::Benchmark* b) {
    b->ArgName("n")->Arg(4096)->Arg(32768)->Unit(benchmark::kMicrosecond);
}
void short_prompts(benchmark::internal::Benchmark* b) { b->ArgName("n")->Arg(1024)->Unit(benchmark::kMicrosecond); }

BENCHMARK_CAPTURE(with_terse, snapkv, snapkv)->Name("kv/snapkv/terse")->Apply(long_prompts);
BENCHMARK_CAPTURE(with_eigen, snapkv, snapkv)->Name("kv/snapkv/eigen")->Apply(long_prompts);
BENCHMARK_CAPTURE(with_terse, tova, tova)->Name("kv/tova/terse")->Apply(long_prompts);
BENCHMARK_CAPTURE(with_eigen, tova, tova)->Name("kv/tova/eigen")->Apply(long_prompts);
BENCHMARK_CAPTURE(with_terse, key_norm, key_norm)->Name("kv/key_norm/terse")->Apply(long_prompts);
BENCHMARK_CAPTURE(with_eigen, key_norm, key_norm)->Name("kv/key_norm/eigen")->Apply(long_prompts);
BENCHMARK_CAPTURE(with_terse, h2o, h2o)->Name("kv/h2o/terse")->Apply(short_prompts);
BENCHMARK_CAPTURE(with_eigen, h2o, h2o)->Name("kv/h2o/eigen")->Apply(short_prompts);

/// The positions alone: what is left is writing the kept slots.
void streaming(benchmark::State& state) {
    arena memory;
    for (auto _ : state) {
        memory.rewind();
        auto plans = kv::streaming_llm{.recent = keep - 4}(state.range(0), memory);
        benchmark::DoNotOptimize(plans);
    }
}
BENCHMARK(streaming)->Name("kv/streaming_llm/terse")->Apply(long_prompts);

/// One step of decoding with H2O: the attention of the new token joins the sums, and one slot goes.
void h2o_step(benchmark::State& state) {
    index const n = state.range(0), heads = engine::heads, kv_heads = engine::kv_heads;
    std::vector<float> const attention = random_values(heads * n, 1);
    std::vector<float> sums(static_cast<std::size_t>(kv_heads * n));
    kv::column_sums state_of_layer{.values = sums, .heads = kv_heads, .capacity = n};
    layer<float> l{.keys = {.heads = kv_heads, .tokens = n}, .attention = head_major(attention.data(), heads, 1, n)};
    kv::h2o const policy{.keep = n - 1, .recent = n / 2};
    arena memory;
    for (auto _ : state) {
        memory.rewind();
        if (state_of_layer.add(l, memory) != errc::ok) state.SkipWithError("the sums refuse a step");
        auto plans = policy(state_of_layer, memory);
        if (!plans || state_of_layer.compact(*plans) != errc::ok) state.SkipWithError("the step failed");
    }
}
BENCHMARK(h2o_step)->Name("kv/h2o_step/terse")->Apply(long_prompts);

}  // namespace
}  // namespace terse::bench

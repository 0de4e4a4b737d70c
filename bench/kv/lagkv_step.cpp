// The steps of decoding at which LagKV has something to do: a partition is complete, and the one before it is thinned.
// Beside reading the keys and values of both partitions, which is all that is read however long the cache is.
#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include <Eigen/Core>

#include <terse/kv/recursive_lagkv.hpp>

#include "eigen.hpp"

namespace terse::bench {
namespace {

constexpr index kv_heads = prompt::kv_heads, dim = prompt::dim;
constexpr index sinks = 32, lag = 128, kept_of_lag = 32;
constexpr std::size_t inputs = 32;  // more than the caches hold

/// The last two partitions of a cache, of which nothing else is there.
struct last_partitions {
    float const* data = nullptr;
    index heads = kv_heads, tokens = 0, dim = bench::dim;

    [[nodiscard]] float const* row(index h, index t) const noexcept {
        return data + (h * 2 * lag + t - (tokens - 2 * lag)) * dim;
    }
};

struct step {
    index n;
    std::vector<aligned<float>> keys = random_inputs(kv_heads * 2 * lag, dim, inputs);
    std::vector<aligned<float>> values{keys.rbegin(), keys.rend()};
    std::vector<token> positions;
    arena memory{};
    slots found{kv_heads};

    explicit step(index tokens) : n{tokens}, positions(static_cast<std::size_t>(tokens)) {
        // Of each partition that was thinned the first slots are left.
        for (index t = 0; t < n; ++t) {
            index const past = std::max<index>(t - sinks, 0), thinned = (n - sinks - 2 * lag) / kept_of_lag;
            index const partition = std::min(past / kept_of_lag, thinned);
            positions[static_cast<std::size_t>(t)] = static_cast<token>(t + partition * (lag - kept_of_lag));
        }
    }

    [[nodiscard]] result<plans> ours(std::size_t input) {
        memory.rewind();
        layer<float, last_partitions> const l{.keys = {.data = keys[input].data(), .tokens = n},
                                              .values = {.data = values[input].data(), .tokens = n},
                                              .positions = {positions.data(), 1, n, n}};
        kv::recursive_lagkv const policy{
            .ratio = static_cast<double>(kept_of_lag) / static_cast<double>(lag), .sinks = sinks, .lag = lag};
        return policy(l, memory);
    }

    static Eigen::ArrayXf lag_softmax(float const* rows) {
        auto const both = view(rows, 2 * lag, dim).map();
        auto const next = both.bottomRows(lag);
        Eigen::Array<float, 1, Eigen::Dynamic> const low = next.colwise().minCoeff(),
                                                     range = next.colwise().maxCoeff().array() - low;
        matrix z = both.topRows(lag).rowwise() - low.matrix();
        z.array().rowwise() /= range;
        z.colwise() -= z.rowwise().mean().eval();
        Eigen::ArrayXf const deviation = (z.rowwise().squaredNorm().array() / static_cast<float>(dim - 1)).sqrt();
        Eigen::ArrayXf const power = (deviation - deviation.maxCoeff()).exp();
        return power / power.sum();
    }

    void theirs(std::size_t input) {
        std::vector<token> order(lag);
        for (index h = 0; h < kv_heads; ++h) {
            index const at = h * 2 * lag * dim;
            Eigen::ArrayXf const score = lag_softmax(keys[input].data() + at) + lag_softmax(values[input].data() + at);
            std::iota(order.begin(), order.end(), token{0});
            auto const end = order.begin() + kept_of_lag;
            std::nth_element(order.begin(), end, order.end(), [&](token a, token b) { return score[a] > score[b]; });
            std::sort(order.begin(), end);
            auto& head = found[static_cast<std::size_t>(h)];
            index const thinned = n - 2 * lag;
            head.resize(static_cast<std::size_t>(thinned + kept_of_lag + lag));
            auto to = head.begin() + thinned;
            std::iota(head.begin(), to, token{0});
            to = std::transform(order.begin(), end, to, [&](token t) { return static_cast<token>(thinned + t); });
            std::iota(to, head.end(), static_cast<token>(n - lag));
        }
        keep(found);
    }
};

contest lagkv_step(index n) {
    auto const s = std::make_shared<step>(n);
    contest c{.bound = read_limit(std::size_t{2 * 2 * kv_heads * lag * dim} * sizeof(float), inputs),
              .candidates = {{"terse", [s](std::size_t input) { keep(s->ours(input)); }},
                             {eigen_name(), [s](std::size_t input) { s->theirs(input); }}},
              .inputs = inputs};
    for (std::size_t input = 0; input < inputs; ++input) {
        auto const ours = s->ours(input);
        s->theirs(input);
        c.agree = c.agree && ours && same(as_slots(*ours), s->found, 1e-3);
    }
    return c;
}

bool const added = [] {
    for (index const n : prompt::lengths)
        add({"lagkv-step", {{"n", n}, {"kv_heads", kv_heads}, {"lag", lag}, {"d", dim}}},
            [n] { return lagkv_step(n); });
    return true;
}();

}  // namespace
}  // namespace terse::bench

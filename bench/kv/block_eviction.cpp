// Block-wise eviction: a prompt, a step of decoding, the blocks that KVCrush rescues, and how blocks differ from each
// other.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>

#include <Eigen/Core>

#include <terse/kv/block_eviction.hpp>

#include "eigen.hpp"

namespace terse::bench {
namespace {

constexpr index block = 32;

/// A cache of n slots from which a block is to go, at every call anew.
kv::block_eviction policy_of(index n) { return {.keep = n - block, .block = block}; }

/// The state of n slots, and what a step adds to it.
struct step_state {
    std::vector<aligned<float>> scores;
    std::vector<double> sums;
    std::vector<token> since;
    kv::block_scores state;
    arena memory;

    explicit step_state(index n) : sums(static_cast<std::size_t>(n)), since(static_cast<std::size_t>(n)) {
        for (auto const& values : random_inputs(1, n)) {
            scores.push_back(values);
            for (float& x : scores.back()) x = (x + 1) / static_cast<float>(n);
        }
        state = {.sums = sums, .since = since, .capacity = n};
    }
};

/// The same by the book.
struct step_by_eigen {
    Eigen::ArrayXd sums;
    Eigen::ArrayXi counts;
    Eigen::ArrayXf pooled;
    std::vector<token> kept{}, gone{};

    explicit step_by_eigen(index n)
        : sums(Eigen::ArrayXd::Zero(n)), counts(Eigen::ArrayXi::LinSpaced(n, static_cast<int>(n), 1)), pooled(n) {}

    void run(aligned<float> const& scores, kv::block_eviction const& policy) {
        index const n = std::ssize(scores);
        Eigen::Map<Eigen::ArrayXf const> const x(scores.data(), n);
        pooled = x;
        for (index shift = 1; shift < policy.pool; ++shift)
            pooled.head(n - shift) = pooled.head(n - shift).max(x.tail(n - shift));
        sums += pooled.cast<double>();

        range const area = policy.evictable(n);
        index const first = area.begin * block, slots = area.size() * block;
        Eigen::ArrayXd const each = sums.segment(first, slots) / counts.segment(first, slots).cast<double>();
        Eigen::ArrayXd const of_blocks =
            Eigen::Map<Eigen::ArrayXXd const>(each.data(), block, area.size()).colwise().sum();
        std::vector<token> order(static_cast<std::size_t>(area.size()));
        std::iota(order.begin(), order.end(), 0);
        index const surplus = (n - policy.count(n)) / block;
        std::nth_element(order.begin(), order.begin() + surplus, order.end(),
                         [&](token a, token b) { return of_blocks[a] < of_blocks[b]; });
        gone.assign(order.begin(), order.begin() + surplus);
        for (token& b : gone) b += static_cast<token>(area.begin);
        std::sort(gone.begin(), gone.end());
        kept.clear();
        for (token t = 0; t < n; ++t)
            if (!std::binary_search(gone.begin(), gone.end(), static_cast<token>(t / block))) kept.push_back(t);
    }
};

contest block_step(index n) {
    auto const policy = policy_of(n);
    auto const ours = std::make_shared<step_state>(n);
    auto const theirs = std::make_shared<step_by_eigen>(n);
    auto const step = [=](std::size_t input) {
        ours->memory.rewind();
        auto const error = policy.add(ours->state, ours->scores[input]);
        keep(error);
        return policy.choose(ours->state, ours->memory);
    };
    contest c{.bound = read_limit(static_cast<std::size_t>(n) * sizeof(float), ours->scores.size()),
              .candidates = {{"terse", [=](std::size_t input) { keep(step(input)); }},
                             {eigen_name(), [=](std::size_t input) { theirs->run(ours->scores[input], policy); }}},
              .inputs = ours->scores.size()};
    for (std::size_t input = 0; input < c.inputs; ++input) {
        auto const choice = step(input);
        theirs->run(ours->scores[input], policy);
        c.agree = c.agree && choice && std::ranges::equal(choice->evicted, theirs->gone) &&
                  std::ranges::equal(choice->kept[0].sources, theirs->kept);
    }
    return c;
}

constexpr kv::block_eviction after_prompt{.keep = 1024, .block = block};

/// Nothing was scored before the prompt: each slot by those of the last queries that see it.
slots prompt_by_eigen(prompt const& p) {
    index const n = p.tokens, voters = after_prompt.snapkv_window;
    aligned<float> scores(static_cast<std::size_t>(n));
    Eigen::Map<Eigen::RowVectorXf>(scores.data(), n) = received(p, Eigen::RowVectorXf::Ones(voters)).colwise().mean();
    step_by_eigen state(n);
    state.counts = state.counts.min(static_cast<int>(voters));
    state.run(scores, after_prompt);
    return {state.kept};
}

contest kvcrush(index n) {
    struct state {
        std::vector<aligned<double>> scores;
        std::vector<token> going, ours, theirs;
        arena memory;
    };
    auto const s = std::make_shared<state>();
    for (auto const& values : random_inputs(1, n)) s->scores.emplace_back(values.begin(), values.end());
    for (token b = 1; b < n / block; b += 2) s->going.push_back(b);
    s->ours.resize(4);
    auto const ours = [s](std::size_t input) {
        auto const error =
            select::rescue(s->scores[input], block, s->going, select::anchor::alternating, 0, s->ours, s->memory);
        keep(error);
    };
    auto const theirs = [s, n](std::size_t input) {
        auto const& x = s->scores[input];
        std::vector<token> order(x.size());
        std::iota(order.begin(), order.end(), 0);
        std::nth_element(order.begin(), order.begin() + n / 2, order.end(), [&](token a, token b) {
            return x[static_cast<std::size_t>(a)] > x[static_cast<std::size_t>(b)];
        });
        Eigen::Array<std::uint8_t, block, Eigen::Dynamic> bits(block, n / block);
        bits.setZero();
        for (index i = 0; i < n / 2; ++i) bits.data()[order[static_cast<std::size_t>(i)]] = 1;
        for (index i = 1; i < block; i += 2) bits.row(i) = 1 - bits.row(i);
        Eigen::ArrayXi const distance = bits.cast<int>().colwise().sum();
        auto near = s->going;
        std::stable_sort(near.begin(), near.end(), [&](token a, token b) { return distance[a] < distance[b]; });
        s->theirs.clear();
        for (std::size_t i = 0; i < 4; ++i) s->theirs.push_back(near[i * (near.size() / 4)]);
        std::sort(s->theirs.begin(), s->theirs.end());
    };
    contest c{.bound = read_limit(static_cast<std::size_t>(n) * sizeof(double), s->scores.size()),
              .candidates = {{"terse", ours}, {eigen_name(), theirs}},
              .inputs = s->scores.size()};
    for (std::size_t input = 0; input < c.inputs; ++input) {
        ours(input);
        theirs(input);
        c.agree = c.agree && s->ours == s->theirs;
    }
    return c;
}

/// Every block's diversity among all.
std::vector<double> diversity_by_eigen(prompt const& p, index n) {
    std::vector<double> all(static_cast<std::size_t>(n / block));
    for (index h = 0; h < prompt::kv_heads; ++h) {
        row_major<float> const unit = p.keys_of(h).topRows(n).rowwise().normalized();
        row_major<float> cosines = unit * unit.transpose();
        cosines.diagonal().setZero();
        Eigen::VectorXf const mean = cosines.rowwise().mean();
        for (index i = 0; i < n; ++i) {
            auto const row = cosines.row(i).array();
            all[static_cast<std::size_t>(i / block)] -= static_cast<double>((row >= mean[i]).select(row, 0.0F).sum());
        }
    }
    for (double& x : all) x /= static_cast<double>(prompt::kv_heads * n);
    return all;
}

contest diversity(index n) {
    auto const p = prompt_of(4096);
    auto const memory = std::make_shared<arena>();
    auto const ours = [=](std::size_t) {
        memory->rewind();
        return score::block_diversity{.block = block, .slots = {0, n}}(p->layer(), *memory);
    };
    auto const products = static_cast<double>(n) * static_cast<double>(n + 1) * prompt::dim * prompt::kv_heads;
    contest c{.bound = fma_limit(products),
              .candidates = {{"terse", [=](std::size_t input) { keep(ours(input)); }},
                             {eigen_name(), [=](std::size_t) { keep(diversity_by_eigen(*p, n)); }}},
              .inputs = 1};
    auto const got = ours(0);
    auto const want = diversity_by_eigen(*p, n);
    c.agree = static_cast<bool>(got);
    for (std::size_t b = 0; c.agree && b < want.size(); ++b)
        c.agree = std::abs(static_cast<double>(got->row(0)[b]) - want[b]) < 1e-4 * std::abs(want[b]);
    return c;
}

bool const added = [] {
    add_prompt_rows("block-eviction",
                    {.ours = [](prompt const& p,
                                arena& memory) { return after_prompt(p.layer(after_prompt.snapkv_window), memory); },
                     .theirs = prompt_by_eigen,
                     .differ = 0.04});  // a block whose score is level with another's
    for (index const n : prompt::lengths)
        add({"block-step", {{"n", n}, {"block", block}}}, [n] { return block_step(n); });
    for (index const n : prompt::lengths) add({"kvcrush", {{"n", n}, {"block", block}}}, [n] { return kvcrush(n); });
    for (index const n : {512, 2048, 4096})
        add({"block-diversity", {{"n", n}, {"kv_heads", prompt::kv_heads}, {"d", prompt::dim}}},
            [n] { return diversity(n); });
    return true;
}();

}  // namespace
}  // namespace terse::bench

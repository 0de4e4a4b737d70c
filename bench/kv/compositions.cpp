// Evictions composed of a scorer and a rule for what stays, on a prompt, against the same with Eigen: whole products,
// whole softmax rows, nth_element.
#include <algorithm>
#include <limits>
#include <memory>
#include <numeric>

#include <Eigen/Core>

#include <terse/kv/adakv.hpp>
#include <terse/kv/by_blocks.hpp>
#include <terse/kv/by_chunks.hpp>
#include <terse/kv/chunkkv.hpp>
#include <terse/kv/criticalkv.hpp>
#include <terse/kv/finch.hpp>
#include <terse/kv/pyramidkv.hpp>
#include <terse/score/norm.hpp>

#include "eigen.hpp"

namespace terse::bench {
namespace {

constexpr index budget = 1024, window = prompt::window, hidden = 512, chunk = 20, block = 1024;

matrix norm_scores(prompt const& p) {
    matrix scores(prompt::kv_heads, p.tokens);
    for (index h = 0; h < prompt::kv_heads; ++h) scores.row(h) = p.keys_of(h).rowwise().norm().transpose();
    return scores;
}

slots pyramidkv(prompt const& p) {
    index const keep = *kv::pyramidkv{.layer_index = 8, .layers = 32}.count(p.tokens);
    return kept_by_rows(snapkv_scores(p), p.tokens, keep, window);
}

/// How many of each row's scores are kept, `mean` on average: a fifth of that, and the highest of all others.
std::vector<index> shared_counts(matrix const& scores, index mean) {
    index const safe = mean / 5, n = scores.cols();
    matrix open = scores;
    std::vector<index> counts(prompt::kv_heads, safe);
    for (index h = 0; h < prompt::kv_heads; ++h) {
        float const* const row = scores.row(h).data();
        for (token const t : leading({0, n}, safe, higher(row))) open(h, t) = -std::numeric_limits<float>::infinity();
    }
    float const* const all = open.data();
    for (token const i : leading({0, open.size()}, prompt::kv_heads * (mean - safe), higher(all)))
        ++counts[static_cast<std::size_t>(i / n)];
    return counts;
}

slots adakv(prompt const& p) {
    matrix const scores = snapkv_scores(p);
    auto const counts = shared_counts(scores, budget - window);
    slots kept;
    for (index h = 0; h < prompt::kv_heads; ++h) {
        float const* const row = scores.row(h).data();
        kept.push_back(kept_by(higher(row), p.tokens, counts[static_cast<std::size_t>(h)] + window, window));
    }
    return kept;
}

slots chunkkv(prompt const& p) {
    matrix const scores = snapkv_scores(p);
    Eigen::RowVectorXf const sums = scores.colwise().sum();
    index const n = sums.size(), chunks = (p.tokens + chunk - 1) / chunk;
    std::vector<std::pair<float, index>> order;
    for (index c = 0; c < chunks; ++c) {
        index const begin = c * chunk, scored = std::clamp<index>(n - begin, 0, chunk);
        bool const forced = begin + chunk > n;
        float const mean = scored > 0 ? sums.segment(begin, scored).mean() : 0.0F;
        order.emplace_back(forced ? mean + 1e9F : mean, c);
    }
    std::sort(order.rbegin(), order.rend());
    std::vector<token> kept;
    for (index t = n; t < p.tokens; ++t) kept.push_back(static_cast<token>(t));
    for (auto const& [mean, c] : order) {
        std::vector<token> own;
        for (index t = c * chunk; t < std::min((c + 1) * chunk, n); ++t) own.push_back(static_cast<token>(t));
        auto const left = std::min<std::size_t>(static_cast<std::size_t>(budget) - kept.size(), own.size());
        std::partial_sort(own.begin(), own.begin() + static_cast<std::ptrdiff_t>(left), own.end(),
                          [&](token a, token b) { return sums[a] > sums[b]; });
        kept.insert(kept.end(), own.begin(), own.begin() + static_cast<std::ptrdiff_t>(left));
        if (std::ssize(kept) == budget) break;
    }
    std::sort(kept.begin(), kept.end());
    return {kept};
}

slots finch(prompt const& p) {
    auto const before = static_cast<float>(p.tokens - window);
    Eigen::RowVectorXf const weights =
        Eigen::RowVectorXf::LinSpaced(window, before, before + static_cast<float>(window - 1));
    return kept_by_rows(received(p, weights), p.tokens, budget, window);
}

/// The output projection of a layer with a small hidden state: what the products cost is in proportion to it.
matrix const& projection() {
    static matrix const weight = matrix::Random(hidden, prompt::heads * prompt::dim);
    return weight;
}

/// Of `counts` slots a head, half by the norm, at least `safe`; the others by the norm of what they add to the output.
slots critical(prompt const& p, matrix const& scores, std::vector<index> const& counts, index safe) {
    slots kept;
    for (index kv = 0; kv < prompt::kv_heads; ++kv) {
        Eigen::RowVectorXf norms = Eigen::RowVectorXf::Zero(p.tokens);
        constexpr index rows = 4096;  // what fits, of values and of their products
        for (index begin = 0; begin < p.tokens; begin += rows) {
            index const count = std::min(rows, p.tokens - begin);
            for (index h = kv * prompt::group; h < (kv + 1) * prompt::group; ++h) {
                matrix const out = p.values_of(kv).middleRows(begin, count) *
                                   projection().middleCols(h * prompt::dim, prompt::dim).transpose();
                norms.segment(begin, count) += out.cwiseAbs().rowwise().sum().transpose();
            }
        }
        norms /= static_cast<float>(prompt::group);
        float const* const row = scores.row(kv).data();
        index const count = counts[static_cast<std::size_t>(kv)], first = std::min(std::max(count / 2, safe), count);
        auto own = leading({0, p.tokens}, first, higher(row));
        Eigen::RowVectorXf second = (scores.row(kv).array() + 1e-4F) * norms.array();
        for (token const t : own) second[t] = -std::numeric_limits<float>::infinity();
        auto const more = leading({0, p.tokens}, count - first, higher(second));
        own.insert(own.end(), more.begin(), more.end());
        std::sort(own.begin(), own.end());
        kept.push_back(own);
    }
    return kept;
}

slots criticalkv(prompt const& p) {
    return critical(p, norm_scores(p), std::vector<index>(prompt::kv_heads, budget), 0);
}

slots criticalkv_adaptive(prompt const& p) {
    matrix const scores = norm_scores(p);
    return critical(p, scores, shared_counts(scores, budget), budget / 5);
}

/// Kept keys and the block copied side by side, and their norms taken.
slots by_blocks(prompt const& p) {
    slots all;
    for (index h = 0; h < prompt::kv_heads; ++h) {
        auto const keys = p.keys_of(h);
        std::vector<token> kept(static_cast<std::size_t>(budget));
        std::iota(kept.begin(), kept.end(), token{0});
        for (index begin = budget; begin < p.tokens; begin += block) {
            index const count = std::min(block, p.tokens - begin);
            for (index t = begin; t < begin + count; ++t) kept.push_back(static_cast<token>(t));
            matrix const rows = keys(kept, Eigen::all);
            Eigen::VectorXf const norms = rows.rowwise().norm();
            auto const best = kept_by(higher(norms), std::ssize(kept), budget);
            for (std::size_t i = 0; i < best.size(); ++i) kept[i] = kept[static_cast<std::size_t>(best[i])];
            kept.resize(best.size());
        }
        all.push_back(kept);
    }
    return all;
}

/// The longest keys of each chunk, an eighth of it.
slots by_chunks(prompt const& p) {
    slots all;
    for (index h = 0; h < prompt::kv_heads; ++h) {
        Eigen::VectorXf const norms = p.keys_of(h).rowwise().norm();
        auto& kept = all.emplace_back();
        for (index begin = 0; begin < p.tokens; begin += block) {
            float const* const own = norms.data() + begin;
            for (token const t : kept_by(higher(own), block, block / 8)) kept.push_back(static_cast<token>(begin) + t);
        }
    }
    return all;
}

/// A policy on the whole layer.
template <class Policy>
std::function<result<plans>(prompt const&, arena&)> on_layer(Policy const& policy) {
    return [policy](prompt const& p, arena& memory) { return policy(p.layer(), memory); };
}

bool const added = [] {
    auto const snapkv = kv::snapkv{}.scorer();
    score::norm const longest{.longest = true};
    add_prompt_rows("pyramidkv", {on_layer(kv::pyramidkv{.layer_index = 8, .layers = 32}), pyramidkv});
    add_prompt_rows("adakv", {on_layer(kv::adakv<score::attention>{.score = snapkv, .keep = budget}), adakv});
    add_prompt_rows("chunkkv", {on_layer(kv::chunkkv<score::attention>{snapkv, budget, chunk}), chunkkv, 2e-2});
    add_prompt_rows("finch", {on_layer(kv::finch<>{{budget}, window}), finch});
    auto const critical_of = [=](bool adaptive) {
        return [=](prompt const& p, arena& memory) {
            kv::criticalkv<score::norm> const policy{
                .score = longest, .projection = view(projection()), .keep = budget, .adaptive = adaptive};
            return policy(p.layer(), memory);
        };
    };
    add_prompt_rows("criticalkv", {critical_of(false), criticalkv});
    add_prompt_rows("criticalkv-adaptive", {critical_of(true), criticalkv_adaptive});
    add_prompt_rows("by-blocks", {on_layer(kv::by_blocks<score::norm>{longest, budget, block}), by_blocks});
    add_prompt_rows("by-chunks", {on_layer(kv::by_chunks<score::norm>{longest, {.keep = 0.125}, block}), by_chunks});
    return true;
}();

}  // namespace
}  // namespace terse::bench

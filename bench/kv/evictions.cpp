// Each eviction against what an engine author writes with Eigen: whole products, whole softmax rows, nth_element.
#include "evictions.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include <Eigen/Core>

#include <terse/kv.hpp>

#include "../compare.hpp"
#include "eigen.hpp"

namespace terse::bench {
namespace {

constexpr index budget = 1024;
constexpr snapkv_settings snapkv{budget, 5};

auto keys_of(attention_inputs const& e, index kv) {
    return view(e.keys.data() + kv * e.tokens * e.dim, e.tokens, e.dim).map();
}

/// Sums over the window of query head h's attention, by the book.
Eigen::RowVectorXf attention_columns(attention_inputs const& e, index h) {
    auto const queries = view(e.queries.data() + h * e.window * e.dim, e.window, e.dim).map();
    return attention(queries, keys_of(e, h / (e.heads / e.kv_heads))).colwise().sum();
}

/// The mean over the query heads of a kv head, or over all of them.
matrix by_group(attention_inputs const& e, bool across_heads) {
    index const rows = across_heads ? 1 : e.kv_heads, group = e.heads / rows;
    matrix scores = matrix::Zero(rows, e.tokens);
    for (index h = 0; h < e.heads; ++h) scores.row(h / group) += attention_columns(e, h);
    return scores / static_cast<float>(group);
}

/// A policy, the scores that it goes by, by the book, and what it keeps.
template <class Policy>
struct eviction {
    Policy policy;
    std::function<matrix(attention_inputs const&)> scores;
    index keep, recent;
};

/// Whether every slot kept is, by the book's scores, among the kept ones or level with the last of them.
bool correct(slots const& found, matrix const& scores, index tokens, index keep, index recent, float tolerance) {
    auto const expected = kept_by_rows(scores, tokens, keep, recent);
    if (found.size() != expected.size()) return false;
    for (std::size_t r = 0; r < found.size(); ++r) {
        auto const score = [&](token t) { return scores(static_cast<index>(r), t); };
        float lowest = std::numeric_limits<float>::infinity();
        for (token const t : expected[r])
            if (t < tokens - recent) lowest = std::min(lowest, score(t));
        for (token const t : found[r])
            if (t < tokens - recent && !(score(t) >= lowest - tolerance * std::abs(lowest))) return false;
        if (found[r].size() != expected[r].size()) return false;
    }
    return true;
}

/// @param more  other peers, in float
template <class T, class Policy>
contest evict(index n, index window, limit (*bound)(attention_inputs const&, std::size_t inputs),
              eviction<Policy> const& e, std::vector<snapkv_peer> const& more = {}) {
    struct state {
        std::vector<attention_inputs> inputs;
        std::vector<aligned<T>> keys, queries;
        arena memory;
    };
    auto const s = std::make_shared<state>();
    for (unsigned seed = 0; seed < (n > 50'000 ? 1U : 3U); ++seed) {
        auto& in = s->inputs.emplace_back(attention_inputs{n, window});
        s->keys.push_back(random_values<T>(in.kv_heads * n * in.dim, 2 * seed));
        s->queries.push_back(random_values<T>(in.heads * window * in.dim, 2 * seed + 1));
        in.keys = converted<float>(s->keys.back());
        in.queries = converted<float>(s->queries.back());
    }
    auto const ours = [s, e]<class U>(attention_inputs const& in, aligned<U> const& keys, aligned<U> const& queries) {
        layer<U> const l{.keys = head_major(keys.data(), in.kv_heads, in.tokens, in.dim),
                         .queries = head_major(queries.data(), in.heads, in.window, in.dim)};
        s->memory.rewind();
        return e.policy(l, s->memory);
    };
    contest c{.bound = bound(s->inputs[0], s->inputs.size()), .candidates = {}, .inputs = s->inputs.size()};
    c.candidates.push_back(
        {"terse", [s, ours](std::size_t input) { keep(ours(s->inputs[input], s->keys[input], s->queries[input])); }});
    matrix const scores = e.scores(s->inputs[0]);
    auto const found = ours(s->inputs[0], s->keys[0], s->queries[0]);
    c.agree = found && correct(as_slots(*found), scores, n, e.keep, e.recent, 1e-4F);
    if constexpr (!std::same_as<T, float>) {
        c.candidates.push_back({"terse f32", [s, ours](std::size_t input) {
                                    auto const& in = s->inputs[input];
                                    keep(ours(in, in.keys, in.queries));
                                }});
    } else {
        c.candidates.push_back({eigen_name(), [s, e](std::size_t input) {
                                    auto const& in = s->inputs[input];
                                    keep(kept_by_rows(e.scores(in), in.tokens, e.keep, e.recent));
                                }});
        for (auto const& [name, solve] : more) {
            c.candidates.push_back(
                {name, [s, solve = solve](std::size_t input) { keep(solve(s->inputs[input], snapkv)); }});
            c.agree = c.agree && correct(solve(s->inputs[0], snapkv), scores, n, e.keep, e.recent, 1e-4F);
        }
    }
    return c;
}

limit every_product(attention_inputs const& e, std::size_t) {
    return fma_limit(2.0 * static_cast<double>(e.heads * e.window * e.tokens * e.dim));
}
limit causal_products(attention_inputs const& e, std::size_t) {
    return fma_limit(static_cast<double>(e.heads * e.window * e.tokens * e.dim));
}
limit every_key(attention_inputs const& e, std::size_t inputs) {
    return read_limit(e.keys.size() * sizeof(float), inputs);
}

template <class T>
void add_snapkv(index n, index window) {
    add({"snapkv", {{"n", n}, {"d", attention_inputs::dim}, {"window", window}}, dtype_name<T>()}, [=] {
        eviction<kv::snapkv> const e{{.keep = snapkv.keep, .window = window, .kernel = snapkv.kernel},
                                     [=](attention_inputs const& in) {
                                         return pooled(by_group(in, false).leftCols(in.tokens - window), snapkv.kernel);
                                     },
                                     snapkv.keep,
                                     window};
        return evict<T>(n, window, every_product, e, snapkv_peers);
    });
}

bool const added = [] {
    for (index const n : {4096, 32768, 131072})
        for (index const window : {32, 64}) {
            add_snapkv<float>(n, window);
            add_snapkv<half>(n, window);
            add_snapkv<bfloat16>(n, window);
        }
    for (index const n : {4096, 32768}) {
        add({"tova", {{"n", n}, {"d", attention_inputs::dim}}}, [=] {
            eviction<kv::tova> const e{
                {.keep = budget}, [](attention_inputs const& in) { return by_group(in, true); }, budget, 1};
            return evict<float>(n, 1, every_key, e);
        });
        add({"key-norm", {{"n", n}, {"d", attention_inputs::dim}}}, [=] {
            eviction<kv::key_norm> const e{{.keep = budget},
                                           [](attention_inputs const& in) {
                                               matrix scores(in.kv_heads, in.tokens);
                                               for (index h = 0; h < in.kv_heads; ++h)
                                                   scores.row(h) = -keys_of(in, h).rowwise().norm().transpose();
                                               return scores;
                                           },
                                           budget,
                                           0};
            return evict<float>(n, 1, every_key, e);
        });
    }
    for (index const n : {1024, 4096})
        add({"h2o", {{"n", n}, {"d", attention_inputs::dim}}}, [=] {
            index const keep = n / 4;
            eviction<kv::h2o> const e{{.keep = keep, .recent = keep / 2},
                                      [](attention_inputs const& in) { return by_group(in, false); },
                                      keep,
                                      keep / 2};
            return evict<float>(n, n, causal_products, e);
        });
    return true;
}();

}  // namespace
}  // namespace terse::bench

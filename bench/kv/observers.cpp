// Methods that watch the attention of a few queries, each against what an engine author writes with Eigen.
#include <algorithm>
#include <cmath>
#include <numeric>

#include <Eigen/Core>

#include <terse/kv/ems.hpp>
#include <terse/kv/h2o.hpp>
#include <terse/kv/prompt_distill.hpp>
#include <terse/kv/scissorhands.hpp>
#include <terse/kv/simlayerkv.hpp>
#include <terse/kv/snapkv.hpp>
#include <terse/kv/tova.hpp>
#include <terse/kv/zipvl.hpp>

#include "../compare.hpp"
#include "eigen.hpp"

namespace terse::bench {
namespace {

constexpr index budget = 1024, local = 16;

slots snapkv(prompt const& p) { return kept_by_rows(snapkv_scores(p), p.tokens, budget, prompt::window); }

slots tova(prompt const& p) {
    Eigen::RowVectorXf const scores = received(p, Eigen::RowVectorXf::Ones(1)).colwise().sum();
    return {kept_by(higher(scores), p.tokens, budget, 1)};
}

slots h2o(prompt const& p) {
    return kept_by_rows(received(p, Eigen::RowVectorXf::Ones(prompt::window)), p.tokens, budget, budget / 2);
}

slots scissorhands(prompt const& p) {
    slots kept;
    for (index kv = 0; kv < prompt::kv_heads; ++kv) {
        Eigen::RowVectorXf counts = Eigen::RowVectorXf::Zero(p.tokens);
        for (index h = kv * prompt::group; h < (kv + 1) * prompt::group; ++h) {
            matrix const a = attention_of(p, h, prompt::window);
            for (index i = 0; i < prompt::window; ++i) {
                float const limit = 1 / static_cast<float>(p.tokens - prompt::window + i + 1);
                counts.array() += (a.row(i).array() > limit).cast<float>();
            }
        }
        kept.push_back(kept_by(higher_or_earlier(counts), p.tokens, budget, 10));
    }
    return kept;
}

slots ems(prompt const& p) {
    slots kept;
    index const n = p.tokens - local;
    for (index kv = 0; kv < prompt::kv_heads; ++kv) {
        Eigen::RowVectorXf global = Eigen::RowVectorXf::Zero(n), last = global;
        for (index h = kv * prompt::group; h < (kv + 1) * prompt::group; ++h) {
            matrix const a = attention_of(p, h, prompt::window);
            global += a.leftCols(n).colwise().sum();
            last += a.bottomRows(local).leftCols(n).colwise().sum();
        }
        Eigen::RowVectorXf const both = (global * (last.sum() / global.sum())).cwiseMax(last);
        kept.push_back(kept_by(higher(both), p.tokens, budget, local));
    }
    return kept;
}

slots zipvl(prompt const& p) {
    Eigen::RowVectorXf sums = Eigen::RowVectorXf::Zero(p.tokens);
    for (index h = 0; h < prompt::heads; ++h) sums += attention_of(p, h, prompt::window).colwise().sum();
    Eigen::RowVectorXf sorted = sums;
    std::sort(sorted.begin(), sorted.end(), std::greater<>{});
    double const wanted = 0.975 * sums.cast<double>().sum();
    index count = 0;
    for (double sum = 0; sum < wanted; ++count) sum += static_cast<double>(sorted[count]);
    Eigen::RowVectorXf means = sums;
    for (index t = 0; t < p.tokens; ++t) means[t] /= static_cast<float>(std::min(prompt::window, p.tokens - t));
    return {kept_by(higher(means), p.tokens, count)};
}

slots simlayerkv(prompt const& p) {
    constexpr index sinks = 4, recent = 1024;
    float share = 0;
    for (index h = 0; h < prompt::heads; ++h) {
        matrix const a = attention_of(p, h, 1);
        share += a.leftCols(sinks).sum() + a.middleCols(p.tokens - 1 - recent, recent).sum();
    }
    index const tail = share / prompt::heads > 0 ? recent - 1 : p.tokens - sinks;
    std::vector<token> kept(static_cast<std::size_t>(sinks + tail));
    std::iota(kept.begin(), kept.begin() + sinks, token{0});
    std::iota(kept.begin() + sinks, kept.end(), static_cast<token>(p.tokens - tail));
    return {kept};
}

slots prompt_distill(prompt const& p) {
    Eigen::RowVectorXf logits = Eigen::RowVectorXf::Zero(p.tokens);
    for (index h = 0; h < prompt::heads; ++h)
        logits.noalias() += p.queries_of(h).bottomRows(1) * p.keys_of(h / prompt::group).transpose();
    logits /= static_cast<float>(prompt::heads) * std::sqrt(static_cast<float>(prompt::dim));
    Eigen::RowVectorXf const scores = pooled(logits.head(p.tokens - 1), 5);
    return {kept_by(higher(scores), p.tokens, budget + 1, 1)};
}

/// A step of decoding: the attention of the new token is counted, and the slot that was hit least goes.
contest scissorhands_step(index n) {
    struct state {
        std::vector<aligned<float>> attention;
        aligned<float> ours, theirs, alone;
        arena memory;
        slots found;
    };
    auto const s = std::make_shared<state>();
    index const heads = prompt::heads, kv_heads = prompt::kv_heads;
    for (unsigned seed = 0; seed < 4; ++seed) {
        auto& rows = s->attention.emplace_back(random_values(heads * n, seed));
        for (float& x : rows) x = (x + 1) / static_cast<float>(n);
    }
    s->ours = s->theirs = s->alone = aligned<float>(static_cast<std::size_t>(kv_heads * n));
    auto const ours = [=](std::size_t input) {
        s->memory.rewind();
        layer<float> const l{.keys = {.heads = kv_heads, .tokens = n},
                             .attention = head_major<float const>(s->attention[input].data(), heads, 1, n)};
        kv::hit_counts counts{.values = s->ours, .heads = kv_heads, .capacity = n, .used = n};
        kv::scissorhands const policy{.keep = n - 1};
        auto const error = policy.observe(counts, l, s->memory);
        auto const plans = policy(counts, s->memory);
        keep(error), keep(plans);
        return plans;
    };
    auto const theirs = [=](std::size_t input) {
        slots kept;
        for (index kv = 0; kv < kv_heads; ++kv) {
            Eigen::Map<Eigen::RowVectorXf> counts(s->theirs.data() + kv * n, n);
            for (index h = kv * prompt::group; h < (kv + 1) * prompt::group; ++h) {
                Eigen::Map<Eigen::RowVectorXf const> const row(s->attention[input].data() + h * n, n);
                counts.array() += (row.array() > 1 / static_cast<float>(n)).cast<float>();
            }
            kept.push_back(kept_by(higher_or_earlier(counts), n, n - 1, 10));
        }
        return kept;
    };
    contest c{.bound = read_limit(s->attention[0].size() * sizeof(float), s->attention.size()),
              .candidates = {{"terse", [=](std::size_t input) { keep(ours(input)); }},
                             {eigen_name(), [=](std::size_t input) { keep(theirs(input)); }}},
              .inputs = s->attention.size()};
    for (std::size_t input = 0; input < s->attention.size(); ++input) {
        auto const found = ours(input);
        auto const expected = theirs(input);
        c.agree = c.agree && found && s->ours == s->theirs;
        for (index h = 0; c.agree && h < kv_heads; ++h)
            c.agree = std::ranges::equal((*found)[h].sources, expected[static_cast<std::size_t>(h)]);
    }
    return c;
}

bool const added = [] {
    add_prompt_rows(
        "snapkv",
        {.ours = [](prompt const& p, arena& m) { return kv::snapkv{.keep = budget}(p.layer(), m); }, .theirs = snapkv});
    add_prompt_rows("tova", {.ours = [](prompt const& p, arena& m) { return kv::tova{.keep = budget}(p.layer(1), m); },
                             .theirs = tova});
    // All queries of a prompt would be quadratic: its last ones vote.
    add_prompt_rows(
        "h2o-window",
        {.ours = [](prompt const& p, arena& m) { return kv::h2o{.keep = budget, .recent = budget / 2}(p.layer(), m); },
         .theirs = h2o});
    add_prompt_rows("scissorhands",
                    {.ours = [](prompt const& p, arena& m) { return kv::scissorhands{.keep = budget}(p.layer(), m); },
                     .theirs = scissorhands});
    add_prompt_rows("ems", {.ours = [](prompt const& p,
                                       arena& m) { return kv::ems{.keep = budget, .window = local}(p.layer(), m); },
                            .theirs = ems});
    add_prompt_rows("zipvl",
                    {.ours = [](prompt const& p, arena& m) { return kv::zipvl{}(p.layer(), m); }, .theirs = zipvl});
    add_prompt_rows("simlayerkv",
                    {.ours = [](prompt const& p, arena& m) { return kv::simlayerkv{.threshold = 0}(p.layer(1), m); },
                     .theirs = simlayerkv});
    add_prompt_rows(
        "prompt-distill",
        {.ours = [](prompt const& p, arena& m) { return kv::prompt_distill{.keep = budget + 1}(p.layer(1), m); },
         .theirs = prompt_distill});
    for (index const n : prompt::lengths)
        add({"scissorhands-step", {{"n", n}, {"kv_heads", prompt::kv_heads}, {"heads", prompt::heads}}},
            [n] { return scissorhands_step(n); });
    return true;
}();

}  // namespace
}  // namespace terse::bench

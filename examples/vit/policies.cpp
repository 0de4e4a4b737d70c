#include "vit/policies.hpp"

#include <cmath>
#include <span>
#include <utility>

#include <terse/merge/tome.hpp>
#include <terse/move/compose.hpp>
#include <terse/pool/average.hpp>
#include <terse/prune/divprune.hpp>
#include <terse/prune/top_k.hpp>

namespace vit {
namespace {

using terse::arena;
using terse::index;
using terse::plan;
using terse::result;

// Decisions that are made once are made in the second block: later the class token has read what it needs, and keeping
// few costs nothing; earlier its attention says little.
constexpr index once = 1;

std::string each(index remove) { return "remove " + std::to_string(remove) + " a block"; }
std::string only(index keep) { return "keep " + std::to_string(keep) + " once"; }

/// The class token, and what `choose` makes of the patches behind it.
template <class Choose>
result<plan> of_patches(site const& s, arena& memory, Choose const& choose) {
    auto const patches =
        choose(terse::tokens_view<float>{s.tokens.row(1), s.tokens.tokens - 1, s.tokens.dim, s.tokens.stride});
    return patches ? terse::lift(*patches, 1, s.tokens.tokens, memory) : patches;
}

policy full() { return {"full", "all tokens"}; }

policy tome(index remove, bool proportional) {
    auto const decide = [remove](site const& s, arena& memory) {
        return terse::merge::tome{.remove = remove, .class_token = true}(s.keys, s.sizes, memory);
    };
    return {proportional ? "tome" : "tome-noprop", each(remove), {decide, reduction::every_block, proportional}};
}

policy class_attention_each(index remove) {
    auto const decide = [remove](site const& s, arena& memory) {
        return terse::prune::top_k<>{.keep = s.tokens.tokens - remove, .leading = 1}(s.attention, memory);
    };
    return {"class-attention", each(remove), {decide}};
}

policy class_attention_once(index keep) {
    auto const decide = [keep](site const& s, arena& memory) {
        return terse::prune::top_k<>{.keep = 1 + keep, .leading = 1}(s.attention, memory);
    };
    return {"class-attention-once", only(keep), {decide, once}};
}

policy divprune(index keep) {
    auto const decide = [keep](site const& s, arena& memory) {
        return of_patches(s, memory,
                          [&](auto const& patches) { return terse::prune::divprune{.keep = keep}(patches, memory); });
    };
    return {"divprune", only(keep), {decide, once}};
}

policy average(index rows, index columns) {
    auto const decide = [rows, columns](site const& s, arena& memory) {
        return of_patches(s, memory, [&](auto const& patches) {
            return terse::pool::average{.grid = {.rows = s.grid, .columns = s.grid},
                                        .kernel = {.rows = rows, .columns = columns}}(patches, memory);
        });
    };
    return {"average", "cells of " + std::to_string(rows) + " x " + std::to_string(columns), {decide, once}};
}

}  // namespace

std::vector<policy> policies(model const& m, bool all) {
    auto const share = [&](double keep) { return std::lround(keep * static_cast<double>(m.patches())); };
    std::vector<index> const removed =
        all ? std::vector<index>{8, 16, 20, 24, 28, 30, 32} : std::vector<index>{8, 16, 24, 32};
    std::vector<policy> rows{full()};
    for (index const r : removed) rows.push_back(tome(r, true));
    for (index const r : removed)
        if (all || r == 16 || r == 32) rows.push_back(tome(r, false));
    for (index const r : removed)
        if (all || r == 16 || r == 32) rows.push_back(class_attention_each(r));
    std::vector<double> const kept =
        all ? std::vector{0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02} : std::vector{0.5, 0.3, 0.1};
    for (double const k : kept) rows.push_back(class_attention_once(share(k)));
    for (double const k : kept) rows.push_back(divprune(share(k)));
    for (auto const& [h, w] : {std::pair<index, index>{1, 2}, {2, 2}, {4, 4}}) rows.push_back(average(h, w));
    return rows;
}

std::vector<policy> pictured(model const& m) {
    index const quarter = m.patches() / 4;
    return {tome(24, true), class_attention_each(24), class_attention_once(quarter), divprune(quarter), average(2, 2)};
}

}  // namespace vit

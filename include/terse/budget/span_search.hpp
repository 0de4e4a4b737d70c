// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <limits>
#include <span>

#include <terse/budget/elastic_span.hpp>
#include <terse/core/arena.hpp>
#include <terse/core/result.hpp>
#include <terse/core/types.hpp>

namespace terse::budget {

/// The spans that a search may give a head: lines from every start to every slope that cover something at the shortest
/// length and no more than everything at the longest.
struct span_candidates {
    index shortest = 2048;  ///< tokens
    index longest = 8192;   ///< tokens
    index step = 1024;      ///< from one start to the next, about; starts go from -shortest to longest
    index slopes = 8;       ///< slopes are 0, 1 / slopes, ..., 1

    /// @return  errc::bad_setting unless 1 <= shortest <= longest, step >= 1 and slopes >= 1; errc::out_of_memory
    [[nodiscard]] result<std::span<elastic_span const>> operator()(arena& memory) const noexcept {
        if (shortest < 1 || longest < shortest || longest > max_tokens || step < 1 || slopes < 1 || slopes > 1024)
            return errc::bad_setting;
        index const starts = std::max<index>((shortest + longest) / step, 1);
        auto const all = memory.take<elastic_span>((starts + 1) * (slopes + 1));
        if (!taken(all)) return errc::out_of_memory;
        std::size_t count = 0;
        for (index i = 0; i <= starts; ++i) {
            for (index j = 0; j <= slopes; ++j) {
                elastic_span const s{static_cast<double>(i * (shortest + longest)) / static_cast<double>(starts) -
                                         static_cast<double>(shortest),
                                     static_cast<double>(j) / static_cast<double>(slopes)};
                if (s.at(shortest) > 0 && s.at(longest) <= static_cast<double>(longest)) all[count++] = s;
            }
        }
        return std::span<elastic_span const>{all.first(count)};
    }
};

/// What a search for spans goes by.
struct span_profile {
    std::span<elastic_span const> candidates{};
    std::span<index const> lengths{};  ///< tokens, where losses were measured
    std::span<float const> loss{};     ///< [lengths, heads, candidates]: of a head alone, finite
    index layers = 1;                  ///< heads of a layer stand together

    [[nodiscard]] constexpr index heads() const noexcept {
        auto const each = std::ssize(lengths) * std::ssize(candidates);
        return each == 0 ? 0 : std::ssize(loss) / each;
    }
    [[nodiscard]] constexpr double at(index length, index head, index candidate) const noexcept {
        return static_cast<double>(
            loss[static_cast<std::size_t>((length * heads() + head) * std::ssize(candidates) + candidate)]);
    }
};

/// One way to give every head a span.
struct span_choice {
    std::span<token const> candidate{};  ///< [heads]
    std::span<double const> loss{};      ///< [lengths]: summed over heads
    std::span<double const> density{};   ///< [lengths]: mean over heads of the share of the length that spans cover
};

/// Gives every head of a model one of the candidate spans, offline: the least loss with a bounded mean density, and few
/// different spans a layer.
///
/// Source: the plan search of `kv::moa`, arXiv:2406.14909. Differs: it solves a mixed-integer program; here the density
/// has a price, found by bisection, at which every head (every layer, over pairs of candidates) takes what costs it
/// least, and what the bound leaves is filled by the exchanges of one head's candidate that gain most for it: no
/// farther from the best than about what one head's choice is worth. Several lengths are weighed against each other on
/// a grid, where the source bounds all but one of their losses on a grid.
struct span_search {
    double density = 0.5;     ///< the most, at every length, in (0, 1]
    double least = 0.9;       ///< of `density`: what every length should reach
    bool two_a_layer = true;  ///< at most two different candidates in a layer
    index grid = 5;           ///< points of each length's weight, at least 2

    /// @return      the choices that no other beats at every length, by loss at the first length; none twice. A choice
    ///              stays below `least` where no exchange leads there. errc::bad_setting for a setting outside its
    ///              range or a loss or a span that is not finite; errc::bad_shape when the profile's sizes do not fit
    ///              or there are more than four lengths; errc::bad_budget when the sparsest candidate is too dense;
    ///              errc::out_of_memory
    /// @complexity  O(choices * log * heads * candidates^2), choices = the compositions of grid - 1 over the lengths
    [[nodiscard]] result<std::span<span_choice const>> operator()(span_profile const& p, arena& memory) const noexcept {
        if (errc const error = check(p); error != errc::ok) return error;
        index const lengths = std::ssize(p.lengths), heads = p.heads(), candidates = std::ssize(p.candidates);
        index most = 1;  // choices
        for (index i = 1; i < lengths; ++i) most = most * (grid - 1 + i) / i;

        rollback undo{memory};
        auto const found = memory.take<span_choice>(most);
        auto const chosen = memory.take<token>(most * heads);
        auto const loss = memory.take<double>(most * lengths);
        auto const dense = memory.take<double>(most * lengths);
        auto const top = memory.here();
        auto const weighted = memory.take<double>(heads * candidates);
        auto const price = memory.take<double>(candidates);
        auto const share = memory.take<double>(lengths);
        auto const part = memory.take<index>(lengths);
        if (!taken(found, chosen, loss, dense, weighted, price, share, part)) return errc::out_of_memory;
        for (index c = 0; c < candidates; ++c) {
            price[at(c)] = 0;
            for (index const n : p.lengths) price[at(c)] += p.candidates[at(c)].density(n);
        }

        std::fill(part.begin(), part.end(), index{0});
        part[0] = grid - 1;
        index count = 0;
        for (bool more = true; more; more = next(part)) {
            weigh(p, part, share, weighted);
            state s{p, weighted, price, chosen.subspan(at(count * heads), at(heads)),
                    dense.subspan(at(count * lengths), at(lengths))};
            if (errc const error = solve(s); error != errc::ok) return error;
            auto const sums = loss.subspan(at(count * lengths), at(lengths));
            for (index l = 0; l < lengths; ++l) {
                sums[at(l)] = 0;
                for (index h = 0; h < heads; ++h) sums[at(l)] += p.at(l, h, s.chosen[at(h)]);
            }
            found[at(count++)] = {s.chosen, sums, s.density};
        }
        memory.rewind(top);
        undo.keep();
        return std::span<span_choice const>{front(found.first(at(count)))};
    }

  private:
    /// A choice that is being made.
    struct state {
        span_profile const& p;
        std::span<double const> loss;   // [heads, candidates], over all lengths
        std::span<double const> price;  // [candidates]: density, over all lengths
        std::span<token> chosen;
        std::span<double> density;  // [lengths]: of `chosen`, the mean over heads

        [[nodiscard]] double cost(index head, index candidate) const noexcept {
            return loss[at(head * std::ssize(price) + candidate)];
        }
    };

    [[nodiscard]] static constexpr std::size_t at(index i) noexcept { return static_cast<std::size_t>(i); }

    [[nodiscard]] errc check(span_profile const& p) const noexcept {
        if (!(density > 0 && density <= 1 && least >= 0 && least <= 1) || grid < 2 || grid > 100)
            return errc::bad_setting;
        index const each = std::ssize(p.lengths) * std::ssize(p.candidates), heads = p.heads();
        if (each == 0 || std::ssize(p.lengths) > 4 || std::ssize(p.candidates) > max_tokens) return errc::bad_shape;
        if (heads < 1 || std::ssize(p.loss) != heads * each || p.layers < 1 || heads % p.layers != 0)
            return errc::bad_shape;
        if (!std::all_of(p.lengths.begin(), p.lengths.end(), [](index n) { return n >= 1; })) return errc::bad_shape;
        bool const finite =
            std::all_of(p.loss.begin(), p.loss.end(), [](float x) { return std::isfinite(x); }) &&
            std::all_of(p.candidates.begin(), p.candidates.end(), [](elastic_span const& s) { return s.is_finite(); });
        return finite ? errc::ok : errc::bad_setting;
    }

    /// The next way to write the same sum; false after the last.
    [[nodiscard]] static bool next(std::span<index> part) noexcept {
        index const last = std::ssize(part) - 1;
        index i = 0;
        while (i < last && part[at(i)] == 0) ++i;
        if (i == last) return false;
        index const rest = part[at(i)] - 1;
        part[at(i)] = 0;
        ++part[at(i + 1)];
        part[0] = rest;
        return true;
    }

    /// Losses over all lengths, each in units of what its worst choice loses.
    static void weigh(span_profile const& p, std::span<index const> part, std::span<double> share,
                      std::span<double> loss) noexcept {
        index const heads = p.heads(), candidates = std::ssize(p.candidates);
        std::fill(loss.begin(), loss.end(), 0.0);
        for (index l = 0; l < std::ssize(part); ++l) {
            double range = 0;
            for (index h = 0; h < heads; ++h) {
                double low = p.at(l, h, 0), high = low;
                for (index c = 1; c < candidates; ++c) {
                    low = std::min(low, p.at(l, h, c));
                    high = std::max(high, p.at(l, h, c));
                }
                range += high - low;
            }
            share[at(l)] = static_cast<double>(part[at(l)]) / (range > 0 ? range : 1);
            for (index h = 0; h < heads; ++h)
                for (index c = 0; c < candidates; ++c) loss[at(h * candidates + c)] += share[at(l)] * p.at(l, h, c);
        }
    }

    static void measure(state& s) noexcept {
        for (std::size_t l = 0; l < s.density.size(); ++l) {
            double sum = 0;
            for (token const c : s.chosen) sum += s.p.candidates[at(c)].density(s.p.lengths[l]);
            s.density[l] = sum / static_cast<double>(s.chosen.size());
        }
    }
    [[nodiscard]] bool fits(state const& s) const noexcept {
        return std::all_of(s.density.begin(), s.density.end(), [this](double d) { return d <= density + slack; });
    }

    /// Each head's, or each layer's, cheapest candidates at a price of density.
    void take_cheapest(state& s, double lambda) const noexcept {
        index const candidates = std::ssize(s.price), each = std::ssize(s.chosen) / s.p.layers;
        auto const total = [&](index h, index c) { return s.cost(h, c) + lambda * s.price[at(c)]; };
        auto const better = [&](index h, index a, index b) { return total(h, b) < total(h, a) ? b : a; };
        for (index layer = 0; layer < s.p.layers; ++layer) {
            index const begin = layer * each, end = begin + each;
            if (!two_a_layer) {
                for (index h = begin; h < end; ++h) {
                    index best = 0;
                    for (index c = 1; c < candidates; ++c) best = better(h, best, c);
                    s.chosen[at(h)] = static_cast<token>(best);
                }
                continue;
            }
            double lowest = std::numeric_limits<double>::infinity();
            index one = 0, two = 0;
            for (index a = 0; a < candidates; ++a) {
                for (index b = a; b < candidates; ++b) {
                    double sum = 0;
                    for (index h = begin; h < end; ++h) sum += std::min(total(h, a), total(h, b));
                    if (sum < lowest) lowest = sum, one = a, two = b;
                }
            }
            for (index h = begin; h < end; ++h) s.chosen[at(h)] = static_cast<token>(better(h, one, two));
        }
        measure(s);
    }

    /// Whether head h may have candidate c beside what the others of its layer have.
    [[nodiscard]] bool allowed(state const& s, index h, index c) const noexcept {
        if (!two_a_layer) return true;
        index const each = std::ssize(s.chosen) / s.p.layers, begin = h / each * each;
        index other = -1;
        for (index i = begin; i < begin + each; ++i) {
            index const has = s.chosen[at(i)];
            if (i == h || has == c || has == other) continue;
            if (other >= 0) return false;
            other = has;
        }
        return true;
    }

    /// The density at a length if head h had candidate c.
    [[nodiscard]] static double density_with(state const& s, index l, index h, index c) noexcept {
        index const n = s.p.lengths[at(l)];
        double const change = s.p.candidates[at(c)].density(n) - s.p.candidates[at(s.chosen[at(h)])].density(n);
        return s.density[at(l)] + change / static_cast<double>(s.chosen.size());
    }

    /// Makes the exchange of one head's candidate that gains most loss for its density; or, while lengths lie below
    /// what they should reach, the one that costs least for it. False where there is none.
    [[nodiscard]] bool exchange(state& s, bool fill) const noexcept {
        index const lengths = std::ssize(s.density);
        double best = 0;
        index head = -1, candidate = -1;
        for (index h = 0; h < std::ssize(s.chosen); ++h) {
            for (index c = 0; c < std::ssize(s.price); ++c) {
                double const gain = s.cost(h, s.chosen[at(h)]) - s.cost(h, c);
                double const more = s.price[at(c)] - s.price[at(s.chosen[at(h)])];
                if (fill ? more <= 0 : gain <= 0) continue;
                bool feasible = true, short_of = !fill;
                for (index l = 0; l < lengths && feasible; ++l) {
                    double const then = density_with(s, l, h, c);
                    feasible = then <= density + slack;
                    short_of = short_of || (s.density[at(l)] < least * density - slack && then > s.density[at(l)]);
                }
                // What costs no density comes before all that does.
                double const worth = more > 0 ? gain / more : std::numeric_limits<double>::max();
                if (!feasible || !short_of || (head >= 0 && worth <= best) || !allowed(s, h, c)) continue;
                best = worth, head = h, candidate = c;
            }
        }
        if (head < 0) return false;
        s.chosen[at(head)] = static_cast<token>(candidate);
        measure(s);
        return true;
    }

    [[nodiscard]] errc solve(state& s) const noexcept {
        take_cheapest(s, 0);
        if (!fits(s)) {
            double low = 0, high = 1e-6;
            for (take_cheapest(s, high); !fits(s); take_cheapest(s, high)) {
                if (high > 1e12) return errc::bad_budget;
                low = high;
                high *= 8;
            }
            for (int i = 0; i < 60; ++i) {
                double const middle = low + (high - low) / 2;
                take_cheapest(s, middle);
                (fits(s) ? high : low) = middle;
            }
            take_cheapest(s, high);
        }
        while (exchange(s, false)) {}
        while (exchange(s, true)) {}
        return errc::ok;
    }

    /// Those that no other beats, none twice.
    [[nodiscard]] static std::span<span_choice> front(std::span<span_choice> all) noexcept {
        auto const beats = [](span_choice const& a, span_choice const& b) {  // nowhere worse, somewhere better
            bool better = false;
            for (std::size_t l = 0; l < a.loss.size(); ++l) {
                if (a.loss[l] > b.loss[l]) return false;
                better = better || a.loss[l] < b.loss[l];
            }
            return better;
        };
        std::size_t count = 0;
        for (std::size_t i = 0; i < all.size(); ++i) {
            bool stays = true;
            for (std::size_t j = 0; j < all.size() && stays; ++j) {
                bool const same = std::equal(all[j].loss.begin(), all[j].loss.end(), all[i].loss.begin());
                stays = !beats(all[j], all[i]) && !(j < i && same);
            }
            if (!stays) all[i].candidate = {};
        }
        for (auto const& c : all)
            if (!c.candidate.empty()) all[count++] = c;
        auto const kept = all.first(count);
        std::sort(kept.begin(), kept.end(), [](auto const& a, auto const& b) {
            return std::lexicographical_compare(a.loss.begin(), a.loss.end(), b.loss.begin(), b.loss.end());
        });
        return kept;
    }

    static constexpr double slack = 1e-12;  // of sums
};

}  // namespace terse::budget

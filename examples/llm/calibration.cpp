// SPDX-License-Identifier: Apache-2.0
#include "calibration.hpp"

#include <algorithm>
#include <functional>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>

#include <Eigen/Eigenvalues>

#include <terse/core/arena.hpp>
#include <terse/kv/compresskv.hpp>
#include <terse/score/answer_mass.hpp>
#include <terse/score/repetition.hpp>

#include "policies.hpp"

namespace llm {
namespace {

/// Two syllables, as names in the documents have.
std::string name(std::mt19937& draw) {
    constexpr std::string_view consonants = "bdfghjklmnprstvz", vowels = "aeiou";
    std::string word;
    for (int syllable = 0; syllable < 2; ++syllable) {
        word += consonants[draw() % consonants.size()];
        word += vowels[draw() % vowels.size()];
    }
    word.front() = static_cast<char>(word.front() - 'a' + 'A');
    return word;
}

solved_document hide_facts(std::string_view prose, token bos, std::mt19937& draw) {
    constexpr std::size_t facts = 8;
    std::size_t const asked = draw() % facts, stretch = prose.size() / facts;
    std::string text, question, answer;
    std::size_t found = 0;
    for (std::size_t f = 0; f < facts; ++f) {
        std::size_t const cut = std::min(prose.find(' ', stretch), prose.size() - 1) + 1;
        text += prose.substr(0, cut);
        prose.remove_prefix(cut);
        std::string const who = name(draw), key = std::to_string(10'000 + draw() % 90'000);
        std::string const fact = "The pass key of " + who + " is ";
        if (f == asked) {
            found = text.size() + fact.size() + 1;  // behind BOS
            question = "What is the pass key of " + who + "? " + fact;
            answer = key;
        }
        text += fact + key + ". ";
    }
    text += question;
    solved_document d{{bos}, {answer.begin(), answer.end()}, {}};
    d.prompt.insert(d.prompt.end(), text.begin(), text.end());
    d.found = {static_cast<index>(found), static_cast<index>(found + answer.size())};
    return d;
}

/// A period of random tokens, four times behind BOS, as long as the model reads.
std::vector<token> repeated(shape const& s, index period) {
    std::mt19937 draw(1);
    std::vector<token> tokens(static_cast<std::size_t>(4 * period));
    for (std::size_t t = 0; t < tokens.size(); ++t) {
        auto const before = static_cast<std::size_t>(period);
        tokens[t] =
            t < before ? static_cast<token>(draw() % static_cast<std::uint32_t>(s.vocabulary)) : tokens[t - before];
    }
    tokens.insert(tokens.begin(), s.bos);
    return tokens;
}

void find_repetition(model const& lm, calibration& known) {
    index const period = (lm.shape().context - 1) / 4;
    prefilled const prompt(lm, repeated(lm.shape(), period), 0);
    terse::arena memory;
    for (index l = 0; l < lm.shape().layers; ++l) {
        memory.rewind();
        auto const found =
            terse::score::repetition{.prefix = 1, .period = period}(prompt.layer(l).rows, memory).value();
        known.echo.insert(known.echo.end(), found.echo.begin(), found.echo.end());
        known.induction.insert(known.induction.end(), found.induction.begin(), found.induction.end());
    }
}

/// A document that has been read, and the answer read behind it, with the whole cache.
struct solution {
    solution(model const& lm, solved_document const& d, calibration const& known)
        : document{&d}, prompt{lm, d.prompt, std::ssize(d.answer), &known}, steps{d.answer}, whole{prompt.kv()} {
        steps.insert(steps.begin(), prompt.last());
        states = read(lm, whole, seen);
    }

    /// Reads the prompt's last token and the answer on top of a cache of the others.
    matrix read(model const& lm, cache& kv, trace& to) const {
        kv.pop();
        return lm.forward(steps, kv, &to);
    }

    solved_document const* document;
    prefilled prompt;
    std::vector<token> steps;
    cache whole;
    trace seen;
    matrix states;
};

bool is_right(model const& lm, solution const& s) {
    matrix const logits = lm.logits(s.states);
    auto const& answer = s.document->answer;
    for (std::size_t t = 0; t < answer.size(); ++t) {
        index best = 0;
        logits.row(static_cast<index>(t)).maxCoeff(&best);
        if (best != answer[t]) return false;
    }
    return true;
}

/// A quarter of the heads of each layer: those that attend most to the answer in the text while it is given.
void find_answering(model const& lm, std::span<solution const> solutions, calibration& known) {
    shape const& s = lm.shape();
    terse::arena memory;
    for (index l = 0; l < s.layers; ++l) {
        std::vector<float> sums(static_cast<std::size_t>(s.heads));
        for (solution const& one : solutions) {
            if (!is_right(lm, one)) continue;
            auto const& [prompt, answer, found] = *one.document;
            auto const queries = terse::token_major(one.seen.queries[static_cast<std::size_t>(l)].data(), s.heads,
                                                    std::ssize(one.steps), s.head_dim);
            terse::layer<float> const layer{.keys = one.whole.keys(l), .queries = queries};
            memory.rewind();
            auto const mass =
                terse::score::answer_mass{.answer = found, .answer_ids = answer, .query_ids = one.steps}(layer, memory);
            auto const of_heads = mass.value().row(0);
            std::transform(sums.begin(), sums.end(), of_heads.begin(), sums.begin(), std::plus<>{});
        }
        std::vector<index> best(static_cast<std::size_t>(std::max<index>(s.heads / 4, 1)));
        auto const chosen = terse::kv::best_heads(sums, best);
        known.layers[static_cast<std::size_t>(l)].answering.assign(chosen.begin(), chosen.end());
    }
}

/// How much each layer's attention changes, by norm, when its cache alone is compressed to an eighth.
void find_losses(model const& lm, std::span<solution const> solutions, calibration& known) {
    auto const& compresskv = find_policy("compresskv");
    auto const layers = known.layers.size();
    std::vector<float> losses(layers);
    for (auto& layer : known.layers) layer.loss = 1.0F / static_cast<float>(layers);
    terse::arena memory;
    for (solution const& one : solutions) {
        for (std::size_t l = 0; l < layers; ++l) {
            auto const number = static_cast<index>(l);
            memory.rewind();
            cache kv = one.prompt.kv();
            kv.keep(number,
                    decide(compresskv, one.prompt, number, std::ssize(one.document->prompt) / 8, 0, memory).value());
            trace seen;
            one.read(lm, kv, seen);
            losses[l] += (seen.attended[l] - one.seen.attended[l]).norm() / one.seen.attended[l].norm();
        }
    }
    float const sum = std::accumulate(losses.begin(), losses.end(), 0.0F);
    for (std::size_t l = 0; l < layers; ++l) known.layers[l].loss = losses[l] / sum;
}

/// Of each kv head the direction of most of its queries' energy, pointing away from them.
void find_filters(model const& lm, std::span<solution const> solutions, calibration& known) {
    shape const& s = lm.shape();
    index const group = s.heads / s.kv_heads;
    for (index l = 0; l < s.layers; ++l) {
        matrix& filters = known.layers[static_cast<std::size_t>(l)].filters;
        filters.resize(s.kv_heads, s.head_dim);
        for (index h = 0; h < s.kv_heads; ++h) {
            matrix products = matrix::Zero(s.head_dim, s.head_dim);
            Eigen::VectorXf sum = Eigen::VectorXf::Zero(s.head_dim);
            for (solution const& one : solutions) {
                auto const all = one.prompt.layer(l).rows.queries;
                for (index q = h * group; q < (h + 1) * group; ++q) {
                    auto const queries = all.head(q).map();
                    products += queries.transpose() * queries;
                    sum += queries.colwise().sum().transpose();
                }
            }
            Eigen::SelfAdjointEigenSolver<Eigen::MatrixXf> const solver(products);
            Eigen::VectorXf const principal = solver.eigenvectors().col(s.head_dim - 1);
            filters.row(h) = (principal.dot(sum) > 0 ? -1.0F : 1.0F) * principal.transpose();
        }
    }
}

void find_shares(std::span<solution const> solutions, calibration& known) {
    terse::arena memory;
    for (double const mass : {0.5, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99, 0.995, 0.999}) {
        index kept = 0, all = 0;
        for (solution const& one : solutions) {
            for (index l = 0; l < one.prompt.kv().layers(); ++l) {
                memory.rewind();
                auto const layer = one.prompt.layer(l);
                kept += zipvl(layer, mass, memory).value()[0].kept();
                all += layer.rows.tokens();
            }
        }
        known.shares.push_back({mass, static_cast<double>(kept) / static_cast<double>(all)});
    }
}

}  // namespace

double calibration::mass_of(double kept) const {
    if (kept >= 1) return 1;
    carried below{0, 0}, above{1, 1};
    for (carried const& point : shares) {
        if (point.kept <= kept) below = point;
        if (point.kept > kept) {
            above = point;
            break;
        }
    }
    return below.mass + (above.mass - below.mass) * (kept - below.kept) / (above.kept - below.kept);
}

std::vector<solved_document> calibration_documents(std::span<token const> text, token bos) {
    constexpr std::size_t first = 53'500, prose = 700, count = 2;
    if (text.size() < first + count * prose) throw std::runtime_error("the text is too short to calibrate with");
    std::mt19937 draw(static_cast<std::uint32_t>(text[first]));
    std::vector<solved_document> documents;
    for (std::size_t i = 0; i < count; ++i) {
        auto const from = text.subspan(first + i * prose, prose);
        std::string words(from.begin(), from.end());
        std::replace(words.begin(), words.end(), '\n', ' ');
        documents.push_back(hide_facts(words, bos, draw));
    }
    return documents;
}

calibration calibrate(model const& lm, std::span<solved_document const> documents) {
    calibration known;
    std::vector<solution> solutions;
    for (solved_document const& d : documents) solutions.emplace_back(lm, d, known);
    known.layers.resize(static_cast<std::size_t>(lm.shape().layers));
    find_repetition(lm, known);
    find_answering(lm, solutions, known);
    find_filters(lm, solutions, known);
    find_shares(solutions, known);
    find_losses(lm, solutions, known);
    return known;
}

}  // namespace llm

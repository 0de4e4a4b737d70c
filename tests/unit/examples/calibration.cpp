#include "llm/calibration.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <terse/kv/razor_attention.hpp>

#include "llm/evaluate.hpp"
#include "llm/policies.hpp"
#include "unit/examples/bundled.hpp"

namespace {

using llm::matrix;
using terse::index;
using terse::token;

/// Without the BOS.
std::string text_of(std::vector<token> const& tokens) { return {tokens.begin() + 1, tokens.end()}; }

std::vector<unsigned char> local_heads(llm::calibration const& known) {
    terse::arena memory;
    auto const local = terse::kv::retrieval_heads{}({known.echo, known.induction}, memory).value();
    return {local.begin(), local.end()};
}

float largest_difference(matrix const& a, matrix const& b) { return (a - b).cwiseAbs().maxCoeff(); }

TEST_CASE("llm: calibration documents are none that the demo judges by", "[examples]") {
    auto const& lm = bundled();
    std::vector<std::string> judged;
    for (auto const& d : llm::read_documents(models / "recall-docs.json", lm.shape().bos))
        judged.push_back(text_of(d.prompt));
    for (char const* const name : texts)
        for (auto const& p : llm::read_passages(text_path(name), lm.shape().bos))
            judged.push_back(text_of(p.prompt) + std::string(p.continuation.begin(), p.continuation.end()));

    auto const documents = solved_documents();
    REQUIRE(documents.size() == 6);
    for (auto const& d : documents) {
        std::string const text = text_of(d.prompt), answer(d.answer.begin(), d.answer.end());
        INFO(text);
        CHECK(std::ssize(d.prompt) + std::ssize(d.answer) <= lm.shape().context);
        CHECK(answer.size() == 5);
        CHECK(text.substr(static_cast<std::size_t>(d.found.begin) - 1, 6) == answer + ".");
        CHECK(text.ends_with(" is "));
        std::string const question = text.substr(text.rfind("? ") + 2);
        CHECK(text.find(question + answer) + question.size() == static_cast<std::size_t>(d.found.begin) - 1);
        for (std::size_t at = 0; at + 32 < text.size(); at += 8) {
            std::string const words = text.substr(at, 32);
            if (words.find("pass key") != std::string::npos || words.find("key of") != std::string::npos ||
                words.find("The pass") != std::string::npos || words.find("What is") != std::string::npos)
                continue;
            INFO(words);
            CHECK(std::none_of(judged.begin(), judged.end(),
                               [&](std::string const& other) { return other.find(words) != std::string::npos; }));
        }
    }
    CHECK_THROWS_AS(llm::calibration_documents(std::vector<token>(50'000), 256), std::runtime_error);
}

TEST_CASE("llm: what calibration finds on the bundled model", "[examples]") {
    auto const& known = calibrated();
    index const layers = bundled().shape().layers;
    REQUIRE(std::ssize(known.layers) == layers);
    REQUIRE(known.echo.size() == 8);
    REQUIRE(known.induction.size() == 8);

    // One head copies: the best by induction and by echo, far ahead of the others.
    CHECK(local_heads(known) == std::vector<unsigned char>{1, 1, 1, 0, 1, 1, 1, 1});
    for (std::size_t h = 0; h < 8; ++h)
        if (h != 3) CHECK(known.induction[h] * 10 < known.induction[3]);

    float losses = 0;
    for (auto const& layer : known.layers) {
        CHECK(layer.answering.size() == 1);
        CHECK(layer.loss > 0);
        losses += layer.loss;
        for (index h = 0; h < layer.filters.rows(); ++h) CHECK(layer.filters.row(h).norm() == Approx(1));
    }
    CHECK(losses == Approx(1));

    llm::prefilled const prompt(bundled(), solved_documents().front().prompt, 0);
    for (index l = 0; l < layers; ++l) {
        auto const queries = prompt.layer(l).rows.queries;
        for (index h = 0; h < queries.heads; ++h) {
            matrix const& filters = known.layers[static_cast<std::size_t>(l)].filters;
            index const group = queries.heads / filters.rows();
            auto const both = queries.head(h - h % group).map() + queries.head(h - h % group + 1).map();
            CHECK((both * filters.row(h / group).transpose()).sum() < 0);
        }
    }

    double before = 0;
    for (double const kept : {0.01, 0.125, 0.25, 0.5, 0.9, 1.0}) {
        CHECK(known.mass_of(kept) > before);
        before = known.mass_of(kept);
    }
    CHECK(before == 1);

    // Other documents, the same heads.
    auto const documents = solved_documents();
    auto const half = llm::calibrate(bundled(), std::span{documents}.first(3));
    CHECK(half.induction == known.induction);
    for (std::size_t l = 0; l < known.layers.size(); ++l) CHECK(half.layers[l].answering == known.layers[l].answering);
}

TEST_CASE("llm: a mean row with its bias attends as the equal rows that it replaces", "[examples]") {
    auto const& lm = bundled();
    auto const document = solved_documents().front();
    llm::prefilled const prompt(lm, std::span{document.prompt}.first(200), 2);
    auto const& s = lm.shape();
    auto all = prompt.kv();
    for (index l = 0; l < s.layers; ++l)
        for (index h = 0; h < s.kv_heads; ++h)
            for (index t = 5; t < 150; ++t)
                for (auto const& rows : {all.keys(l), all.values(l)})
                    std::copy_n(rows.row(h, 4), s.head_dim, rows.row(h, t));
    auto few = all;
    terse::arena memory;
    for (index l = 0; l < s.layers; ++l) {
        auto const kept = terse::kv::razor_attention{.sinks = 4, .recent = 50, .compression = 200}(
            terse::layer<float>{.keys = few.keys(l), .values = few.values(l)}, memory);
        few.keep(l, kept.value());
        CHECK(few.held(l, 0) == 55);
        CHECK(few.bias(l, 1)[4] == Approx(std::log(146.0)));
    }
    CHECK(few.bytes() * 200 == all.bytes() * 55);

    token const next = document.prompt[200];
    llm::trace of_all, of_few;
    auto few_again = few;
    (void)lm.forward({&next, 1}, all, &of_all);
    (void)lm.forward({&next, 1}, few, &of_few);
    for (std::size_t l = 0; l < of_all.attended.size(); ++l)
        CHECK(largest_difference(of_all.attended[l], of_few.attended[l]) < 1e-3F);

    // A selection moves the bias with its row, and a mean of means stands for all of them.
    std::vector<token> rows{4, 53, 54};
    terse::plan const selection = terse::select_rows(rows, 55);
    few_again.keep(0, terse::plans{{&selection, 1}});
    CHECK(few_again.bias(0, 0)[0] == Approx(std::log(146.0)));
    CHECK(few_again.bias(0, 0)[1] == 0);
    std::vector<token> const sources{0, 1, 2}, offsets{0, 2, 3};
    std::vector<float> const weights{0.5F, 0.5F, 1};
    terse::plan const sum{.tokens = 3, .sources = sources, .offsets = offsets, .weights = weights};
    few_again.keep(0, terse::plans{{&sum, 1}});
    CHECK(few_again.bias(0, 1)[0] == Approx(std::log(147.0)));
    CHECK(few_again.bias(0, 1)[1] == 0);
}

TEST_CASE("llm: keys of fewer channels meet the same channels of the queries", "[examples]") {
    auto const& lm = bundled();
    auto const& s = lm.shape();
    auto const document = solved_documents().front();
    llm::prefilled const prompt(lm, std::span{document.prompt}.first(100), 1);
    auto whole = prompt.kv(), thin = prompt.kv();
    terse::arena memory;
    auto const& think = llm::find_policy("think");
    llm::compress(think, prompt, thin, 50, 0, memory);
    CHECK(thin.bytes() * 4 == whole.bytes() * 3);
    REQUIRE(thin.channels(0, 0).size() == 16);

    llm::trace seen;
    token const next = document.prompt[100];
    (void)lm.forward({&next, 1}, whole);
    (void)lm.forward({&next, 1}, thin, &seen);
    index const group = s.heads / s.kv_heads;
    for (index h = 0; h < s.heads; ++h) {
        INFO("head " << h);
        auto const channels = thin.channels(0, h / group);
        std::vector<double> logits;
        for (index t = 0; t <= 100; ++t) {
            double logit = 0;
            for (std::size_t c = 0; c < channels.size(); ++c) {
                CHECK(thin.keys(0).row(h / group, t)[c] == whole.keys(0).row(h / group, t)[channels[c]]);
                logit += static_cast<double>(seen.queries[0](0, h * s.head_dim + channels[c])) *
                         static_cast<double>(thin.keys(0).row(h / group, t)[c]);
            }
            logits.push_back(logit / std::sqrt(static_cast<double>(s.head_dim)));
        }
        double const highest = *std::max_element(logits.begin(), logits.end());
        double sum = 0;
        Eigen::RowVectorXd out = Eigen::RowVectorXd::Zero(s.head_dim);
        for (index t = 0; t <= 100; ++t) {
            double const weight = std::exp(logits[static_cast<std::size_t>(t)] - highest);
            sum += weight;
            for (index c = 0; c < s.head_dim; ++c)
                out[c] += weight * static_cast<double>(whole.values(0).row(h / group, t)[c]);
        }
        for (index c = 0; c < s.head_dim; ++c)
            CHECK(seen.attended[0](0, h * s.head_dim + c) == Approx(out[c] / sum).margin(1e-4));
    }
    llm::compress(think, prompt, whole = prompt.kv(), 100, 0, memory);
    CHECK(whole.bytes() == prompt.kv().bytes());
}

}  // namespace

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <terse/core/arena.hpp>
#include <terse/core/result.hpp>

#include "common/safetensors.hpp"
#include "llm/evaluate.hpp"
#include "llm/generation.hpp"
#include "unit/examples/bundled.hpp"

namespace {

using llm::matrix;
using terse::index;
using terse::token;

std::vector<token> prompt_of(std::string const& text) {
    std::vector<token> tokens{bundled().shape().bos};
    tokens.insert(tokens.end(), text.begin(), text.end());
    return tokens;
}

void check_near(Eigen::Ref<Eigen::RowVectorXf const> const& found, std::vector<float> const& expected) {
    REQUIRE(found.size() == std::ssize(expected));
    for (index i = 0; i < found.size(); ++i) {
        INFO("element " << i);
        CHECK(found[i] == Approx(expected[static_cast<std::size_t>(i)]).margin(1e-3));
    }
}

float largest_difference(matrix const& a, matrix const& b) { return (a - b).cwiseAbs().maxCoeff(); }

llm::setting at(std::string const& policy, double budget) { return {&llm::find_policy(policy), budget}; }

// All numbers come from a PyTorch implementation in float; see models/README.md.
TEST_CASE("llm: reference values of the bundled model") {
    auto const& lm = bundled();
    auto const prompt = prompt_of("In the beginning God created the");
    auto kv = lm.make_cache(33);
    matrix const states = lm.forward(prompt, kv);
    matrix const logits = lm.logits(states);
    constexpr index last = 32;

    check_near(logits.row(last).segment(97, 8),
               {2.6353F, 0.80529F, 0.37175F, 0.36559F, 8.058F, 0.0748F, 0.58008F, -0.28234F});
    check_near(logits.row(0).segment(32, 8),
               {1.03954F, -6.16139F, -3.29479F, -18.9199F, -4.61068F, -10.73146F, -11.29618F, -2.3453F});
    struct {
        char byte;
        float logit;
    } const top[] = {{' ', 10.62785F}, {'m', 9.56165F}, {'i', 8.18365F}, {'e', 8.058F}, {'r', 6.44823F}};
    index rank = 0;
    for (auto const& [byte, logit] : top) {
        CHECK(logits(last, byte) == Approx(logit).margin(1e-3));
        CHECK((logits.row(last).array() > logits(last, byte)).count() == rank++);
    }
    CHECK(logits.row(last).cwiseAbs().sum() == Approx(4545.1805).margin(1e-2));

    auto const rotated = Eigen::Map<Eigen::RowVectorXf const>(kv.keys(0).row(0, last), 32);
    check_near(rotated.segment(0, 4), {6.77602F, 0.65206F, -3.92102F, 2.32518F});
    check_near(rotated.segment(16, 4), {-1.04536F, -3.90231F, -0.97696F, -3.36733F});
    check_near(Eigen::Map<Eigen::RowVectorXf const>(kv.values(3).row(1, last), 4),
               {1.94612F, 1.00202F, -2.31083F, 1.90136F});

    auto const found = llm::log_probabilities(lm, states.topRows(last), std::span{prompt}.subspan(1));
    CHECK(-std::accumulate(found.begin(), found.end(), 0.0) / last == Approx(1.106997).margin(1e-5));
}

TEST_CASE("llm: a decoding step is a prefill of one token") {
    auto const& lm = bundled();
    auto const prompt = prompt_of("And it came to pass in the days when the judges ruled, that there was a famine");
    auto const half = prompt.size() / 2;
    auto whole = lm.make_cache(100), pieces = lm.make_cache(100), steps = lm.make_cache(100);
    matrix const expected = lm.forward(prompt, whole);

    (void)lm.forward(std::span{prompt}.first(half), pieces);
    matrix const rest = lm.forward(std::span{prompt}.subspan(half), pieces);
    CHECK(largest_difference(rest, expected.bottomRows(rest.rows())) < 1e-4F);

    for (std::size_t t = 0; t < prompt.size(); ++t) {
        matrix const one = lm.forward({&prompt[t], 1}, steps);
        CHECK(largest_difference(one, expected.row(static_cast<index>(t))) < 1e-4F);
    }
    CHECK(steps.position() == std::ssize(prompt));
    CHECK(steps.bytes() == whole.bytes());
}

TEST_CASE("llm: held-out text, the first eight windows") {
    auto const text = llm::read_bytes(models / "heldout-kjv.txt");
    double const one_worker = llm::bits_per_byte(bundled(), text, 1, 8);
    CHECK(one_worker == llm::bits_per_byte(bundled(), text, 2, 8));
    CHECK(one_worker == Approx(1.46636).margin(1e-4));
}

TEST_CASE("llm: recall of a few documents") {
    auto const all = llm::read_documents(models / "recall-docs.json", bundled().shape().bos);
    REQUIRE(all.size() == 120);
    std::vector<llm::document> const some{all[0], all[1], all[2], all[54], all[55], all[56]};
    std::vector<llm::setting> const settings{at("full", 1), at("snapkv13", 0.125), at("random", 0.25)};
    auto const found = llm::measure_recall(bundled(), some, settings, 2);

    REQUIRE(found.size() == 3);
    for (auto const& kinds : found) {
        REQUIRE(kinds.size() == 2);
        CHECK(kinds[0].facts == 4);
        CHECK(kinds[1].facts == 8);
        CHECK(kinds[1].documents == 3);
    }
    CHECK(found[0][0].right == 3);
    CHECK(found[0][1].right == 2);  // document 55 is the one that the model gets wrong
    CHECK(found[1][0].right == 3);
    CHECK(found[1][1].right == 2);
    CHECK(found[2][0].right + found[2][1].right == 0);

    // Keys and values, four layers, two heads of 32 floats.
    constexpr std::size_t a_token = 2 * 4 * 2 * 32 * sizeof(float);
    CHECK(found[1][1].bytes_before == 3 * 1019 * a_token);
    CHECK(found[0][1].bytes_after == 3 * 1019 * a_token);
    CHECK(found[1][1].bytes_after == 3 * 127 * a_token);
}

TEST_CASE("llm: a document read token by token is recalled where there is room for it, and not from a few slots") {
    auto const all = llm::read_documents(models / "recall-docs.json", bundled().shape().bos);
    std::span const one{&all.front(), 1};
    auto const roomy = llm::measure_generation_recall(bundled(), one, 520, 1);
    CHECK(roomy == std::vector<index>(llm::step_policies().size() + 1, 1));
    auto const tight = llm::measure_generation_recall(bundled(), one, 48, 1);
    CHECK(tight.front() == 1);  // the full cache
    CHECK(llm::step_policies().front().name == "streaming");
    CHECK(tight[1] == 0);
}

TEST_CASE("llm: every policy keeps what it was told to, the last token with it") {
    auto const& lm = bundled();
    auto const documents = llm::read_documents(models / "recall-docs.json", lm.shape().bos);
    auto const& tokens = documents.front().prompt;
    llm::prefilled const prompt(lm, tokens, 8, &calibrated());
    std::span const last{&tokens.back(), 1};
    terse::arena memory;
    auto intact = prompt.kv();
    intact.pop();
    auto const same = [dim = lm.shape().head_dim](float const* a, float const* b) { return std::equal(a, a + dim, b); };
    matrix const expected = lm.forward(last, intact);

    for (llm::policy const& p : llm::policies()) {
        if (p.channels) continue;
        INFO(p.name);
        for (index const keep : {std::ssize(tokens), index{100}, index{16}}) {
            auto kv = llm::compressed(prompt, p, keep, 1, memory);
            index const all = p.name == "full" ? std::ssize(tokens) : keep;
            index total = 0;
            for (index l = 0; l < kv.layers(); ++l) {
                for (index h = 0; h < lm.shape().kv_heads; ++h) {
                    memory.rewind();
                    auto const plan = llm::decide(p, prompt, l, keep, 1, memory).value()[h];
                    auto const kept = plan.anchor;
                    index const left = plan.kept();
                    total += left;
                    if (p.kept == llm::share::each_head) CHECK(left == all);
                    REQUIRE(kv.held(l, h) == left - 1);
                    CHECK(kept.back() == std::ssize(tokens) - 1);
                    index moved = 0;
                    for (index i = 0; i < left - 1; ++i) {
                        if (plan.row(i).sources.size() > 1) {
                            CHECK(kv.bias(l, h)[static_cast<std::size_t>(i)] ==
                                  Approx(std::log(plan.row(i).sources.size())));
                            ++moved;
                            continue;
                        }
                        index const from = kept[static_cast<std::size_t>(i)];
                        moved += same(kv.keys(l).row(h, i), prompt.kv().keys(l).row(h, from)) &&
                                 same(kv.values(l).row(h, i), prompt.kv().values(l).row(h, from));
                    }
                    CHECK(moved == left - 1);
                }
            }
            CHECK(kv.position() == std::ssize(tokens) - 1);
            matrix const again = lm.forward(last, kv);
            if (p.kept != llm::share::own || all == std::ssize(tokens))
                CHECK(total == all * kv.layers() * lm.shape().kv_heads);
            else
                CHECK(total < std::ssize(tokens) * kv.layers() * lm.shape().kv_heads);
            if (all == std::ssize(tokens))
                CHECK(largest_difference(again, expected) == 0);
            else
                CHECK(largest_difference(again, expected) > 0);
        }
    }

    llm::prefilled const unknown(lm, tokens, 0);
    for (llm::policy const& p : llm::policies()) {
        if (!p.calibrated) continue;
        INFO(p.name);
        CHECK(llm::decide(p, unknown, 0, 100, 1, memory).error() == terse::errc::bad_setting);
    }

    auto kv = prompt.kv();
    CHECK_THROWS_AS(llm::compress(llm::find_policy("snapkv13"), prompt, kv, 15, 0, memory), terse::bad_result);
    CHECK(kv.bytes() == prompt.kv().bytes());
    CHECK_THROWS_AS(llm::find_policy("none"), std::invalid_argument);
}

// A model of its own, computed once more the plain way: in double, a token at a time, with a mask.

struct sizes {
    index vocabulary = 23, width = 12, layers = 2, heads = 6, kv_heads = 2, dim = 4, hidden = 10;
};

safetensors::writer random_model(sizes const& s, bool tied) {
    std::mt19937 draw(7);
    safetensors::writer out;
    auto const add = [&](std::string const& name, std::vector<std::int64_t> const& shape, float mean, float spread) {
        std::normal_distribution<float> normal(mean, spread);
        std::vector<float> values(static_cast<std::size_t>(safetensors::elements(shape)));
        for (float& value : values) value = normal(draw);
        out.add(name, shape, values);
    };
    add("model.embed_tokens.weight", {s.vocabulary, s.width}, 0, 1);
    add("model.norm.weight", {s.width}, 1, 0.3F);
    if (!tied) add("lm_head.weight", {s.vocabulary, s.width}, 0, 1);
    for (index l = 0; l < s.layers; ++l) {
        auto const name = [&](char const* part) {
            return "model.layers." + std::to_string(l) + "." + part + ".weight";
        };
        add(name("input_layernorm"), {s.width}, 1, 0.3F);
        add(name("post_attention_layernorm"), {s.width}, 1, 0.3F);
        add(name("self_attn.q_proj"), {s.heads * s.dim, s.width}, 0, 0.5F);
        add(name("self_attn.k_proj"), {s.kv_heads * s.dim, s.width}, 0, 0.5F);
        add(name("self_attn.v_proj"), {s.kv_heads * s.dim, s.width}, 0, 0.5F);
        add(name("self_attn.o_proj"), {s.width, s.heads * s.dim}, 0, 0.5F);
        add(name("mlp.gate_proj"), {s.hidden, s.width}, 0, 0.5F);
        add(name("mlp.up_proj"), {s.hidden, s.width}, 0, 0.5F);
        add(name("mlp.down_proj"), {s.width, s.hidden}, 0, 0.5F);
    }
    out.metadata = {{"vocab_size", std::to_string(s.vocabulary)},
                    {"dim", std::to_string(s.width)},
                    {"n_layers", std::to_string(s.layers)},
                    {"n_heads", std::to_string(s.heads)},
                    {"n_kv_heads", std::to_string(s.kv_heads)},
                    {"head_dim", std::to_string(s.dim)},
                    {"ffn_dim", std::to_string(s.hidden)},
                    {"rope_theta", "500.0"},
                    {"rms_eps", "1e-3"}};
    return out;
}

using vector = std::vector<double>;

/// Log-probabilities of tokens 1, 2, ...; query i sees key j <= i where visible(i, j).
template <class Visible>
vector plain_log_probabilities(safetensors::file const& file, sizes const& s, std::vector<token> const& tokens,
                               Visible visible) {
    auto const weight = [&](std::string const& name) { return file.floats(name + ".weight"); };
    auto const times = [](std::vector<float> const& w, vector const& x) {
        vector y(w.size() / x.size());
        for (std::size_t o = 0; o < y.size(); ++o)
            for (std::size_t i = 0; i < x.size(); ++i) y[o] += static_cast<double>(w[o * x.size() + i]) * x[i];
        return y;
    };
    auto const norm = [](std::vector<float> const& w, vector x) {
        double squares = 0;
        for (double const v : x) squares += v * v;
        for (std::size_t i = 0; i < x.size(); ++i)
            x[i] *= static_cast<double>(w[i]) / std::sqrt(squares / static_cast<double>(x.size()) + 1e-3);
        return x;
    };
    auto const add = [](vector& x, vector const& y) {
        for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
    };
    auto const dim = static_cast<std::size_t>(s.dim), group = static_cast<std::size_t>(s.heads / s.kv_heads);
    auto const turn = [&](vector& heads, std::size_t position) {
        for (std::size_t h = 0; h < heads.size(); h += dim) {
            for (std::size_t i = 0; i < dim / 2; ++i) {
                double const angle = static_cast<double>(position) *
                                     std::pow(500.0, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
                double const a = heads[h + i], b = heads[h + i + dim / 2];
                heads[h + i] = a * std::cos(angle) - b * std::sin(angle);
                heads[h + i + dim / 2] = b * std::cos(angle) + a * std::sin(angle);
            }
        }
    };

    auto const embedding = weight("model.embed_tokens");
    auto const output = file.contains("lm_head.weight") ? weight("lm_head") : embedding;
    std::vector<std::vector<vector>> keys(static_cast<std::size_t>(s.layers)), values = keys;
    vector found;
    for (std::size_t t = 0; t + 1 < tokens.size(); ++t) {
        auto const row = embedding.begin() + tokens[t] * s.width;
        vector x(row, row + s.width);
        for (std::size_t l = 0; l < keys.size(); ++l) {
            std::string const layer = "model.layers." + std::to_string(l) + ".";
            vector const n = norm(weight(layer + "input_layernorm"), x);
            vector q = times(weight(layer + "self_attn.q_proj"), n);
            vector k = times(weight(layer + "self_attn.k_proj"), n);
            turn(q, t);
            turn(k, t);
            keys[l].push_back(k);
            values[l].push_back(times(weight(layer + "self_attn.v_proj"), n));
            vector attended(q.size());
            for (std::size_t h = 0; h < static_cast<std::size_t>(s.heads); ++h) {
                double sum = 0;
                vector mean(dim);
                for (std::size_t j = 0; j <= t; ++j) {
                    if (!visible(t, j)) continue;
                    double logit = 0;
                    for (std::size_t c = 0; c < dim; ++c) logit += q[h * dim + c] * keys[l][j][h / group * dim + c];
                    double const p = std::exp(logit / std::sqrt(static_cast<double>(dim)));
                    sum += p;
                    for (std::size_t c = 0; c < dim; ++c) mean[c] += p * values[l][j][h / group * dim + c];
                }
                for (std::size_t c = 0; c < dim; ++c) attended[h * dim + c] = mean[c] / sum;
            }
            add(x, times(weight(layer + "self_attn.o_proj"), attended));
            vector const m = norm(weight(layer + "post_attention_layernorm"), x);
            vector gate = times(weight(layer + "mlp.gate_proj"), m);
            vector const up = times(weight(layer + "mlp.up_proj"), m);
            for (std::size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
            add(x, times(weight(layer + "mlp.down_proj"), gate));
        }
        vector const logits = times(output, norm(weight("model.norm"), x));
        double sum = 0;
        for (double const logit : logits) sum += std::exp(logit);
        found.push_back(logits[static_cast<std::size_t>(tokens[t + 1])] - std::log(sum));
    }
    return found;
}

TEST_CASE("llm: a model of one's own is judged as the plain computation judges it") {
    constexpr std::size_t length = 40, prefix = 24, sequences = 3;
    sizes const s;
    bool const tied = GENERATE(true, false);
    auto const file = safetensors::file::parse(random_model(s, tied).bytes());
    auto const lm = llm::model::read(file);
    std::mt19937 draw(3);
    std::vector<token> tokens(sequences * length);
    for (token& id : tokens) id = static_cast<token>(draw() % static_cast<std::uint32_t>(s.vocabulary));

    // The last token of the prefix is read again on top of what is kept, and so already sees less.
    struct {
        char const* policy;
        std::size_t keep, sinks, recent;  // tokens [sinks, recent) are gone
    } const rows[] = {{"full", 1, 0, 0},
                      {"streaming", prefix, 4, 4},
                      {"tova", prefix, 0, 0},
                      {"streaming", 9, 4, prefix - 5},
                      {"streaming", 2, 1, prefix - 1}};
    for (auto const& [policy, keep, sinks, recent] : rows) {
        INFO(policy << " " << keep << (tied ? " tied" : " untied"));
        auto const found =
            llm::judge(lm, tokens, length, prefix, llm::find_policy(policy), static_cast<index>(keep), 2);
        REQUIRE(found.size() == sequences * (length - prefix));
        auto const visible = [sinks = sinks, recent = recent](std::size_t i, std::size_t j) {
            return i + 1 < prefix || j < sinks || j >= recent;
        };
        for (std::size_t i = 0; i < sequences; ++i) {
            auto const begin = tokens.begin() + static_cast<std::ptrdiff_t>(i * length);
            auto const expected = plain_log_probabilities(file, s, {begin, begin + length}, visible);
            for (std::size_t t = 0; t < length - prefix; ++t)
                CHECK(static_cast<double>(found[i * (length - prefix) + t]) ==
                      Approx(expected[prefix - 1 + t]).margin(1e-4));
        }
    }

    auto const judge = [&](index n, index keep) {
        return llm::judge(lm, tokens, length, n, llm::find_policy("streaming"), keep, 1);
    };
    CHECK_THROWS_AS(judge(0, 8), std::invalid_argument);
    CHECK_THROWS_AS(judge(length, 8), std::invalid_argument);
    CHECK_THROWS_AS(judge(prefix, 0), std::invalid_argument);
    tokens[length + 3] = static_cast<token>(s.vocabulary);
    CHECK_THROWS_AS(judge(prefix, 8), std::out_of_range);
}

TEST_CASE("llm: a model that the engine cannot run is refused") {
    auto const failure = [](auto const& change) {
        auto file = random_model({}, true);
        change(file);
        try {
            (void)llm::model::read(safetensors::file::parse(file.bytes()));
        } catch (std::runtime_error const& error) {
            return std::string(error.what());
        }
        return std::string("none");
    };
    using Catch::Contains;
    auto const with = [&](char const* key, char const* value) {
        return failure([&](safetensors::writer& file) { file.metadata[key] = value; });
    };
    CHECK(failure([](safetensors::writer&) {}) == "none");
    CHECK_THAT(failure([](safetensors::writer& file) { file.metadata.erase("n_heads"); }), Contains("n_heads"));
    CHECK_THAT(with("dim", "12x"), Contains("dim") && Contains("12x"));
    CHECK_THAT(with("dim", "16"), Contains("embed_tokens") && Contains("[23, 16]"));
    CHECK_THAT(with("n_layers", "0"), Contains("not positive"));
    CHECK_THAT(with("n_layers", "3"), Contains("model.layers.2"));
    CHECK_THAT(with("n_kv_heads", "4"), Contains("kv heads"));
    CHECK_THAT(with("head_dim", "3"), Contains("even"));
    CHECK_THAT(with("activation", "gelu"), Contains("activation") && Contains("gelu"));
    CHECK_THAT(with("rope_style", "interleaved"), Contains("rope_style"));
}

}  // namespace

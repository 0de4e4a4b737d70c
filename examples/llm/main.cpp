// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "calibration.hpp"
#include "common/safetensors.hpp"
#include "evaluate.hpp"

namespace {

using llm::index;
using llm::token;
using nlohmann::json;

constexpr std::array budgets{1.0, 0.5, 0.25, 0.125};
constexpr double pictured = 0.25;
constexpr std::array texts{"kjv", "moby", "sotu"};
constexpr index bounded_slots = 96;  ///< of a cache that reads the passages' 1,024 tokens

struct options {
    std::filesystem::path data = LLM_DATA;
    std::filesystem::path model;
    std::filesystem::path json;
    index threads = std::max<index>(std::thread::hardware_concurrency(), 1);

    std::filesystem::path tokens;
    std::filesystem::path output = "logprobs.safetensors";
    std::string policy = "full";
    std::string keep;
    index prefix = 0;
};

std::vector<llm::setting> all_settings() {
    std::vector<llm::setting> settings;
    for (llm::policy const& p : llm::policies()) {
        for (double const budget : budgets)
            if (p.name != "full" || budget == 1) settings.push_back({&p, budget});
    }
    return settings;
}

bool has_own_share(llm::policy const& p) { return p.kept == llm::share::own; }

std::filesystem::path text_path(options const& given, std::string const& name) {
    return given.data / ("heldout-" + name + ".txt");
}

json held_out(llm::model const& lm, options const& given) {
    json files = json::array();
    double bits = 0, bytes = 0;
    for (std::string const name : texts) {
        auto const text = llm::read_bytes(text_path(given, name));
        double const per_byte = llm::bits_per_byte(lm, text, given.threads);
        bits += per_byte * static_cast<double>(text.size());
        bytes += static_cast<double>(text.size());
        files.push_back({{"name", name}, {"bytes", text.size()}, {"bits_per_byte", per_byte}});
        std::printf("held-out %-4s  %7zu bytes  %.4f bits per byte\n", name.c_str(), text.size(), per_byte);
    }
    std::printf("held-out all   %7.0f bytes  %.4f bits per byte\n\n", bytes, bits / bytes);
    return files;
}

json row(llm::setting const& s, std::vector<llm::recall> const& kinds, llm::prose const& prose) {
    json recall = json::array();
    for (llm::recall const& kind : kinds)
        recall.push_back({{"facts", kind.facts}, {"documents", kind.documents}, {"right", kind.right}});
    llm::recall const& longest = kinds.back();
    auto const documents = static_cast<double>(longest.documents);
    return {{"policy", s.choice->name},
            {"budget", s.budget},
            {"own_share", has_own_share(*s.choice)},
            {"recall", recall},
            {"bits_per_byte", prose.all},
            {"bits_per_byte_opening", prose.opening},
            {"bytes_before", static_cast<double>(longest.bytes_before) / documents},
            {"bytes_after", static_cast<double>(longest.bytes_after) / documents},
            {"tokens_per_second", static_cast<double>(longest.decoded) / longest.decode_seconds},
            {"compress_ms", 1e3 * longest.compress_seconds / documents}};
}

/// The text of one document and which of its tokens each head keeps at 25 %.
json picture(llm::model const& lm, llm::calibration const& known, llm::document const& d) {
    auto const text = [](auto first, auto last) { return std::string(first, last); };
    llm::prefilled const prompt(lm, d.prompt, 0, &known);
    terse::arena memory;
    json rows = json::array();
    for (llm::policy const& p : llm::policies()) {
        if (p.channels) continue;
        json layers = json::array();
        for (index l = 0; l < prompt.kv().layers(); ++l) {
            memory.rewind();
            auto const keep = llm::setting{&p, pictured}.keep(std::ssize(d.prompt));
            auto const kept = llm::decide(p, prompt, l, keep, 0, memory).value();
            json heads = json::array();
            for (index h = 0; h < lm.shape().kv_heads; ++h) heads.push_back(kept[h].anchor);
            layers.push_back(heads);
        }
        rows.push_back({{"policy", p.name}, {"kept", layers}});
    }
    return {{"text", text(d.prompt.begin() + 1, d.prompt.end())},
            {"answer", text(d.answer.begin(), d.answer.end())},
            {"budget", pictured},
            {"policies", rows}};
}

void print_heading(std::vector<llm::recall> const& kinds) {
    std::printf("%-16s%7s %7s", "policy", "budget", "kept");
    for (llm::recall const& kind : kinds) std::printf("%8td facts", kind.facts);
    std::printf("%11s %8s %9s %8s %9s %12s\n", "bits/byte", "first 64", "KiB full", "KiB left", "tokens/s",
                "compress ms");
}

void print(json const& r) {
    auto const value = [&](char const* key) { return r[key].get<double>(); };
    std::printf("%-16s%5.1f %% %5.1f %%", r["policy"].get<std::string>().c_str(), 100 * value("budget"),
                100 * value("bytes_after") / value("bytes_before"));
    for (json const& kind : r["recall"])
        std::printf("%7d of %-3d", kind["right"].get<int>(), kind["documents"].get<int>());
    std::printf("%11.4f %8.4f %9.0f %8.0f %9.0f %12.2f\n", value("bits_per_byte"), value("bits_per_byte_opening"),
                value("bytes_before") / 1024, value("bytes_after") / 1024, value("tokens_per_second"),
                value("compress_ms"));
}

/// Reading on with a small cache: a table, and the JSON of it.
/// @param right  [all]: answers that were right, of `asked`
json read_on(std::vector<llm::bounded> const& all, std::vector<index> const& right, index asked) {
    json rows = json::array();
    std::printf("\nread on token by token, %td slots a head\n%-12s %12s %9s %9s %12s\n", bounded_slots, "policy",
                "recalled", "bits/byte", "KiB cache", "us a token");
    for (std::size_t i = 0; i < all.size(); ++i) {
        llm::bounded const& b = all[i];
        rows.push_back({{"policy", b.policy},
                        {"right", right[i]},
                        {"bits_per_byte", b.bits},
                        {"curve", b.curve},
                        {"cache_bytes", b.cache_bytes},
                        {"us_per_token", 1e6 * b.seconds}});
        std::printf("%-12s %5td of %-3td %9.4f %9.0f %12.0f\n", std::string(b.policy).c_str(), right[i], asked, b.bits,
                    static_cast<double>(b.cache_bytes) / 1024, 1e6 * b.seconds);
    }
    return rows;
}

/// The table of policies and budgets over the bundled documents. The JSON holds
///   heldout   [{name, bytes, bits_per_byte}]
///   rows      [{policy, budget, own_share, recall: [{facts, documents, right}], bits_per_byte, bits_per_byte_opening,
///             bytes_before, bytes_after, tokens_per_second, compress_ms}]: the last four a document, of the longest;
///             own_share: the budget bounds a part of the cache alone
///   bounded   {slots, documents, rows: [{policy, right, bits_per_byte, curve, cache_bytes, us_per_token}]}: how many of
///             the documents with the fewest facts were answered right; the curve is of each stretch of `slots` bytes
///   policies  [{name, summary}]
///   document  {text, answer, budget, policies: [{policy, kept: [layers][kv heads][tokens]}]}: token 0 is BOS, token
///             1 + i is byte i of the text; without policies that keep channels
void demonstrate(llm::model const& lm, options const& given) {
    token const bos = lm.shape().bos;
    if (lm.shape().vocabulary < 257 || bos < 0 || lm.shape().context < 1024)
        throw std::invalid_argument(
            "the bundled documents need a model of bytes with 'bos_id' and a 'max_seq_len' of 1024");
    json const files = held_out(lm, given);

    auto const documents = llm::read_documents(given.data / "recall-docs.json", bos);
    std::vector<llm::passage> passages;
    std::vector<llm::solved_document> solved;
    for (auto const& name : texts) {
        auto const more = llm::read_passages(text_path(given, name), bos);
        passages.insert(passages.end(), more.begin(), more.end());
        auto const hidden = llm::calibration_documents(llm::read_bytes(text_path(given, name)), bos);
        solved.insert(solved.end(), hidden.begin(), hidden.end());
    }
    auto const known = llm::calibrate(lm, solved);
    auto const settings = all_settings();
    auto const recalls = llm::measure_recall(lm, documents, settings, given.threads, &known);
    auto const proses = llm::measure_prose(lm, passages, settings, given.threads, &known);

    print_heading(recalls.front());
    json rows = json::array();
    for (std::size_t i = 0; i < settings.size(); ++i) {
        rows.push_back(row(settings[i], recalls[i], proses[i]));
        print(rows.back());
    }
    std::printf(
        "recall: documents whose five-digit pass key is decoded right; bits/byte: of the 256 bytes after a "
        "prompt of 768 tokens;\nmemory, speed and the time to compress: of one document with %td facts; kept: of its "
        "cache\n",
        recalls.front().back().facts);
    std::vector<llm::document> short_ones;
    index const fewest = std::ranges::min(documents, {}, &llm::document::facts).facts;
    std::ranges::copy_if(documents, std::back_inserter(short_ones), [=](auto const& d) { return d.facts == fewest; });
    json const bounded =
        read_on(llm::measure_generation(lm, passages, bounded_slots, given.threads),
                llm::measure_generation_recall(lm, short_ones, bounded_slots, given.threads), std::ssize(short_ones));

    if (!given.json.empty()) {
        json policies = json::array();
        for (llm::policy const& p : llm::policies()) policies.push_back({{"name", p.name}, {"summary", p.summary}});
        std::ofstream out(given.json);
        out << json{{"heldout", files},
                    {"policies", policies},
                    {"rows", rows},
                    {"bounded", {{"slots", bounded_slots}, {"documents", short_ones.size()}, {"rows", bounded}}},
                    {"document", picture(lm, known, documents.front())}}
            << '\n';
        if (!out) throw std::runtime_error("cannot write " + given.json.string());
    }
}

/// `--keep`: a count of tokens, or with a point a fraction of the prefix.
index parse_keep(std::string const& text, llm::policy const& choice, index prefix) {
    if (text.empty()) return prefix;
    double value = 0;
    auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    bool const fraction = text.find('.') != std::string::npos;
    if (error != std::errc{} || end != text.data() + text.size() || !(value > 0) || (fraction && value > 1))
        throw std::invalid_argument("--keep must be a number of tokens, or a fraction such as 0.25");
    if (fraction) return llm::setting{&choice, value}.keep(prefix);
    return static_cast<index>(std::min(value, static_cast<double>(prefix)));
}

/// Perplexity of the user's text with the user's model.
void judge(llm::model const& lm, options const& given) {
    auto const file = safetensors::file::read(given.tokens);
    auto const shape = file.at("tokens").shape;
    if (shape.size() != 2 || shape[0] < 1) throw std::invalid_argument("'tokens' must be [sequences, length]");
    if (lm.shape().context > 0 && shape[1] > lm.shape().context)
        std::fprintf(stderr, "llm: sequences of %td tokens exceed the model's context of %td\n", shape[1],
                     lm.shape().context);
    std::vector<token> tokens;
    for (std::int64_t const id : file.integers("tokens")) {
        if (id < 0 || id >= lm.shape().vocabulary)
            throw std::out_of_range("token " + std::to_string(id) + " is outside the vocabulary");
        tokens.push_back(static_cast<token>(id));
    }

    llm::policy const& choice = llm::find_policy(given.policy);
    index const keep = parse_keep(given.keep, choice, given.prefix);
    auto const found = llm::judge(lm, tokens, shape[1], given.prefix, choice, keep, given.threads);
    double sum = 0;
    for (float const p : found) sum += static_cast<double>(p);
    std::printf("%s, %td of %td tokens kept: perplexity %.4f\n", given.policy.c_str(),
                given.policy == "full" ? given.prefix : keep, given.prefix,
                std::exp(-sum / static_cast<double>(found.size())));
    safetensors::writer out;
    out.add("logprobs", {shape[0], shape[1] - given.prefix}, found);
    out.write(given.output);
}

}  // namespace

int main(int argc, char** argv) {
    options given;
    CLI::App app{
        "A small Llama engine whose KV cache terse compresses. Without --tokens: every policy and budget on the "
        "bundled model and documents. With --tokens: one policy on a model and text of yours."};
    app.add_option("--model", given.model, "safetensors: a Llama-shaped model (default: the bundled one)");
    app.add_option("--data", given.data, "folder of the bundled model and texts")->capture_default_str();
    app.add_option("--json", given.json, "also write the table as JSON, and what each head keeps of one document");
    app.add_option("--threads", given.threads)->check(CLI::PositiveNumber)->capture_default_str();
    auto* const own = app.add_option("--tokens", given.tokens, "safetensors: 'tokens', integers [sequences, length]");
    app.add_option("--prefix", given.prefix, "tokens of each sequence that are read before the cache is compressed")
        ->needs(own);
    std::vector<std::string> names;
    for (llm::policy const& p : llm::policies())
        if (!p.calibrated) names.emplace_back(p.name);
    app.add_option("--policy", given.policy)->needs(own)->check(CLI::IsMember(names))->capture_default_str();
    app.add_option("--keep", given.keep, "tokens that each head keeps, or with a point a fraction (default: all)")
        ->needs(own);
    app.add_option("-o,--output", given.output, "receives 'logprobs', F32 [sequences, length - prefix]")
        ->needs(own)
        ->capture_default_str();
    CLI11_PARSE(app, argc, argv);
    try {
        auto const lm = llm::model::read(
            safetensors::file::read(given.model.empty() ? given.data / "lm.safetensors" : given.model));
        given.tokens.empty() ? demonstrate(lm, given) : judge(lm, given);
    } catch (std::exception const& error) {
        std::fprintf(stderr, "llm: %s\n", error.what());
        return 1;
    }
}

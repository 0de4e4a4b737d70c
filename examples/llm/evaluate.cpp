// SPDX-License-Identifier: Apache-2.0
#include "evaluate.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <numbers>
#include <optional>
#include <stdexcept>

#include <nlohmann/json.hpp>

#include <terse/budget/budget.hpp>

#include "common/threads.hpp"
#include "generation.hpp"

namespace llm {
namespace {

using clock = std::chrono::steady_clock;

double seconds_since(clock::time_point start) { return std::chrono::duration<double>(clock::now() - start).count(); }

std::ifstream open(std::filesystem::path const& path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) throw std::runtime_error("cannot read " + path.string());
    return in;
}

std::vector<token> bytes_of(std::string_view text) {
    std::vector<token> tokens;
    for (char const c : text) tokens.push_back(static_cast<unsigned char>(c));
    return tokens;
}

std::vector<token> after(token bos, std::span<token const> tokens) {
    std::vector<token> all{bos};
    all.insert(all.end(), tokens.begin(), tokens.end());
    return all;
}

index length(auto const& range) { return std::ssize(range); }

/// Calls body(item) for every item of [0, count) on `workers` threads.
template <class Body>
void for_each(index count, index workers, Body const& body) {
    std::atomic<index> next = 0;
    on_threads(static_cast<std::size_t>(std::min(workers, count)), [&] {
        for (index item; (item = next++) < count;) body(item);
    });
}

double bits(std::span<float const> log_probabilities) {
    double sum = 0;
    for (float const p : log_probabilities) sum -= static_cast<double>(p);
    return sum / std::numbers::ln2;
}

/// Reads `first` and then what the model itself thinks most probable, of the bytes, `count` times.
/// @param read  callable token -> normalised state [1, width]
template <class Read>
std::vector<token> decode(model const& lm, Read const& read, token first, index count) {
    constexpr index byte_values = 256;
    std::vector<token> out;
    for (token next = first; length(out) < count;) {
        index best = 0;
        lm.logits(read(next)).row(0).head(byte_values).maxCoeff(&best);
        next = static_cast<token>(best);
        out.push_back(next);
    }
    return out;
}

/// Reads token after token with a cache of fixed size, or, without a policy, of `most` tokens.
class reader {
  public:
    reader(model const& lm, step_policy const* policy, index keep, index most)
        : lm_{&lm}, all_{lm.make_cache(policy == nullptr ? most : 0)} {
        if (policy != nullptr) bound_.emplace(lm, *policy, keep);
    }

    matrix read(token next) { return bound_ ? bound_->read(next) : lm_->forward({&next, 1}, all_); }
    [[nodiscard]] std::size_t cache_bytes() const { return (bound_ ? bound_->kv() : all_).bytes(); }

  private:
    model const* lm_;
    cache all_;
    std::optional<generation> bound_;
};

/// Nothing, for a full cache, and every policy for generations.
std::vector<step_policy const*> kinds_of_reading() {
    std::vector<step_policy const*> kinds{nullptr};
    for (step_policy const& p : step_policies()) kinds.push_back(&p);
    return kinds;
}

}  // namespace

index setting::keep(index tokens) const {
    return terse::budget::ratio{budget, terse::budget::rounding::nearest_even}.count(tokens).value();
}

std::vector<document> read_documents(std::filesystem::path const& path, token bos) {
    auto in = open(path);
    auto const file = nlohmann::json::parse(in);
    std::vector<document> documents;
    for (auto const& d : file.at("documents")) {
        documents.push_back({after(bos, bytes_of(d.at("prompt").get<std::string>())),
                             bytes_of(d.at("answer").get<std::string>()), d.at("facts").get<index>()});
    }
    return documents;
}

std::vector<token> read_bytes(std::filesystem::path const& path) {
    auto in = open(path);
    return bytes_of(std::string(std::istreambuf_iterator<char>(in), {}));
}

std::vector<passage> read_passages(std::filesystem::path const& path, token bos) {
    constexpr std::size_t starts = 5, stride = 12000, prompt = 767, continuation = 256;
    std::vector<token> const text = read_bytes(path);
    if (text.size() < (starts - 1) * stride + prompt + continuation)
        throw std::runtime_error(path.string() + " is too short");
    std::vector<passage> passages;
    for (std::size_t i = 0; i < starts; ++i) {
        auto const from = std::span{text}.subspan(i * stride);
        auto const rest = from.subspan(prompt, continuation);
        passages.push_back({after(bos, from.first(prompt)), {rest.begin(), rest.end()}});
    }
    return passages;
}

std::vector<float> log_probabilities(model const& lm, matrix const& states, std::span<token const> targets) {
    constexpr index block_rows = 64;  // a large vocabulary's logits would not fit at once
    std::vector<float> out;
    for (index first = 0; first < states.rows(); first += block_rows) {
        matrix const logits = lm.logits(states.middleRows(first, std::min(block_rows, states.rows() - first)));
        for (index r = 0; r < logits.rows(); ++r) {
            token const target = targets[static_cast<std::size_t>(first + r)];
            if (target < 0 || target >= logits.cols())
                throw std::out_of_range("token " + std::to_string(target) + " is outside the vocabulary");
            float const highest = logits.row(r).maxCoeff();
            float const sum = (logits.row(r).array() - highest).exp().sum();
            out.push_back(logits(r, target) - highest - std::log(sum));
        }
    }
    return out;
}

cache compressed(prefilled const& prompt, policy const& choice, index keep, std::uint32_t seed, terse::arena& memory) {
    cache copy = prompt.kv();
    compress(choice, prompt, copy, keep, seed, memory);
    copy.pop();
    return copy;
}

double bits_per_byte(model const& lm, std::span<token const> text, index workers, index windows) {
    index const step = lm.shape().context - 1;
    index const all = (length(text) + step - 1) / step;
    index const count = windows == 0 ? all : std::min(windows, all);
    std::vector<double> sums(static_cast<std::size_t>(count));
    for_each(count, workers, [&](index w) {
        auto const from = text.subspan(static_cast<std::size_t>(w * step));
        auto const window = from.first(std::min(from.size(), static_cast<std::size_t>(step)));
        cache kv = lm.make_cache(length(window));
        matrix const states = lm.forward(after(lm.shape().bos, window.first(window.size() - 1)), kv);
        sums[static_cast<std::size_t>(w)] = bits(log_probabilities(lm, states, window));
    });
    double total = 0;
    for (double const sum : sums) total += sum;
    return total / static_cast<double>(std::min(count * step, length(text)));
}

recall& recall::operator+=(recall const& other) {
    facts = other.facts;
    documents += other.documents;
    right += other.right;
    bytes_before += other.bytes_before;
    bytes_after += other.bytes_after;
    compress_seconds += other.compress_seconds;
    decode_seconds += other.decode_seconds;
    decoded += other.decoded;
    return *this;
}

std::vector<std::vector<recall>> measure_recall(model const& lm, std::span<document const> documents,
                                                std::span<setting const> settings, index workers,
                                                calibration const* known) {
    std::vector<std::vector<recall>> each(documents.size());
    for_each(length(documents), workers, [&](index i) {
        document const& d = documents[static_cast<std::size_t>(i)];
        prefilled const prompt(lm, d.prompt, length(d.answer), known);
        terse::arena memory;
        for (setting const& s : settings) {
            recall one{.facts = d.facts, .documents = 1, .bytes_before = prompt.kv().bytes()};
            cache kv = prompt.kv();
            auto const compressing = clock::now();
            compress(*s.choice, prompt, kv, s.keep(length(d.prompt)), static_cast<std::uint32_t>(i), memory);
            one.compress_seconds = seconds_since(compressing);
            one.bytes_after = kv.bytes();

            kv.pop();
            auto const decoding = clock::now();
            auto const read = [&](token next) { return lm.forward({&next, 1}, kv); };
            std::vector<token> const answer = decode(lm, read, prompt.last(), length(d.answer));
            one.decode_seconds = seconds_since(decoding);
            one.decoded = length(answer);
            one.right = answer == d.answer ? 1 : 0;
            each[static_cast<std::size_t>(i)].push_back(one);
        }
    });

    std::vector<std::vector<recall>> rows;
    for (std::size_t s = 0; s < settings.size(); ++s) {
        std::map<index, recall> kinds;
        for (auto const& one : each) kinds[one[s].facts] += one[s];
        auto& row = rows.emplace_back();
        for (auto const& [facts, sum] : kinds) row.push_back(sum);
    }
    return rows;
}

std::vector<prose> measure_prose(model const& lm, std::span<passage const> passages, std::span<setting const> settings,
                                 index workers, calibration const* known) {
    constexpr std::size_t opening = 64;
    std::vector<std::vector<prose>> each(passages.size());
    for_each(length(passages), workers, [&](index i) {
        passage const& p = passages[static_cast<std::size_t>(i)];
        prefilled const prompt(lm, p.prompt, length(p.continuation), known);
        std::vector<token> const rest =
            after(prompt.last(), std::span{p.continuation}.first(p.continuation.size() - 1));
        terse::arena memory;
        for (setting const& s : settings) {
            cache kv = compressed(prompt, *s.choice, s.keep(length(p.prompt)), static_cast<std::uint32_t>(i), memory);
            auto const found = log_probabilities(lm, lm.forward(rest, kv), p.continuation);
            each[static_cast<std::size_t>(i)].push_back({bits(found), bits(std::span{found}.first(opening))});
        }
    });

    std::vector<prose> means(settings.size());
    std::size_t bytes = 0;
    for (passage const& p : passages) bytes += p.continuation.size();
    for (std::size_t s = 0; s < settings.size(); ++s) {
        for (auto const& one : each) {
            means[s].all += one[s].all / static_cast<double>(bytes);
            means[s].opening += one[s].opening / static_cast<double>(opening * passages.size());
        }
    }
    return means;
}

std::vector<bounded> measure_generation(model const& lm, std::span<passage const> passages, index keep, index workers) {
    auto const kinds = kinds_of_reading();
    std::vector<std::vector<bounded>> each(passages.size(), std::vector<bounded>(kinds.size()));
    for_each(length(passages), workers, [&](index i) {
        passage const& p = passages[static_cast<std::size_t>(i)];
        std::vector<token> text = p.prompt;
        text.insert(text.end(), p.continuation.begin(), p.continuation.end());
        for (std::size_t k = 0; k < kinds.size(); ++k) {
            bounded& one = each[static_cast<std::size_t>(i)][k];
            reader reads(lm, kinds[k], keep, length(text));
            auto const start = clock::now();
            for (std::size_t t = 0; t + 1 < text.size(); ++t) {
                double const cost = bits(log_probabilities(lm, reads.read(text[t]), {&text[t + 1], 1}));
                if (t % static_cast<std::size_t>(keep) == 0) one.curve.push_back(0);
                one.curve.back() += cost;
                one.bits += cost;
            }
            one.seconds = seconds_since(start) / static_cast<double>(text.size() - 1);
            one.cache_bytes = reads.cache_bytes();
        }
    });

    std::vector<bounded> means(kinds.size());
    for (std::size_t k = 0; k < kinds.size(); ++k) {
        bounded& mean = means[k];
        mean.policy = kinds[k] == nullptr ? "full" : kinds[k]->name;
        mean.curve.assign(each.front()[k].curve.size(), 0);
        double bytes = 0;
        std::vector<double> in_stretch(mean.curve.size(), 0);
        for (std::size_t i = 0; i < each.size(); ++i) {
            bounded const& one = each[i][k];
            auto const read = static_cast<double>(passages[i].prompt.size() + passages[i].continuation.size() - 1);
            bytes += read;
            mean.bits += one.bits;
            mean.seconds += one.seconds / static_cast<double>(each.size());
            mean.cache_bytes = one.cache_bytes;
            for (std::size_t c = 0; c < mean.curve.size(); ++c) {
                mean.curve[c] += one.curve[c];
                in_stretch[c] +=
                    std::min(static_cast<double>(keep), read - static_cast<double>(c) * static_cast<double>(keep));
            }
        }
        mean.bits /= bytes;
        for (std::size_t c = 0; c < mean.curve.size(); ++c) mean.curve[c] /= in_stretch[c];
    }
    return means;
}

std::vector<index> measure_generation_recall(model const& lm, std::span<document const> documents, index keep,
                                             index workers) {
    auto const kinds = kinds_of_reading();
    std::vector<std::vector<index>> each(documents.size());
    for_each(length(documents), workers, [&](index i) {
        document const& d = documents[static_cast<std::size_t>(i)];
        for (step_policy const* const kind : kinds) {
            reader reads(lm, kind, keep, length(d.prompt) + length(d.answer));
            for (token const t : std::span{d.prompt}.first(d.prompt.size() - 1)) reads.read(t);
            auto const read = [&](token next) { return reads.read(next); };
            bool const right = decode(lm, read, d.prompt.back(), length(d.answer)) == d.answer;
            each[static_cast<std::size_t>(i)].push_back(right ? 1 : 0);
        }
    });
    std::vector<index> sums(kinds.size());
    for (auto const& one : each) std::transform(sums.begin(), sums.end(), one.begin(), sums.begin(), std::plus<>{});
    return sums;
}

std::vector<float> judge(model const& lm, std::span<token const> tokens, index length, index prefix,
                         policy const& choice, index keep, index workers) {
    if (prefix < 1 || prefix >= length) throw std::invalid_argument("the prefix must be 1 to length - 1 tokens");
    if (keep < 1) throw std::invalid_argument("at least one token must be kept");
    auto const each = static_cast<std::size_t>(length), head = static_cast<std::size_t>(prefix), rest = each - head;
    index const sequences = std::ssize(tokens) / length;
    std::vector<float> out(static_cast<std::size_t>(sequences) * rest);
    for_each(sequences, workers, [&](index i) {
        auto const at = static_cast<std::size_t>(i);
        auto const sequence = tokens.subspan(at * each, each);
        prefilled const prompt(lm, sequence.first(head), std::ssize(sequence) - prefix);
        terse::arena memory;
        cache kv = compressed(prompt, choice, keep, static_cast<std::uint32_t>(i), memory);
        auto const found =
            log_probabilities(lm, lm.forward(sequence.subspan(head - 1, rest), kv), sequence.subspan(head));
        std::copy(found.begin(), found.end(), out.begin() + static_cast<std::ptrdiff_t>(at * rest));
    });
    return out;
}

}  // namespace llm

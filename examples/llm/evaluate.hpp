// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine.hpp"
#include "policies.hpp"

namespace llm {

/// A text that hides facts, and the question for one of them.
struct document {
    std::vector<token> prompt;
    std::vector<token> answer;
    index facts = 0;
};

/// A text in two parts: the second is predicted byte by byte.
struct passage {
    std::vector<token> prompt;
    std::vector<token> continuation;
};

/// Reads `recall-docs.json`. Every prompt starts with `bos`.
std::vector<document> read_documents(std::filesystem::path const& path, token bos);

/// A file's bytes as tokens.
std::vector<token> read_bytes(std::filesystem::path const& path);

/// BOS and 767 bytes, and the 256 bytes behind them, from bytes 0, 12000, ... 48000 of a text.
std::vector<passage> read_passages(std::filesystem::path const& path, token bos);

/// The log-probability of each target after the state in its row. [targets]
std::vector<float> log_probabilities(model const& lm, matrix const& states, std::span<token const> targets);

/// The cache as a policy leaves it, at `keep` tokens a head of which the last, popped again, is yet to be read.
[[nodiscard]] cache compressed(prefilled const& prompt, policy const& choice, index keep, std::uint32_t seed,
                               terse::arena& memory);

/// Bits per byte of a text in windows of `context - 1` tokens, each after a fresh BOS.
/// @param windows  how many windows at most; 0 means all
double bits_per_byte(model const& lm, std::span<token const> text, index workers, index windows = 0);

/// One policy at one budget.
struct setting {
    policy const* choice;
    double budget;  ///< fraction of the prompt's tokens

    [[nodiscard]] index keep(index tokens) const;
};

/// What one setting did to documents with the same number of facts.
struct recall {
    index facts = 0;
    index documents = 0;
    index right = 0;                                ///< documents whose whole answer was right under greedy decoding
    std::size_t bytes_before = 0, bytes_after = 0;  ///< of the caches of all documents
    double compress_seconds = 0;                    ///< deciding and moving, all documents
    double decode_seconds = 0;
    index decoded = 0;  ///< tokens

    recall& operator+=(recall const& other);
};

/// One entry a setting, and in it one a number of facts, ascending.
std::vector<std::vector<recall>> measure_recall(model const& lm, std::span<document const> documents,
                                                std::span<setting const> settings, index workers,
                                                calibration const* known = nullptr);

/// Bits per byte of continuations.
struct prose {
    double all = 0;
    double opening = 0;  ///< of the first 64 bytes
};

/// One entry a setting.
std::vector<prose> measure_prose(model const& lm, std::span<passage const> passages, std::span<setting const> settings,
                                 index workers, calibration const* known = nullptr);

/// Reading on with a cache of fixed size: what a bounded generation sees.
struct bounded {
    std::string_view policy;      ///< "full": a cache of all tokens
    double bits = 0;              ///< bits per byte
    std::vector<double> curve;    ///< the same of each stretch of `keep` bytes
    std::size_t cache_bytes = 0;  ///< of keys and values, at the end
    double seconds = 0;           ///< a token, the model's own work included
};

/// Each of the passages of `length` bytes behind BOS, read token by token, with every policy for generations and with a
/// full cache; one entry a policy.
std::vector<bounded> measure_generation(model const& lm, std::span<passage const> passages, index keep, index workers);

/// How many of the documents' answers are right under greedy decoding when prompt and answer are read like that; one
/// entry a policy.
std::vector<index> measure_generation_recall(model const& lm, std::span<document const> documents, index keep,
                                             index workers);

/// Log-probabilities [sequences, length - prefix] of all tokens after the prefix of each sequence: the prefix is read,
/// its cache is compressed to `keep` tokens once, and the rest is read on top.
/// Throws std::invalid_argument unless 1 <= prefix < length and keep >= 1.
std::vector<float> judge(model const& lm, std::span<token const> tokens, index length, index prefix,
                         policy const& choice, index keep, index workers);

}  // namespace llm

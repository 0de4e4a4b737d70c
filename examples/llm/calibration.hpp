// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include <terse/core/types.hpp>

#include "engine.hpp"

namespace llm {

/// A text that hides facts, the question for one of them, and where its answer stands in the text.
struct solved_document {
    std::vector<token> prompt;
    std::vector<token> answer;
    terse::range found;
};

/// Documents of the form of `recall-docs.json`, with names and keys of their own, in prose of `text` that neither those
/// documents nor `read_passages` take. Throws std::runtime_error when the text is too short.
std::vector<solved_document> calibration_documents(std::span<token const> text, token bos);

/// What some policies must know of a model before they see a prompt.
struct calibration {
    /// Of one layer.
    struct of_layer {
        std::vector<index> answering;  ///< the query heads that fetch answers from the text, ascending
        float loss = 0;                ///< of the errors that eviction makes in all layers, this layer's share
        matrix filters;                ///< [kv_heads, head_dim]: against the principal direction of the queries
    };
    /// That slots which carry `mass` of the attention are the share `kept` of all, on average.
    struct carried {
        double mass, kept;
    };

    std::vector<of_layer> layers;
    /// [layers * kv_heads]: attention to where the query's token stood before, and to what followed it there
    std::vector<float> echo, induction;
    std::vector<carried> shares;  ///< ascending

    /// The attention that a share of the slots carries, on average, in (0, 1].
    [[nodiscard]] double mass_of(double kept) const;
};

/// Reads random tokens that repeat, and the documents; those that the model answers wrong count for no head.
calibration calibrate(model const& lm, std::span<solved_document const> documents);

}  // namespace llm

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <filesystem>
#include <string>

#include "common/safetensors.hpp"
#include "llm/calibration.hpp"
#include "llm/engine.hpp"
#include "llm/evaluate.hpp"

inline std::filesystem::path const models = TERSE_SOURCE_DIR "/models";

inline constexpr std::array texts{"kjv", "moby", "sotu"};

inline std::filesystem::path text_path(std::string const& name) { return models / ("heldout-" + name + ".txt"); }

/// The bundled language model, read once.
inline llm::model const& bundled() {
    static auto const lm = llm::model::read(safetensors::file::read(models / "lm.safetensors"));
    return lm;
}

/// What the demo calibrates with.
inline std::vector<llm::solved_document> solved_documents() {
    std::vector<llm::solved_document> all;
    for (char const* const name : texts) {
        auto const more = llm::calibration_documents(llm::read_bytes(text_path(name)), bundled().shape().bos);
        all.insert(all.end(), more.begin(), more.end());
    }
    return all;
}

/// The calibration of the bundled model, made once.
inline llm::calibration const& calibrated() {
    static auto const known = llm::calibrate(bundled(), solved_documents());
    return known;
}

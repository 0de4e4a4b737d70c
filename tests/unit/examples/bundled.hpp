// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "common/safetensors.hpp"
#include "llm/engine.hpp"

inline std::filesystem::path const models = TERSE_SOURCE_DIR "/models";

/// The bundled language model, read once.
inline llm::model const& bundled() {
    static auto const lm = llm::model::read(safetensors::file::read(models / "lm.safetensors"));
    return lm;
}

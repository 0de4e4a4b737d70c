// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace report {

/// The whole page from what `llm --json` and `vit --json` wrote. Refers to nothing outside itself.
/// Throws `nlohmann::json::exception` when something is missing.
[[nodiscard]] std::string page(nlohmann::json const& llm, nlohmann::json const& vit);

}  // namespace report

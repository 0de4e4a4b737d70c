// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace report {

/// What the KV-cache policies cost and save, and what one document's cache holds afterwards.
[[nodiscard]] std::string cache_section(nlohmann::json const& llm);

/// What token reduction costs and saves in the Vision Transformer, and what is left of a few images.
[[nodiscard]] std::string image_section(nlohmann::json const& vit);

/// The page's first lines: a number and what it means.
struct highlight {
    std::string value;
    std::string meaning;
};

[[nodiscard]] highlight recall_highlight(nlohmann::json const& llm);
[[nodiscard]] highlight memory_highlight(nlohmann::json const& llm);
[[nodiscard]] highlight speed_highlight(nlohmann::json const& vit);

}  // namespace report

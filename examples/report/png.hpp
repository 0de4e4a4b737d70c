// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace report {

/// A square picture as a data URI that holds a PNG.
/// @param pixels [side, side, 2]: grey and opacity
[[nodiscard]] std::string png_uri(std::span<std::uint8_t const> pixels, int side);

}  // namespace report

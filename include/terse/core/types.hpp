// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <Eigen/Core>

namespace terse {

using index = Eigen::Index;  ///< counts, strides and row numbers; signed
using token = std::int32_t;  ///< a token's place in its sequence, as engines' block tables hold it
using half = Eigen::half;
using bfloat16 = Eigen::bfloat16;

inline constexpr index max_tokens = std::numeric_limits<token>::max();

/// Tokens [begin, end).
struct range {
    index begin = 0;
    index end = 0;

    [[nodiscard]] constexpr index size() const noexcept { return end - begin; }
};

/// What tensors hold. Whatever the storage, sums are taken in float.
template <class T>
concept real = std::same_as < std::remove_cvref_t<T>,
float > || std::same_as<std::remove_cvref_t<T>, half> || std::same_as<std::remove_cvref_t<T>, bfloat16>;

}  // namespace terse

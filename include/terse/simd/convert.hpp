// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include <terse/simd/load_store.hpp>

// Limited by memory: an instruction or two a register.

namespace terse::simd {

/// out[i] = in[i] in another type, rounded to nearest even. NaN stays NaN.
/// @pre in.size() == out.size(); the same memory only if it is the same type
template <class Arch = default_arch, real T, real U>
void convert(std::span<T const> in, std::span<U> out) noexcept {
    constexpr std::size_t width = floats<Arch>::size;
    std::size_t const whole = in.size() - in.size() % width;
    for (std::size_t i = 0; i < whole; i += width) store<Arch>(load<Arch>(in.data() + i), out.data() + i);
    auto const rest = static_cast<index>(in.size() - whole);
    if (rest != 0) store_partial<Arch>(load_partial<Arch>(in.data() + whole, rest), out.data() + whole, rest);
}

}  // namespace terse::simd

// SPDX-License-Identifier: Apache-2.0
#include <cassert>

#include <terse/dispatch.hpp>

#include "level_kernels.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace terse::dispatch {
namespace {
#if defined(__x86_64__)
constexpr level lowest = level::sse2;

// The compiler's builtin checks that the operating system saves the registers; clang 14's does not know F16C.
bool has_f16c() noexcept {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

bool runs(level which) noexcept {
    __builtin_cpu_init();
    bool const avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    switch (which) {
        case level::sse2:
            return true;
        case level::avx2:
            return avx2;
        case level::avx512:
            return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512vl");
        case level::neon64:
            return false;
    }
    return false;
}

level_kernels const& table(level which) noexcept {
    if (which == level::avx512) return avx512_kernels;
    return which == level::avx2 ? avx2_kernels : sse2_kernels;
}
#else
constexpr level lowest = level::neon64;

bool runs(level which) noexcept { return which == level::neon64; }

level_kernels const& table(level) noexcept { return neon64_kernels; }
#endif

level ask() noexcept {
    level highest = lowest;
    for (level const which : levels)
        if (runs(which)) highest = which;
    return highest;
}
}  // namespace

bool supported(level which) noexcept { return runs(which); }

level best() noexcept {
    static level const found = ask();
    return found;
}

template <>
kernels<float> const& kernels_of(level which) noexcept {
    assert(supported(which));
    return table(which).f32;
}
template <>
kernels<half> const& kernels_of(level which) noexcept {
    assert(supported(which));
    return table(which).f16;
}
template <>
kernels<bfloat16> const& kernels_of(level which) noexcept {
    assert(supported(which));
    return table(which).bf16;
}

}  // namespace terse::dispatch

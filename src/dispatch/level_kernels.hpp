// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/dispatch.hpp>

namespace terse::dispatch {

/// The kernels of one level: a translation unit each, built for its instruction set.
struct level_kernels {
    kernels<float> f32;
    kernels<half> f16;
    kernels<bfloat16> bf16;
};
extern level_kernels const sse2_kernels, avx2_kernels, avx512_kernels, neon64_kernels;

}  // namespace terse::dispatch

// SPDX-License-Identifier: Apache-2.0
#include "instantiate.hpp"

namespace {
struct own_sse2 : xsimd::sse2 {};
}  // namespace

namespace xsimd::types {
XSIMD_DECLARE_SIMD_REGISTER_ALIAS(own_sse2, sse2);
}  // namespace xsimd::types

namespace terse::dispatch {
level_kernels const sse2_kernels = all_kernels<own_sse2>;
}  // namespace terse::dispatch

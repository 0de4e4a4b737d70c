// SPDX-License-Identifier: Apache-2.0
#include "instantiate.hpp"

namespace {
struct own_avx2 : xsimd::fma3<xsimd::avx2> {};
}  // namespace

namespace xsimd::types {
XSIMD_DECLARE_SIMD_REGISTER_ALIAS(own_avx2, avx2);
}  // namespace xsimd::types

namespace terse::dispatch {
level_kernels const avx2_kernels = all_kernels<own_avx2>;
}  // namespace terse::dispatch

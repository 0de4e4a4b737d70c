// SPDX-License-Identifier: Apache-2.0
#include "instantiate.hpp"

namespace {
struct own_neon64 : xsimd::neon64 {};
}  // namespace

namespace xsimd::types {
XSIMD_DECLARE_SIMD_REGISTER_ALIAS(own_neon64, neon64);
template <class T>
struct get_bool_simd_register<T, own_neon64> : get_bool_simd_register<T, neon64> {};
}  // namespace xsimd::types

namespace terse::dispatch {
level_kernels const neon64_kernels = all_kernels<own_neon64>;
}  // namespace terse::dispatch

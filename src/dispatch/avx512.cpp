// SPDX-License-Identifier: Apache-2.0
#include "instantiate.hpp"

namespace {
struct own_avx512 : xsimd::avx512bw {};
}  // namespace

namespace xsimd::types {
XSIMD_DECLARE_SIMD_REGISTER_ALIAS(own_avx512, avx512bw);
template <class T>
struct get_bool_simd_register<T, own_avx512> : get_bool_simd_register<T, avx512bw> {};
}  // namespace xsimd::types

namespace terse::dispatch {
level_kernels const avx512_kernels = all_kernels<own_avx512>;
}  // namespace terse::dispatch

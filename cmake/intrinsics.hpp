// SPDX-License-Identifier: Apache-2.0
#pragma once

// gcc 12 warns of its own AVX-512 intrinsics wherever they are inlined (its bug 105593). Included before all else, this
// silences their header and nothing that includes it.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

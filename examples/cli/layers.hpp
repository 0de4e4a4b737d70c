// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/core/layer.hpp>

#include "cli/method.hpp"

namespace cli {

using layer = terse::layer<float>;

/// A layer that has nothing but its shape and its attention [heads, queries, tokens].
inline layer attention_layer(index kv_heads, terse::attention_view attention) {
    if (kv_heads < 1 || attention.heads % kv_heads != 0)
        throw case_error("the heads of in.attention do not fit kv_heads");
    return {.keys = terse::head_major<float const>(nullptr, kv_heads, attention.dim, 1), .attention = attention};
}

}  // namespace cli

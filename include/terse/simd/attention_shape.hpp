// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>

#include <terse/core/types.hpp>

namespace terse::simd {

/// How heads that share their keys count: each for itself, or by the highest of their logits.
enum class shared_heads : unsigned char { apart, highest };

/// The softmax that `softmax_columns` takes: of heads that read the same keys.
struct attention_shape {
    index heads;
    index queries;  ///< of each
    index keys;
    index dim;
    float scale = 1;
    float soft_cap = 0;                         ///< > 0: logits become cap * tanh(logit / cap)
    shared_heads shared = shared_heads::apart;  ///< highest: one row of columns, of the highest of all heads' logits
    bool known = false;                         ///< the logs of the sums are given; not with shared_heads::highest
};

/// Where what keys receive is added: [heads, wanted]. A stride of 0 adds all heads up.
struct column_rows {
    std::span<float> values;
    index stride;  ///< from one head to the next
    index wanted;  ///< keys [0, wanted)

    [[nodiscard]] float* row(index h) const noexcept { return values.data() + h * stride; }
    [[nodiscard]] column_rows from(index h) const noexcept {
        return {values.subspan(static_cast<std::size_t>(h * stride)), stride, wanted};
    }
};

}  // namespace terse::simd

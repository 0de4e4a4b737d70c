// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/core/layer.hpp>
#include <terse/simd/attention_shape.hpp>

namespace terse::score {

/// The softmax of `heads` query heads of one kv head over its first `keys` slots, whose sums may be known.
template <class T, class Cache>
[[nodiscard]] simd::attention_shape attention_shape(layer<T, Cache> const& l, index heads, index queries, index keys,
                                                    bool known = false) noexcept {
    return {.heads = heads,
            .queries = queries,
            .keys = keys,
            .dim = l.keys.dim,
            .scale = l.logit_scale(),
            .soft_cap = l.soft_cap,
            .known = known};
}

}  // namespace terse::score

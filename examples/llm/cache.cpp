// SPDX-License-Identifier: Apache-2.0
#include "cache.hpp"

#include <stdexcept>

namespace llm {

cache::cache(index layers, index kv_heads, index head_dim, index capacity)
    : kv_heads_{kv_heads}, head_dim_{head_dim}, capacity_{capacity} {
    auto const size = static_cast<std::size_t>(kv_heads * capacity * head_dim);
    rows const empty{std::vector<float>(size), std::vector<float>(size),
                     std::vector<index>(static_cast<std::size_t>(kv_heads))};
    layers_.assign(static_cast<std::size_t>(layers), empty);
}

std::size_t cache::bytes() const {
    index tokens = 0;
    for (rows const& layer : layers_)
        for (index const held : layer.held) tokens += held;
    return static_cast<std::size_t>(2 * tokens * head_dim_) * sizeof(float);
}

std::size_t cache::capacity_bytes() const {
    return layers_.size() * static_cast<std::size_t>(2 * kv_heads_ * capacity_ * head_dim_) * sizeof(float);
}

void cache::append(index layer, matrix const& keys, matrix const& values) {
    rows& to = at(layer);
    for (index h = 0; h < kv_heads_; ++h) {
        index& held = to.held[static_cast<std::size_t>(h)];
        if (keys.rows() > capacity_ - held) throw std::length_error("the cache is full");
        index const at = (h * capacity_ + held) * head_dim_;
        Eigen::Map<matrix>(to.keys.data() + at, keys.rows(), head_dim_) = keys.middleCols(h * head_dim_, head_dim_);
        Eigen::Map<matrix>(to.values.data() + at, keys.rows(), head_dim_) = values.middleCols(h * head_dim_, head_dim_);
        held += keys.rows();
    }
}

void cache::pop() {
    for (rows& layer : layers_)
        for (index& held : layer.held) --held;
    --position_;
}

}  // namespace llm

// SPDX-License-Identifier: Apache-2.0
#include "cache.hpp"

#include <cmath>
#include <numeric>
#include <stdexcept>

#include <terse/kv/channels.hpp>
#include <terse/kv/compact.hpp>
#include <terse/kv/razor_attention.hpp>
#include <terse/move/apply.hpp>

namespace llm {
namespace {

void check(terse::errc error) {
    if (error != terse::errc::ok) throw terse::bad_result(error);
}

}  // namespace

cache::cache(index layers, index kv_heads, index head_dim, index capacity)
    : kv_heads_{kv_heads}, head_dim_{head_dim}, capacity_{capacity} {
    auto const heads = static_cast<std::size_t>(kv_heads), size = static_cast<std::size_t>(kv_heads * capacity);
    std::vector<token> all(static_cast<std::size_t>(head_dim));
    std::iota(all.begin(), all.end(), token{0});
    rows const empty{.keys = std::vector<float>(size * all.size()),
                     .values = std::vector<float>(size * all.size()),
                     .bias = std::vector<float>(size),
                     .held = std::vector<index>(heads),
                     .channels = {heads, all}};
    layers_.assign(static_cast<std::size_t>(layers), empty);
}

std::size_t cache::bytes() const {
    index numbers = 0;
    for (rows const& layer : layers_)
        for (std::size_t h = 0; h < layer.held.size(); ++h)
            numbers += layer.held[h] * (std::ssize(layer.channels[h]) + head_dim_);
    return static_cast<std::size_t>(numbers) * sizeof(float);
}

std::size_t cache::capacity_bytes() const {
    return layers_.size() * static_cast<std::size_t>(2 * kv_heads_ * capacity_ * head_dim_) * sizeof(float);
}

void cache::append(index layer, matrix const& keys, matrix const& values) {
    rows& to = at(layer);
    for (index h = 0; h < kv_heads_; ++h) {
        index& held = to.held[static_cast<std::size_t>(h)];
        if (keys.rows() > capacity_ - held) throw std::length_error("the cache is full");
        auto const& channels = to.channels[static_cast<std::size_t>(h)];
        index const at = h * capacity_ + held;
        using strided = Eigen::Map<matrix, 0, Eigen::OuterStride<>>;
        strided(to.keys.data() + at * head_dim_, keys.rows(), std::ssize(channels), Eigen::OuterStride<>{head_dim_}) =
            keys.middleCols(h * head_dim_, head_dim_)(Eigen::all, channels);
        Eigen::Map<matrix>(to.values.data() + at * head_dim_, keys.rows(), head_dim_) =
            values.middleCols(h * head_dim_, head_dim_);
        std::fill_n(to.bias.begin() + at, keys.rows(), 0.0F);
        held += keys.rows();
    }
}

void cache::keep(index layer, terse::plans kept) {
    rows& to = at(layer);
    terse::heads_span<float> const bias{to.bias.data(), kv_heads_, values(layer).tokens, 1, capacity_, 1};
    auto const selects = [](terse::plan const& p) { return p.is_selection(); };
    if (std::all_of(kept.items.begin(), kept.items.end(), selects)) {
        for (auto const& moved : {keys(layer), values(layer), bias}) check(terse::kv::compact(moved, kept));
    } else {
        rows const before = to;
        check(terse::apply(kept, key_view(before.keys.data(), layer), keys(layer)));
        check(terse::apply(kept, view(before.values.data(), layer), values(layer)));
        for (index h = 0; h < kv_heads_; ++h) {
            std::vector<float> sizes(before.bias.begin() + h * capacity_,
                                     before.bias.begin() + h * capacity_ + held(layer, h));
            for (float& size : sizes) size = std::exp(size);
            std::span const out{bias.row(h, 0), static_cast<std::size_t>(kept[h].kept())};
            check(terse::kv::log_bias(kept[h], sizes, out));
        }
    }
    for (index h = 0; h < kv_heads_; ++h) keep(layer, h, kept[h].kept());
}

void cache::keep_channels(index layer, terse::plans kept) {
    auto const before = keys(layer);
    auto after = before;
    after.dim = kept[0].kept();
    for (terse::plan const& p : kept.items)
        if (p.kept() != after.dim) throw terse::bad_result(terse::errc::bad_plan);
    check(terse::kv::gather_channels(before, after, kept, kv_heads_));
    for (index h = 0; h < kv_heads_; ++h) {
        auto& names = at(layer).channels[static_cast<std::size_t>(h)];
        std::transform(kept[h].sources.begin(), kept[h].sources.end(), names.begin(),
                       [&](token c) { return names[static_cast<std::size_t>(c)]; });
        names.resize(kept[h].sources.size());
    }
}

void cache::pop() {
    for (rows& layer : layers_)
        for (index& held : layer.held) --held;
    --position_;
}

}  // namespace llm

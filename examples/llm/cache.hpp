// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include <terse/core/plan.hpp>
#include <terse/core/view.hpp>

namespace llm {

using terse::index;
using terse::token;
using matrix = terse::row_major<float>;

/// The keys and values of every layer, [kv_heads, capacity, head_dim] each, and how many tokens each head still holds:
/// a policy may leave heads with different numbers. Keys are cached rotated, at their original positions. A row may
/// stand for several tokens, and keys may lose channels.
class cache {
  public:
    cache(index layers, index kv_heads, index head_dim, index capacity);

    /// Position of the next token, whatever was evicted.
    [[nodiscard]] index position() const { return position_; }
    [[nodiscard]] index layers() const { return static_cast<index>(layers_.size()); }
    [[nodiscard]] index held(index layer, index head) const { return at(layer).held[static_cast<std::size_t>(head)]; }

    /// Bytes of the keys and values held.
    [[nodiscard]] std::size_t bytes() const;

    /// Bytes that keys and values have room in.
    [[nodiscard]] std::size_t capacity_bytes() const;

    /// [kv_heads, tokens, head_dim], where `tokens` is what the fullest head holds.
    [[nodiscard]] terse::heads_view<float> keys(index layer) const { return key_view(at(layer).keys.data(), layer); }
    [[nodiscard]] terse::heads_view<float> values(index layer) const { return view(at(layer).values.data(), layer); }
    [[nodiscard]] terse::heads_span<float> keys(index layer) { return key_view(at(layer).keys.data(), layer); }
    [[nodiscard]] terse::heads_span<float> values(index layer) { return view(at(layer).values.data(), layer); }

    /// [held]: what is added to the logits of a head's rows; zeros but for rows that stand for several tokens.
    [[nodiscard]] std::span<float const> bias(index layer, index head) const {
        return {at(layer).bias.data() + head * capacity_, static_cast<std::size_t>(held(layer, head))};
    }

    /// The channels that a head's keys have, ascending.
    [[nodiscard]] std::span<token const> channels(index layer, index head) const {
        return at(layer).channels[static_cast<std::size_t>(head)];
    }

    /// Puts the rows of `keys` and `values`, [tokens, kv_heads * head_dim], behind what each head holds.
    /// Throws std::length_error when a head is full.
    void append(index layer, matrix const& keys, matrix const& values);

    /// Counts `tokens` as read, once every layer has them.
    void advance(index tokens) { position_ += tokens; }

    /// The next token stands at `position`: where keys were renumbered.
    void move_to(index position) { position_ = position; }

    /// Only the first `tokens` rows of a head remain.
    void keep(index layer, index head, index tokens) { at(layer).held[static_cast<std::size_t>(head)] = tokens; }

    /// Every head's rows become those of its plan: some of them, or their weighted sums, which draw the attention of
    /// all that they replace. Throws terse::bad_result when the plans do not fit the layer.
    void keep(index layer, terse::plans rows);

    /// Keys keep the channels of their head's plan, those to come as well; all heads keep the same number.
    /// Throws terse::bad_result when the plans do not fit the layer.
    void keep_channels(index layer, terse::plans channels);

    /// Takes back the newest token, which every head must still hold, so that it can be read again.
    void pop();

  private:
    struct rows {
        std::vector<float> keys, values, bias;
        std::vector<index> held;
        std::vector<std::vector<token>> channels;
    };

    [[nodiscard]] rows& at(index layer) { return layers_[static_cast<std::size_t>(layer)]; }
    [[nodiscard]] rows const& at(index layer) const { return layers_[static_cast<std::size_t>(layer)]; }

    template <class T>
    [[nodiscard]] terse::heads_span<T> key_view(T* data, index layer) const {
        auto keys = view(data, layer);
        keys.dim = std::ssize(channels(layer, 0));
        return keys;
    }

    template <class T>
    [[nodiscard]] terse::heads_span<T> view(T* data, index layer) const {
        index tokens = 0;
        for (index const held : at(layer).held) tokens = std::max(tokens, held);
        return {data, kv_heads_, tokens, head_dim_, capacity_ * head_dim_, head_dim_};
    }

    std::vector<rows> layers_;
    index kv_heads_;
    index head_dim_;
    index capacity_;
    index position_ = 0;
};

}  // namespace llm

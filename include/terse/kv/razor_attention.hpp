// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>
#include <numeric>
#include <span>

#include <terse/budget/budget.hpp>
#include <terse/core/layer.hpp>
#include <terse/core/parallel.hpp>
#include <terse/core/plan.hpp>
#include <terse/move/apply.hpp>
#include <terse/score/repetition.hpp>
#include <terse/select/top_k.hpp>
#include <terse/simd/dot.hpp>
#include <terse/simd/top_k.hpp>

namespace terse::kv {

/// Which kv heads of a model are retrieval heads: the highest by induction and the highest by echo, over all layers.
/// Reconstructed from the paper of `razor_attention`; a count is the nearest to its share, and at least one.
struct retrieval_heads {
    double induction = 0.14;  ///< share of all heads, in [0, 1]
    double echo = 0.01;       ///< share of all heads, in [0, 1]

    /// @param s  [layers * kv_heads] each: the layers' `score::repetition`, one after the other
    /// @return   [layers * kv_heads]: 1 for local heads, 0 for retrieval heads. errc::bad_setting when a share is not
    ///           in range, errc::bad_shape when sizes differ, errc::out_of_memory
    /// @complexity O(heads)
    [[nodiscard]] result<std::span<unsigned char const>> operator()(score::repetition_scores s,
                                                                    arena& memory) const noexcept {
        if (!(induction >= 0 && induction <= 1 && echo >= 0 && echo <= 1)) return errc::bad_setting;
        if (s.echo.size() != s.induction.size() || std::ssize(s.echo) > max_tokens) return errc::bad_shape;
        index const heads = std::ssize(s.echo);
        rollback undo{memory};
        auto const local = memory.take<unsigned char>(heads);
        auto const top = memory.here();
        auto const best = memory.take<token>(heads);
        auto const scratch = memory.take<std::int32_t>(simd::top_k_scratch(heads));
        if (!taken(local, best, scratch)) return errc::out_of_memory;
        std::fill(local.begin(), local.end(), static_cast<unsigned char>(1));
        auto const retrieve = [&](std::span<float const> values, double share) {
            if (share <= 0 || heads == 0) return;
            auto const count = budget::ratio{share, budget::rounding::nearest}.count(heads);
            auto const chosen = best.first(static_cast<std::size_t>(*count));
            simd::top_k(values, chosen, 0, scratch);
            for (token const h : chosen) local[static_cast<std::size_t>(h)] = 0;
        };
        retrieve(s.induction, induction);
        retrieve(s.echo, echo);
        memory.rewind(top);
        undo.keep();
        return std::span<unsigned char const>{local};
    }
};

/// The log of how many tokens each row of a plan stands for: what engines add to the logits of its keys, so that a mean
/// key draws the attention of all that it replaces.
///
/// @param sizes  [tokens]: what the rows stood for before, or empty: one token each
/// @param out    [kept]
/// @return       errc::bad_shape, errc::aliased
/// @complexity   O(entries)
[[nodiscard]] inline errc log_bias(plan const& p, std::span<float const> sizes, std::span<float> out) noexcept {
    if (errc const error = terse::sizes(p, sizes, out); error != errc::ok) return error;
    for (float& x : out) x = std::log(x);
    return errc::ok;
}

/// Keeps the whole cache of retrieval heads; local heads keep the attention sinks and a window of recent slots, and one
/// compensation row in the place of all others: the mean of their keys and of their values.
///
/// Source: Tang et al., "RazorAttention: Efficient KV Cache Compression Through Retrieval Heads", arXiv:2407.15891;
/// reconstructed from the paper, which has no code. Positions stay. The compensation row counts as often as the rows it
/// replaces: add `log_bias` to the logits. It stands at the last slot it replaces, for masks; the mean of keys at many
/// positions belongs to none, so leave it out of any rotation. A prompt's heads with linear biases (ALiBi) take
/// `alibi_window`.
struct razor_attention {
    index sinks = 4;                         ///< first slots, always kept
    index recent = 4000;                     ///< the least window of last slots, always kept
    index compression = 5;                   ///< the window is at least the slots divided by this
    bool compensate = true;                  ///< replace what goes by its mean, instead of dropping it
    std::span<unsigned char const> local{};  ///< [kv_heads] of the layer: 0 keeps all; empty: all heads are local

    [[nodiscard]] constexpr index window(index tokens) const noexcept {
        return std::max(recent, tokens / std::max<index>(compression, 1));
    }
    /// Rows of a local head.
    [[nodiscard]] constexpr index count(index tokens) const noexcept {
        index const kept = select::quota{max_tokens, sinks, window(tokens)}.fixed(tokens);
        return kept < tokens && compensate ? kept + 1 : kept;
    }

    /// @param l      its shape is read, how many slots each head holds, and what it guards, which stays by itself
    /// @param sizes  [kv_heads, tokens]: tokens that each slot stands for, where one is a compensation row already, so
    ///               that means are of tokens; no data: one each
    /// @return       a plan for each kv head, of differing counts: selections, or sums with weights, by `apply`.
    ///               errc::bad_budget for a negative count or sinks + recent = 0; errc::bad_setting for a compression
    ///               below one or sizes that do not add up to a positive number; errc::bad_shape when `local` or
    ///               `sizes` does not fit; errc::out_of_memory
    /// @complexity   O(kv_heads * tokens); without sizes O(tokens) where heads hold the same count
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, tokens_view<float> sizes, arena& memory,
                                           Run const& = {}) const noexcept {
        if (compression < 1) return errc::bad_setting;
        if (errc const error = select::check_ends(sinks, recent); error != errc::ok) return error;
        if (l.tokens() < 0 || l.tokens() > max_tokens || l.kv_heads() < 1) return errc::bad_shape;
        if (!local.empty() && std::ssize(local) != l.kv_heads()) return errc::bad_shape;
        bool const sized = sizes.data != nullptr;
        if (sized && (sizes.tokens != l.kv_heads() || sizes.dim != l.tokens())) return errc::bad_shape;
        rollback undo{memory};
        auto const items = memory.take<plan>(l.kv_heads());
        auto const all = memory.take<token>(l.tokens());  // what every whole head begins with
        auto const rows = select::rows_of(l, l.kv_heads(), l.tokens(), {max_tokens, sinks}, memory);
        if (!rows) return rows.error();
        if (!taken(items, all)) return errc::out_of_memory;
        std::iota(all.begin(), all.end(), token{0});
        bool const same_guards = l.guarded.empty() || l.positions.tokens <= 1;
        index like = -1;  // the local head before
        for (index h = 0; h < l.kv_heads(); ++h) {
            auto const at = static_cast<std::size_t>(h);
            auto [held, q] = (*rows)[at];
            if (!local.empty() && local[at] == 0) {
                std::construct_at(&items[at], select_rows(all.first(static_cast<std::size_t>(held)), held));
                continue;
            }
            if (like >= 0 && !sized && same_guards && l.length(like) == held) {
                std::construct_at(&items[at], items[static_cast<std::size_t>(like)]);
                continue;
            }
            auto const own = sized ? std::span{sizes.row(h), static_cast<std::size_t>(held)} : std::span<float const>{};
            q.trailing = window(held);
            auto const made = of_head(held, q, all, own, memory);
            if (!made) return made.error();
            std::construct_at(&items[at], *made);
            like = h;
        }
        undo.keep();
        return plans{items};
    }
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory,
                                           Run const& run = {}) const noexcept {
        return (*this)(l, tokens_view<float>{}, memory, run);
    }

  private:
    /// @param all  0, 1, ...
    [[nodiscard]] result<plan> of_head(index held, select::quota const& q, std::span<token const> all,
                                       std::span<float const> sizes, arena& memory) const noexcept {
        index const kept = q.fixed(held), gone = held - kept;
        if (gone == 0) return select_rows(all.first(static_cast<std::size_t>(held)), held);
        auto const anchor = memory.take<token>(kept + (compensate ? 1 : 0));
        if (!taken(anchor)) return errc::out_of_memory;
        auto const own = anchor.first(static_cast<std::size_t>(kept));
        select::choose_fixed(q, held, own);
        if (!compensate) return select_rows(anchor, held);

        auto const sources = memory.take<token>(held);
        auto const weights = memory.take<float>(held);
        auto const offsets = memory.take<token>(kept + 2);
        if (!taken(sources, weights, offsets)) return errc::out_of_memory;
        auto const at = [](index i) noexcept { return static_cast<std::size_t>(i); };
        index last_gone = -1;
        double total = sizes.empty() ? static_cast<double>(gone) : 0.0;
        q.for_each_free(held, [&](index begin, index end) {
            last_gone = end - 1;
            if (sizes.empty()) return;
            for (index t = begin; t < end; ++t) total += static_cast<double>(sizes[at(t)]);
        });
        if (!(total > 0 && total <= std::numeric_limits<float>::max())) return errc::bad_setting;

        // Rows stand in the order of their last slots. A row's sources stand together, so the mean's are gathered
        // behind the rows before it.
        index const before = std::lower_bound(own.begin(), own.end(), static_cast<token>(last_gone)) - own.begin();
        std::fill(weights.begin(), weights.end(), 1.0F);
        std::fill_n(weights.begin() + before, gone, static_cast<float>(1 / total));
        auto source = std::copy_n(own.begin(), before, sources.begin());
        auto weight = weights.begin() + before;
        q.for_each_free(held, [&](index begin, index end) {
            std::iota(source, source + (end - begin), static_cast<token>(begin));
            source += end - begin;
            if (sizes.empty()) return;
            for (index t = begin; t < end; ++t)
                *weight++ = static_cast<float>(static_cast<double>(sizes[at(t)]) / total);
        });
        std::copy(own.begin() + before, own.end(), source);
        std::iota(offsets.begin(), offsets.begin() + before + 1, token{0});
        std::iota(offsets.begin() + before + 1, offsets.end(), static_cast<token>(before + gone));
        std::copy_backward(own.begin() + before, own.end(), anchor.end());
        anchor[at(before)] = static_cast<token>(last_gone);
        return plan{.tokens = held, .sources = sources, .offsets = offsets, .weights = weights, .anchor = anchor};
    }
};

/// The window of a head with linear biases (ALiBi) beyond which no attention weight exceeds `epsilon`.
/// Reconstructed from the paper of `razor_attention`.
///
/// @param product_norm  spectral norm of Wq Wk^T, in the scale of the logits
/// @param input_norm    the squared norms of the gain and of the bias of the normalisation before, added up
/// @param slope         of the head's bias, above zero
[[nodiscard]] inline double alibi_window(double product_norm, double input_norm, double slope,
                                         double epsilon = 1e-3) noexcept {
    return (2 * product_norm * input_norm - std::log(epsilon)) / slope;
}

/// The means of what local heads dropped, in float, over the engine's memory: the compensation rows of a cache whose
/// local heads slide. Before a slot is overwritten, `add` it; then `write` the means to their row, and add `log_bias`
/// to its logits. To fork or save it, copy what it points to.
struct compensation {
    tokens_span<float> keys{};    ///< [kv_heads, dim]
    tokens_span<float> values{};  ///< [kv_heads, dim of the values]
    std::span<float>
        sizes{};  ///< [kv_heads]: tokens that each mean stands for; zeros at first, whatever the means hold

    /// Adds slots `dropped` of every local head to its means: of a whole prompt, or of a step the one that goes.
    ///
    /// @param l      reads those slots' keys and values
    /// @param local  [kv_heads]: 0 for heads that drop nothing; empty: all heads are local
    /// @return       errc::bad_shape when heads, dims or `local` do not fit or the slots are not all held
    /// @complexity   O(kv_heads * dropped * dim); no scratch
    template <class T, class Cache, executor Run = serial>
    errc add(layer<T, Cache> const& l, std::span<unsigned char const> local, range dropped,
             Run const& run = {}) noexcept {
        index const heads = l.kv_heads();
        if (errc const error = check(l.keys, l.values, local); error != errc::ok) return error;
        if (dropped.begin < 0 || dropped.begin > dropped.end) return errc::bad_shape;
        for (index h = 0; h < heads; ++h)
            if (is_local(local, h) && dropped.end > l.length(h)) return errc::bad_shape;
        index const bytes = dropped.size() * (keys.dim + values.dim) * size_of<float>;
        share_out(run, heads, bytes, [&](index begin, index end, index) noexcept {
            for (index h = begin; h < end; ++h) {
                if (!is_local(local, h)) continue;
                float& size = sizes[static_cast<std::size_t>(h)];
                fold(l.keys, h, dropped, keys.row(h), keys.dim, size);
                fold(l.values, h, dropped, values.row(h), values.dim, size);
                size += static_cast<float>(dropped.size());
            }
        });
        return errc::ok;
    }

    /// Writes the means of the local heads that have dropped something to row `slot` of the cache.
    /// @return      errc::bad_shape when heads, dims or `local` do not fit or `slot` is not in the cache
    /// @complexity  O(kv_heads * dim)
    template <class Cache>
    errc write(Cache const& to_keys, Cache const& to_values, std::span<unsigned char const> local,
               index slot) const noexcept {
        if (errc const error = check(to_keys, to_values, local); error != errc::ok) return error;
        if (slot < 0 || slot >= to_keys.tokens) return errc::bad_shape;
        for (index h = 0; h < to_keys.heads; ++h) {
            if (!is_local(local, h) || !(sizes[static_cast<std::size_t>(h)] > 0)) continue;
            using T = std::remove_reference_t<decltype(*to_keys.row(h, slot))>;
            auto const rounded = [](float x) { return static_cast<T>(x); };
            std::transform(keys.row(h), keys.row(h) + keys.dim, to_keys.row(h, slot), rounded);
            std::transform(values.row(h), values.row(h) + values.dim, to_values.row(h, slot), rounded);
        }
        return errc::ok;
    }

    /// What the engine adds to the logits of head h's mean; -infinity while it stands for nothing.
    [[nodiscard]] float log_bias(index h) const noexcept { return std::log(sizes[static_cast<std::size_t>(h)]); }

  private:
    [[nodiscard]] static bool is_local(std::span<unsigned char const> local, index h) noexcept {
        return local.empty() || local[static_cast<std::size_t>(h)] != 0;
    }

    template <class Cache>
    [[nodiscard]] errc check(Cache const& of_keys, Cache const& of_values,
                             std::span<unsigned char const> local) const noexcept {
        bool const fits = of_keys.heads == keys.tokens && of_values.heads == values.tokens &&
                          of_values.tokens == of_keys.tokens && of_keys.dim == keys.dim &&
                          of_values.dim == values.dim && keys.tokens == values.tokens &&
                          std::ssize(sizes) == keys.tokens && (local.empty() || std::ssize(local) == keys.tokens);
        return fits ? errc::ok : errc::bad_shape;
    }

    /// mean = (size * mean + sum of the rows) / (size + count), a block of rows at a time: what is small against the
    /// mean is added up before it meets it.
    template <class Cache>
    static void fold(Cache const& cache, index h, range rows, float* mean, index dim, float size) noexcept {
        constexpr index most_channels = 256, most_rows = 256;
        std::array<float, most_channels> sum;
        for (index first = rows.begin; first < rows.end; first += most_rows) {
            index const last = std::min(first + most_rows, rows.end);
            float const total = size + static_cast<float>(last - first);
            float const share = 1 / total;
            if (size == 0) std::fill_n(mean, dim, 0.0F);
            if (last - first == 1) {  // a step of decoding: one pass
                auto const row = cache.row(h, first);
                for (index i = 0; i < dim; ++i) mean[i] += share * (static_cast<float>(row[i]) - mean[i]);
                size = total;
                continue;
            }
            for (index c = 0; c < dim; c += most_channels) {
                index const width = std::min(most_channels, dim - c);
                std::fill_n(sum.begin(), width, 0.0F);
                for (index t = first; t < last; ++t) simd::add_scaled(cache.row(h, t) + c, 1.0F, sum.data(), width);
                for (index i = c; i < c + width; ++i) mean[i] *= size * share;
                simd::add_scaled(sum.data(), share, mean + c, width);
            }
            size = total;
        }
    }
};

}  // namespace terse::kv

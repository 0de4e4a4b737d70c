// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <span>
#include <type_traits>

#include <terse/core/parallel.hpp>
#include <terse/core/plan.hpp>
#include <terse/core/result.hpp>
#include <terse/core/view.hpp>
#include <terse/simd/rows.hpp>

namespace terse {

// What a plan does to tensors. Plans are taken to be valid (`is_valid`); rows that no input feeds are zero. Every call
// checks first and writes nothing unless it returns errc::ok: errc::bad_shape when a shape differs from the plan's or
// the other tensor's, errc::bad_plan when the operation is not defined for the plan, errc::aliased when output and
// input overlap. Rows are cut over `run`'s workers; the result does not depend on the cut. No call allocates.

/// The order of the channels that `gather_concat` writes.
enum class channel_order : unsigned char {
    source_major,   ///< out[i * dim + c]: source after source, as patch mergers concatenate
    channel_major,  ///< out[c * k + i]: channel after channel, as pixel_unshuffle does
};

/// What `unmerge` does with inputs that went to no row.
enum class dropped : unsigned char {
    zero,  ///< their rows become zero
    keep,  ///< their rows stay as the output held them
};

/// Whether `in` [tokens, dim] and `out` [kept, dim * factor] fit the plan and share no memory.
template <class T>
[[nodiscard]] errc check_move(plan const& p, tokens_view<T> in, tokens_span<T> out, index factor = 1) noexcept {
    if (in.tokens != p.tokens || out.tokens != p.kept() || out.dim != in.dim * factor) return errc::bad_shape;
    return overlap(extent(in), extent(out)) ? errc::aliased : errc::ok;
}

/// Bytes that a row of `out` takes, about: its sources and itself.
template <class T>
[[nodiscard]] index bytes_of_row(plan const& p, tokens_span<T> const& out) noexcept {
    return (std::ssize(p.sources) / std::max<index>(p.kept(), 1) + 1) * out.dim * static_cast<index>(sizeof(T));
}

/// Rows [begin, end) of out = R in, without checks: what `apply` does on one worker.
template <class Arch = xsimd::default_arch, class T>
void apply_rows(plan const& p, tokens_view<T> in, tokens_span<T> out, index begin, index end) noexcept {
    if (p.is_selection()) {
        auto const sources = p.sources.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
        simd::gather_rows<Arch>(in.data, in.stride, sources, out.row(begin), out.stride, in.dim);
        return;
    }
    if constexpr (real<T>) {
        for (index i = begin; i < end; ++i) {
            // Scattered rows are asked for ahead; a window's are many, and the processor sees where they go.
            if (i + 1 < end && p.row(i + 1).sources.size() < 4)
                for (token const source : p.row(i + 1).sources) simd::prefetch_row(in.row(source), in.dim);
            auto const [sources, weights] = p.row(i);
            simd::sum_rows<Arch>(in.data, in.stride, sources, weights, 1.0F, out.row(i), in.dim);
        }
    }
}

/// out = R in: each row is the weighted sum of its sources, taken in float and rounded once.
///
/// @param in   [tokens, dim]; float, half or bfloat16, or with a selection any trivially copyable type
/// @param out  [kept, dim]
/// @return     errc::bad_plan when T is not a real type and the plan is not a selection
/// @complexity O(entries * dim)
template <class T, executor Run = serial>
[[nodiscard]] errc apply(plan const& p, std::type_identity_t<tokens_view<T>> in, tokens_span<T> out,
                         Run const& run = {}) noexcept {
    static_assert(std::is_trivially_copyable_v<T>);
    if (!real<T> && !p.is_selection()) return errc::bad_plan;
    if (errc const error = check_move(p, in, out); error != errc::ok) return error;
    share_out(run, p.kept(), bytes_of_row(p, out),
              [&](index begin, index end, index) noexcept { apply_rows(p, in, out, begin, end); });
    return errc::ok;
}

/// The same for each head with its own plan, or with one that all heads share. Rows of a head that are past its plan's
/// count stay as they are.
///
/// @param in   [heads, tokens, dim]
/// @param out  [heads, kept, dim], kept at least the largest count of a head
template <class T, executor Run = serial>
[[nodiscard]] errc apply(plans p, std::type_identity_t<heads_view<T>> in, heads_span<T> out,
                         Run const& run = {}) noexcept {
    static_assert(std::is_trivially_copyable_v<T>);
    if (in.heads != out.heads || in.dim != out.dim) return errc::bad_shape;
    if (!p.shared() && std::ssize(p.items) != in.heads) return errc::bad_shape;
    for (plan const& item : p.items) {
        if (item.tokens != in.tokens || item.kept() > out.tokens) return errc::bad_shape;
        if (!real<T> && !item.is_selection()) return errc::bad_plan;
    }
    if (overlap(extent(in), extent(out))) return errc::aliased;
    share_out(run, out.heads * out.tokens, 2 * out.dim * static_cast<index>(sizeof(T)),
              [&](index begin, index end, index) noexcept {
                  while (begin < end) {
                      index const head = begin / out.tokens, first = head * out.tokens;
                      index const next = std::min(end, first + out.tokens);
                      index const last = std::min(next - first, p[head].kept());
                      if (begin - first < last) apply_rows(p[head], in.head(head), out.head(head), begin - first, last);
                      begin = next;
                  }
              });
    return errc::ok;
}

/// Each row is the mean of its sources: their weighted sum divided by the sum of the weights. A row whose weights sum
/// to zero is zero.
///
/// @param in   [tokens, dim]
/// @param out  [kept, dim]
/// @complexity O(entries * dim)
template <real T, executor Run = serial>
[[nodiscard]] errc apply_mean(plan const& p, std::type_identity_t<tokens_view<T>> in, tokens_span<T> out,
                              Run const& run = {}) noexcept {
    if (errc const error = check_move(p, in, out); error != errc::ok) return error;
    share_out(run, p.kept(), bytes_of_row(p, out), [&](index begin, index end, index) noexcept {
        for (index i = begin; i < end; ++i) {
            auto const row = p.row(i);
            float total = 0;
            for (std::size_t k = 0; k < row.sources.size(); ++k) total += row.weight(k);
            auto const sources = total == 0 ? std::span<token const>{} : row.sources;
            simd::sum_rows(in.data, in.stride, sources, row.weights, total == 0 ? 1.0F : total, out.row(i), in.dim);
        }
    });
    return errc::ok;
}

/// Each channel of a row is the largest over the row's sources; weights do not matter, NaN in a source gives NaN.
///
/// @param in   [tokens, dim]
/// @param out  [kept, dim]
/// @complexity O(entries * dim)
template <real T, executor Run = serial>
[[nodiscard]] errc apply_max(plan const& p, std::type_identity_t<tokens_view<T>> in, tokens_span<T> out,
                             Run const& run = {}) noexcept {
    if (errc const error = check_move(p, in, out); error != errc::ok) return error;
    share_out(run, p.kept(), bytes_of_row(p, out), [&](index begin, index end, index) noexcept {
        for (index i = begin; i < end; ++i) simd::max_rows(in.data, in.stride, p.row(i).sources, out.row(i), in.dim);
    });
    return errc::ok;
}

/// out[i] = in[anchor[i]], or `missing` where a row has no anchor: positions, ids, slots.
///
/// @param in   [tokens]
/// @param out  [kept]
/// @return     errc::bad_plan when the plan has no anchors
/// @complexity O(kept)
template <class T>
[[nodiscard]] errc pick(plan const& p, std::type_identity_t<std::span<T const>> in, std::span<T> out,
                        std::type_identity_t<T> missing) noexcept {
    if (std::ssize(p.anchor) != p.kept()) return errc::bad_plan;
    if (std::ssize(in) != p.tokens || std::ssize(out) != p.kept()) return errc::bad_shape;
    if (overlap(in, out)) return errc::aliased;
    for (std::size_t i = 0; i < out.size(); ++i)
        out[i] = p.anchor[i] < 0 ? missing : in[static_cast<std::size_t>(p.anchor[i])];
    return errc::ok;
}

/// Row i of `out` is row anchor[i] of `in`, or zero where there is no anchor.
///
/// @param in   [tokens, dim]
/// @param out  [kept, dim]
/// @return     errc::bad_plan when the plan has no anchors
/// @complexity O(kept * dim)
template <class T, executor Run = serial>
[[nodiscard]] errc pick(plan const& p, std::type_identity_t<tokens_view<T>> in, tokens_span<T> out,
                        Run const& run = {}) noexcept {
    if (std::ssize(p.anchor) != p.kept()) return errc::bad_plan;
    if (errc const error = check_move(p, in, out); error != errc::ok) return error;
    share_out(run, p.kept(), bytes_of_row(p, out), [&](index begin, index end, index) noexcept {
        for (index i = begin; i < end; ++i) {
            token const from = p.anchor[static_cast<std::size_t>(i)];
            if (from < 0)
                std::fill_n(out.row(i), in.dim, T{});
            else
                simd::copy_row(in.row(from), out.row(i), in.dim);
        }
    });
    return errc::ok;
}

/// Each row is its k sources side by side: space to depth, frame stacking, patch merging. Weights do not matter.
///
/// @param in   [tokens, dim]
/// @param out  [kept, k * dim]
/// @return     errc::bad_plan when a row does not have k sources
/// @complexity O(entries * dim)
template <class T, executor Run = serial>
[[nodiscard]] errc gather_concat(plan const& p, std::type_identity_t<tokens_view<T>> in, tokens_span<T> out,
                                 channel_order order, Run const& run = {}) noexcept {
    if (in.dim == 0 || out.dim % in.dim != 0) return errc::bad_shape;
    index const k = out.dim / in.dim;
    for (index i = 0; i < p.kept(); ++i)
        if (std::ssize(p.row(i).sources) != k) return errc::bad_plan;
    if (errc const error = check_move(p, in, out, k); error != errc::ok) return error;
    share_out(run, p.kept(), bytes_of_row(p, out), [&](index begin, index end, index) noexcept {
        for (index i = begin; i < end; ++i) {
            auto const sources = p.row(i).sources;
            if (order == channel_order::source_major) {
                simd::gather_rows(in.data, in.stride, sources, out.row(i), in.dim, in.dim);
            } else {
                T* to = out.row(i);
                for (index c = 0; c < in.dim; ++c)
                    for (token const source : sources) *to++ = in.row(source)[c];
            }
        }
    });
    return errc::ok;
}

/// Rows back to inputs: row j of `out` is row owner[j] of `rows`.
///
/// @param rows  [kept, dim]
/// @param out   [tokens, dim]
/// @return      errc::bad_plan when the plan has no owners
/// @complexity  O(tokens * dim)
template <class T, executor Run = serial>
[[nodiscard]] errc unmerge(plan const& p, std::type_identity_t<tokens_view<T>> rows, tokens_span<T> out,
                           dropped without_row = dropped::zero, Run const& run = {}) noexcept {
    if (std::ssize(p.owner) != p.tokens) return errc::bad_plan;
    if (rows.tokens != p.kept() || out.tokens != p.tokens || rows.dim != out.dim) return errc::bad_shape;
    if (overlap(extent(rows), extent(out))) return errc::aliased;
    share_out(run, p.tokens, 2 * out.dim * static_cast<index>(sizeof(T)), [&](index begin, index end, index) noexcept {
        for (index j = begin; j < end; ++j) {
            token const row = p.owner[static_cast<std::size_t>(j)];
            if (row >= 0)
                simd::copy_row(rows.row(row), out.row(j), rows.dim);
            else if (without_row == dropped::zero)
                std::fill_n(out.row(j), rows.dim, T{});
        }
    });
    return errc::ok;
}

/// How many inputs each row stands for: the sum of its sources' sizes, whatever their weights.
///
/// @param in   [tokens]: the sizes before, or empty: all ones
/// @param out  [kept]
/// @complexity O(entries)
[[nodiscard]] inline errc sizes(plan const& p, std::span<float const> in, std::span<float> out) noexcept {
    if (std::ssize(out) != p.kept() || (!in.empty() && std::ssize(in) != p.tokens)) return errc::bad_shape;
    if (overlap(in, out)) return errc::aliased;
    for (index i = 0; i < p.kept(); ++i) {
        auto const sources = p.row(i).sources;
        float total = in.empty() ? static_cast<float>(sources.size()) : 0.0F;
        if (!in.empty())
            for (token const j : sources) total += in[static_cast<std::size_t>(j)];
        out[static_cast<std::size_t>(i)] = total;
    }
    return errc::ok;
}

}  // namespace terse

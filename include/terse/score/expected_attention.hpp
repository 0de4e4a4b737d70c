// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <span>
#include <utility>

#include <terse/core/layer.hpp>
#include <terse/core/rope.hpp>
#include <terse/score/scores.hpp>
#include <terse/score/shape.hpp>
#include <terse/simd/dot.hpp>
#include <terse/simd/quadratic.hpp>
#include <terse/simd/rotate.hpp>
#include <terse/simd/softmax.hpp>
#include <terse/simd/softmax_columns.hpp>

namespace terse::score {

/// The attention that slots can expect from the next `future` queries, modelled as normally distributed: mean m and
/// covariance C of a query head's queries before position encoding, turned to the positions to come.
///
/// With R the mean rotation over positions next .. next + future - 1, m' = R m and C' = R C R^T, a key's logit is
/// scale <m', k> + scale^2 / 2 <k, C' k>; softmax over the slots, mean over the query heads of a kv head, and times
/// |v|. Neither queries nor attention are read, and a soft cap has no place in it.
struct expected_attention {
    tokens_view<float> mean{};       ///< [heads, dim]
    heads_view<float> covariance{};  ///< [heads, dim, dim], symmetric; none: only the mean counts
    rope encoding{};                 ///< the engine's; no frequencies: positions are not encoded
    index next = 0;                  ///< position of the next token; 0: the one after the last slot
    index future = 512;              ///< positions from there on that count
    index sinks = 0;                 ///< first slots, which take no part: infinity
    bool value_norm = true;          ///< (probability + epsilon) * |v| instead of the probability
    float epsilon = 0;

    /// @param l     keys, position-encoded, and with `value_norm` values; positions, where slots were evicted before
    /// @return      [kv_heads, tokens]. errc::bad_setting for counts, an epsilon or a scale out of range;
    ///              errc::bad_shape when mean, covariance or values do not fit the keys, or heads do not divide;
    ///              `rope::check`'s errors; errc::out_of_memory
    /// @complexity  O(heads * tokens * dim^2 / 2), or O(heads * tokens * dim) without covariance; scratch: heads *
    ///              tokens floats, and the forms of the covariances
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<scores> operator()(layer<T, Cache> const& l, arena& memory,
                                            Run const& run = {}) const noexcept {
        if (errc const error = check(l); error != errc::ok) return error;
        index const n = l.tokens(), kv_heads = l.kv_heads(), dim = l.keys.dim, heads = mean.tokens;
        index const group = heads / kv_heads, pairs = std::ssize(encoding.inverse_frequency);
        bool const quadratic = covariance.data != nullptr;
        index const form = quadratic ? simd::form_size(dim) : 0, square = quadratic ? dim * dim : 0;
        index const each = quadratic
                               ? std::max(square, simd::quadratic_scratch(dim))
                               : simd::softmax_columns_scratch({std::min(group, simd::softmax_heads(1)), 1, n, dim});

        rollback undo{memory};
        auto const values = memory.take<float>(kv_heads * n);
        auto const top = memory.here();
        auto const turns = memory.take<float>(2 * pairs);
        auto const means = memory.take<float>(heads * dim);
        auto const forms = memory.take<float>(heads * form);
        auto const expected = memory.take<float>(heads * n);
        auto const scratch = memory.take<float>(run.workers() * each);
        if (!taken(values, turns, means, forms, expected, scratch)) return errc::out_of_memory;

        float const scale = l.logit_scale(), log2e = std::numbers::log2e_v<float>;
        mean_rotation(next > 0 ? next : after_last(l), turns);
        share_out(run, heads, (2 * square + dim) * size_of<float>, [&](index begin, index end, index worker) noexcept {
            for (index h = begin; h < end; ++h) {
                float* const own = means.data() + h * dim;
                std::copy_n(mean.row(h), dim, own);
                turn(own, turns);
                if (!quadratic) continue;
                for (index c = 0; c < dim; ++c) own[c] *= scale * log2e;
                float* const matrix = part(scratch, worker, each).data();
                turned_covariance(h, scale * scale / 2 * log2e, turns, matrix);
                simd::make_form(matrix, own, dim, forms.data() + h * form);
            }
        });

        std::fill(expected.begin(), expected.end(), 0.0F);
        index const at_once = quadratic ? 512 : std::max<index>(n, 1), blocks = (n + at_once - 1) / at_once;
        share_out(run, kv_heads * blocks, product_cost(at_once, group * (quadratic ? dim / 2 : 1), dim),
                  [&](index begin, index end, index worker) noexcept {
                      for (index unit = begin; unit < end; ++unit) {
                          index const h = unit / blocks;
                          index const first = std::max(unit % blocks * at_once, sinks);
                          index const last = std::min((unit % blocks + 1) * at_once, l.length(h));
                          if (first >= last) continue;
                          auto const key = rows_of_head(l.keys, h);
                          auto const out = part(expected, h, group * n).subspan(size(first));
                          auto const mine = part(scratch, worker, each);
                          if (quadratic) {
                              simd::quadratic_forms(first, last, key, dim, group, forms.data() + h * group * form,
                                                    out.data(), n, mine);
                          } else {
                              simd::softmax_columns(
                                  {group, 1, last - first, dim, scale},
                                  [&](index g, index) noexcept { return means.data() + (h * group + g) * dim; },
                                  [&](index t) noexcept { return key(first + t); }, last - first,
                                  {out, n, last - first}, mine);
                          }
                      }
                  });
        share_out(run, kv_heads, n * (4 * group + dim) * size_of<float>, [&](index begin, index end, index) noexcept {
            for (index h = begin; h < end; ++h) {
                index const length = l.length(h), first = std::min(sinks, length);
                for (index g = h * group; quadratic && g < (h + 1) * group; ++g)
                    simd::softmax(part(expected, g, n).subspan(size(first), size(length - first)), 1.0F);
                auto const row = part(values, h, n);
                reduce_rows(part(expected, h, group * n), row, reduction::mean);
                for (index t = first; value_norm && t < length; ++t) {
                    float const norm = std::sqrt(simd::squared_norm(l.values.row(h, t), l.values.dim));
                    row[size(t)] = (row[size(t)] + epsilon) * norm;
                }
                frame_row(row, first, length, length);
            }
        });
        memory.rewind(top);
        undo.keep();
        return scores{values, kv_heads, n, n};
    }

  private:
    [[nodiscard]] static constexpr std::size_t size(index n) noexcept { return static_cast<std::size_t>(n); }
    [[nodiscard]] static std::span<float> part(std::span<float> all, index i, index count) noexcept {
        return all.subspan(size(i * count), size(count));
    }

    template <class T, class Cache>
    [[nodiscard]] errc check(layer<T, Cache> const& l) const noexcept {
        index const dim = l.keys.dim, heads = mean.tokens;
        if (next < 0 || future < 1 || sinks < 0) return errc::bad_setting;
        if (!simd::is_finite(epsilon) || epsilon < 0 || !simd::is_finite(l.scale)) return errc::bad_setting;
        if (l.kv_heads() < 1 || dim < 1 || heads < 1 || heads % l.kv_heads() != 0) return errc::bad_shape;
        if (mean.data == nullptr || mean.dim != dim) return errc::bad_shape;
        if (covariance.data != nullptr &&
            (covariance.heads != heads || covariance.tokens != dim || covariance.dim != dim))
            return errc::bad_shape;
        if (value_norm && (l.values.heads != l.kv_heads() || l.values.tokens != l.tokens())) return errc::bad_shape;
        if (!has_positions_of_all(l)) return errc::bad_shape;
        if (encoding.axis.size() != 0) return errc::bad_setting;
        return encoding.check(dim);
    }

    /// The position that follows the last slot's.
    template <class T, class Cache>
    [[nodiscard]] static index after_last(layer<T, Cache> const& l) noexcept {
        index after = 0;
        for (index h = 0; h < l.kv_heads(); ++h) {
            auto const own = l.positions_of(h);
            after = std::max(after, own.empty() ? l.length(h) : index{own.back()} + 1);
        }
        return after;
    }

    /// Mean cosine and sine of each pair's angles at the positions to come, the cosines first. A geometric sum: the
    /// middle position's angle, shortened by sin(future x) / (future sin x) for half the frequency x.
    void mean_rotation(index first, std::span<float> turns) const noexcept {
        constexpr double turn = 2 * std::numbers::pi;
        double const count = static_cast<double>(future), middle = static_cast<double>(first) + (count - 1) / 2;
        std::size_t const pairs = encoding.inverse_frequency.size();
        for (std::size_t i = 0; i < pairs; ++i) {
            double const frequency = std::remainder(static_cast<double>(encoding.inverse_frequency[i]), turn);
            double const half = std::sin(frequency / 2), angle = std::remainder(frequency * middle, turn);
            double const length = std::abs(half) < 1e-15 ? 1 : std::sin(count * frequency / 2) / (count * half);
            turns[i] = static_cast<float>(length * std::cos(angle));
            turns[pairs + i] = static_cast<float>(length * std::sin(angle));
        }
    }

    /// row = R row.
    void turn(float* row, std::span<float const> turns) const noexcept {
        std::size_t const pairs = encoding.inverse_frequency.size();
        bool const split = encoding.layout == rope_layout::half_split;
        simd::rotate_pairs(row, split ? row + pairs : row + 1, split ? 1 : 2, turns.first(pairs), turns.subspan(pairs));
    }

    /// matrix = factor R C R^T of query head h. C is symmetric, so turned rows are transposed and turned again.
    void turned_covariance(index h, float factor, std::span<float const> turns, float* matrix) const noexcept {
        index const dim = covariance.dim;
        for (index i = 0; i < dim; ++i) {
            float* const row = matrix + i * dim;
            std::copy_n(covariance.row(h, i), dim, row);
            for (index c = 0; c < dim; ++c) row[c] *= factor;
            turn(row, turns);
        }
        for (index i = 0; i < dim; ++i)
            for (index j = 0; j < i; ++j) std::swap(matrix[i * dim + j], matrix[j * dim + i]);
        for (index i = 0; i < dim; ++i) turn(matrix + i * dim, turns);
    }
};

}  // namespace terse::score

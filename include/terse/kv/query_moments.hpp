// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <iterator>
#include <span>

#include <terse/core/arena.hpp>
#include <terse/core/parallel.hpp>
#include <terse/core/result.hpp>
#include <terse/core/view.hpp>
#include <terse/simd/dot.hpp>
#include <terse/simd/gram.hpp>
#include <terse/simd/leverage.hpp>

namespace terse::kv {

/// Mean and covariance of all queries of a layer so far, before position encoding, for each query head: the state of
/// ExpectedAttention, or statistics of a model that were gathered once.
///
/// A value over the engine's memory: to fork or save it, copy `mean` and `covariance` along with it, or merge it into
/// one that is empty. Eviction does not touch it.
struct query_moments {
    std::span<float> mean{};        ///< [heads, dim], the engine's memory
    std::span<float> covariance{};  ///< [heads, dim, dim], divisor `count`; empty: only means are kept
    index heads = 0;                ///< query heads
    index dim = 0;
    index count = 0;  ///< queries seen by each head

    [[nodiscard]] tokens_view<float> means() const noexcept { return {mean.data(), heads, dim, dim}; }
    /// Without data where none are kept.
    [[nodiscard]] heads_view<float> covariances() const noexcept {
        if (covariance.empty()) return {};
        return {covariance.data(), heads, dim, dim, dim * dim, dim};
    }

    /// Adds queries, by blocks whose own mean and covariance join what is there: nothing cancels, however many come.
    /// The first tokens of a sequence are untypical: kvpress leaves out those at the sinks' positions.
    ///
    /// @param queries  [heads, tokens, dim], before position encoding
    /// @return         errc::bad_shape when heads or dim differ or the state's memory is too small; errc::out_of_memory
    /// @complexity     O(heads * tokens * dim^2 / 2), or O(heads * tokens * dim) without covariance; scratch for each
    ///                 worker: 2 blocks of 256 queries and what `simd::gram` wants
    template <class T, executor Run = serial>
    errc add(heads_view<T> queries, arena& memory, Run const& run = {}) noexcept {
        if (!holds() || queries.heads != heads || queries.dim != dim || queries.tokens < 0) return errc::bad_shape;
        index const block = queries.tokens < few ? 1 : 256;
        bool const squares = !covariance.empty() && block > 1;
        index const rows = squares ? block * dim : 0, gram = squares ? simd::gram_scratch(block) : 0;
        index const product = squares ? dim * dim : 0;
        rollback const scratch_only{memory};
        auto const centred = memory.take<float>(run.workers() * rows);
        auto const turned = memory.take<float>(run.workers() * rows);
        auto const products = memory.take<float>(run.workers() * product);
        auto const scratch = memory.take<float>(run.workers() * gram);
        auto const means_of_block = memory.take<float>(run.workers() * dim);
        if (!taken(centred, turned, products, scratch, means_of_block)) return errc::out_of_memory;

        index const joined = (queries.tokens + block - 1) / block * dim * (covariance.empty() ? 1 : 2 * dim);
        share_out(run, heads, product_cost(queries.tokens, squares ? dim / 2 : 0, dim) + joined * size_of<float>,
                  [&](index begin, index end, index worker) noexcept {
                      float* const x = centred.data() + worker * rows;
                      float* const by_channel = turned.data() + worker * rows;
                      float* const own_mean = means_of_block.data() + worker * dim;
                      float* const own = products.data() + worker * product;
                      auto const mine =
                          scratch.subspan(static_cast<std::size_t>(worker * gram), static_cast<std::size_t>(gram));
                      for (index h = begin; h < end; ++h) {
                          for (index first = 0; first < queries.tokens; first += block) {
                              index const here = std::min(block, queries.tokens - first);
                              std::fill_n(own_mean, dim, 0.0F);
                              for (index t = 0; t < here; ++t)
                                  simd::add_scaled(queries.row(h, first + t), 1.0F, own_mean, dim);
                              for (index c = 0; c < dim; ++c) own_mean[c] /= static_cast<float>(here);
                              if (squares) {
                                  for (index t = 0; t < here; ++t)
                                      simd::subtract(queries.row(h, first + t), own_mean, x + t * dim, dim);
                                  simd::transpose<simd::default_arch>(here, dim, x, dim, by_channel, block);
                                  simd::gram(
                                      0, simd::gram_blocks(dim), dim,
                                      [&](index c) noexcept -> float const* { return by_channel + c * block; }, here,
                                      {}, own, dim, {}, mine);
                                  for (index i = 0; i < product; ++i) own[i] /= static_cast<float>(here);
                              }
                              join(h, count + first, own_mean, squares ? own : nullptr, here);
                          }
                      }
                  });
        count += queries.tokens;
        return errc::ok;
    }

    /// Adds what another state has seen: of another sequence, of another rank, or of a copy.
    /// @return      errc::bad_shape when heads or dim differ, or one keeps covariances and the other none;
    ///              errc::aliased when they share memory
    /// @complexity  O(heads * dim^2)
    errc merge(query_moments const& other) noexcept {
        if (!holds() || !other.holds() || other.heads != heads || other.dim != dim ||
            other.covariance.empty() != covariance.empty())
            return errc::bad_shape;
        if (overlap(mean, other.mean) || overlap(covariance, other.covariance)) return errc::aliased;
        if (other.count == 0) return errc::ok;
        for (index h = 0; h < heads; ++h)
            join(h, count, other.means().row(h), covariance.empty() ? nullptr : other.covariances().row(h, 0),
                 other.count);
        count += other.count;
        return errc::ok;
    }

  private:
    static constexpr index few = 8;  ///< fewer queries are added one by one

    [[nodiscard]] bool holds() const noexcept {
        bool const squares = covariance.empty() || std::ssize(covariance) >= heads * dim * dim;
        return heads > 0 && dim > 0 && count >= 0 && std::ssize(mean) >= heads * dim && squares;
    }

    /// The moments of `before` queries and of `more` others as those of all. No covariance: the others are all alike.
    void join(index h, index before, float const* more_mean, float const* more_covariance, index more) const noexcept {
        float* const m = mean.data() + h * dim;
        if (before == 0) {
            std::copy_n(more_mean, dim, m);
            if (covariance.empty()) return;
            float* const own = covariance.data() + h * dim * dim;
            if (more_covariance == nullptr)
                std::fill_n(own, dim * dim, 0.0F);
            else
                std::copy_n(more_covariance, dim * dim, own);
            return;
        }
        double const all = static_cast<double>(before) + static_cast<double>(more);
        auto const weight = static_cast<float>(static_cast<double>(more) / all);
        auto const rest = static_cast<float>(static_cast<double>(before) / all);
        for (index c = 0; c < dim; ++c) m[c] = more_mean[c] - m[c];
        for (index i = 0; i < dim && !covariance.empty(); ++i) {
            float* const row = covariance.data() + (h * dim + i) * dim;
            float const apart = m[i] * weight * rest;
            if (more_covariance == nullptr) {
                simd::mix(m, apart, rest, row, dim);
            } else {
                simd::mix(more_covariance + i * dim, weight, rest, row, dim);
                simd::add_scaled(m, apart, row, dim);
            }
        }
        for (index c = 0; c < dim; ++c) m[c] = more_mean[c] - m[c] * rest;
    }
};

}  // namespace terse::kv

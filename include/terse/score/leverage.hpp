// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <span>
#include <variant>

#include <terse/core/layer.hpp>
#include <terse/score/scores.hpp>
#include <terse/score/shape.hpp>
#include <terse/simd/dot.hpp>
#include <terse/simd/leverage.hpp>

namespace terse::score {

/// Fills a sketch: independent numbers of mean 0 and variance 1 that follow the normal distribution closely (a binomial
/// one of 64 trials), the same on every machine.
/// @complexity O(n)
constexpr void fill_sketch(std::span<float> out, std::uint64_t seed = 0) noexcept {
    for (float& x : out) {  // splitmix64
        std::uint64_t bits = seed += 0x9E3779B97F4A7C15U;
        bits = (bits ^ (bits >> 30U)) * 0xBF58476D1CE4E5B9U;
        bits = (bits ^ (bits >> 27U)) * 0x94D049BB133111EBU;
        x = static_cast<float>(std::popcount(bits ^ (bits >> 31U)) - 32) / 4;
    }
}

/// Keys beside those that a layer holds, in any of the element types that a layer may have.
using other_keys = std::variant<heads_view<float>, heads_view<half>, heads_view<bfloat16>>;

/// How far a key stands out from what the others span: the statistical leverage of its row in a sketch of the centred
/// keys, as z-scores over all heads and slots. Looks at no query.
///
/// X = (K - mean) S / sqrt(columns) for a random sketch S, G = X^T X + ridge I, and a row's leverage is x^T G^-1 x.
/// Keys are meant to be free of their position's rotation. A key that is not finite takes no part and scores NaN.
struct leverage {
    /// [kv_heads, tokens, dim] in the layer's element type: keys before position encoding; none: l.keys are
    other_keys pre_rope_keys{};
    heads_view<float> sketch{};  ///< [kv_heads, dim, columns], or of one head for all; none: from `fill_sketch`
    index columns = 48;          ///< of the sketch that is not given
    float ridge = 0.01F;
    index sinks = 0;   ///< first slots, which take no part: infinity
    index recent = 0;  ///< last slots of each head, likewise

    /// @param l     keys [kv_heads, tokens, dim], where `pre_rope_keys` are not given; else only its shape is read
    /// @return      [kv_heads, tokens]. errc::bad_setting for columns below one or a ridge or count out of range;
    ///              errc::bad_shape when the sketch or the keys have another shape or element type;
    ///              errc::out_of_memory
    /// @complexity  O(kv_heads * tokens * columns * (dim + columns)); the matrices are added up and factorised in
    ///              double; scratch: tokens * columns floats for each worker
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<scores> operator()(layer<T, Cache> const& l, arena& memory,
                                            Run const& run = {}) const noexcept {
        auto const* const other = std::get_if<heads_view<T>>(&pre_rope_keys);
        bool const given = std::visit([](auto const& keys) noexcept { return keys.data != nullptr; }, pre_rope_keys);
        if (given && (other == nullptr || other->heads != l.kv_heads() || other->tokens != l.tokens()))
            return errc::bad_shape;
        if (!given) return of_rows(l, l.keys, memory, run);
        return of_rows(l, *other, memory, run);
    }

  private:
    [[nodiscard]] static constexpr std::size_t size(index n) noexcept { return static_cast<std::size_t>(n); }

    /// What one worker needs for a head.
    struct bench {
        std::span<float> centred;    ///< [projected_width, dim]
        std::span<float> projected;  ///< [panels, columns, projected_width]
        std::span<float> scratch;
        std::span<float> sums;      ///< [dim]
        std::span<float> lengths;   ///< [projected_width]
        std::span<double> mean;     ///< [dim]
        std::span<double> gram;     ///< [columns, columns]
        std::span<double> packed;   ///< its whitening, packed
        std::span<double> doubles;  ///< scratch
    };

    template <class Layer, class Keys, executor Run>
    [[nodiscard]] result<scores> of_rows(Layer const& l, Keys const& keys, arena& memory,
                                         Run const& run) const noexcept {
        bool const generated = sketch.data == nullptr;
        index const n = l.tokens(), heads = l.kv_heads(), dim = keys.dim, wide = generated ? columns : sketch.dim;
        if (wide < 1 || !simd::is_finite(ridge) || !(ridge > 0) || sinks < 0 || recent < 0) return errc::bad_setting;
        if (heads < 1 || dim < 1) return errc::bad_shape;
        if (!generated && (sketch.tokens != dim || (sketch.heads != heads && sketch.heads != 1)))
            return errc::bad_shape;
        constexpr index width = simd::projected_width<>;
        index const panels = (n + width - 1) / width, sketches = generated ? 1 : sketch.heads;

        rollback undo{memory};
        auto const values = memory.take<float>(heads * n);
        auto const top = memory.here();
        auto const by_column = memory.take<float>(sketches * wide * dim);
        auto const by_row = memory.take<float>(generated ? dim * wide : 0);
        index const workers = run.workers();
        index const of_float[] = {width * dim, panels * wide * width, simd::project_scratch(dim), dim, width};
        index const of_double[] = {dim, wide * wide, simd::triangle_size(wide), 16 * wide};
        std::array<std::span<float>, 5> floats;
        std::array<std::span<double>, 4> doubles;
        for (std::size_t i = 0; i < floats.size(); ++i) floats[i] = memory.take<float>(workers * whole(of_float[i]));
        for (std::size_t i = 0; i < doubles.size(); ++i)
            doubles[i] = memory.take<double>(workers * whole(of_double[i]));
        if (!taken(values, by_column, by_row, floats[0], floats[1], floats[2], floats[3], floats[4], doubles[0],
                   doubles[1], doubles[2], doubles[3]))
            return errc::out_of_memory;

        for (index s = 0; s < sketches; ++s) lay_sketch(s, dim, wide, by_row, by_column.data() + s * wide * dim);
        share_out(run, heads, product_cost(n, wide, dim + wide), [&](index begin, index end, index worker) noexcept {
            auto const mine = [worker](auto const& all, index count) noexcept {
                return all.subspan(size(worker * whole(count)), size(count));
            };
            bench const b{
                mine(floats[0], of_float[0]),   mine(floats[1], of_float[1]),   mine(floats[2], of_float[2]),
                mine(floats[3], of_float[3]),   mine(floats[4], of_float[4]),   mine(doubles[0], of_double[0]),
                mine(doubles[1], of_double[1]), mine(doubles[2], of_double[2]), mine(doubles[3], of_double[3])};
            for (index h = begin; h < end; ++h) {
                index const length = l.length(h), first = std::min(sinks, length);
                index const last = std::max(first, length - recent);
                auto const row = values.subspan(size(h * n), size(n));
                of_head([&](index t) noexcept { return keys.row(h, first + t); }, dim, wide,
                        by_column.data() + h % sketches * wide * dim, row.subspan(size(first), size(last - first)), b);
                frame_row(row, first, last, length);
            }
        });
        standardise(values);
        memory.rewind(top);
        undo.keep();
        return scores{values, heads, n, n};
    }

    /// Whole cache lines, so that workers share none and all start on one.
    [[nodiscard]] static constexpr index whole(index count) noexcept { return (count + 15) / 16 * 16; }

    /// The columns of sketch s, [wide, dim], divided by the root of their number.
    void lay_sketch(index s, index dim, index wide, std::span<float> by_row, float* by_column) const noexcept {
        if (sketch.data == nullptr) fill_sketch(by_row);
        float const factor = 1 / std::sqrt(static_cast<float>(wide));
        for (index i = 0; i < dim; ++i) {
            float const* const row = sketch.data == nullptr ? by_row.data() + i * wide : sketch.row(s, i);
            for (index c = 0; c < wide; ++c) by_column[c * dim + i] = row[c] * factor;
        }
    }

    /// out[t] = the leverage of row t; NaN for rows that are not finite.
    template <class Row>
    void of_head(Row row, index dim, index wide, float const* by_column, std::span<float> out,
                 bench const& b) const noexcept {
        constexpr index width = simd::projected_width<>, flush = 256, hot = 16;
        index const n = static_cast<index>(out.size());

        // The mean of what is finite; sums in float stay short.
        std::fill(b.mean.begin(), b.mean.end(), 0.0);
        index finite = 0;
        for (index t = 0; t < n; t += flush) {
            std::fill(b.sums.begin(), b.sums.end(), 0.0F);
            for (index i = t; i < std::min(t + flush, n); ++i) {
                bool const takes_part = simd::is_finite(simd::squared_norm(row(i), dim));
                out[size(i)] = takes_part ? 0.0F : no_score;
                if (!takes_part) continue;
                simd::add_scaled(row(i), 1.0F, b.sums.data(), dim);
                ++finite;
            }
            for (index c = 0; c < dim; ++c) b.mean[size(c)] += static_cast<double>(b.sums[size(c)]);
        }
        for (index c = 0; c < dim; ++c)
            b.sums[size(c)] = static_cast<float>(b.mean[size(c)] / static_cast<double>(std::max<index>(finite, 1)));

        std::fill(b.gram.begin(), b.gram.end(), 0.0);
        index const panels = (n + width - 1) / width;
        for (index first = 0; first < panels; first += hot) {
            index const last = std::min(first + hot, panels);
            for (index panel = first; panel < last; ++panel) {
                index const count = std::min(width, n - panel * width);
                for (index i = 0; i < count; ++i) {
                    float* const to = b.centred.data() + i * dim;
                    index const t = panel * width + i;
                    if (simd::is_nan(out[size(t)])) {
                        std::fill_n(to, dim, 0.0F);
                    } else {
                        simd::subtract(row(t), b.sums.data(), to, dim);
                    }
                }
                simd::project([&](index i) noexcept -> float const* { return b.centred.data() + i * dim; }, count, dim,
                              by_column, wide, b.projected.data() + panel * wide * width, b.scratch);
            }
            simd::add_gram(last - first, b.projected.data() + first * wide * width, wide, width, b.gram.data());
        }

        for (index c = 0; c < wide; ++c) b.gram[size(c * (wide + 1))] += static_cast<double>(ridge);
        if (!simd::invert_cholesky(b.gram.data(), wide)) return std::fill(out.begin(), out.end(), no_score);
        simd::pack_triangle(b.gram.data(), wide, b.packed.data());
        for (index panel = 0; panel < panels; ++panel) {
            simd::whitened_norms(b.projected.data() + panel * wide * width, wide, width, b.packed.data(),
                                 b.lengths.data(), b.doubles.data());
            for (index i = 0; i < std::min(width, n - panel * width); ++i) {
                float& x = out[size(panel * width + i)];
                x = simd::is_nan(x) ? no_score : b.lengths[size(i)];
            }
        }
    }
};

}  // namespace terse::score

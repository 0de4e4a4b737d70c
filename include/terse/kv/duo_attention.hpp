// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <numeric>
#include <span>

#include <terse/core/layer.hpp>
#include <terse/core/parallel.hpp>
#include <terse/core/plan.hpp>
#include <terse/kv/rotate.hpp>
#include <terse/score/scores.hpp>
#include <terse/select/top_k.hpp>
#include <terse/simd/dot.hpp>
#include <terse/simd/rotate.hpp>
#include <terse/simd/top_k.hpp>

namespace terse::kv {

/// Which kv heads of a model are streaming heads: those with the lowest scores of all layers.
///
/// Source: as `duo_attention`; `quantile` as its authors' code (without the noise that breaks ties there), else as
/// kvpress. Of equal scores the first head keeps its whole cache; NaN streams.
struct streaming_heads {
    double share = 0.5;     ///< of all heads, in [0, 1]; rounded to the nearest count, halves to the even one
    bool quantile = false;  ///< those below the quantile `share` instead: shares outside [0, 1] are none and all heads
    bool clip = true;       ///< scores below 0 count as 0, above 1 as 1: gates that were trained

    [[nodiscard]] index count(index heads) const noexcept {
        auto const n = static_cast<double>(heads);
        if (!quantile) return static_cast<index>(std::nearbyint(n * share));
        if (share <= 0 || heads == 0) return 0;
        return share >= 1 ? heads : static_cast<index>(std::ceil((n - 1) * share - 1e-9));
    }

    /// @param scores  [layers * kv_heads]: high for heads that look far back
    /// @return        [layers * kv_heads]: 1 for streaming heads, 0 for the others. errc::bad_setting when the share
    ///                is not in range, errc::bad_shape for too many heads, errc::out_of_memory
    /// @complexity    O(heads)
    [[nodiscard]] result<std::span<unsigned char const>> operator()(std::span<float const> scores,
                                                                    arena& memory) const noexcept {
        if (!std::isfinite(share) || (!quantile && !(share >= 0 && share <= 1))) return errc::bad_setting;
        index const heads = std::ssize(scores);
        if (heads > max_tokens) return errc::bad_shape;
        rollback undo{memory};
        auto const mask = memory.take<unsigned char>(heads);
        auto const top = memory.here();
        auto const clipped = memory.take<float>(heads);
        auto const full = memory.take<token>(heads - count(heads));
        auto const scratch = memory.take<std::int32_t>(simd::top_k_scratch(heads));
        if (!taken(mask, clipped, full, scratch)) return errc::out_of_memory;
        std::transform(scores.begin(), scores.end(), clipped.begin(), [this](float s) {
            return clip ? (s < 0 ? 0.0F : s > 1 ? 1.0F : s) : s;
        });
        std::fill(mask.begin(), mask.end(), static_cast<unsigned char>(1));
        if (!full.empty()) simd::top_k(clipped, full, 0, scratch);
        for (token const head : full) mask[static_cast<std::size_t>(head)] = 0;
        memory.rewind(top);
        undo.keep();
        return std::span<unsigned char const>{mask};
    }
};

/// How far back a kv head looks, in (0, 1], from its mean query and mean key alone: the mean over the positions of a
/// span of the attention up to there, of the mean query at the span's end to the mean key at each of its positions.
///
/// Source: `duo_attention_on_the_fly` of kvpress, for one layer and one text. Frequencies that turn as the model's do
/// make near and far keys differ; channels that do not turn make no difference here.
struct head_reach {
    rope encoding{};
    index span = 0;  ///< positions, at least 1

    /// @param l     keys and queries before position encoding, [kv_heads, tokens, dim] and [heads, queries, dim]
    /// @return      [1, kv_heads]: the mean over each kv head's query heads. errc::bad_setting for a span below one;
    ///              errors of `check_attention` and `rope::check`; errc::bad_shape without queries or tokens;
    ///              errc::out_of_memory
    /// @complexity  O((kv_heads * tokens + heads * queries) * dim + heads * span * rotary); scratch: heads * span
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<scores> operator()(layer<T, Cache> const& l, arena& memory,
                                            Run const& run = {}) const noexcept {
        if (span < 1) return errc::bad_setting;
        if (errc const error = check_attention(l); error != errc::ok) return error;
        if (l.has_attention()) return errc::bad_shape;
        if (errc const error = encoding.check(l.keys.dim); error != errc::ok) return error;
        index const dim = l.keys.dim, pairs = std::ssize(encoding.inverse_frequency);

        rollback undo{memory};
        auto const values = memory.take<float>(l.kv_heads());
        auto const top = memory.here();
        auto const means = memory.take<float>(2 * dim * run.workers());
        auto const turning = memory.take<float>(2 * pairs * l.heads());
        auto const angles = memory.take<float>(2 * pairs * run.workers());
        auto const logits = memory.take<float>(l.heads() * span);
        if (!taken(values, means, turning, angles, logits)) return errc::out_of_memory;

        index const cost = (l.length(0) + l.group() * l.window()) * dim + l.group() * span * pairs * 2;
        share_out(run, l.kv_heads(), cost * size_of<float>, [&](index begin, index end, index worker) noexcept {
            float* const query = means.data() + 2 * dim * worker;
            float* const key = query + dim;
            auto const cosine =
                angles.subspan(static_cast<std::size_t>(2 * pairs * worker)).first(static_cast<std::size_t>(pairs));
            std::span const sine{cosine.data() + pairs, cosine.size()};
            auto const in_phase = [&](index h) { return turning.data() + 2 * pairs * h; };
            for (index kv = begin; kv < end; ++kv) {
                mean(l.length(kv), rows_of_head(l.keys, kv), dim, key);
                for (index h = kv * l.group(); h < (kv + 1) * l.group(); ++h) {
                    mean(
                        l.window(), [&](index i) noexcept { return l.queries.row(h, i); }, dim, query);
                    products(query, key, pairs, in_phase(h), in_phase(h) + pairs);
                }
            }
            // The product of two turned vectors depends on the distance of their positions alone.
            for (index distance = 0; distance < span; ++distance) {
                simd::rotation(distance, encoding.inverse_frequency, cosine, sine);
                for (index h = begin * l.group(); h < end * l.group(); ++h)
                    logits[static_cast<std::size_t>(h * span + distance)] =
                        l.logit_scale() * (simd::dot(in_phase(h), cosine.data(), pairs) -
                                           simd::dot(in_phase(h) + pairs, sine.data(), pairs));
            }
            for (index kv = begin; kv < end; ++kv) {
                double total = 0;
                for (index h = kv * l.group(); h < (kv + 1) * l.group(); ++h)
                    total += reach(logits.subspan(static_cast<std::size_t>(h * span), static_cast<std::size_t>(span)));
                values[static_cast<std::size_t>(kv)] = static_cast<float>(total / static_cast<double>(l.group()));
            }
        });
        memory.rewind(top);
        undo.keep();
        return scores{values, 1, l.kv_heads(), l.kv_heads()};
    }

  private:
    template <class Row>
    static void mean(index count, Row const& row, index dim, float* out) noexcept {
        std::fill_n(out, dim, 0.0F);
        float const share = 1.0F / static_cast<float>(std::max<index>(count, 1));
        for (index i = 0; i < count; ++i) simd::add_scaled(row(i), share, out, dim);
    }

    /// Of each pair, what its turn by an angle takes of the cosine and of the sine.
    void products(float const* query, float const* key, index pairs, float* in_phase, float* across) const noexcept {
        bool const split = encoding.layout == rope_layout::half_split;
        for (index i = 0; i < pairs; ++i) {
            index const a = split ? i : 2 * i, b = split ? i + pairs : 2 * i + 1;
            in_phase[i] = query[a] * key[a] + query[b] * key[b];
            across[i] = query[b] * key[a] - query[a] * key[b];
        }
    }

    /// The softmax over distances, each counted by the share of the span's positions that lie no farther.
    [[nodiscard]] double reach(std::span<float const> logits) const noexcept {
        float const highest = *std::max_element(logits.begin(), logits.end());
        double sum = 0, weighted = 0;
        for (std::size_t distance = 0; distance < logits.size(); ++distance) {
            double const e = std::exp(static_cast<double>(logits[distance] - highest));
            sum += e;
            weighted += e * static_cast<double>(distance + 1);
        }
        return weighted / (sum * static_cast<double>(span));
    }
};

/// Keeps the whole cache of retrieval heads, and of streaming heads the attention sinks and recent slots.
///
/// Source: Xiao et al., "DuoAttention: Efficient Long-Context LLM Inference with Retrieval and Streaming Heads",
/// arXiv:2410.10819; defaults as kvpress. Head scores are trained by its authors: read them from their files, or
/// estimate them with `head_reach`; `streaming_heads` makes classes of them. Positions stay.
struct duo_attention {
    index sinks = 128;                           ///< first slots of a streaming head, always kept
    index recent = 256;                          ///< its last slots, always kept
    std::span<unsigned char const> streaming{};  ///< [kv_heads] of the layer: 0 keeps all; empty: all heads stream

    /// What a streaming head keeps.
    [[nodiscard]] constexpr index count(index tokens) const noexcept {
        return select::quota{max_tokens, sinks, recent}.fixed(tokens);
    }

    /// @param l     its shape is read, how many slots each head holds, and what it guards, which stays
    /// @return      a selection for each kv head, of differing counts; errc::bad_budget for a negative count or
    ///              sinks + recent = 0; errc::bad_shape unless `streaming` has an entry for each kv head or none;
    ///              errc::out_of_memory
    /// @complexity  O(tokens + kept)
    template <class T, class Cache, executor Run = serial>
    [[nodiscard]] result<plans> operator()(layer<T, Cache> const& l, arena& memory, Run const& = {}) const noexcept {
        if (errc const error = select::check_ends(sinks, recent); error != errc::ok) return error;
        index const heads = l.kv_heads();
        if (l.tokens() < 0 || l.tokens() > max_tokens || heads < 1) return errc::bad_shape;
        if (!streaming.empty() && std::ssize(streaming) != heads) return errc::bad_shape;
        rollback undo{memory};
        auto const items = memory.take<plan>(heads);
        auto const all = memory.take<token>(l.tokens());  // what every whole head begins with
        auto const rows = select::rows_of(l, heads, l.tokens(), {max_tokens, sinks, recent}, memory);
        if (!rows) return rows.error();
        if (!taken(items, all)) return errc::out_of_memory;
        std::iota(all.begin(), all.end(), token{0});
        for (std::size_t h = 0; h < items.size(); ++h) {
            auto const& [tokens, q] = (*rows)[h];
            auto kept = all.first(static_cast<std::size_t>(tokens));
            if (streaming.empty() || streaming[h] != 0) {
                kept = memory.take<token>(q.fixed(tokens));
                if (!taken(kept)) return errc::out_of_memory;
                select::choose_fixed(q, tokens, kept);
            }
            std::construct_at(&items[h], select_rows(kept, tokens));
        }
        undo.keep();
        return plans{items};
    }
};

}  // namespace terse::kv

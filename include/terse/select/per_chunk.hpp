// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>
#include <span>

#include <terse/select/top_k.hpp>

namespace terse::select {

/// Cuts whole rows into chunks.
struct whole_rows {
    [[nodiscard]] constexpr range operator()(index, index tokens) const noexcept { return {0, tokens}; }
};

/// The protected tokens and the highest others of each chunk of consecutive tokens of each row.
///
/// @param s       [rows, scored]; with `tokens` tokens in the longest row, the last tokens - scored of every row have
///                no score and are kept
/// @param rows    [rows]; their q.keep is not read
/// @param chunk   tokens of a chunk, at least 1; the last of a row may have fewer
/// @param keep    callable (tokens of a chunk, how many of them are protected) -> how many to keep; all, where there
///                are no more
/// @param items   [rows]: receives the plans
/// @param kept    what they refer to: at least as many as all rows keep
/// @param memory  scratch, given back
/// @param cut     callable (row, its tokens) -> which of them are cut into chunks; all others are kept
/// @return        errc::bad_budget when a chunk protects more than it keeps or `kept` is too small; errc::out_of_memory
/// @complexity    O(rows * tokens)
template <class Keep, executor Run = serial, class Cut = whole_rows>
errc per_chunk(scores const& s, index tokens, std::span<row const> rows, index chunk, Keep const& keep,
               std::span<plan> items, std::span<token> kept, arena& memory, Run const& run = {},
               Cut const& cut = {}) noexcept {
    auto const at = [](index i) { return static_cast<std::size_t>(i); };
    index guarded = 0;
    for (index h = 0; h < s.heads; ++h) guarded = std::max(guarded, std::ssize(rows[at(h)].q.guarded));
    rollback const scratch_only{memory};
    index const each = simd::top_k_scratch(chunk), each_apart = guarded == 0 ? 0 : chunk;
    auto const ranks = memory.take<std::int32_t>(each * run.workers());
    auto const apart = memory.take<float>(each_apart * run.workers());
    auto const ranges = memory.take<range>(guarded * (run.workers() + 1));
    if (!taken(ranks, apart, ranges)) return errc::out_of_memory;

    // The part of a row's quota that lies in its chunk from `begin` on, of `here` tokens.
    auto const quota_at = [&](index h, index begin, index here, std::span<range> inside) noexcept {
        auto const& [length, q] = rows[at(h)];
        index const trailing = std::max(q.trailing, tokens - s.tokens);
        quota own{.leading = std::clamp<index>(q.leading - begin, 0, here),
                  .trailing = std::clamp<index>(trailing - (length - begin - here), 0, here)};
        std::transform(q.guarded.begin(), q.guarded.end(), inside.begin(), [&](range r) {
            return range{std::clamp<index>(r.begin - begin, 0, here), std::clamp<index>(r.end - begin, 0, here)};
        });
        own.guarded = inside.first(q.guarded.size());
        own.keep = std::min<index>(keep(here, own.fixed(here)), here);
        return own;
    };
    index total = 0;
    for (index h = 0; h < s.heads; ++h) {
        index const length = rows[at(h)].tokens, before = total;
        range const part = cut(h, length);
        total += length - part.size();
        for (index begin = part.begin; begin < part.end; begin += chunk) {
            index const here = std::min(chunk, part.end - begin);
            quota const q = quota_at(h, begin, here, ranges.last(at(guarded)));
            if (q.keep < q.fixed(here)) return errc::bad_budget;
            total += q.keep;
        }
        if (total > std::ssize(kept)) return errc::bad_budget;
        std::construct_at(&items[at(h)], select_rows(kept.subspan(at(before), at(total - before)), length));
    }

    share_out(run, s.heads, s.tokens * size_of<float> * 4, [&](index head, index end, index worker) noexcept {
        for (; head < end; ++head) {
            auto const sources = items[at(head)].sources;
            auto out = kept.subspan(at(sources.data() - kept.data()), sources.size());
            range const part = cut(head, rows[at(head)].tokens);
            std::iota(out.begin(), out.begin() + part.begin, token{0});
            out = out.subspan(at(part.begin));
            for (index begin = part.begin; begin < part.end; begin += chunk) {
                index const here = std::min(chunk, part.end - begin);
                quota const q = quota_at(head, begin, here, ranges.subspan(at(worker * guarded), at(guarded)));
                auto const mine = out.first(at(q.keep));
                choose(s.row(head).subspan(at(std::min(begin, s.tokens))), here, q, mine,
                       ranks.subspan(at(worker * each), at(each)),
                       apart.subspan(at(worker * each_apart), at(each_apart)));
                for (token& t : mine) t += static_cast<token>(begin);
                out = out.subspan(at(q.keep));
            }
            std::iota(out.begin(), out.end(), static_cast<token>(part.end));
        }
    });
    return errc::ok;
}

}  // namespace terse::select

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <utility>

#include <terse/core/types.hpp>

namespace terse {

/// The engine's loop: `run(count, body)` calls `body(begin, end, worker)` on ranges that cover [0, count) once,
/// with 0 <= worker < run.workers() and never two ranges at a time for one worker, and returns when all are done.
/// `body` is noexcept. Results never depend on how the ranges were cut.
template <class Run>
concept executor = requires(Run const& run, index count, void (&body)(index, index, index) noexcept) {
    { run.workers() }
    noexcept->std::convertible_to<index>;
    run(count, body);
};

/// The default: the calling thread does it all.
struct serial {
    [[nodiscard]] static constexpr index workers() noexcept { return 1; }

    template <class Body>
    void operator()(index count, Body&& body) const noexcept {
        if (count > 0) body(index{0}, count, index{0});
    }
};

/// The bytes that a job reads and writes, about, from which waking other threads is worth it: 10 microseconds of one
/// core where they are in its cache, 40 where they come from memory.
inline constexpr index worth_sharing = index{1} << 19;

template <class T>
inline constexpr index size_of = static_cast<index>(sizeof(T));

/// What products of `rows` rows with `others` others cost beside bytes: each row is read once, and in the time of a byte
/// a core does some four multiply-adds.
[[nodiscard]] constexpr index product_cost(index rows, index others, index dim) noexcept {
    return rows * dim * (size_of<float> + others / 4);
}

/// run(count, body) where an item costs so many bytes; on the calling thread where all of them are fewer than
/// run.grain, for executors that have one.
template <executor Run, class Body>
void share_out(Run const& run, index count, index cost, Body&& body) {
    if constexpr (requires { run.grain; }) {
        if (count * cost < run.grain) return serial{}(count, body);
    }
    run(count, body);
}

/// Range `worker` of `workers` equal ranges of [0, count): the cut that the adapters make.
[[nodiscard]] constexpr std::pair<index, index> share(index count, index worker, index workers) noexcept {
    return {count * worker / workers, count * (worker + 1) / workers};
}

}  // namespace terse

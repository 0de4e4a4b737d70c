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

/// Range `worker` of `workers` equal ranges of [0, count): the cut that the adapters make.
[[nodiscard]] constexpr std::pair<index, index> share(index count, index worker, index workers) noexcept {
    return {count * worker / workers, count * (worker + 1) / workers};
}

}  // namespace terse

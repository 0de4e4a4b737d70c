// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include <unsupported/Eigen/CXX11/ThreadPool>

#include <terse/core/parallel.hpp>

namespace terse {

/// An executor over an engine's Eigen thread pool. The calling thread takes the first range itself.
/// Eigen's closures may allocate; the library's own calls do not. Do not call it from one of the pool's threads.
struct thread_pool {
    Eigen::ThreadPoolInterface* pool = nullptr;  ///< must outlive the calls; null: the calling thread alone
    index grain = worth_sharing;                 ///< smaller jobs stay on the calling thread, see `share_out`

    [[nodiscard]] index workers() const noexcept { return pool == nullptr ? 1 : pool->NumThreads() + 1; }

    template <class Body>
    void operator()(index count, Body&& body) const {
        index const parts = std::min(workers(), count);
        if (parts <= 0) return;
        Eigen::Barrier others(static_cast<unsigned>(parts - 1));
        for (index part = 1; part < parts; ++part) {
            pool->Schedule([&body, &others, count, part, parts] {
                auto const [begin, end] = share(count, part, parts);
                body(begin, end, part);
                others.Notify();
            });
        }
        body(index{0}, share(count, 0, parts).second, index{0});
        others.Wait();
    }
};

}  // namespace terse

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include <omp.h>

#include <terse/core/parallel.hpp>

namespace terse {

/// An executor over OpenMP's threads. Needs -fopenmp.
struct openmp {
    int threads = omp_get_max_threads();  ///< at most so many workers
    index grain = worth_sharing;          ///< smaller jobs stay on the calling thread, see `share_out`

    [[nodiscard]] index workers() const noexcept { return std::max(threads, 1); }

    template <class Body>
    void operator()(index count, Body&& body) const noexcept {
        index const parts = std::min(workers(), count);
#pragma omp parallel for num_threads(static_cast <int>(std::max <index>(parts, 1))) schedule(static, 1)
        for (index part = 0; part < parts; ++part) {
            auto const [begin, end] = share(count, part, parts);
            body(begin, end, part);
        }
    }
};

}  // namespace terse

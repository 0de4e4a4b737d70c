// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include <terse/score/scores.hpp>

#include "support.hpp"

namespace terse::test {

/// A scorer of layers whose scores are known: [rows, scored].
struct given_scores {
    std::vector<float> values;
    index rows = 1;

    template <class Input, executor Run = serial>
    [[nodiscard]] result<scores> operator()(Input const&, arena&, Run const& = {}) const noexcept {
        index const scored = std::ssize(values) / rows;
        return scores{values, rows, scored, scored};
    }
};

}  // namespace terse::test

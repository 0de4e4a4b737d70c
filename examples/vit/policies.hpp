// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "vit/engine.hpp"

namespace vit {

/// A row of the table.
struct policy {
    std::string name;
    std::string setting;
    reduction how{};
};

/// Every policy at every setting of the table; `all` adds the settings in between.
[[nodiscard]] std::vector<policy> policies(model const& m, bool all);

/// The rows that are worth a picture: one a policy, with about a quarter of the patches kept.
[[nodiscard]] std::vector<policy> pictured(model const& m);

}  // namespace vit

#include <terse/budget/schedule.hpp>

#include "support.hpp"

namespace terse::test {
TEST_CASE("a ramp removes about layers * remove tokens", "[budget][ramp]") {
    auto const all = [](budget::ramp ramp, index layers) {
        std::vector<index> counts;
        for (index l = 0; l < layers; ++l) counts.push_back(ramp.at(l, layers));
        return counts;
    };
    CHECK(all({.remove = 8}, 4) == std::vector<index>{8, 8, 8, 8});
    CHECK(all({.remove = 8, .inflect = -1}, 5) == std::vector<index>{16, 12, 8, 4, 0});
    CHECK(all({.remove = 8, .inflect = 1}, 5) == std::vector<index>{0, 4, 8, 12, 16});
    CHECK(all({.remove = 8, .inflect = -.5}, 4) == std::vector<index>{12, 9, 6, 4});
    CHECK(all({.remove = 8, .inflect = -1}, 1) == std::vector<index>{8});
}
}  // namespace terse::test

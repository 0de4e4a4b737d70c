#include <terse/merge/tome_kth.hpp>

#include "support.hpp"

namespace terse::test {
TEST_CASE("tome_kth merges into the nearest k-th token", "[merge][tome_kth]") {
    // Angles: the even tokens look like token 1, 5 and 3.
    tensor<float> const x{{1, 0, 1, .1F, 0, 1, -1, 0, -1, .1F, .1F, 1, 5, 5}, 1, 7, 2};
    arena memory;
    auto const rows = [&](merge::tome_kth const& policy) {
        auto const p = policy(x.view(), memory).value();
        CHECK(is_valid(p));
        CHECK(p.keeps_order());
        CHECK(p.kept() == policy.count(7));
        return rows_of(p);
    };
    CHECK(rows({.every = 2}) == std::vector<tokens_list>{{0, 1}, {3, 4}, {2, 5}});
    CHECK(rows({.every = 2, .keep_tail = true}) == std::vector<tokens_list>{{0, 1}, {3, 4}, {2, 5}, {6}});
    CHECK(rows({.every = 3}) == std::vector<tokens_list>{{2, 3, 4}, {0, 1, 5}});
    CHECK(rows({.every = 7}) == std::vector<tokens_list>{{0, 1, 2, 3, 4, 5, 6}});
    CHECK(rows({.every = 8}).empty());
    CHECK(rows({.every = 8, .keep_tail = true}).size() == 7);
    CHECK(rows({.every = 1}).size() == 7);
}

TEST_CASE("tome_kth refuses what does not fit, and takes what is broken", "[merge][tome_kth]") {
    tensor<float> const x{std::vector<float>(12, not_a_number), 1, 6, 2};
    std::vector<float> const sizes = {1, 2, 3, 4, 5};
    arena memory;
    CHECK(merge::tome_kth{.every = 0}(x.view(), memory).error() == errc::bad_setting);
    CHECK(merge::tome_kth{}(x.view(), sizes, memory).error() == errc::bad_shape);
    CHECK(memory.used() == 0);
    CHECK(merge::tome_kth{.every = 3}(x.view(), memory).value().kept() == 2);
    CHECK(merge::tome_kth{}(tensor<float>{{}, 1, 0, 2}.view(), memory).value().kept() == 0);
    auto const y = random_tokens(23, 8, 1);
    require_exact_peak([&](arena& m) { return merge::tome_kth{.every = 4}(y.view(), m); });
    for (index const workers : worker_counts)
        require_same_plan(merge::tome_kth{.every = 4}(y.view(), memory).value(),
                          merge::tome_kth{.every = 4}(y.view(), memory, threads{workers}).value());
}
}  // namespace terse::test

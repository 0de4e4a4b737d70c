#include <terse/score/key_difference.hpp>

#include "key_layers.hpp"

namespace terse::test {
namespace {
std::vector<float> scores_of(std::vector<float> const& keys, index dim) {
    arena memory;
    layer<float> const l{.keys = head_major(keys.data(), 1, std::ssize(keys) / dim, dim)};
    return list(score::key_difference{}(l, memory).value().row(0));
}
}  // namespace

TEST_CASE("key difference is the negated cosine with the mean direction", "[score][key_difference]") {
    auto const near = scores_of({3, 0, 0, 2, 5, 0}, 2);  // directions (1, 0), (0, 1), (1, 0): the mean is (2, 1) / 3
    CHECK(near[0] == Approx(-2 / std::sqrt(5)));
    CHECK(near[1] == Approx(-1 / std::sqrt(5)));
    CHECK(near[2] == Approx(-2 / std::sqrt(5)));
    CHECK(scores_of({0, 0, 0, 2, 0, 9}, 2) == std::vector<float>{0, -1, -1});  // a zero key is like nothing
    CHECK(scores_of({1, 0, -1, 0}, 2) == std::vector<float>{0, 0});            // no mean direction
    CHECK(scores_of({1e-4F, 0, 1e4F, 0}, 2) == std::vector<float>{-1, -1});    // lengths do not count
    CHECK(scores_of({7}, 1) == std::vector<float>{-1});
    CHECK(scores_of({}, 1).empty());
}

TEST_CASE("keys that are no numbers have no part in the mean", "[score][key_difference]") {
    for (float const poison : {not_a_number, infinity, -infinity, 3e38F}) {
        CAPTURE(poison);
        auto const got = scores_of({3, 0, poison, 1, 0, 3, 3, 0}, 2);
        CHECK(std::isnan(got[1]));
        auto const without = scores_of({3, 0, 0, 3, 3, 0}, 2);
        CHECK(std::vector{got[0], got[2], got[3]} == without);
    }
}

TEMPLATE_LIST_TEST_CASE("key difference agrees with double precision", "[score][key_difference]", storages) {
    check_scores<TestType>(score::key_difference{}, [](rows const& keys, rows const&, index) {
        std::vector<double> anchor(keys.empty() ? 0 : keys[0].size()), all;
        for (auto const& key : keys)
            for (std::size_t c = 0; c < anchor.size(); ++c) anchor[c] += key[c] / std::sqrt(product(key, key));
        // Directions that cancel leave what rounding makes of them.
        if (product(anchor, anchor) < 1e-6) return std::vector<double>(keys.size(), static_cast<double>(not_a_number));
        for (auto const& key : keys)
            all.push_back(-product(key, anchor) / std::sqrt(product(key, key) * product(anchor, anchor)));
        return all;
    });
}

TEST_CASE("key difference is the same to the bit for any workers and needs its memory", "[score][key_difference]") {
    random_layer<> const r{2, 2, 2100, 20, 1, 4};
    arena memory;
    auto const one = list(score::key_difference{}(r.view(), memory).value().values);
    for (index const workers : worker_counts)
        CHECK(list(score::key_difference{}(r.view(), memory, threads{workers}).value().values) == one);
    require_exact_peak([&](arena& m) { return score::key_difference{}(r.view(), m); });
}
}  // namespace terse::test

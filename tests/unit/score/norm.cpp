#include <terse/score/norm.hpp>

#include "support.hpp"

namespace terse::test {

TEST_CASE("the norm of keys is negated unless the longest are wanted", "[score][norm]") {
    std::vector<float> const keys = {3, 4, 0, 0, 1, 0, -6, 8};  // two heads of two tokens
    layer<float> const l{.keys = head_major(keys.data(), 2, 2, 2)};
    arena memory;

    auto const low = score::norm{}(l, memory).value();
    CHECK(low.heads == 2);
    CHECK(list(low.row(0)) == std::vector<float>{-5, 0});
    CHECK(list(low.row(1)) == std::vector<float>{-1, -10});

    auto const high = score::norm{.longest = true}(view(keys.data(), 4, 2), memory).value();
    CHECK(list(high.row(0)) == std::vector<float>{5, 0, 1, 10});
}

TEST_CASE("norms agree with double precision, for every dtype, layout and worker count", "[score][norm]") {
    auto const x = random_heads(3, 50, 37, 1);
    auto const expect = [](auto const& t, index h, index token, float got) {
        double sum = 0;
        for (index c = 0; c < t.dim; ++c)
            sum += std::pow(static_cast<double>(static_cast<float>(t.row(token, h)[c])), 2);
        CHECK(got == Approx(-std::sqrt(sum)).epsilon(1e-6));
    };
    auto const check = [&]<class T>(tensor<T> const& t) {
        for (index const workers : worker_counts) {
            arena memory;
            auto const s = score::norm{}(layer<T>{.keys = t.by_head()}, memory, threads{workers}).value();
            for (index h = 0; h < 3; ++h)
                for (index token = 0; token < 50; ++token)
                    expect(t, h, token, s.row(h)[static_cast<std::size_t>(token)]);
        }
    };
    check(x);
    check(cast<half>(x));
    check(cast<bfloat16>(x));

    // Token-major: the same memory read as [tokens, heads, dim].
    arena memory;
    auto const s = score::norm{}(layer<float>{.keys = token_major(x.values.data(), 3, 50, 37)}, memory).value();
    for (index h = 0; h < 3; ++h)
        for (index token = 0; token < 50; ++token)
            expect(tensor<float>{x.values, 50, 3, 37}, token, h, s.row(h)[static_cast<std::size_t>(token)]);
}

TEST_CASE("norms need memory", "[score][norm]") {
    auto const x = random_heads(2, 33, 8, 2);
    require_exact_peak([&](arena& memory) { return score::norm{}(layer<float>{.keys = x.by_head()}, memory); });
}

}  // namespace terse::test

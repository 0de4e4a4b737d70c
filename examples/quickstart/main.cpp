#include <cstdio>
#include <vector>

#include <terse/terse.hpp>

int main() {
    terse::arena memory;  // plans and scratch live here; nothing else allocates

    // Seven image tokens of two channels. Merge the two most similar pairs.
    std::vector<float> const image = {1, 0, .9F, .1F, .8F, .6F, 0, 1, -1, .1F, .1F, 1, -.9F, .2F};
    auto const tokens = terse::view(image.data(), 7, 2);
    auto const merge = terse::merge::tome{.remove = 2, .keep_order = true}(tokens, memory).value();

    std::vector<float> merged(5 * 2);
    if (terse::apply(merge, tokens, terse::view(merged.data(), 5, 2)) != terse::errc::ok) return 1;
    for (terse::index row = 0; row < merge.kept(); ++row) {
        auto const i = static_cast<std::size_t>(row);
        std::printf("(%5.2f, %5.2f) =", merged[2 * i], merged[2 * i + 1]);
        for (int const source : merge.row(row).sources) std::printf(" token %d", source);
        std::printf("\n");
    }

    // A cache of one head and 64 slots. Keep the first two, the last four, and the two with the shortest keys.
    std::vector<float> cache(64 * 4, 1.0F);
    cache[20 * 4] = cache[33 * 4] = 0;
    auto const keys = terse::head_major(cache.data(), 1, 64, 4);
    auto const evict = terse::kv::key_norm{.keep = 8, .sinks = 2, .recent = 4};
    auto const plans = evict(terse::layer<float>{.keys = keys}, memory).value();
    if (terse::kv::compact(keys, plans) != terse::errc::ok) return 1;  // the same plans move values and positions
    std::printf("slots kept:");
    for (int const slot : plans[0].sources) std::printf(" %d", slot);
    std::printf("\n");
}

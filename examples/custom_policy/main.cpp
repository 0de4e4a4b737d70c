// A policy of your own: a scorer is a struct with a call, and `kv::evict` does the rest.
#include <cmath>
#include <cstdio>
#include <vector>

#include <terse/terse.hpp>

/// Keeps the slots whose values are longest: what is short adds little to the output.
struct value_norm {
    template <class T, class Cache, terse::executor Run = terse::serial>
    [[nodiscard]] terse::result<terse::scores> operator()(terse::layer<T, Cache> const& l, terse::arena& memory,
                                                          Run const& run = {}) const noexcept {
        auto const norms = memory.take<float>(l.kv_heads() * l.tokens());
        if (!terse::taken(norms)) return terse::errc::out_of_memory;
        run(l.kv_heads(), [&](terse::index begin, terse::index end, terse::index) noexcept {
            for (terse::index h = begin; h < end; ++h)
                for (terse::index t = 0; t < l.tokens(); ++t)
                    norms[static_cast<std::size_t>(h * l.tokens() + t)] =
                        std::sqrt(terse::simd::squared_norm(l.values.row(h, t), l.values.dim));
        });
        return terse::scores{norms, l.kv_heads(), l.tokens(), l.tokens()};
    }
};

int main() {
    std::vector<float> values(2 * 6 * 4, 1.0F);
    values[3 * 4] = values[(6 + 2) * 4] = 5;  // slot 3 of head 0, slot 2 of head 1
    terse::layer<float> layer{.keys = {.heads = 2, .tokens = 6}};
    layer.values = terse::head_major(values.data(), 2, 6, 4);

    terse::arena memory;
    auto const half =
        terse::kv::evict<value_norm, terse::budget::ratio>{.budget = {.keep = 0.5}, .sinks = 1, .recent = 1};
    auto const plans = half(layer, memory).value();
    for (terse::index h = 0; h < 2; ++h)
        for (int const slot : plans[h].sources) std::printf("head %d keeps slot %d\n", static_cast<int>(h), slot);
}

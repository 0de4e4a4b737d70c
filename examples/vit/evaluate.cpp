#include "vit/evaluate.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <string>

#include <terse/merge/tome.hpp>

#include "common/safetensors.hpp"
#include "common/threads.hpp"

namespace vit {

images images::read(std::filesystem::path const& path) {
    auto const file = safetensors::file::read(path);
    auto const& pixels = file.at("images");
    images result;
    result.labels = file.integers("labels");
    auto const count = static_cast<std::int64_t>(result.labels.size());
    if (pixels.type != safetensors::dtype::u8 || pixels.shape.size() != 3 || pixels.shape[0] != count ||
        pixels.shape[1] != pixels.shape[2])
        throw safetensors::error{path.string() + ": 'images' is not U8 [labels, side, side]"};
    result.side = static_cast<std::size_t>(pixels.shape[1]);
    auto const* const bytes = reinterpret_cast<std::uint8_t const*>(pixels.bytes.data());
    result.pixels.assign(bytes, bytes + pixels.bytes.size());
    return result;
}

std::vector<std::vector<std::size_t>> errors(model const& m, images const& test, std::span<policy const> policies,
                                             std::size_t count, unsigned threads) {
    // Policies by the block that they begin in: those that share it share what comes before.
    std::vector<std::size_t> order(policies.size());
    for (std::size_t p = 0; p < order.size(); ++p) order[p] = p;
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return policies[a].how.first_block() < policies[b].how.first_block();
    });

    std::vector<std::vector<char>> wrong(policies.size(), std::vector<char>(count));
    std::atomic<std::size_t> next = 0;
    on_threads(threads, [&] {
        engine e{m};
        for (std::size_t i = next++; i < count; i = next++) {
            terse::index begun = -1;
            for (std::size_t const p : order) {
                reduction const& how = policies[p].how;
                if (begun != how.first_block()) e.begin(test[i], begun = how.first_block());
                terse::index best = 0;
                e.finish(how).maxCoeff(&best);
                wrong[p][i] = best != test.labels[i];
            }
        }
    });

    std::vector<std::vector<std::size_t>> result(policies.size());
    for (std::size_t p = 0; p < result.size(); ++p)
        for (std::size_t i = 0; i < count; ++i)
            if (wrong[p][i] != 0) result[p].push_back(i);
    return result;
}

std::vector<double> milliseconds(model const& m, images const& test, std::span<policy const> policies,
                                 std::size_t count, int rounds) {
    using clock = std::chrono::steady_clock;
    engine e{m};
    std::vector<double> least(policies.size(), std::numeric_limits<double>::infinity());
    for (int round = 0; round < rounds; ++round)
        for (std::size_t i = 0; i < count; ++i)
            for (std::size_t p = 0; p < policies.size(); ++p) {
                auto const start = clock::now();
                e.classify(test[i], policies[p].how);
                std::chrono::duration<double, std::milli> const taken = clock::now() - start;
                least[p] = std::min(least[p], taken.count());
            }
    return least;
}

ink first_merges(model const& m, images const& test, std::size_t count, terse::index remove) {
    auto const has_ink = [&](std::span<std::uint8_t const> pixels, terse::index patch) {
        terse::index const side = m.patch_side, first = (patch / m.grid() * m.image_side + patch % m.grid()) * side;
        for (terse::index y = 0; y < side; ++y)
            for (terse::index x = 0; x < side; ++x)
                if (pixels[static_cast<std::size_t>(first + y * m.image_side + x)] != 0) return true;
        return false;
    };
    engine e{m};
    terse::arena memory;
    double shown = 0, merged = 0, merged_ink = 0;
    for (std::size_t i = 0; i < count; ++i) {
        for (terse::index patch = 0; patch < m.patches(); ++patch) shown += has_ink(test[i], patch);
        memory.rewind();
        e.begin(test[i], 0);
        auto const p = terse::merge::tome{.remove = remove, .class_token = true}(e.look().keys, memory).value();
        for (terse::index row = 0; row < p.kept(); ++row)
            for (terse::token const source : p.row(row).sources) {
                if (source == p.anchor[static_cast<std::size_t>(row)]) continue;
                ++merged;
                merged_ink += has_ink(test[i], source - 1);
            }
    }
    return {.patches = shown / static_cast<double>(count) / static_cast<double>(m.patches()),
            .merged = merged_ink / merged};
}

}  // namespace vit

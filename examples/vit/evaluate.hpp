// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "vit/engine.hpp"
#include "vit/policies.hpp"

namespace vit {

struct images {
    std::vector<std::uint8_t> pixels;
    std::vector<std::int64_t> labels;
    std::size_t side = 0;

    /// Throws `safetensors::error` unless `images` is [count, side, side] bytes and `labels` [count].
    [[nodiscard]] static images read(std::filesystem::path const& path);

    [[nodiscard]] std::size_t count() const noexcept { return labels.size(); }
    [[nodiscard]] std::span<std::uint8_t const> operator[](std::size_t i) const noexcept {
        return std::span{pixels}.subspan(i * side * side, side * side);
    }
};

/// Of each policy, which of the first `count` images it gets wrong. Deterministic on any number of threads.
[[nodiscard]] std::vector<std::vector<std::size_t>> errors(model const& m, images const& test,
                                                           std::span<policy const> policies, std::size_t count,
                                                           unsigned threads);

/// Of each policy, the milliseconds that one image takes on one thread: the least of `rounds` times `count` images,
/// which all take the same work, with the policies in turn.
[[nodiscard]] std::vector<double> milliseconds(model const& m, images const& test, std::span<policy const> policies,
                                               std::size_t count, int rounds);

/// How many patches show ink, and how many of those that ToMe merges away first.
struct ink {
    double patches = 0;
    double merged = 0;
};

/// Over the first `count` images, for `remove` merges in the first block.
[[nodiscard]] ink first_merges(model const& m, images const& test, std::size_t count, terse::index remove = 8);

}  // namespace vit

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <random>
#include <span>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include <terse/core/arena.hpp>
#include <terse/core/parallel.hpp>
#include <terse/core/plan.hpp>
#include <terse/core/view.hpp>

// What the tests share: tensors by seed, plans as vectors, executors, and the laws of every call.
namespace terse::test {

inline constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
inline constexpr float infinity = std::numeric_limits<float>::infinity();

/// [heads, tokens, dim], packed, with its memory.
template <class T = float>
struct tensor {
    std::vector<T> values;
    index heads = 1;
    index tokens = 0;
    index dim = 0;

    [[nodiscard]] T* row(index t, index h = 0) { return values.data() + (h * tokens + t) * dim; }
    [[nodiscard]] T const* row(index t, index h = 0) const { return values.data() + (h * tokens + t) * dim; }
    [[nodiscard]] tokens_view<T> view() const { return terse::view(values.data(), tokens, dim); }
    [[nodiscard]] heads_view<T> by_head() const { return head_major(values.data(), heads, tokens, dim); }
};

/// Heads that hold different numbers of slots, each with the same room: what a ragged view of packed rows refers to.
class uneven {
  public:
    uneven(index room, std::vector<index> const& lengths) : offsets_{0}, lengths_(lengths.begin(), lengths.end()) {
        for (std::size_t h = 0; h < lengths.size(); ++h) offsets_.push_back(offsets_.back() + static_cast<token>(room));
    }

    /// [heads, room, dim], of which there may be fewer heads than lengths.
    template <class T>
    [[nodiscard]] ragged_view<T> of(T const* rows, index heads, index dim) const {
        auto const count = static_cast<std::size_t>(heads);
        return ragged(rows, std::span{offsets_}.first(count + 1), std::span{lengths_}.first(count), dim);
    }
    template <class T>
    [[nodiscard]] ragged_view<T> of(tensor<T> const& x) const {
        return of(x.values.data(), x.heads, x.dim);
    }

  private:
    std::vector<token> offsets_, lengths_;
};

/// Uniform on [low, high), the same on every platform.
[[nodiscard]] inline std::vector<float> uniform(index count, unsigned seed, float low = -1, float high = 1) {
    std::mt19937 generator{seed};
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& v : values) v = low + (high - low) * static_cast<float>(generator() >> 8) * 0x1p-24F;
    return values;
}

template <class To, class From>
[[nodiscard]] tensor<To> cast(tensor<From> const& from) {
    tensor<To> to{std::vector<To>(from.values.size()), from.heads, from.tokens, from.dim};
    std::transform(from.values.begin(), from.values.end(), to.values.begin(),
                   [](From v) { return static_cast<To>(static_cast<float>(v)); });
    return to;
}

[[nodiscard]] inline tensor<float> random_tokens(index tokens, index dim, unsigned seed) {
    return {uniform(tokens * dim, seed), 1, tokens, dim};
}

[[nodiscard]] inline tensor<float> random_heads(index heads, index tokens, index dim, unsigned seed) {
    return {uniform(heads * tokens * dim, seed), heads, tokens, dim};
}

/// `clusters` directions, and around each the same number of tokens at most `spread` away in every channel.
[[nodiscard]] inline tensor<float> clustered_tokens(index tokens, index dim, index clusters, unsigned seed,
                                                    float spread = 0.05F) {
    auto const centers = random_tokens(clusters, dim, seed);
    tensor<float> x{uniform(tokens * dim, seed + 1, -spread, spread), 1, tokens, dim};
    for (index t = 0; t < tokens; ++t)
        for (index c = 0; c < dim; ++c) x.row(t)[c] += centers.row(t % clusters)[c];
    return x;
}

template <class T>
[[nodiscard]] std::vector<T> list(std::span<T const> s) {
    return {s.begin(), s.end()};
}

using tokens_list = std::vector<token>;

/// The sources of every row.
[[nodiscard]] inline std::vector<tokens_list> rows_of(plan const& p) {
    std::vector<tokens_list> rows;
    for (index i = 0; i < p.kept(); ++i) rows.push_back(list(p.row(i).sources));
    return rows;
}

/// The weights of every row, ones where the plan has none.
[[nodiscard]] inline std::vector<std::vector<float>> weights_of(plan const& p) {
    std::vector<std::vector<float>> rows;
    for (index i = 0; i < p.kept(); ++i) {
        auto const r = p.row(i);
        auto& weights = rows.emplace_back();
        for (std::size_t k = 0; k < r.sources.size(); ++k) weights.push_back(r.weight(k));
    }
    return rows;
}

inline void require_same_plan(plan const& a, plan const& b) {
    REQUIRE(a.tokens == b.tokens);
    REQUIRE(list(a.sources) == list(b.sources));
    REQUIRE(list(a.offsets) == list(b.offsets));
    REQUIRE(list(a.weights) == list(b.weights));
    REQUIRE(list(a.anchor) == list(b.anchor));
    REQUIRE(list(a.owner) == list(b.owner));
}

/// An executor on threads of its own: `count` workers, however small their shares.
struct threads {
    index count = 1;

    [[nodiscard]] index workers() const noexcept { return count; }

    void operator()(index n, std::function<void(index, index, index)> const& body) const {
        std::vector<std::thread> running;
        for (index worker = 0; worker < count; ++worker) {
            auto const [begin, end] = share(n, worker, count);
            if (begin != end) running.emplace_back(body, begin, end, worker);
        }
        for (auto& thread : running) thread.join();
    }
};

inline constexpr std::initializer_list<index> worker_counts = {1, 2, 3, 7};

/// An arena of a fixed size whose memory starts on a cache line.
class fixed_memory {
  public:
    explicit fixed_memory(std::size_t bytes) : lines_((bytes + 63) / 64), bytes_{bytes} {}
    [[nodiscard]] std::span<std::byte> bytes() { return std::as_writable_bytes(std::span{lines_}).first(bytes_); }

  private:
    struct alignas(64) line {
        std::byte bytes[64];
    };
    std::vector<line> lines_;
    std::size_t bytes_;
};

/// `call(arena)` succeeds in a fixed arena of its peak; in every smaller one it reports errc::out_of_memory and gives
/// back what it took. `call` returns a result.
template <class Call>
void require_exact_peak(Call const& call) {
    arena growing;
    REQUIRE(call(growing));
    REQUIRE(growing.used() > 0);  // what it returns stays
    std::size_t const peak = growing.peak();

    fixed_memory enough{peak};
    arena exact{enough.bytes()};
    REQUIRE(call(exact));

    // The first and last steps one by one; between them every step, or about 200 of very many.
    std::size_t const stride = std::max<std::size_t>(peak / 64 / 200, 1) * 64;
    for (std::size_t bytes = 1; bytes<peak; bytes += peak - bytes> stride ? stride : 64) {
        CAPTURE(bytes, peak);
        fixed_memory little{bytes};
        arena memory{little.bytes()};
        auto const answer = call(memory);
        REQUIRE(answer.error() == errc::out_of_memory);
        REQUIRE(memory.used() == 0);
    }
}

}  // namespace terse::test

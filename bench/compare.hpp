#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <Eigen/Core>

#include <terse/core/types.hpp>

namespace terse::bench {

/// What one row of the results is about.
struct subject {
    std::string kernel;
    std::vector<std::pair<std::string, index>> shape;
    std::string dtype = "f32";
};

/// Something to time. Its calls work on one input after the other, so that no run learns one by heart.
struct candidate {
    std::string name;
    std::function<void(std::size_t input)> run;
};

/// What the machine itself needs at least: as long as `probe`, times `share`. Timed beside the candidates.
struct limit {
    std::string name;
    std::function<void(std::size_t input)> probe;
    double share = 1;
};

/// Candidates for the same work, set up and with their answers compared.
struct contest {
    limit bound;
    std::vector<candidate> candidates;  ///< terse first, then its peers
    std::size_t inputs = 1;             ///< to rotate through
    bool agree = true;                  ///< whether all gave the same answer
};

/// Adds a row to the program. `make` is called when the row is run: all its memory is there for that time alone.
void add(subject what, std::function<contest()> make);

/// At the machine's peak of fused multiply-adds in float, two operations each.
[[nodiscard]] limit fma_limit(double operations);

/// A memcpy of as many bytes, from and to `inputs` places in memory in turn.
[[nodiscard]] limit copy_limit(std::size_t bytes, std::size_t inputs);

/// Reading as many bytes, of `inputs` places in turn.
[[nodiscard]] limit read_limit(std::size_t bytes, std::size_t inputs);

/// Whether the answers of a contest that was run differed.
[[nodiscard]] bool disagreed();

/// Leaves peers out of what is timed whose names do not contain this.
void only_peers(std::string const& part);

/// Memory as engines' tensors have it: aligned to a line of the caches (EIGEN_MAX_ALIGN_BYTES is 64 here).
template <class T>
using aligned = std::vector<T, Eigen::aligned_allocator<T>>;

/// Keeps the compiler from dropping what nobody reads.
template <class T>
void keep(T const& value) {
    asm volatile("" : : "r"(&value) : "memory");
}

/// Uniform on [-1, 1), the same on every machine.
template <class T = float>
aligned<T> random_values(index count, unsigned seed) {
    std::mt19937 bits(seed);
    aligned<T> values(static_cast<std::size_t>(count));
    for (T& x : values) x = static_cast<T>(static_cast<float>(bits() >> 8) * 0x1p-23F - 1.0F);
    return values;
}

/// [rows, dim], several times.
template <class T = float>
std::vector<aligned<T>> random_inputs(index rows, index dim, unsigned count = 4) {
    std::vector<aligned<T>> inputs;
    for (unsigned seed = 0; seed < count; ++seed) inputs.push_back(random_values<T>(rows * dim, seed));
    return inputs;
}

/// The same values in another type.
template <class To, class From>
aligned<To> converted(aligned<From> const& values) {
    aligned<To> result(values.size());
    std::transform(values.begin(), values.end(), result.begin(), [](From x) { return static_cast<To>(x); });
    return result;
}

/// "f32", "f16", "bf16".
template <class T>
[[nodiscard]] std::string dtype_name() {
    if constexpr (std::same_as<T, half>) return "f16";
    if constexpr (std::same_as<T, bfloat16>) return "bf16";
    return "f32";
}

/// The names of Eigen and of what the C++ and the C library have as peers.
[[nodiscard]] std::string eigen_name();
[[nodiscard]] std::string std_name(std::string const& what);
[[nodiscard]] std::string c_name(std::string const& what);

}  // namespace terse::bench

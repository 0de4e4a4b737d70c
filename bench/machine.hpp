#pragma once

#include <string>
#include <vector>

#include <terse/core/types.hpp>

namespace terse::bench {

/// Something that this machine does at most so often a second.
struct rate {
    std::string name, unit;
    double value;
};

/// The limits of this core, measured now: multiply-adds, reads of each cache and of memory, memcpy.
[[nodiscard]] std::vector<rate> measure_machine();

[[nodiscard]] std::string cpu_name();
[[nodiscard]] std::string compiler_name();
/// The instruction set that the kernels were compiled for.
[[nodiscard]] std::string isa_name();

/// Seconds of processor time that this program took: what it is measured in. Unlike the time of day it stands still while
/// others have the core, and threads count each for itself.
[[nodiscard]] double processor_time() noexcept;

/// `steps` rounds of independent fused multiply-adds.
void multiply_add(index steps) noexcept;
/// How many operations a step of `multiply_add` is.
[[nodiscard]] double multiply_add_operations() noexcept;

/// Reads all of [from, from + bytes) in whole registers.
void read_all(float const* from, std::size_t bytes) noexcept;

}  // namespace terse::bench

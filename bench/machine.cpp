#include "machine.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstring>
#include <fstream>

#include <unistd.h>

#include <terse/simd/batch.hpp>

#include "compare.hpp"

namespace terse::bench {
namespace {

using arch = simd::default_arch;
using batch = simd::floats<arch>;

// Enough chains to hide the latency of two units, few enough to stay in sixteen registers.
constexpr int chains = 12;

double seconds(auto&& body) {
    auto const start = std::chrono::steady_clock::now();
    body();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// How often a second `body`, which does `amount`, does one: the median of many runs, short and therefore mostly
/// undisturbed.
double typical_rate(double amount, auto&& body) {
    std::vector<double> rates;
    double spent = 0;
    while (rates.size() < 9 || (rates.size() < 301 && spent < 0.5)) {
        double const now = seconds(body);
        spent += now;
        rates.push_back(amount / now);
    }
    auto const middle = rates.begin() + std::ssize(rates) / 2;
    std::nth_element(rates.begin(), middle, rates.end());
    return *middle;
}

rate read_rate(std::string name, std::size_t bytes) {
    std::vector<float> const memory(bytes / sizeof(float), 1.0F);
    auto const passes = std::max<std::size_t>(1, (std::size_t{1} << 22) / bytes);
    auto const per_run = static_cast<double>(bytes) * static_cast<double>(passes);
    return {std::move(name), "GB/s", typical_rate(per_run, [&] {
                                         for (std::size_t i = 0; i < passes; ++i) read_all(memory.data(), bytes);
                                     }) / 1e9};
}

[[maybe_unused]] rate dot_rate(std::string name, double operations, auto step) {
    constexpr index steps = 20'000;
    return {std::move(name), "Gop/s", typical_rate(operations * chains * steps, [&] { step(steps); }) / 1e9};
}

#ifdef __AVX512BF16__
void dot_bfloat16(index steps) noexcept {
    std::array<batch, chains> sums;
    sums.fill(batch(1.0F));
    auto const x = std::bit_cast<batch>(simd::ints<arch>(0x3F80'3F80));
    for (index i = 0; i < steps; ++i)
        simd::unroll<chains>([&](auto c) { sums[c] = simd::dot_pairs<arch>(x, x, sums[c]); });
    keep(sums);
}
#endif
#ifdef __AVX512VNNI__
void dot_int8(index steps) noexcept {
    using words = simd::ints<arch>;
    std::array<words, chains> sums;
    sums.fill(words(0));
    words const x(0x0101'0101);
    for (index i = 0; i < steps; ++i)
        simd::unroll<chains>([&](auto c) { sums[c] = words(_mm512_dpbusd_epi32(sums[c], x, x)); });
    keep(sums);
}
#endif

}  // namespace

[[gnu::noinline]] void multiply_add(index steps) noexcept {
    std::array<batch, chains> sums;  // of different values: equal chains could be made one
    simd::unroll<chains>([&](auto c) { sums[c] = batch(static_cast<float>(c)); });
    batch const x(0.999F), y(0.001F);
    for (index i = 0; i < steps; ++i) simd::unroll<chains>([&](auto c) { sums[c] = simd::fma<arch>(sums[c], x, y); });
    keep(sums);
}

double multiply_add_operations() noexcept { return 2.0 * chains * static_cast<double>(batch::size); }

void read_all(float const* from, std::size_t bytes) noexcept {
    std::array<batch, 8> sums;
    sums.fill(batch(0.0F));
    std::size_t const count = bytes / sizeof(float), step = 8 * batch::size;
    for (std::size_t i = 0; i + step <= count; i += step)
        simd::unroll<8>([&](auto u) { sums[u] += batch::load_unaligned(from + i + u * batch::size); });
    keep(sums);
}

std::vector<rate> measure_machine() {
    constexpr index steps = 20'000;
    std::vector<rate> rates;
    multiply_add(100 * steps);  // wakes the clock
    rates.push_back({"FMA, float, " + std::to_string(32 * batch::size) + " bit", "Gflop/s",
                     typical_rate(multiply_add_operations() * steps, [] { multiply_add(steps); }) / 1e9});
#ifdef __AVX512BF16__
    rates.push_back(dot_rate("dot, bfloat16", 64, dot_bfloat16));
#endif
#ifdef __AVX512VNNI__
    rates.push_back(dot_rate("dot, int8", 128, dot_int8));
#endif
    auto const cache = [](int name, std::size_t otherwise) {
        long const size = sysconf(name);
        return size > 0 ? static_cast<std::size_t>(size) : otherwise;
    };
    std::size_t const l2 = cache(_SC_LEVEL2_CACHE_SIZE, 512U << 10U), l3 = cache(_SC_LEVEL3_CACHE_SIZE, 16U << 20U);
    rates.push_back(read_rate("read, L1", cache(_SC_LEVEL1_DCACHE_SIZE, 32U << 10U) / 2));
    rates.push_back(read_rate("read, L2", l2 / 2));
    rates.push_back(read_rate("read, L3", std::max(2 * l2, std::min<std::size_t>(l3 / 4, 8U << 20U))));
    std::size_t const large = std::max<std::size_t>(4 * l3, 64U << 20U);
    rates.push_back(read_rate("read, memory", large));
    std::vector<char> const from(large, 1);
    std::vector<char> to(large);
    rates.push_back({"memcpy, memory", "GB/s", typical_rate(static_cast<double>(large), [&] {
                                                   std::memcpy(to.data(), from.data(), large);
                                                   keep(to);
                                               }) / 1e9});
    return rates;
}

std::string cpu_name() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with("model name")) return line.substr(line.find(": ") + 2);
    }
    return "unknown";
}

std::string compiler_name() {
#ifdef __clang__
    return "clang " + std::to_string(__clang_major__) + "." + std::to_string(__clang_minor__);
#else
    return "gcc " + std::to_string(__GNUC__) + "." + std::to_string(__GNUC_MINOR__);
#endif
}

std::string isa_name() { return arch::name(); }

}  // namespace terse::bench

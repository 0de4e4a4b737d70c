#include "machine.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <ctime>
#include <fstream>

#include <unistd.h>

#include <terse/simd/batch.hpp>

#include "compare.hpp"

namespace terse::bench {
namespace {

using arch = simd::default_arch;
using batch = simd::floats<arch>;

// Enough chains to hide the latency of two units, few enough to stay in sixteen registers. AVX-512's dots take longer, and
// have thirty-two.
constexpr int chains = 12, dot_chains = 16;
constexpr index many = 200'000;

/// How often a second `body`, which does `amount`, does one: the median of many runs, which take far longer than reading
/// the clock.
double typical_rate(double amount, auto&& body) {
    std::vector<double> rates;
    double spent = 0;
    while (rates.size() < 9 || (rates.size() < 301 && spent < 0.5)) {
        double const start = processor_time();
        body();
        double const now = processor_time() - start;
        spent += now;
        rates.push_back(amount / now);
    }
    auto const middle = rates.begin() + std::ssize(rates) / 2;
    std::nth_element(rates.begin(), middle, rates.end());
    return *middle;
}

rate read_rate(std::string name, std::size_t bytes) {
    aligned<float> const memory(bytes / sizeof(float), 1.0F);
    auto const passes = std::max<std::size_t>(1, (std::size_t{1} << 26) / bytes);
    auto const per_run = static_cast<double>(bytes) * static_cast<double>(passes);
    return {std::move(name), "GB/s", typical_rate(per_run, [&] {
                                         for (std::size_t i = 0; i < passes; ++i) read_all(memory.data(), bytes);
                                     }) / 1e9};
}

[[maybe_unused]] rate dot_rate(std::string name, double operations, auto step) {
    return {std::move(name), "Gop/s", typical_rate(operations * dot_chains * many, [&] { step(many); }) / 1e9};
}

#ifdef __AVX512BF16__
void dot_bfloat16(index steps) noexcept {
    std::array<batch, dot_chains> sums;
    sums.fill(batch(1.0F));
    auto const x = std::bit_cast<batch>(simd::ints<arch>(0x3F80'3F80));
    for (index i = 0; i < steps; ++i)
        simd::unroll<dot_chains>([&](auto c) { sums[c] = simd::dot_pairs<arch>(x, x, sums[c]); });
    keep(sums);
}
#endif
#ifdef __AVX512VNNI__
void dot_int8(index steps) noexcept {
    using words = simd::ints<arch>;
    std::array<words, dot_chains> sums;
    sums.fill(words(0));
    words const x(0x0101'0101);
    for (index i = 0; i < steps; ++i)
        simd::unroll<dot_chains>([&](auto c) { sums[c] = words(_mm512_dpbusd_epi32(sums[c], x, x)); });
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

double processor_time() noexcept {
    std::timespec now{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

std::vector<rate> measure_machine() {
    std::vector<rate> rates;
    multiply_add(10 * many);  // wakes the clock
    rates.push_back({"FMA, float, " + std::to_string(32 * batch::size) + " bit", "Gflop/s",
                     typical_rate(multiply_add_operations() * many, [] { multiply_add(many); }) / 1e9});
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
    // Far more than one core has of it, where it is one cache or those of many cores together.
    std::size_t const large = std::clamp<std::size_t>(4 * l3, 64U << 20U, 512U << 20U);
    rates.push_back(read_rate("read, memory", large));
    aligned<char> const from(large, 1);
    aligned<char> to(large);
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

std::string isa_name() {
    std::string const name = arch::name();  // "fma3+avx2": the last says it all
    return name.substr(name.find('+') + 1);
}

}  // namespace terse::bench

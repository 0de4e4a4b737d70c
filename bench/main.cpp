#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>
#include <utility>

#include <benchmark/benchmark.h>
#include <unistd.h>

#include "results.hpp"

namespace {

/// The value of an argument "--name=value", which Google Benchmark does not see then.
std::string take_argument(std::string const& name, int& argc, char** argv) {
    char** const end = argv + argc;
    char** const at = std::find_if(argv, end, [&](char* a) { return std::string(a).starts_with("--" + name + "="); });
    if (at == end) return {};
    std::string value = std::string(*at).substr(name.size() + 3);
    std::copy(at + 1, end, at);
    --argc;
    return value;
}

/// Starts the program anew where the environment is another than wanted: libraries read it when they are loaded.
void want_environment(std::array<std::pair<char const*, std::string>, 3> const& wanted, char** argv) {
    bool changed = false;
    for (auto const& [name, value] : wanted) {
        char const* const now = std::getenv(name);
        if (value.empty() || (now != nullptr && value == now)) continue;
        setenv(name, value.c_str(), 1);
        changed = true;
    }
    if (changed) execv("/proc/self/exe", argv);
}

}  // namespace

// Google Benchmark's program, with --results=FILE: where to write FILE.json and FILE.md, and --openblas=CORE: the
// processor whose kernels OpenBLAS is to use, a program that does nothing where this one cannot run AVX-512.
int main(int argc, char** argv) {
    std::vector<char*> arguments(argv, argv + argc + 1);
    int count = argc;
    std::string const results = take_argument("results", count, arguments.data());
    std::string const openblas = take_argument("openblas", count, arguments.data());
#ifdef __x86_64__
    if (!openblas.empty() && !__builtin_cpu_supports("avx512f")) return 0;
#endif
    want_environment({{{"OMP_NUM_THREADS", "1"}, {"OPENBLAS_NUM_THREADS", "1"}, {"OPENBLAS_CORETYPE", openblas}}},
                     argv);

    benchmark::Initialize(&count, arguments.data());
    if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 1;
    benchmark::RunSpecifiedBenchmarks();
    if (!results.empty()) terse::bench::write_results(results);
}

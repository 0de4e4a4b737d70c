#include <algorithm>
#include <cstdlib>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

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

/// Starts the program anew where the environment is another than wanted, unset where no value is: libraries read it when
/// they are loaded.
void want_environment(std::initializer_list<std::pair<char const*, std::string>> wanted, char** argv) {
    bool changed = false;
    for (auto const& [name, value] : wanted) {
        char const* const now = std::getenv(name);
        if (now == nullptr ? value.empty() : !value.empty() && value == now) continue;
        if (value.empty())
            unsetenv(name);
        else
            setenv(name, value.c_str(), 1);
        changed = true;
    }
    if (changed) execv("/proc/self/exe", argv);
}

}  // namespace

// Google Benchmark's program, with --results=FILE: where to write FILE.json and FILE.md, and --openblas=CORE: the
// processor whose kernels OpenBLAS is to use instead of those that it chooses; of the peers only what uses them is timed
// then, and nothing where this processor has no AVX-512. Fails where answers differ.
int main(int argc, char** argv) {
    std::vector<char*> arguments(argv, argv + argc + 1);
    int count = argc;
    std::string const results = take_argument("results", count, arguments.data());
    std::string const openblas = take_argument("openblas", count, arguments.data());
#ifdef __x86_64__
    if (!openblas.empty() && !__builtin_cpu_supports("avx512f")) return 0;
#endif
    // One thread, huge pages for all memory of the heap (on virtual machines a fault may cost more than what touches the
    // page), and nothing from outside that narrows what a peer chooses for this processor.
    want_environment({{"OMP_NUM_THREADS", "1"},
                      {"GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"},
                      {"OPENBLAS_NUM_THREADS", "1"},
                      {"OPENBLAS_CORETYPE", openblas},
                      {"OPENBLAS_L2_SIZE", ""},
                      {"ONEDNN_MAX_CPU_ISA", ""},
                      {"DNNL_MAX_CPU_ISA", ""},
                      {"ATEN_CPU_CAPABILITY", ""}},
                     argv);
    terse::bench::only_peers(openblas);

    benchmark::Initialize(&count, arguments.data());
    if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 1;
    benchmark::RunSpecifiedBenchmarks();
    if (!results.empty()) terse::bench::write_results(results);
    return terse::bench::disagreed() ? 1 : 0;
}

#include "compare.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <numeric>
#include <utility>

#include <benchmark/benchmark.h>
#ifdef __GLIBC__
#include <gnu/libc-version.h>
#endif

#include "machine.hpp"
#include "results.hpp"

namespace terse::bench {
namespace {

using clock = std::chrono::steady_clock;

double median(std::vector<double> values) {
    auto const middle = values.begin() + std::ssize(values) / 2;
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

/// One thing to time again and again: calls enough at a time to take far longer than reading the clock, a microsecond.
class timer {
  public:
    timer(std::function<void(std::size_t)> const& run, std::size_t inputs) : run_{&run}, inputs_{inputs} {
        double const once = measure();  // cold, which matters little in a second: that is the first sample
        if (once >= 1)
            waiting_ = once;
        else
            while (measure() * static_cast<double>(calls_) < 200e-6) calls_ *= 2;
    }
    /// Seconds a call.
    double sample() { return waiting_ > 0 ? std::exchange(waiting_, 0) : measure(); }

  private:
    double measure() {
        double const start = processor_time();
        for (std::size_t call = 0; call < calls_; ++call) (*run_)(next_++ % inputs_);
        return (processor_time() - start) / static_cast<double>(calls_);
    }

    std::function<void(std::size_t)> const* run_;
    std::size_t inputs_, calls_ = 1, next_ = 0;
    double waiting_ = 0;
};

/// As many bytes up to the end of a line of the caches.
std::size_t whole_lines(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

bool differed = false;
std::string peers_wanted;

/// All of a contest in shuffled order, round after round; ratios are those within a round, so that they stand when the
/// clock does not.
outcome run(contest const& c) {
    constexpr double long_enough = 0.3, too_long = 1;
    constexpr double slow = 0.5, very_slow = 2;  // seconds a round
    // What takes long is disturbed little, for its length: it needs fewer rounds.
    constexpr std::size_t few = 5, few_if_slow = 3, few_if_very_slow = 2, many = 301;
    std::vector<timer> timers{{c.bound.probe, c.inputs}};
    for (auto const& each : c.candidates) timers.emplace_back(each.run, c.inputs);
    std::vector<std::vector<double>> slower(timers.size());  // than terse, a round
    std::vector<double> ours, now(timers.size());
    std::vector<std::size_t> order(timers.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::mt19937 random(1);
    auto const start = clock::now();
    for (std::size_t round = 0; round < many; ++round) {
        double const spent = std::chrono::duration<double>(clock::now() - start).count();
        double const each = std::accumulate(now.begin(), now.end(), 0.0);  // of the round before
        if (each > slow && round >= (each > very_slow ? few_if_very_slow : few_if_slow)) break;
        if ((round >= few && spent > too_long) || (round >= 70 && spent > long_enough)) break;
        std::shuffle(order.begin(), order.end(), random);
        for (std::size_t const i : order) now[i] = timers[i].sample();
        ours.push_back(now[1]);
        for (std::size_t i = 0; i < now.size(); ++i) slower[i].push_back(now[i] / now[1]);
    }
    outcome result{.seconds = median(ours), .percent = 100 * c.bound.share * median(slower[0])};
    for (std::size_t i = 1; i < c.candidates.size(); ++i)
        result.peers.emplace_back(c.candidates[i].name, median(slower[i + 1]));
    return result;
}

}  // namespace

void add(subject what, std::function<contest()> make) {
    std::string name = what.kernel;
    for (auto const& [key, value] : what.shape) name += "/" + key + ":" + std::to_string(value);
    name += "/" + what.dtype;
    benchmark::RegisterBenchmark(name.c_str(),
                                 [what = std::move(what), make = std::move(make)](benchmark::State& state) {
                                     contest c = make();
                                     if (!c.agree) {
                                         differed = true;
                                         state.SkipWithError("the answers differ");
                                     }
                                     std::erase_if(c.candidates, [](candidate const& each) {
                                         return each.name != "terse" &&
                                                each.name.find(peers_wanted) == std::string::npos;
                                     });
                                     for (auto _ : state) {
                                         outcome const found = run(c);
                                         state.SetIterationTime(found.seconds);
                                         state.counters["% of " + c.bound.name] = found.percent;
                                         for (auto const& [peer, times] : found.peers) state.counters[peer] = times;
                                         record(what, c.bound.name, found);
                                     }
                                 })
        ->Iterations(1)
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond);
}

bool disagreed() { return differed; }

void only_peers(std::string const& part) { peers_wanted = part; }

limit fma_limit(double operations) {
    constexpr index steps = 4'000;
    return {"FMA", [](std::size_t) { multiply_add(steps); }, operations / (multiply_add_operations() * steps)};
}

limit copy_limit(std::size_t bytes, std::size_t inputs) {
    // Aligned: on some processors memcpy is twenty times slower to a destination 16 bytes after its source in a page.
    std::size_t const apart = whole_lines(bytes);
    auto const from = std::make_shared<aligned<char>>(apart * inputs, 1);
    auto const to = std::make_shared<aligned<char>>(apart * inputs);
    return {"memcpy", [=](std::size_t input) {
                std::memcpy(to->data() + input * apart, from->data() + input * apart, bytes);
                keep(*to->data());
            }};
}

limit read_limit(std::size_t bytes, std::size_t inputs) {
    std::size_t const apart = whole_lines(bytes) / sizeof(float);
    auto const from = std::make_shared<aligned<float>>(apart * inputs, 1.0F);
    return {"read", [=](std::size_t input) { read_all(from->data() + input * apart, bytes); }};
}

std::string eigen_name() {
    return "Eigen " + std::to_string(EIGEN_WORLD_VERSION) + "." + std::to_string(EIGEN_MAJOR_VERSION) + "." +
           std::to_string(EIGEN_MINOR_VERSION);
}

std::string std_name(std::string const& what) {
#ifdef _GLIBCXX_RELEASE
    return what + " (libstdc++ " + std::to_string(_GLIBCXX_RELEASE) + ")";
#else
    return what;
#endif
}

std::string c_name(std::string const& what) {
#ifdef __GLIBC__
    return what + " (glibc " + gnu_get_libc_version() + ")";
#else
    return what;
#endif
}

}  // namespace terse::bench

// 2^x of what is in the first cache, against the exponentials that a softmax would call otherwise.
#include <cmath>
#include <memory>
#include <string>

#include <terse/simd/exp2.hpp>

#include "../compare.hpp"

namespace terse::bench {
namespace {

using arch = simd::default_arch;
using batch = simd::floats<arch>;

void each_register(aligned<float> const& values, aligned<float>& results, auto function) {
    float const* const in = values.data();
    float* const out = results.data();
    for (std::size_t i = 0, n = values.size(); i < n; i += batch::size)
        function(batch::load_unaligned(in + i)).store_unaligned(out + i);
}

// The limit is the polynomial's five multiply-adds alone.
contest exp2(index n) {
    struct state {
        aligned<float> arguments, natural, ours, theirs, plain;
    };
    auto const s = std::make_shared<state>();
    for (float const x : random_values(n, 1)) {
        s->arguments.push_back(8 * (x - 1));
        s->natural.push_back(s->arguments.back() * 0.69314718F);
    }
    s->ours = s->theirs = s->plain = s->arguments;
    auto const ours = [s](std::size_t) {
        each_register(s->arguments, s->ours, [](batch const& x) { return simd::exp2<arch>(x); });
        keep(s->ours);
    };
    auto const theirs = [s](std::size_t) {
        each_register(s->natural, s->theirs, [](batch const& x) { return xsimd::exp(x); });
        keep(s->theirs);
    };
    auto const plain = [s](std::size_t) {
        for (std::size_t i = 0; i < s->natural.size(); ++i) s->plain[i] = std::exp(s->natural[i]);
        keep(s->plain);
    };
    std::string const xsimd_name = "xsimd " + std::to_string(XSIMD_VERSION_MAJOR) + "." +
                                   std::to_string(XSIMD_VERSION_MINOR) + "." + std::to_string(XSIMD_VERSION_PATCH);
    contest c{.bound = fma_limit(2.0 * 5 * static_cast<double>(n)),
              .candidates = {{"terse", ours}, {xsimd_name + " exp", theirs}, {std_name("std::exp"), plain}}};
    for (auto const& each : c.candidates) each.run(0);
    for (std::size_t i = 0; i < s->ours.size(); ++i) {
        double const right = std::exp2(static_cast<double>(s->arguments[i]));
        c.agree = c.agree && std::abs(s->ours[i] / right - 1) < 2e-7 && std::abs(s->theirs[i] / right - 1) < 2e-6;
    }
    return c;
}

bool const added = [] {
    add({"exp2", {{"n", 4096}}}, [] { return exp2(4096); });
    return true;
}();

}  // namespace
}  // namespace terse::bench

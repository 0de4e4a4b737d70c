// A step of decoding with H2O in a full cache: the attention of the new token joins the sums, and a slot goes.
#include <algorithm>
#include <memory>

#include <Eigen/Core>

#include <terse/kv/h2o.hpp>

#include "../compare.hpp"

namespace terse::bench {
namespace {

using simd_batch = simd::floats<simd::default_arch>;

/// The addition alone.
void add_row(float* sums, float const* row, index n) {
    constexpr index width = simd::lanes<simd::default_arch>;
    for (index i = 0; i < n; i += 4 * width)
        simd::unroll<4>([&](auto u) {
            index const at = i + u * width;
            (simd_batch::load_unaligned(sums + at) + simd_batch::load_unaligned(row + at)).store_unaligned(sums + at);
        });
}

contest h2o_step(index n) {
    struct state {
        std::vector<Eigen::VectorXf> attention;  // Eigen's memory is aligned
        Eigen::VectorXf ours, theirs, alone;
        token slot = -1;
        index other = -1;
    };
    auto const s = std::make_shared<state>();
    auto const random = [n](unsigned seed) {
        auto const values = random_values(n, seed);
        return Eigen::VectorXf(Eigen::Map<Eigen::VectorXf const>(values.data(), n));
    };
    for (unsigned seed = 0; seed < 4; ++seed)
        s->attention.emplace_back((random(seed).array() + 1) / static_cast<float>(n));
    auto const inputs = s->attention.size();
    s->ours = s->theirs = s->alone = random(9);
    auto const ours = [s, n](std::size_t input) {
        std::span const memory(s->ours.data(), static_cast<std::size_t>(n));
        kv::column_sums sums{.values = memory, .heads = 1, .capacity = n, .used = n};
        auto const attention = head_major<float const>(s->attention[input].data(), 1, 1, n);
        auto const error = kv::h2o{.keep = n - 1, .recent = 0}.step(sums, attention, 0, {&s->slot, 1});
        keep(error);
    };
    auto const theirs = [s](std::size_t input) {
        s->theirs += s->attention[input];
        s->theirs.minCoeff(&s->other);
        s->theirs[s->other] = 0;
        keep(s->other);
    };
    contest c{.bound = {"add",
                        [s, n](std::size_t input) {
                            add_row(s->alone.data(), s->attention[input].data(), n);
                            keep(s->alone);
                        }},
              .candidates = {{"terse", ours}, {eigen_name(), theirs}},
              .inputs = inputs};
    for (std::size_t call = 0; call < 8 * inputs; ++call) {
        ours(call % inputs);
        theirs(call % inputs);
        c.agree = c.agree && s->slot == s->other && s->ours == s->theirs;
    }
    return c;
}

bool const added = [] {
    for (index const n : {4096, 16384, 32768}) add({"h2o-step", {{"n", n}}}, [n] { return h2o_step(n); });
    return true;
}();

}  // namespace
}  // namespace terse::bench

#include <cmath>

#include <catch2/catch.hpp>

#include <terse/simd/farthest.hpp>
#include <terse/simd/nearest.hpp>
#include <terse/simd/scalar.hpp>

#include "unit/simd/samples.hpp"

namespace terse::test {
namespace {

/// A state with its memory.
template <class Arch, class Row>
struct selection {
    index count, dim, blocks = simd::farthest_blocks(count);
    Row row;
    std::vector<float> inverse = std::vector<float>(static_cast<std::size_t>(count));
    std::vector<float> memory = std::vector<float>(static_cast<std::size_t>(blocks * (simd::farthest_block + 1) + 64));
    std::vector<std::int32_t> seen = std::vector<std::int32_t>(static_cast<std::size_t>(count), -7);
    tokens_list picks{};
    simd::farthest_state state{};

    selection(index n, Row rows, index d) : count(n), dim(d), row(rows) {
        simd::inverse_norms<Arch>(count, row, dim, inverse);
        for (index i = 0; i < count; ++i)
            if (!simd::is_finite(simd::squared_norm<Arch>(row(i), dim)))
                inverse[static_cast<std::size_t>(i)] = not_a_number;
        auto* const aligned = memory.data() + (-reinterpret_cast<std::uintptr_t>(memory.data()) & 63U) / sizeof(float);
        auto const bounds = static_cast<std::size_t>(blocks * simd::farthest_block);
        state = {count, inverse, {aligned, bounds}, seen, {aligned + bounds, static_cast<std::size_t>(blocks)}, {}};
        simd::farthest_start<Arch>(state);
    }

    void pick(index i) {
        picks.push_back(static_cast<token>(i));
        state.picks = picks;
        simd::farthest_remove<Arch>(state, i);
    }

    /// By `workers` that share the blocks, the last of them first.
    index settle(index workers) {
        for (index worker = workers; worker-- > 0;) {
            auto const [begin, end] = share(blocks, worker, workers);
            simd::farthest_settle<Arch>(begin, end, row, dim, state);
        }
        return simd::farthest_leader<Arch>(state);
    }

    /// Every row compared with every pick.
    index settle_all() {
        for (index i = 0; i < count; ++i) {
            if (state.bound[static_cast<std::size_t>(i)] <= simd::farthest_state::not_finite) continue;
            while (seen[static_cast<std::size_t>(i)] < std::ssize(picks))
                simd::farthest_compare<Arch>(i, row, dim, state);
        }
        for (index b = 0; b < blocks; ++b)
            state.highest[static_cast<std::size_t>(b)] = simd::highest_bound<Arch>(state.block(b).data());
        return simd::farthest_leader<Arch>(state);
    }
};

/// Makes every pick, lazily and plainly: the same ones, and each the farthest.
template <class Arch, class T>
void check_picks(samples::rows<T> const& rows, index count, index dim, index start) {
    CAPTURE(count, dim);
    auto const row = rows.view();
    selection<Arch, decltype(row)> plain(count, row, dim), lazy(count, row, dim), shared(count, row, dim);
    index made = 0;
    for (index next = start; next >= 0; ++made) {
        for (auto* const s : {&plain, &lazy, &shared}) s->pick(next);
        next = plain.settle_all();
        REQUIRE(lazy.settle(1) == next);
        REQUIRE(shared.settle(3) == next);
        bool bounded = true;
        float highest = -infinity;
        for (index i = 0; i < count; ++i) {
            auto const at = static_cast<std::size_t>(i);
            float const distance = plain.state.bound[at];
            bounded = bounded && lazy.state.bound[at] >= distance && shared.state.bound[at] >= distance;
            highest = std::max(highest, distance);
            if (distance <= simd::farthest_state::not_finite || std::isinf(distance)) continue;
            REQUIRE(distance == Approx(simd::scalar::farthest_distance(i, row, dim, plain.picks)).margin(2e-6));
        }
        REQUIRE(bounded);
        if (next >= 0) REQUIRE(plain.state.bound[static_cast<std::size_t>(next)] == highest);
    }
    CHECK(made == count);
}

// On this build's architecture alone: what stands for a fused multiply-add on a smaller one, compilers fuse at whim.
using kernels = samples::storages<samples::best>;

TEMPLATE_LIST_TEST_CASE("farthest rows, found by bounds, are those found plainly", "[simd]", kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    index const v = simd::lanes<Arch>, block = simd::farthest_block;
    for (index const count : {index{1}, index{2}, index{3}, v, block - 1, block, block + 1, 2 * block + 9})
        for (index const dim : {index{2}, v, 2 * v + 1})
            check_picks<Arch>(samples::rows<T>(count, dim, 1, 2, 1), count, dim, count / 3);
    for (index const dim : samples::lengths<Arch>())
        for (index const offset : {0, 3})
            check_picks<Arch>(samples::rows<T>(block + 5, dim, 2, 0, offset), block + 5, dim, 0);
    samples::rows<T> const none(0, v, 1);
    selection<Arch, decltype(none.view())> empty(0, none.view(), v);
    CHECK(empty.settle(1) == -1);
}

TEMPLATE_LIST_TEST_CASE("farthest rows: copies, zeros and rows that are not finite", "[simd]", kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    index const count = simd::farthest_block + 30, dim = 19;
    for (float const bad : {0.0F, not_a_number, infinity}) {
        CAPTURE(bad);
        samples::rows<T> rows(count, dim, 3);
        for (index i = 0; i < count; ++i)
            if (i % 4 != 0) std::copy_n(rows(i - i % 4), dim, rows(i));
        for (index const i : {index{0}, index{5}, count - 1}) std::fill_n(rows(i), dim, static_cast<T>(bad));
        for (index const start : {index{0}, index{7}}) check_picks<Arch>(rows, count, dim, start);
    }
}

TEST_CASE("the products of a row do not depend on how many rows it meets", "[simd]") {
    using Arch = simd::default_arch;
    samples::rows<float> rows(5, 100, 4);
    for (index const dim : {index{0}, index{1}, index{7}, index{16}, index{17}, index{40}, index{100}}) {
        std::array<float const*, 4> const four{rows(1), rows(2), rows(3), rows(4)};
        std::array<float const*, 3> const three{rows(2), rows(3), rows(4)};
        auto const of_four = simd::products<Arch, 4>(static_cast<float const*>(rows(0)), four, dim);
        auto const of_three = simd::products<Arch, 3>(static_cast<float const*>(rows(0)), three, dim);
        CHECK(std::equal(of_three.begin(), of_three.end(), of_four.begin() + 1));
        for (std::size_t i = 0; i < 4; ++i) {
            auto const alone = simd::products<Arch, 1>(four[i], std::array{static_cast<float const*>(rows(0))}, dim);
            CHECK(alone[0] == of_four[i]);
            CHECK(alone[0] == Approx(simd::scalar::dot(rows(0), four[i], dim)).margin(1e-5));
        }
    }
}

TEST_CASE("distances lowered by cosines that are known", "[simd]") {
    using Arch = simd::default_arch;
    index const count = simd::farthest_block + 3;
    std::vector<float> const x(static_cast<std::size_t>(count), 1.0F);
    auto const row = [&](index i) { return x.data() + i; };
    selection<Arch, decltype(row)> s(count, row, 1);
    s.inverse[2] = not_a_number;
    simd::farthest_start<Arch>(s.state);
    s.pick(1);
    std::vector<float> cosines(static_cast<std::size_t>(count), 0.5F);
    cosines[2] = not_a_number;
    cosines[7] = cosines[simd::farthest_block + 2] = -0.25F;
    simd::farthest_lower<Arch>(cosines.data(), s.state);
    CHECK(s.state.bound[0] == 0.5F);
    CHECK(s.state.bound[1] == -infinity);
    CHECK(s.state.bound[2] == simd::farthest_state::not_finite);
    CHECK(s.state.bound[7] == 1.25F);
    CHECK(simd::farthest_leader<Arch>(s.state) == 7);
    s.pick(7);
    CHECK(simd::farthest_leader<Arch>(s.state) == simd::farthest_block + 2);
    std::fill(cosines.begin(), cosines.end(), 0.75F);
    cosines[4] = 0.25F;
    simd::farthest_lower<Arch>(cosines.data(), s.state);
    CHECK(s.state.bound[4] == 0.5F);
    CHECK(s.state.bound[0] == 0.25F);
    CHECK(s.state.bound[simd::farthest_block + 2] == 0.25F);
    CHECK(simd::farthest_leader<Arch>(s.state) == 4);
}

}  // namespace
}  // namespace terse::test

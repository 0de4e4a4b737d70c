#include <set>
#include <string_view>

#include <terse/select/hamming.hpp>

#include "support.hpp"

namespace terse::test {
namespace {
tokens_list rescued(std::vector<double> const& scores, index block, tokens_list const& going, std::size_t count,
                    select::anchor kind, std::uint64_t seed = 0) {
    tokens_list out(count, -1);
    arena memory;
    CHECK(select::rescue(scores, block, going, kind, seed, out, memory) == errc::ok);
    CHECK(memory.used() == 0);
    return out;
}
}  // namespace

TEST_CASE("representatives by Hamming distance to the anchor", "[select][hamming]") {
    using enum select::anchor;
    // Blocks of three; the high half is the 9s and the 4. Bits: 110 000 011 111 000 011.
    std::vector<double> const x = {9, 9, 1, 1, 2, 1, 1, 9, 9, 9, 9, 9, 2, 2, 2, 3, 4, 9};
    tokens_list const all = {0, 1, 2, 3, 4, 5};
    CHECK(rescued(x, 3, all, 1, zeros) == tokens_list{1});        // 2 0 2 3 0 2: order 1 4 0 2 5 3
    CHECK(rescued(x, 3, all, 2, zeros) == tokens_list{1, 2});     // every third: 1, 2
    CHECK(rescued(x, 3, all, 3, zeros) == tokens_list{0, 1, 5});  // every second: 1, 0, 5
    CHECK(rescued(x, 3, all, 6, zeros) == all);
    CHECK(rescued(x, 3, all, 1, ones) == tokens_list{3});  // 1 3 1 0 3 1: order 3 0 2 5 1 4
    CHECK(rescued(x, 3, all, 2, ones) == tokens_list{3, 5});
    CHECK(rescued(x, 3, all, 1, alternating) == tokens_list{0});  // to 010: 1 1 1 2 1 1
    CHECK(rescued(x, 3, {1, 3, 5}, 1, alternating) == tokens_list{1});
    CHECK(rescued(x, 3, all, 1, mean) == tokens_list{0});  // votes 2 4 3 of 6: 010
    CHECK(rescued(x, 3, {3, 4}, 1, ones) == tokens_list{3});
    CHECK(rescued(x, 3, {0, 1, 2, 3, 4}, 2, zeros) == tokens_list{0, 1});  // of 1 4 0 2 3 every second
    // Of nine scores four are high: 111 000 100; of equal ones the first.
    CHECK(rescued({9, 8, 7, 1, 2, 3, 6, 5, 4}, 3, {0, 1, 2}, 2, alternating) == tokens_list{0, 1});
    CHECK(rescued({1, 1, 1, 1}, 2, {0, 1}, 1, zeros) == tokens_list{1});
}

TEST_CASE("long blocks have bits in several words", "[select][hamming]") {
    // The second of two blocks of 130 is all high; of four, the last two.
    for (index const blocks : {2, 4}) {
        std::vector<double> x(static_cast<std::size_t>(130 * blocks));
        for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<double>(i);
        tokens_list all;
        for (token b = 0; b < blocks; ++b) all.push_back(b);
        CHECK(rescued(x, 130, all, 1, select::anchor::zeros) == tokens_list{0});
        CHECK(rescued(x, 130, all, 1, select::anchor::ones) == tokens_list{static_cast<token>(blocks / 2)});
    }
}

TEST_CASE("random anchors follow their seed", "[select][hamming]") {
    auto const random = uniform(32 * 16, 1);
    std::vector<double> const x(random.begin(), random.end());
    tokens_list all;
    for (token b = 0; b < 32; ++b) all.push_back(b);
    std::set<tokens_list> seen;
    for (std::uint64_t seed = 0; seed < 8; ++seed) {
        auto const first = rescued(x, 16, all, 4, select::anchor::random, seed);
        CHECK(first == rescued(x, 16, all, 4, select::anchor::random, seed));
        seen.insert(first);
    }
    CHECK(seen.size() > 4);
}

TEST_CASE("random anchors are the high bits of splitmix64", "[select][hamming]") {
    // From seed 0: E220.., 6E78.., 06C4.., F88B..; so 1001, of blocks 0110 1001 0101 1010.
    std::vector<double> const x = {0, 1, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1, 1, 0, 1, 0};
    CHECK(rescued(x, 4, {0, 1, 2, 3}, 1, select::anchor::random) == tokens_list{1});
    // The first of seeds 0, 1, ...: slot 0 is high, slot 1 is not.
    std::string_view const firsts = "1110001011001101";
    for (std::size_t seed = 0; seed < firsts.size(); ++seed) {
        CAPTURE(seed);
        token const nearest = firsts[seed] == '1' ? 0 : 1;
        CHECK(rescued({1, 0}, 1, {0, 1}, 1, select::anchor::random, seed) == tokens_list{nearest});
    }
}

TEST_CASE("a rescue needs memory", "[select][hamming]") {
    std::vector<double> const x(64, 1.0);
    tokens_list const going = {0, 1};
    tokens_list out(1);
    std::byte few[256];
    arena memory{few};
    CHECK(select::rescue(x, 16, going, select::anchor::mean, 0, out, memory) == errc::out_of_memory);
    CHECK(memory.used() == 0);
}
}  // namespace terse::test

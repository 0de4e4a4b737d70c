#include <array>
#include <cstdint>
#include <utility>

#include <terse/core/arena.hpp>

#include "support.hpp"

using terse::arena;

namespace {
bool on_a_line(void const* p) { return reinterpret_cast<std::uintptr_t>(p) % 64 == 0; }
}  // namespace

TEST_CASE("a growing arena gives distinct, aligned memory", "[core][arena]") {
    arena memory;
    std::vector<std::span<int>> taken;
    for (terse::index count : {0, 1, 15, 16, 17, 1000, 100000, 3}) {
        auto const s = memory.take<int>(count);
        REQUIRE(terse::taken(s));
        REQUIRE(s.size() == static_cast<std::size_t>(count));
        CHECK(on_a_line(s.data()));
        std::fill(s.begin(), s.end(), static_cast<int>(taken.size()));
        taken.push_back(s);
    }
    for (std::size_t i = 0; i < taken.size(); ++i)
        CHECK(std::all_of(taken[i].begin(), taken[i].end(), [&](int v) { return v == static_cast<int>(i); }));
}

TEST_CASE("a growing arena keeps its blocks", "[core][arena]") {
    arena memory;
    auto const first = memory.take<float>(100000);
    auto const second = memory.take<float>(500000);
    memory.rewind();
    CHECK(memory.used() == 0);
    CHECK(memory.take<float>(100000).data() == first.data());
    CHECK(memory.take<float>(500000).data() == second.data());
}

TEST_CASE("rewinding to a mark frees what came after it, over blocks too", "[core][arena]") {
    arena memory;
    auto const kept = memory.take<int>(10);
    std::fill(kept.begin(), kept.end(), 7);
    auto const here = memory.here();
    auto const used = memory.used();
    auto const next = memory.take<int>(10);
    (void)memory.take<int>(1000000);
    memory.rewind(here);
    CHECK(memory.used() == used);
    CHECK(memory.take<int>(10).data() == next.data());
    CHECK(std::count(kept.begin(), kept.end(), 7) == 10);
}

TEST_CASE("peak is the most in use at one time", "[core][arena]") {
    arena memory;
    CHECK(memory.peak() == 0);
    auto const start = memory.here();
    (void)memory.take<std::byte>(64);
    (void)memory.take<std::byte>(65);
    CHECK(memory.used() == 192);
    memory.rewind(start);
    (void)memory.take<std::byte>(1);
    CHECK(memory.used() == 64);
    CHECK(memory.peak() == 192);
}

TEST_CASE("a fixed arena serves its peak and no more", "[core][arena]") {
    terse::test::fixed_memory bytes{256};
    arena memory{bytes.bytes()};
    auto const a = memory.take<float>(16);
    auto const b = memory.take<float>(17);
    REQUIRE(terse::taken(a, b));
    CHECK(a.data() + 16 == b.data());
    CHECK(terse::taken(memory.take<char>(1)));
    CHECK(memory.used() == 256);
    CHECK_FALSE(terse::taken(memory.take<char>(1)));
    CHECK_FALSE(terse::taken(memory.take<char>(0)));
    CHECK(memory.used() == 256);
    memory.rewind();
    CHECK(memory.take<float>(64).data() == a.data());
}

TEST_CASE("a fixed arena aligns memory that is not", "[core][arena]") {
    terse::test::fixed_memory bytes{256};
    arena memory{bytes.bytes().subspan(1)};
    auto const s = memory.take<char>(64);
    REQUIRE(terse::taken(s));
    CHECK(on_a_line(s.data()));
    CHECK(terse::taken(memory.take<char>(128)));
    CHECK_FALSE(terse::taken(memory.take<char>(1)));
}

TEST_CASE("an arena over no memory is fixed", "[core][arena]") {
    std::array<std::byte, 1> byte{};
    arena memory{std::span<std::byte>{byte}.first(0)};
    CHECK_FALSE(terse::taken(memory.take<char>(1)));
}

TEST_CASE("counts that no memory holds are refused", "[core][arena]") {
    arena memory;
    CHECK_FALSE(terse::taken(memory.take<double>(std::numeric_limits<terse::index>::max())));
    CHECK_FALSE(terse::taken(memory.take<double>(-1)));
    CHECK(memory.used() == 0);
    CHECK(memory.peak() == 0);
}

TEST_CASE("a moved arena takes its memory along", "[core][arena]") {
    arena from;
    auto const s = from.take<int>(3);
    s[0] = 42;
    arena to{std::move(from)};
    CHECK(s[0] == 42);
    CHECK(to.used() == 64);
    to.rewind();
    CHECK(to.take<int>(3).data() == s.data());

    arena other;
    (void)other.take<int>(1000);
    other = std::move(to);
    CHECK(other.used() == 64);
}

TEST_CASE("a scope's memory goes back unless it is kept", "[core][arena]") {
    arena memory;
    {
        terse::rollback const scratch{memory};
        (void)memory.take<int>(100);
    }
    CHECK(memory.used() == 0);
    {
        terse::rollback undo{memory};
        (void)memory.take<int>(16);
        undo.keep();
    }
    CHECK(memory.used() == 64);
}

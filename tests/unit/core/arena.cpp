#include <catch2/catch.hpp>

#include <terse/core/arena.hpp>

TEST_CASE("a growing arena keeps its blocks", "[core][arena]") {
    terse::arena memory;
    auto const first = memory.take<float>(100000);
    memory.rewind();
    CHECK(memory.take<float>(100000).data() == first.data());
}

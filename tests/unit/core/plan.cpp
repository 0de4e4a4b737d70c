#include <terse/core/plan.hpp>

#include "support.hpp"

using terse::plan;
using terse::token;
using terse::test::tokens_list;

namespace {

// A plan and its memory.
struct built {
    terse::index tokens = 0;
    tokens_list sources, offsets;
    std::vector<float> weights;
    tokens_list anchor, owner;

    operator plan() const { return {tokens, sources, offsets, weights, anchor, owner}; }
};

// Rows {0, 2}, {1, 4} of 5 tokens; 3 is dropped.
built merged() { return {5, {0, 2, 1, 4}, {0, 2, 4}, {0.5F, 0.5F, 0.25F, 0.75F}, {0, 4}, {0, 1, 0, -1, 1}}; }

}  // namespace

TEST_CASE("rows of a plan", "[core][plan]") {
    built const memory = merged();
    plan const p = memory;
    CHECK(p.kept() == 2);
    CHECK(terse::test::rows_of(p) == std::vector<tokens_list>{{0, 2}, {1, 4}});
    CHECK(terse::test::weights_of(p) == std::vector<std::vector<float>>{{0.5F, 0.5F}, {0.25F, 0.75F}});
    CHECK_FALSE(p.is_selection());
    CHECK(p.keeps_order());
    CHECK(p.is_partition());
    CHECK(p.is_row_stochastic());
    CHECK(terse::is_valid(p));
}

TEST_CASE("rows of a selection", "[core][plan]") {
    tokens_list const kept{3, 0, 3};
    plan const p = terse::select_rows(kept, 4);
    CHECK(p.kept() == 3);
    CHECK(terse::test::rows_of(p) == std::vector<tokens_list>{{3}, {0}, {3}});
    CHECK(terse::test::weights_of(p)[1] == std::vector<float>{1});
    CHECK(p.is_selection());
    CHECK_FALSE(p.keeps_order());
    CHECK_FALSE(p.is_partition());
    CHECK(p.is_row_stochastic());
    CHECK(terse::is_valid(p));
}

TEST_CASE("the empty plan", "[core][plan]") {
    plan const p;
    CHECK(p.kept() == 0);
    CHECK(p.is_selection());
    CHECK(p.keeps_order());
    CHECK(p.is_partition());
    CHECK(p.is_row_stochastic());
    CHECK(terse::is_valid(p));
}

TEST_CASE("facts of a plan", "[core][plan]") {
    built memory = merged();

    SECTION("a row without sources is not stochastic") {
        memory.offsets = {0, 4, 4};
        CHECK_FALSE(plan(memory).is_row_stochastic());
    }
    SECTION("ones that nobody wrote count") {
        memory.weights = {};
        CHECK_FALSE(plan(memory).is_row_stochastic());
    }
    SECTION("NaN sums to nothing") {
        memory.weights[3] = terse::test::not_a_number;
        CHECK_FALSE(plan(memory).is_row_stochastic());
        CHECK_FALSE(terse::is_valid(memory));
    }
    SECTION("order wants an anchor a row") {
        memory.anchor = {4, 0};
        CHECK_FALSE(plan(memory).keeps_order());
        memory.anchor = {4, 4};
        CHECK_FALSE(plan(memory).keeps_order());
        memory.anchor = {-1, 4};
        CHECK_FALSE(plan(memory).keeps_order());
        memory.anchor = {};
        CHECK_FALSE(plan(memory).keeps_order());
    }
    SECTION("an input in two rows is no partition, recorded or not") {
        memory.sources = {0, 2, 2, 4};
        CHECK_FALSE(plan(memory).is_partition());
        memory.owner = {};
        CHECK_FALSE(plan(memory).is_partition());
        memory.sources = {0, 2, 1, 4};
        CHECK(plan(memory).is_partition());
    }
}

TEST_CASE("is_valid finds every defect", "[core][plan]") {
    built memory = merged();
    SECTION("source out of range") { memory.sources[3] = 5; }
    SECTION("negative source") { memory.sources[0] = -1; }
    SECTION("sources descend") { std::swap(memory.sources[0], memory.sources[1]); }
    SECTION("source twice in a row") { memory.sources[1] = 0; }
    SECTION("offsets start late") { memory.offsets[0] = 1; }
    SECTION("offsets end early") { memory.offsets[2] = 3; }
    SECTION("offsets descend") { memory.offsets = {0, 5, 4}; }
    SECTION("a weight too few") { memory.weights.pop_back(); }
    SECTION("an infinite weight") { memory.weights[0] = terse::test::infinity; }
    SECTION("an anchor too few") { memory.anchor.pop_back(); }
    SECTION("anchor out of range") { memory.anchor[0] = 5; }
    SECTION("anchor below -1") { memory.anchor[0] = -2; }
    SECTION("an owner too few") { memory.owner.pop_back(); }
    SECTION("owner out of range") { memory.owner[0] = 2; }
    SECTION("owner below -1") { memory.owner[3] = -2; }
    SECTION("negative tokens") { memory = {-1, {}, {}, {}, {}, {}}; }
    CHECK_FALSE(terse::is_valid(memory));
}

TEST_CASE("with_owner records where inputs went, the first row first", "[core][plan]") {
    terse::arena memory;
    tokens_list const kept{3, 0, 3};
    auto const selection = terse::with_owner(terse::select_rows(kept, 4), memory);
    REQUIRE(selection);
    CHECK(terse::test::list(selection->owner) == tokens_list{1, -1, -1, 0});

    built overlapping{3, {0, 1, 1, 2}, {0, 2, 4}, {}, {}, {}};
    auto const p = terse::with_owner(overlapping, memory);
    REQUIRE(p);
    CHECK(terse::test::list(p->owner) == tokens_list{0, 0, 1});

    terse::test::require_exact_peak([&](terse::arena& a) { return terse::with_owner(overlapping, a); });
}

TEST_CASE("keep_all is the identity", "[core][plan]") {
    terse::arena memory;
    auto const p = terse::keep_all(4, memory);
    REQUIRE(p);
    CHECK(terse::test::rows_of(*p) == std::vector<tokens_list>{{0}, {1}, {2}, {3}});
    CHECK(p->is_selection());
    CHECK(p->keeps_order());
    CHECK(p->is_partition());
    CHECK(terse::is_valid(*p));

    CHECK(terse::keep_all(0, memory)->kept() == 0);
    CHECK(terse::keep_all(-1, memory).error() == terse::errc::bad_shape);
    CHECK(terse::keep_all(terse::max_tokens + 1, memory).error() == terse::errc::bad_shape);
    terse::test::require_exact_peak([](terse::arena& a) { return terse::keep_all(100, a); });
}

TEST_CASE("plans of heads, or one for all", "[core][plan]") {
    tokens_list const one{1}, two{2};
    std::vector<plan> const items{terse::select_rows(one, 4), terse::select_rows(two, 4)};
    terse::plans const each{items}, all{std::span{items}.first(1)};
    CHECK_FALSE(each.shared());
    CHECK(each[1].sources[0] == 2);
    CHECK(all.shared());
    CHECK(all[1].sources[0] == 1);
}

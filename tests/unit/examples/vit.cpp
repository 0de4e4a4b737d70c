#include <algorithm>
#include <array>
#include <filesystem>
#include <string>

#include <catch2/catch.hpp>

#include "common/safetensors.hpp"
#include "vit/engine.hpp"
#include "vit/evaluate.hpp"
#include "vit/policies.hpp"

namespace {

std::filesystem::path const data = TERSE_SOURCE_DIR "/models";

vit::model const& trained() {
    static vit::model const m = vit::model::read(data / "vit.safetensors");
    return m;
}

vit::images const& test_images() {
    static vit::images const i = vit::images::read(data / "vit-test.safetensors");
    return i;
}

vit::policy find(std::string const& name, std::string const& setting) {
    for (vit::policy const& p : vit::policies(trained(), true))
        if (p.name == name && p.setting == setting) return p;
    FAIL("no policy " << name << ", " << setting);
    return {};
}

void check_logits(vit::row_vector const& logits, std::array<float, 10> const& expected) {
    REQUIRE(logits.size() == 10);
    for (std::size_t i = 0; i < expected.size(); ++i)
        CHECK(logits[static_cast<Eigen::Index>(i)] == Approx(expected[i]).margin(1e-3));
}

}  // namespace

TEST_CASE("the Vision Transformer gives the logits that its training gave", "[examples][vit]") {
    vit::engine e{trained()};
    check_logits(e.classify(test_images()[0]), {-0.61782F, -1.376F, -1.21961F, 5.76324F, -0.71067F, 0.52373F, -0.6561F,
                                                -0.87977F, 0.06375F, -0.67206F});
    auto const tome = find("tome", "remove 16 a block");
    check_logits(e.classify(test_images()[0], tome.how), {-0.6178F, -1.37598F, -1.21966F, 5.76325F, -0.71068F, 0.52374F,
                                                          -0.6561F, -0.87971F, 0.06378F, -0.6721F});
}

TEST_CASE("policies err on the images that the full run gives", "[examples][vit]") {
    // The reference's errors among the first 200 images; half a point is one image.
    struct row {
        char const* name;
        char const* setting;
        std::vector<std::size_t> wrong;
    };
    std::vector<row> const table{
        {"full", "all tokens", {}},
        {"tome", "remove 16 a block", {9, 21, 41, 70, 71, 77, 105, 152, 193, 199}},
        {"tome", "remove 32 a block", {9, 21, 41, 70, 74, 77, 84, 105, 125, 144, 184, 193, 199}},
        {"tome-noprop", "remove 16 a block", {21, 41, 71, 84, 105, 193}},
        {"class-attention", "remove 32 a block", {120}},
        {"class-attention-once", "keep 20 once", {120, 199}},
    };
    std::vector<vit::policy> policies;
    for (row const& r : table) policies.push_back(find(r.name, r.setting));
    auto const errors = vit::errors(trained(), test_images(), policies, 200, 2);
    REQUIRE(errors.size() == table.size());
    for (std::size_t p = 0; p < table.size(); ++p) {
        INFO(table[p].name << ", " << table[p].setting);
        std::vector<std::size_t> differing;
        std::set_symmetric_difference(errors[p].begin(), errors[p].end(), table[p].wrong.begin(), table[p].wrong.end(),
                                      std::back_inserter(differing));
        CHECK(differing.size() <= 1);
    }
}

TEST_CASE("errors do not depend on the threads, nor on what policies share", "[examples][vit]") {
    auto const policies = vit::policies(trained(), false);
    auto const shared = vit::errors(trained(), test_images(), policies, 6, 3);
    CHECK(shared == vit::errors(trained(), test_images(), policies, 6, 1));
    for (std::size_t p = 0; p < policies.size(); ++p)
        CHECK(shared[p] == vit::errors(trained(), test_images(), std::span{policies}.subspan(p, 1), 6, 1).front());
}

TEST_CASE("a reduction of one image does not touch the next", "[examples][vit]") {
    vit::engine e{trained()};
    vit::row_vector const expected = e.classify(test_images()[1]);
    for (vit::policy const& p : vit::policies(trained(), false)) {
        e.classify(test_images()[0], p.how);
        CHECK(e.classify(test_images()[1]) == expected);
    }
}

TEST_CASE("the trace follows every token", "[examples][vit]") {
    vit::engine e{trained()};
    vit::trace t;
    for (vit::policy const& p : vit::policies(trained(), false)) {
        INFO(p.name << ", " << p.setting);
        e.classify(test_images()[2], p.how, &t);
        REQUIRE(t.tokens.size() == trained().blocks.size() + 1);
        REQUIRE(std::ssize(t.owner) == trained().tokens());
        CHECK(t.owner.front() == 0);
        std::vector<int> members(static_cast<std::size_t>(t.tokens.back()));
        for (terse::token const o : t.owner) {
            REQUIRE(o >= -1);
            REQUIRE(o < t.tokens.back());
            if (o >= 0) ++members[static_cast<std::size_t>(o)];
        }
        CHECK(std::find(members.begin(), members.end(), 0) == members.end());
        bool const merges = p.name.starts_with("tome") || p.name == "average" || p.name == "full";
        CHECK((std::find(t.owner.begin(), t.owner.end(), -1) == t.owner.end()) == merges);
    }
    e.classify(test_images()[2], find("tome", "remove 16 a block").how, &t);
    CHECK(t.tokens == std::vector<terse::index>{197, 181, 165, 149, 133, 117, 101});
    e.classify(test_images()[2], find("divprune", "keep 59 once").how, &t);
    CHECK(t.tokens == std::vector<terse::index>{197, 197, 60, 60, 60, 60, 60});
}

TEST_CASE("a reduction that keeps all changes nothing, and one that fails throws", "[examples][vit]") {
    vit::engine e{trained()};
    vit::row_vector const expected = e.classify(test_images()[3]);
    vit::reduction const all{
        .decide = [](vit::site const& s, terse::arena& memory) { return terse::keep_all(s.tokens.tokens, memory); }};
    CHECK(e.classify(test_images()[3], all) == expected);
    vit::reduction const fails{.decide = [](vit::site const&, terse::arena&) -> terse::result<terse::plan> {
        return terse::errc::bad_budget;
    }};
    CHECK_THROWS_AS(e.classify(test_images()[3], fails), terse::bad_result);
    CHECK(e.classify(test_images()[3]) == expected);
    std::vector<vit::policy> const policies{{"fails", "always", fails}};
    CHECK_THROWS_AS(vit::errors(trained(), test_images(), policies, 2, 2), terse::bad_result);
}

TEST_CASE("the first merges take ink twice as often as its share", "[examples][vit]") {
    auto const ink = vit::first_merges(trained(), test_images(), 200);
    CHECK(ink.patches == Approx(0.23).margin(0.01));
    CHECK(ink.merged == Approx(0.46).margin(0.01));
}

TEST_CASE("files that are something else are refused", "[examples][vit]") {
    CHECK_THROWS_AS(vit::model::read(data / "vit-test.safetensors"), safetensors::error);
    CHECK_THROWS_AS(vit::model::read(data / "lm.safetensors"), safetensors::error);
    CHECK_THROWS_AS(vit::images::read(data / "vit.safetensors"), safetensors::error);
    CHECK_THROWS_AS(vit::images::read(data / "missing.safetensors"), safetensors::error);
}

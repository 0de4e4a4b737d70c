#include "cli/compare.hpp"

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

namespace {

using safetensors::file;
using safetensors::shape;
using safetensors::writer;

using floats = std::vector<float>;
using integers = std::vector<std::int64_t>;

file read(writer const& w) { return file::parse(w.bytes()); }

template <class T>
writer one(shape const& s, std::vector<T> const& data) {
    writer w;
    w.add("out.x", s, data);
    return w;
}

/// Rows [n, 1] and the row of each token.
writer grouped(floats const& rows, integers const& assign, std::string const& labels = "out.assign") {
    writer w;
    w.add("out.x", {std::ssize(rows), 1}, rows);
    w.add(labels, {std::ssize(assign)}, assign);
    return w;
}

/// Two windows: of two frames with two static and two dynamic rows each, and of one frame with one row.
writer windows(floats const& rows, integers const& lengths = {2, 1}, integers const& dynamic = {4, 1}) {
    writer w;
    w.add("out.x", {std::ssize(rows), 1}, rows);
    w.add("out.windows", {2}, lengths);
    w.add("out.static_sizes", {2}, integers{2, 0});
    w.add("out.dynamic_sizes", {2}, dynamic);
    return w;
}

std::string compared(std::string const& rule, writer const& want, writer const& got) {
    try {
        return difference(cli::rules_from(R"({"out.x":)" + rule + "}").at("out.x"), "out.x", read(want), read(got))
            .value_or("equal");
    } catch (safetensors::error const& e) {
        return std::string("malformed: ") + e.what();
    }
}

}  // namespace

TEST_CASE("compare: every rule accepts what it should and no more", "[examples][compare]") {
    std::string const exact = R"({"kind":"exact"})", set = R"({"kind":"set"})", per_row = R"({"kind":"set-per-row"})",
                      close = R"({"kind":"allclose","rtol":0.1,"atol":1})", copy = R"({"kind":"allclose"})",
                      partition = R"({"kind":"partition"})",
                      by_partition = R"({"kind":"allclose-by-partition","rtol":0,"atol":0.1})",
                      by_labels = R"({"kind":"allclose-by-partition","atol":0.1,"labels":"out.labels"})",
                      blocks = R"({"kind":"allclose-row-blocks","atol":0.1})";
    float const nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
    auto const f = [](floats const& x) { return one({std::ssize(x)}, x); };
    auto const i = [](integers const& x) { return one({std::ssize(x)}, x); };
    auto const rows = [](integers const& x) { return one({2, std::ssize(x) / 2}, x); };
    auto const mask = [](std::vector<std::uint8_t> const& x) { return one({std::ssize(x)}, x); };

    struct row {
        char const* name;
        std::string rule;
        writer want, got;
        std::string says;
    };
    std::vector<row> const table{
        {"same", exact, i({1, 2}), i({1, 2}), "equal"},
        {"one integer", exact, one({2, 2}, integers{1, 2, 3, 4}), one({2, 2}, integers{1, 2, 5, 6}),
         "out.x[1,0] is 5, expected 3"},
        {"large integers", exact, i({1LL << 53}), i({(1LL << 53) + 1}), "out.x[0] is 9007199254740993, expected"},
        {"same floats", exact, f({1, nan}), f({1, nan}), "equal"},
        {"next float", exact, f({1}), f({1.00000012F}), "out.x[0] is 1.00000012, expected 1"},
        {"a mask", exact, mask({0, 1}), mask({0, 0}), "out.x[1] is 0, expected 1"},
        {"nothing", exact, i({}), i({}), "equal"},
        {"no tensor", exact, i({1}), {}, "out.x is missing"},
        {"other type", exact, i({1}), f({1}), "out.x is F32, expected I64"},
        {"other mask type", exact, mask({1}), i({1}), "out.x is I64, expected U8"},
        {"other size", exact, i({1, 2}), i({1}), "out.x is [1], expected [2]"},
        {"other shape", exact, one({2, 1}, integers{1, 2}), i({1, 2}), "out.x is [2], expected [2,1]"},

        {"another order", set, i({3, 1, 2}), i({1, 2, 3}), "equal"},
        {"one differs", set, i({3, 1, 2}), i({1, 2, 4}), "out.x lacks 3"},
        {"one twice", set, i({1, 2, 2}), i({1, 1, 2}), "equal"},
        {"one too many", set, i({1, 2, 2}), i({1, 2, 3}), "out.x has 3, which is not expected"},
        {"over rows", set, rows({1, 2, 3, 4}), rows({3, 4, 1, 2}), "equal"},
        {"rows in another order", per_row, rows({1, 2, 3, 4}), rows({2, 1, 4, 3}), "equal"},
        {"other rows", per_row, rows({1, 2, 3, 4}), rows({1, 2, 3, 5}), "out.x row 1 lacks 4"},
        {"rows exchanged", per_row, rows({1, 2, 3, 4}), rows({3, 4, 1, 2}), "out.x row 0 lacks 1"},
        {"floats in a set", set, f({1}), f({1}), "malformed: tensor 'out.x' is F32"},

        {"within", close, f({10, -10}), f({12, -8}), "equal"},
        {"above", close, f({10, 10}), f({12, 12.1F}), "out.x[1] is 12.1000004, expected 10"},
        {"below", close, f({-10}), f({-12.1F}), "out.x[0] is -12.1000004, expected -10"},
        {"relative to the expected", close, f({10}), f({12.15F}), "out.x[0] is"},
        {"got NaN", close, f({1}), f({nan}), "out.x[0] is nan, expected 1"},
        {"expected NaN", close, f({nan}), f({1}), "out.x[0] is 1, expected nan"},
        {"infinity", close, f({inf}), f({inf}), "equal"},
        {"other infinity", copy, f({inf}), f({-inf}), "out.x[0] is -inf, expected inf"},
        {"got infinity", close, f({1}), f({inf}), "out.x[0] is inf, expected 1"},
        {"expected infinity", close, f({-inf}), f({3}), "out.x[0] is 3, expected -inf"},
        {"a copy", copy, f({0.1F}), f({0.1F}), "equal"},
        {"nearly a copy", copy, f({0.1F}), f({0.10000001F}), "out.x[0] is"},
        {"integers", close, i({10}), i({12}), "equal"},

        {"renamed", partition, i({0, 0, 1, 2}), i({7, 7, -1, 0}), "equal"},
        {"split", partition, i({0, 0, 1}), i({0, 1, 2}), "out.x: token 1 is not with token 0"},
        {"joined", partition, i({0, 1, 2}), i({0, 1, 0}), "out.x: token 2 is with token 0"},
        {"moved", partition, i({0, 1, 0, 1}), i({0, 1, 1, 1}), "out.x: token 2 is not with token 0"},

        {"same rows", by_partition, grouped({1, 2}, {0, 1, 0}), grouped({1, 2}, {0, 1, 0}), "equal"},
        {"rows elsewhere", by_partition, grouped({1, 2}, {0, 1, 0}), grouped({2.05F, 1.05F}, {1, 0, 1}), "equal"},
        {"rows exchanged", by_partition, grouped({1, 2}, {0, 1, 0}), grouped({2, 1}, {0, 1, 0}), "is 2, expected 1"},
        {"a row differs", by_partition, grouped({1, 2}, {0, 1, 0}), grouped({2.2F, 1}, {1, 0, 1}),
         "out.x[0,0] is 2.20000005, expected 2"},
        {"other groups", by_partition, grouped({1, 2}, {0, 1, 0}), grouped({1, 2}, {0, 1, 1}), "out.assign: token 2"},
        {"no labels", by_partition, grouped({1, 2}, {0, 1, 0}), one({2, 1}, floats{1, 2}), "out.assign is missing"},
        {"a label is no row", by_partition, grouped({1, 2}, {0, 1}), grouped({1, 2}, {0, 2}), "label 2, which is no"},
        {"a negative label", by_partition, grouped({1, 2}, {0, 1}), grouped({1, 2}, {-1, 1}), "label -1, which is no"},
        {"dropped tokens", by_partition, grouped({1, 2}, {0, -1, 1}), grouped({2, 1}, {1, -1, 0}), "equal"},
        {"an empty row", by_partition, grouped({1, 2}, {0, 0}), grouped({1, 2}, {0, 0}),
         "malformed: out.x: out.assign"},
        {"named labels", by_labels, grouped({1, 2}, {0, 1}, "out.labels"), grouped({2, 1}, {1, 0}, "out.labels"),
         "equal"},
        {"other named labels", by_labels, grouped({1, 2}, {0, 1}, "out.labels"), grouped({1, 2}, {1, 0}, "out.labels"),
         "is 2, expected 1"},

        {"same blocks", blocks, windows({1, 2, 3, 4, 5, 6, 7}), windows({1, 2, 3, 4, 5, 6, 7}), "equal"},
        {"rows of each block", blocks, windows({1, 2, 3, 4, 5, 6, 7}), windows({2, 1, 4, 3, 6, 5, 7}), "equal"},
        {"greedy would fail", blocks, windows({1, 1.1F, 3, 4, 5, 6, 7}), windows({1.05F, 0.95F, 3, 4, 5, 6, 7}),
         "equal"},
        {"one row", blocks, windows({1, 2, 3, 4, 5, 6, 7}), windows({1, 2, 3, 4, 5, 6.2F, 7}), "rows 4 to 5 are not"},
        {"the last row", blocks, windows({1, 2, 3, 4, 5, 6, 7}), windows({1, 2, 3, 4, 5, 6, 8}), "rows 6 to 6 are not"},
        {"one row twice", blocks, windows({1, 2, 3, 4, 5, 6, 7}), windows({1, 1, 3, 4, 5, 6, 7}),
         "rows 0 to 1 are not"},
        {"across frames", blocks, windows({1, 2, 3, 4, 5, 6, 7}), windows({1, 2, 3, 5, 4, 6, 7}),
         "rows 2 to 3 are not"},
        {"NaN", blocks, windows({1, 2, 3, 4, 5, 6, 7}), windows({1, nan, 3, 4, 5, 6, 7}), "rows 0 to 1 are not"},
        {"frames do not divide", blocks, windows({1, 2, 3, 4, 5, 6, 7}, {3, 1}), windows({1, 2, 3, 4, 5, 6, 7}),
         "malformed: a window's frames"},
        {"rows are left", blocks, windows({1, 2, 3, 4, 5, 6, 7, 8}), windows({1, 2, 3, 4, 5, 6, 7, 8}),
         "malformed: windows do not fit"},
        {"rows are missing", blocks, windows({1, 2, 3, 4, 5, 6}), windows({1, 2, 3, 4, 5, 6}),
         "malformed: windows do not fit"},
    };
    for (auto const& [name, rule, want, got, says] : table) {
        INFO(name << " " << rule);
        auto const result = compared(rule, want, got);
        if (says == "equal")
            CHECK(result == says);
        else
            CHECK_THAT(result, Catch::Contains(says));
    }
}

TEST_CASE("compare: numbered outputs have numbered labels", "[examples][compare]") {
    auto const with = [](floats const& rows, integers const& assign) {
        writer w;
        w.add("out.x.1", {2}, rows);
        w.add("out.assign.1", {2}, assign);
        w.add("out.assign", {2}, integers{0, 1});
        return read(w);
    };
    cli::rule const rule{cli::rule_kind::allclose_by_partition};
    CHECK_FALSE(difference(rule, "out.x.1", with({1, 2}, {0, 1}), with({2, 1}, {1, 0})));
    CHECK(difference(rule, "out.x.1", with({1, 2}, {0, 1}), with({2, 1}, {0, 1})));
}

TEST_CASE("compare: malformed rules are refused", "[examples][compare]") {
    std::vector<std::pair<char const*, char const*>> const rows{
        {"", "not a JSON object"},
        {"[]", "not a JSON object"},
        {R"({"out.x":1})", "out.x: no kind"},
        {R"({"out.x":{}})", "out.x: no kind"},
        {R"({"out.x":{"kind":"near"}})", "kind \"near\" is not known"},
        {R"({"out.x":{"kind":1}})", "kind 1 is not known"},
        {R"({"out.x":{"kind":"allclose","rtol":-1}})", "rtol is not a tolerance"},
        {R"({"out.x":{"kind":"allclose","atol":"1"}})", "atol is not a tolerance"},
        {R"({"out.x":{"kind":"allclose-by-partition","labels":1}})", "labels are not a name"},
    };
    for (auto const& [text, says] : rows) {
        INFO(text);
        CHECK_THROWS_WITH(cli::rules_from(text), Catch::Contains(says));
    }
}

namespace {

/// The file with one tensor changed in one element, so that no rule should accept it.
file damaged(file const& f, std::string const& name) {
    writer w;
    for (auto const& [other, t] : f.tensors()) {
        if (other != name) {
            w.add(other, t.type, t.shape, t.bytes);
        } else if (is_floating(t.type)) {
            auto all = f.floats(name);
            all.back() += 1 + std::abs(all.back());
            w.add(name, t.shape, all);
        } else if (t.type == safetensors::dtype::i64) {
            auto all = f.integers(name);
            // Joins two groups, where it holds labels.
            auto const another = std::find_if(all.begin(), all.end(), [&all](auto x) { return x != all.back(); });
            all.back() = another == all.end() ? all.back() + 1 : *another;
            w.add(name, t.shape, all);
        } else {
            auto const all = f.integers(name);
            std::vector<std::uint8_t> bytes(all.begin(), all.end());
            bytes.back() ^= 1;
            w.add(name, t.shape, bytes);
        }
    }
    return read(w);
}

}  // namespace

TEST_CASE("compare: every golden output equals itself and not its damaged copy", "[examples][compare]") {
    int compared = 0;
    for (auto const& entry : std::filesystem::recursive_directory_iterator(TERSE_SOURCE_DIR "/tests/golden")) {
        if (entry.path().extension() != ".safetensors") continue;
        auto const f = file::read(entry.path());
        for (auto const& [name, rule] : cli::rules_from(f.metadata().at("compare"))) {
            INFO(entry.path() << " " << name);
            CHECK(difference(rule, name, f, f).value_or("equal") == "equal");
            if (f.at(name).elements() == 0) continue;
            CHECK(difference(rule, name, f, damaged(f, name)));
            ++compared;
        }
    }
    CHECK(compared > 900);
}

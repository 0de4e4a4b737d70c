#include "cli/program.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "cli/method.hpp"

namespace {

using nlohmann::json;
using safetensors::file;
using safetensors::writer;

struct answer {
    int code;
    std::string out;
    std::string err;
};

answer run(std::vector<std::string> const& arguments) {
    std::vector<char const*> argv{"terse"};
    for (auto const& a : arguments) argv.push_back(a.c_str());
    std::ostringstream out, err;
    int const code = cli::program(static_cast<int>(argv.size()), argv.data(), out, err);
    return {code, out.str(), err.str()};
}

/// A folder that lives as long as its test.
class folder {
  public:
    explicit folder(std::string const& name) : path_{std::filesystem::temp_directory_path() / ("terse-test-" + name)} {
        remove_all(path_);
        create_directories(path_);
    }
    folder(folder const&) = delete;
    folder& operator=(folder const&) = delete;
    ~folder() { remove_all(path_); }

    [[nodiscard]] std::string operator/(std::string const& name) const { return (path_ / name).string(); }
    [[nodiscard]] std::string path() const { return path_.string(); }

  private:
    std::filesystem::path path_;
};

/// Keys of norms 4, 1, 3, 2: knorm keeps tokens 1 and 3.
writer knorm_case(std::vector<std::int64_t> const& keep = {1, 3}) {
    writer w;
    w.metadata = {
        {"method", "knorm"}, {"params", R"({"budget": 2})"}, {"compare", R"({"out.keep": {"kind": "exact"}})"}};
    w.add("in.keys", {1, 4, 1}, std::vector{4.0F, 1.0F, -3.0F, 2.0F});
    w.add("out.keep", {1, std::ssize(keep)}, keep);
    return w;
}

}  // namespace

TEST_CASE("terse: help, version and the list of methods", "[examples][program]") {
    CHECK(run({"--help"}).code == 0);
    CHECK_THAT(run({"--help"}).out, Catch::Contains("check") && Catch::Contains("list") && Catch::Contains("run"));
    CHECK_THAT(run({"--version"}).out, Catch::Matches("terse [0-9]+\\.[0-9]+\\.[0-9]+\n"));

    auto const text = run({"list"});
    CHECK(text.code == 0);
    CHECK(std::count(text.out.begin(), text.out.end(), '\n') == std::ssize(cli::methods()));
    CHECK_THAT(text.out, Catch::Contains("\nsnapkv budget window=32 kernel=5 pooling=\"avg\""));

    auto const rows = json::parse(run({"list", "--json"}).out);
    REQUIRE(rows.size() == cli::methods().size());
    for (auto const& row : rows) {
        INFO(row.dump());
        CHECK(row["name"].get<std::string>().find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") ==
              std::string::npos);
        CHECK_FALSE(row["summary"].get<std::string>().empty());
        for (auto const& p : row["parameters"]) {
            CHECK(p.contains("default") != p["required"].get<bool>());
            CHECK_FALSE(p["help"].get<std::string>().empty());
        }
    }
}

TEST_CASE("terse: wrong usage ends with 2 and says what is wrong", "[examples][program]") {
    folder const at("usage");
    auto const path = at / "case.safetensors", out = at / "out.safetensors";
    knorm_case().write(path);
    writer().write(at / "empty.safetensors");
    struct row {
        std::vector<std::string> arguments;
        char const* says;
    };
    std::vector<row> const rows{
        {{}, "subcommand is required"},
        {{"compress"}, "compress"},
        {{"list", "--yaml"}, "--yaml"},
        {{"run"}, "case is required"},
        {{"run", path}, "--output is required"},
        {{"run", at / "none.safetensors", "-o", out}, "none.safetensors"},
        {{"run", path, "-o", out, "--param", "budget"}, "budget is not NAME=VALUE"},
        {{"run", path, "-o", out, "--param", "=2"}, "=2 is not NAME=VALUE"},
        {{"run", path, "-o", out, "--param", "keep=2"}, "method 'knorm' has no parameter 'keep'"},
        {{"run", path, "-o", out, "--method", "norm"}, "method 'norm' is not known"},
        {{"run", at / "empty.safetensors", "-o", out}, "--method"},
        {{"check"}, "path is required"},
        {{"check", at / "none"}, "none"},
    };
    for (auto const& [arguments, says] : rows) {
        INFO(json(arguments).dump());
        auto const a = run(arguments);
        CHECK(a.code == 2);
        CHECK_THAT(a.err, Catch::Contains(says));
        CHECK_FALSE(std::filesystem::exists(out));
    }
}

TEST_CASE("terse run: inputs in, outputs out", "[examples][program]") {
    folder const at("run");
    auto const path = at / "case.safetensors", out = at / "out.safetensors";
    knorm_case({0, 2}).write(path);

    CHECK(run({"run", path, "-o", out}).code == 0);
    auto const first = file::read(out);
    CHECK(first.integers("out.keep") == std::vector<std::int64_t>{1, 3});
    CHECK(first.floats("out.scores") == std::vector{-4.0F, -1.0F, -3.0F, -2.0F});
    CHECK(first.tensors().size() == 2);
    CHECK(first.metadata().at("method") == "knorm");

    CHECK(run({"run", path, "-o", out, "--param", "budget=3"}).code == 0);
    CHECK(file::read(out).integers("out.keep") == std::vector<std::int64_t>{1, 2, 3});
    CHECK(file::read(out).metadata().at("params") == R"({"budget":3})");

    auto const other =
        run({"run", path, "-o", out, "--method", "streaming-llm", "--param", "variant=kvpress", "--param", "sink=1"});
    CHECK(other.err.empty());
    CHECK(file::read(out).integers("out.keep") == std::vector<std::int64_t>{0, 3});

    std::filesystem::remove(out);
    struct row {
        char const* parameter;
        char const* says;
    };
    for (auto const& [parameter, says] : std::vector<row>{
             {"budget=0", "parameter 'budget' is 0, not an integer from 1"},
             {"budget=1.5", "parameter 'budget' is 1.5, not an integer"},
             {"budget=few", "parameter 'budget' is \"few\", not an integer"},
             {"budget=99999999999999999999", "not an integer"},
             {"budget=18446744073709551615", "not an integer"},
         }) {
        INFO(parameter);
        auto const a = run({"run", path, "-o", out, "--param", parameter});
        CHECK(a.code == 1);
        CHECK_THAT(a.err, Catch::Contains(says));
        CHECK_FALSE(std::filesystem::exists(out));
    }
    CHECK(run({"run", path, "-o", at / "no/such/folder"}).code == 1);
}

TEST_CASE("terse check: passed, failed and skipped cases", "[examples][program]") {
    folder const at("check");
    std::filesystem::create_directories(at / "b/c");
    knorm_case().write(at / "b/c/good.safetensors");
    auto const passed = run({"check", at.path()});
    CHECK(passed.code == 0);
    CHECK(passed.out == "passed  " + (at / "b/c/good.safetensors") + "\n1 passed, 0 failed, 0 skipped\n");

    auto unknown = knorm_case();
    unknown.metadata["method"] = "adamnorm";
    unknown.write(at / "a.safetensors");
    unknown.write(at / "z.safetensors");
    auto const skipped = run({"check", at / "z.safetensors", at.path(), at / "a.safetensors"});
    CHECK(skipped.code == 0);
    CHECK(skipped.out == "skipped " + (at / "a.safetensors") + ": method 'adamnorm' is not known\n" + "passed  " +
                             (at / "b/c/good.safetensors") + "\n" + "skipped " + (at / "z.safetensors") +
                             ": method 'adamnorm' is not known\n" +
                             "missing methods: adamnorm\n1 passed, 0 failed, 2 skipped\n");

    knorm_case({1, 2}).write(at / "b/bad.safetensors");
    auto const failed = run({"check", at.path()});
    CHECK(failed.code == 1);
    CHECK_THAT(failed.out,
               Catch::Contains("FAILED  " + (at / "b/bad.safetensors") + ": out.keep[0,1] is 3, expected 2\n") &&
                   Catch::EndsWith("1 passed, 1 failed, 2 skipped\n"));
}

TEST_CASE("terse check: a case that cannot be run has failed", "[examples][program]") {
    folder const at("broken");
    CHECK(run({"check", at.path()}).code == 1);

    auto const without = [](char const* key) {
        auto w = knorm_case();
        w.metadata.erase(key);
        return w;
    };
    auto const with = [](char const* key, char const* value) {
        auto w = knorm_case();
        w.metadata[key] = value;
        return w;
    };
    auto const keys = [](auto const& data, safetensors::shape const& s) {
        writer w;
        w.metadata = knorm_case().metadata;
        w.add("in.keys", s, data);
        w.add("out.keep", {1, 2}, std::vector<std::int64_t>{1, 3});
        return w;
    };
    writer no_input;
    no_input.metadata = knorm_case().metadata;
    no_input.add("out.keep", {1, 2}, std::vector<std::int64_t>{1, 3});

    struct row {
        writer file;
        char const* says;
    };
    std::vector<row> const rows{
        {without("method"), "metadata has no 'method'"},
        {without("params"), "parameter 'budget' is missing"},
        {without("compare"), "metadata has no 'compare'"},
        {with("params", "[]"), "'params' is not a JSON object"},
        {with("params", "{"), "'params' is not a JSON object"},
        {with("params", R"({"budget": true})"), "parameter 'budget' is true, not an integer"},
        {with("compare", "{}"), "'compare' names no output"},
        {with("compare", R"({"out.scores": {"kind": "allclose"}})"), "'compare' has no rule for out.keep"},
        {with("compare", R"({"out.keep": {"kind": "exact"}, "out.y": {"kind": "exact"}})"), "out.y"},
        {knorm_case({1}), "out.keep is [1,2], expected [1,1]"},
        {no_input, "in.keys is missing"},
        {keys(std::vector<float>(4), {4, 1}), "in.keys is [4,1], not [any,any,any]"},
        {keys(std::vector<float>(), {0, 1LL << 40, 1LL << 40}), "which is too large"},
        {keys(std::vector<std::int64_t>(4), {1, 4, 1}), "in.keys is not floating point"},
    };
    auto const path = at / "case.safetensors";
    for (auto const& [w, says] : rows) {
        INFO(says);
        w.write(path);
        auto const a = run({"check", path});
        CHECK(a.code == 1);
        CHECK_THAT(a.out, Catch::StartsWith("FAILED  " + path + ": ") && Catch::Contains(says) &&
                              Catch::EndsWith("\n0 passed, 1 failed, 0 skipped\n"));
    }

    auto variant = knorm_case();
    variant.metadata["method"] = "tova";
    variant.metadata["params"] = R"({"variant": "new", "budget": 2})";
    variant.write(path);
    CHECK_THAT(run({"check", path}).out, Catch::Contains("method 'tova' has no variant \"new\""));

    std::ofstream(path) << "not a tensor file";
    CHECK_THAT(run({"check", path}).out, Catch::Contains("header is longer than the file"));
}

// The methods of the command that no recorded case runs, on cases small enough to work out by hand.
#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>

#include "cli/case.hpp"

namespace {

using cli::json;
using safetensors::shape;

/// A tensor of a case; written as floats, or as integers.
struct tensor {
    safetensors::shape shape;
    std::vector<double> values;
    bool floating = true;
};
using tensors = std::map<std::string, tensor>;

tensor integers(safetensors::shape s, std::vector<double> values) { return {std::move(s), std::move(values), false}; }

safetensors::file file_of(tensors const& inputs) {
    safetensors::writer w;
    for (auto const& [name, t] : inputs) {
        if (t.floating)
            w.add("in." + name, t.shape, std::vector<float>(t.values.begin(), t.values.end()));
        else
            w.add("in." + name, t.shape, std::vector<std::int64_t>(t.values.begin(), t.values.end()));
    }
    return safetensors::file::parse(w.bytes());
}

safetensors::file run(std::string const& method, json const& parameters, tensors const& inputs) {
    return safetensors::file::parse(cli::run({method, parameters}, file_of(inputs)).bytes());
}

std::vector<double> values_of(safetensors::file const& f, std::string const& name) {
    if (is_floating(f.at(name).type)) {
        auto const all = f.floats(name);
        return {all.begin(), all.end()};
    }
    auto const all = f.integers(name);
    return {all.begin(), all.end()};
}

// Queries of 1 attend to the largest key they see, those of -1 to the smallest ones, those of 0 to all alike.
tensor const keys{{1, 5, 1}, {0, 100, 200, 0, 300}};

/// Of two query heads that are the same.
tensor queries(std::vector<double> values) {
    auto const count = std::ssize(values);
    auto const again = values;
    values.insert(values.end(), again.begin(), again.end());
    return {{2, count, 1}, std::move(values)};
}

// The second partition's slots 3 and 4 span [0, 1] in either channel; in that scale slot 1 deviates by 0, slot 2 by
// sqrt(1/2).
tensor const partitions{{1, 6, 2}, {9, 9, 0, 0, 0, 1, 0, 0, 1, 1, 7, 7}};
double const plain = 1 / (1 + std::exp(std::sqrt(.5)));

tensor const types = integers({5}, {0, 1, 1, 2, 0});
tensor const frames{{1, 12, 1}, {0, 0, 0, 0, 5, -9, 1, 7, 2, 3, 0, 0}};
tensor const counted{{2, 7, 1}, {0, 1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 15, 16}};
tensor const two_heads{{2, 5}, {0, .5, .4, .9, 0, 1, -1, 1, -1, -1}};
tensor const lengths{{1, 4, 1}, {4, 1, -3, 2}};
tensor const pyramid{{1, 6, 1}, {0, 3, 1, 2, 0, 0}};

struct row {
    std::string method;
    json parameters;
    tensors inputs;
    tensors outputs;
};

std::vector<row> const rows{
    // All queries give 2, 1, 1, 1 to the slots before the last one, the last one .5, 0, 0, .5: five times less.
    {"ems",
     {{"budget", 3}, {"window", 1}},
     {{"keys", keys}, {"queries", queries({1, 1, 1, -1, -1})}},
     {{"scores", {{1, 4}, {.5, .2, .2, .5}}}, {"keep", {{1, 3}, {0, 3, 4}}}}},
    {"ems",
     {{"budget", 2}, {"window", 1}, {"combine", "sum"}, {"group_reduce", "sum"}},
     {{"keys", keys}, {"queries", queries({1, 1, 1, -1, -1})}},
     {{"scores", {{1, 4}, {1.8, .4, .4, 1.4}}}, {"keep", {{1, 2}, {0, 4}}}}},
    {"ems",
     {{"budget", 3}, {"window", 1}, {"sink", 2}},
     {{"keys", keys}, {"queries", queries({1, 1, 1, -1, -1})}},
     {{"scores", {{1, 4}, {.5, .2, .2, .5}}}, {"keep", {{1, 3}, {0, 1, 4}}}}},
    {"ems",
     {{"budget", 6}, {"window", 1}},
     {{"keys", keys}, {"queries", queries({1})}},
     {{"keep", {{1, 5}, {0, 1, 2, 3, 4}}}}},

    // The probes at 1 and 4 give .5, 1, 0, .5, 0, of which both see the first two slots: means .25, .5, 0, .5, 0.
    {"zipvl",
     {{"tau", .7}},
     {{"keys", keys}, {"queries", queries({1, -1})}, {"query_positions", integers({2}, {1, 4})}},
     {{"keep", {{2}, {1, 3}}}}},
    {"zipvl",
     {{"tau", .7}, {"max_tokens", 1}},
     {{"keys", keys}, {"queries", queries({1, -1})}, {"query_positions", integers({2}, {1, 4})}},
     {{"keep", {{1}, {1}}}}},
    {"zipvl",
     {{"tau", .4}, {"min_tokens", 3}, {"sink", 1}, {"recent", 1}},
     {{"keys", keys}, {"queries", queries({1, -1})}, {"query_positions", integers({2}, {1, 4})}},
     {{"keep", {{3}, {0, 1, 4}}}}},
    // At 3 and 4 as the last queries: 0, 0, 1, 0, 0 and .5, 0, 0, .5, 0.
    {"zipvl", {{"tau", .45}}, {{"keys", keys}, {"queries", queries({1, -1})}}, {{"keep", {{1}, {2}}}}},

    {"razor-attention",
     {{"sink", 1}, {"recent", 2}},
     {{"keys", counted}, {"values", counted}, {"local_mask", integers({2}, {1, 0})}},
     {{"keep.0", {{4}, {0, 4, 5, 6}}},
      {"keys.0", {{4, 1}, {0, 2.5, 5, 6}}},
      {"values.0", {{4, 1}, {0, 2.5, 5, 6}}},
      {"log_bias.0", {{4}, {0, std::log(4), 0, 0}}},
      {"keep.1", {{7}, {0, 1, 2, 3, 4, 5, 6}}},
      {"keys.1", {{7, 1}, {10, 11, 12, 13, 14, 15, 16}}},
      {"values.1", {{7, 1}, {10, 11, 12, 13, 14, 15, 16}}},
      {"log_bias.1", {{7}, {0, 0, 0, 0, 0, 0, 0}}}}},
    {"razor-attention",
     {{"variant", "rows"}, {"sink", 1}, {"recent", 1}, {"compression", 3}, {"compensate", false}},
     {{"keys", counted}, {"values", counted}},
     {{"keep.0", {{3}, {0, 5, 6}}},
      {"keys.0", {{3, 1}, {0, 5, 6}}},
      {"values.0", {{3, 1}, {0, 5, 6}}},
      {"log_bias.0", {{3}, {0, 0, 0}}},
      {"keep.1", {{3}, {0, 5, 6}}},
      {"keys.1", {{3, 1}, {10, 15, 16}}},
      {"values.1", {{3, 1}, {10, 15, 16}}},
      {"log_bias.1", {{3}, {0, 0, 0}}}}},
    {"razor-attention",
     {{"variant", "heads"}, {"induction_ratio", .25}, {"echo_ratio", .125}},
     {{"echo", {{2, 4}, {.1, .9, .2, .3, .8, 0, 0, 0}}}, {"induction", {{2, 4}, {.9, 0, .8, 0, 0, .85, 0, 0}}}},
     {{"local_mask", {{2, 4}, {0, 0, 1, 1, 1, 0, 1, 1}}}}},
    // Of the tokens a, x, y, x, y the second x looks at the first y, the second y at all.
    {"razor-attention",
     {{"variant", "head-score"}, {"period", 2}},
     {{"keys", keys}, {"queries", queries({1, 0})}},
     {{"echo", {{1}, {.1}}}, {"induction", {{1}, {.6}}}}},

    {"deep-forcing",
     {{"frame", 2}, {"capacity", 6}, {"budget", 4}, {"sink", 2}, {"recent", 1}},
     {{"keys", frames}, {"queries", queries({1})}},
     {{"keep", {{8}, {0, 1, 2, 3, 4, 7, 10, 11}}}, {"times", {{8}, {3, 3, 4, 4, 4, 4, 5, 5}}}}},
    {"deep-forcing",
     {{"frame", 2}, {"capacity", 6}, {"budget", 4}, {"sink", 2}, {"recent", 1}, {"adjacent", true}},
     {{"keys", frames}, {"queries", queries({-1})}, {"times", integers({12}, {0, 0, 1, 1, 5, 5, 6, 6, 7, 7, 8, 8})}},
     {{"keep", {{8}, {0, 1, 2, 3, 5, 6, 10, 11}}}, {"times", {{8}, {5, 5, 6, 6, 7, 7, 8, 8}}}}},

    {"voco-llama",
     {{"budget", 3}},
     {{"types", types}},
     {{"mask", {{5, 5}, {1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 0, 0, 1, 1}}},
      {"keep", {{3}, {0, 3, 4}}}}},
    {"voco-llama",
     {{"hide_prefix", true}},
     {{"types", types}},
     {{"mask", {{5, 5}, {1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1}}},
      {"keep", {{2}, {3, 4}}}}},
    {"meta-tokens", {{"sink", 1}, {"recent", 0}, {"budget", 2}}, {{"types", types}}, {{"keep", {{2}, {0, 3}}}}},
    {"meta-tokens", json::object(), {{"types", types}}, {{"keep", {{5}, {0, 1, 2, 3, 4}}}}},

    {"recursive-lagkv",
     {{"sink", 1}, {"lag", 2}},
     {{"keys", partitions}, {"values", partitions}},
     {{"scores", {{1, 6}, {1, plain, 1 - plain, 1, 1, 1}}},
      {"keep_mask", {{1, 6}, {1, 0, 1, 1, 1, 1}}},
      {"budgets", {{1}, {5}}}}},
    // The partition of positions 1 and 2 has been thinned: the next are 3 and 4, 5 and 6.
    {"recursive-lagkv",
     {{"sink", 1}, {"lag", 2}},
     {{"keys", {{1, 6, 2}, {9, 9, 7, 7, 0, 0, 0, 1, 0, 0, 1, 1}}},
      {"values", {{1, 6, 2}, {9, 9, 7, 7, 0, 0, 0, 1, 0, 0, 1, 1}}},
      {"positions", integers({1, 6}, {0, 2, 3, 4, 5, 6})}},
     {{"scores", {{1, 6}, {1, 1, plain, 1 - plain, 1, 1}}},
      {"keep_mask", {{1, 6}, {1, 1, 0, 1, 1, 1}}},
      {"budgets", {{1}, {5}}}}},

    {"threshold",
     {{"threshold", .5}, {"sink", 1}, {"recent", 1}},
     {{"scores", two_heads}},
     {{"scores", two_heads}, {"keep_mask", {{2, 5}, {1, 1, 0, 1, 1, 1, 0, 1, 0, 1}}}, {"budgets", {{2}, {4, 3}}}}},
    {"threshold",
     {{"variant", "scorer"}, {"scorer", "knorm"}, {"threshold", -2}, {"recent", 0}},
     {{"keys", lengths}},
     {{"scores", {{1, 4}, {-4, -1, -3, -2}}}, {"keep_mask", {{1, 4}, {0, 1, 0, 1}}}, {"budgets", {{1}, {2}}}}},

    // Three tokens a layer on average: four and two.
    {"pyramidkv",
     {{"variant", "tokens"}, {"budget", 3}, {"layers", 2}, {"window", 1}, {"beta", 2}, {"kernel", 1}},
     {{"keys", pyramid}, {"queries", queries({1})}},
     {{"keep", {{1, 4}, {1, 2, 3, 5}}}}},
    {"pyramidkv",
     {{"variant", "tokens"}, {"budget", 3}, {"layers", 2}, {"layer", 1}, {"window", 1}, {"beta", 2}, {"kernel", 1}},
     {{"keys", pyramid}, {"queries", queries({1})}},
     {{"keep", {{1, 2}, {1, 5}}}}},
};

struct refused {
    std::string method;
    json parameters;
    tensors inputs;
    char const* says;
};

std::vector<refused> const refusals{
    {"ems", {{"budget", 2}, {"combine", "min"}}, {{"keys", keys}, {"queries", queries({1})}}, "'combine' is \"min\""},
    {"ems", {{"budget", 2}, {"window", 0}}, {{"keys", keys}, {"queries", queries({1})}}, "'window' is 0"},
    {"ems", {{"budget", 2}, {"window", 3}}, {{"keys", keys}, {"queries", queries({1, 1, 1})}}, "refused"},
    {"zipvl", {{"tau", 1.5}}, {{"keys", keys}, {"queries", queries({1})}}, "'tau' is 1.5"},
    {"zipvl", {{"tau", 0}}, {{"keys", keys}, {"queries", queries({1})}}, "refused"},
    {"zipvl",
     json::object(),
     {{"keys", keys}, {"queries", queries({1})}, {"query_positions", integers({1}, {5})}},
     "in.query_positions is not ascending below 5"},
    {"razor-attention", {{"compression", 0}}, {{"keys", counted}, {"values", counted}}, "'compression' is 0"},
    {"razor-attention", {{"sink", 0}, {"recent", 0}}, {{"keys", counted}, {"values", counted}}, "refused"},
    {"razor-attention",
     json::object(),
     {{"keys", counted}, {"values", counted}, {"local_mask", integers({2}, {1, 2})}},
     "in.local_mask holds 2"},
    {"razor-attention",
     {{"variant", "heads"}, {"echo_ratio", -1}},
     {{"echo", two_heads}, {"induction", two_heads}},
     "'echo_ratio' is -1"},
    {"razor-attention",
     {{"variant", "heads"}},
     {{"echo", {{1, 1}, {0}}}, {"induction", two_heads}},
     "in.induction is [2,5], not [1,1]"},
    {"razor-attention",
     {{"variant", "head-score"}},
     {{"keys", keys}, {"queries", queries({1})}},
     "refused"},  // no second period
    {"deep-forcing", {{"frame", 0}}, {{"keys", frames}, {"queries", queries({1})}}, "'frame' is 0"},
    {"deep-forcing",
     json::object(),
     {{"keys", frames}, {"queries", queries({1})}, {"times", integers({2}, {0, 1})}},
     "in.times is [2], not [12]"},
    {"voco-llama", {{"hide_prefix", 1}}, {{"types", types}}, "'hide_prefix' is 1"},
    {"voco-llama", {{"budget", 2}}, {{"types", types}}, "refused"},
    {"voco-llama", json::object(), {{"types", integers({1}, {3})}}, "in.types holds 3"},
    {"meta-tokens", {{"recent", -1}}, {{"types", types}}, "'recent' is -1"},
    {"meta-tokens", {{"budget", 4}}, {{"types", types}}, "refused"},
    {"recursive-lagkv", {{"compression_ratio", 1}}, {{"keys", partitions}, {"values", partitions}}, "refused"},
    {"recursive-lagkv", {{"lag", 0}}, {{"keys", partitions}, {"values", partitions}}, "'lag' is 0"},
    {"recursive-lagkv",
     json::object(),
     {{"keys", partitions}, {"values", partitions}, {"positions", integers({1, 2}, {0, 1})}},
     "in.positions is [1,2], not [1,6]"},
    {"threshold", json::object(), {{"scores", two_heads}}, "'threshold' is missing"},
    {"threshold", {{"threshold", 1e300}}, {{"scores", two_heads}}, "'threshold' is 1e+300"},
    {"threshold",
     {{"variant", "scorer"}, {"threshold", 0}, {"scorer", "snapkv"}},
     {{"keys", keys}},
     "'scorer' is \"snapkv\", not one of: keydiff, knorm"},
    {"pyramidkv",
     {{"variant", "tokens"}, {"budget", 3}, {"layers", 2}, {"layer", 2}, {"window", 1}},
     {{"keys", pyramid}, {"queries", queries({1})}},
     "'layer' is 2"},
};

}  // namespace

TEST_CASE("terse: what methods without recorded cases return", "[examples][methods]") {
    for (auto const& [method, parameters, inputs, outputs] : rows) {
        INFO(method << ' ' << parameters.dump());
        auto const got = run(method, parameters, inputs);
        CHECK(got.tensors().size() == outputs.size());
        for (auto const& [name, expected] : outputs) {
            INFO(name);
            REQUIRE(got.contains("out." + name));
            CHECK(got.at("out." + name).shape == expected.shape);
            CHECK_THAT(values_of(got, "out." + name), Catch::Approx(expected.values).margin(1e-6));
        }
    }
}

TEST_CASE("terse: what methods without recorded cases refuse", "[examples][methods]") {
    for (auto const& [method, parameters, inputs, says] : refusals) {
        INFO(method << ' ' << parameters.dump());
        auto const in = file_of(inputs);
        CHECK_THROWS_WITH(cli::run({method, parameters}, in), Catch::Contains(says));
    }
}

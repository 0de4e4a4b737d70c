#include "common/safetensors.hpp"

#include <array>
#include <bit>
#include <cstdint>
#include <random>
#include <string>

#include <catch2/catch.hpp>

#include <terse/core/types.hpp>

namespace {

using safetensors::dtype;

std::vector<std::byte> bytes_of(std::string const& header, std::string const& data, std::uint64_t length) {
    auto const size = std::bit_cast<std::array<std::byte, 8>>(length);
    std::vector<std::byte> all(size.begin(), size.end());
    for (auto const& part : {header, data})
        for (char const c : part) all.push_back(static_cast<std::byte>(c));
    return all;
}

std::vector<std::byte> bytes_of(std::string const& header, std::string const& data = {}) {
    return bytes_of(header, data, header.size());
}

std::string entry(std::string const& type, std::string const& shape, std::string const& offsets) {
    return R"({"dtype":)" + type + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

std::string failure(std::vector<std::byte> bytes) {
    try {
        (void)safetensors::file::parse(std::move(bytes));
    } catch (safetensors::error const& e) {
        return e.what();
    }
    return "none";
}

safetensors::writer small() {
    safetensors::writer w;
    w.metadata = {{"method", "knorm"}, {"params", "{}"}};
    w.add("keys", {2, 2}, std::vector{1.0F, -2.5F, 3.0F, 0.0F});
    w.add("kept", {3}, std::vector<std::int64_t>{0, -1, 1LL << 40});
    w.add("mask", {1, 3}, std::vector<std::uint8_t>{1, 0, 255});
    w.add("empty", {0, 4}, std::vector<float>{});
    return w;
}

}  // namespace

TEST_CASE("safetensors: what is written is read", "[examples][safetensors]") {
    auto const f = safetensors::file::parse(small().bytes());
    CHECK(f.metadata() == small().metadata);
    CHECK(f.tensors().size() == 4);
    CHECK(f.contains("keys"));
    CHECK(f.at("keys").type == dtype::f32);
    CHECK(f.at("keys").shape == safetensors::shape{2, 2});
    CHECK(f.floats("keys") == std::vector{1.0F, -2.5F, 3.0F, 0.0F});
    CHECK(f.integers("kept") == std::vector<std::int64_t>{0, -1, 1LL << 40});
    CHECK(f.integers("mask") == std::vector<std::int64_t>{1, 0, 255});
    CHECK(f.floats("empty").empty());
    CHECK(f.at("empty").shape == safetensors::shape{0, 4});
    CHECK_THROWS_WITH(f.at("values"), "there is no tensor 'values'");
    CHECK_THROWS_WITH(f.floats("kept"), "tensor 'kept' is I64, not floating point");
    CHECK_THROWS_WITH(f.integers("keys"), "tensor 'keys' is F32, not of integers");
}

TEST_CASE("safetensors: every type is converted", "[examples][safetensors]") {
    auto const bits = [](auto... values) {
        std::vector<std::byte> all;
        auto const append = [&all](auto value) {
            auto const part = std::bit_cast<std::array<std::byte, sizeof value>>(value);
            all.insert(all.end(), part.begin(), part.end());
        };
        (append(values), ...);
        return all;
    };
    safetensors::writer w;
    w.add("f64", dtype::f64, {2}, bits(1.5, -0.1));
    w.add("f16", dtype::f16, {2}, bits(std::uint16_t{0x3C00}, std::uint16_t{0xC100}));
    w.add("bf16", dtype::bf16, {2}, bits(std::uint16_t{0x3F80}, std::uint16_t{0xC020}));
    w.add("i32", dtype::i32, {2}, bits(std::int32_t{7}, std::int32_t{-8}));
    w.add("i16", dtype::i16, {2}, bits(std::int16_t{7}, std::int16_t{-8}));
    w.add("i8", dtype::i8, {2}, bits(std::int8_t{7}, std::int8_t{-8}));
    w.add("bool", dtype::boolean, {2}, bits(std::uint8_t{1}, std::uint8_t{0}));
    auto const f = safetensors::file::parse(w.bytes());
    CHECK(f.floats("f64") == std::vector{1.5F, -0.1F});
    CHECK(f.floats("f16") == std::vector{1.0F, -2.5F});
    CHECK(f.floats("bf16") == std::vector{1.0F, -2.5F});
    for (auto const* const name : {"i32", "i16", "i8"}) CHECK(f.integers(name) == std::vector<std::int64_t>{7, -8});
    CHECK(f.integers("bool") == std::vector<std::int64_t>{1, 0});
}

TEST_CASE("safetensors: a writer refuses what it could not read", "[examples][safetensors]") {
    auto w = small();
    CHECK_THROWS_AS(w.add("keys", {1}, std::vector{1.0F}), safetensors::error);
    CHECK_THROWS_AS(w.add("__metadata__", {1}, std::vector{1.0F}), safetensors::error);
    CHECK_THROWS_AS(w.add("x", {3}, std::vector{1.0F}), safetensors::error);
    CHECK_THROWS_AS(w.add("x", {-1, -1}, std::vector{1.0F}), safetensors::error);
    CHECK(w.bytes() == small().bytes());
}

TEST_CASE("safetensors: malformed files are refused", "[examples][safetensors]") {
    struct row {
        char const* name;
        std::vector<std::byte> bytes;
        char const* says;
    };
    auto const one = [](std::string const& fields, std::string const& data = {}) {
        return bytes_of(R"({"x":)" + fields + "}", data);
    };
    auto const two = [](char const* a, char const* b) {
        return bytes_of(R"({"a":)" + entry("\"U8\"", "[2]", a) + R"(,"b":)" + entry("\"U8\"", "[2]", b) + "}", "wxyz");
    };
    std::vector<row> const rows{
        {"nothing", {}, "shorter than"},
        {"short length", std::vector<std::byte>(7), "shorter than"},
        {"length beyond the file", bytes_of("{}", {}, 3), "longer than the file"},
        {"length that wraps", bytes_of("{}", {}, ~std::uint64_t{0}), "longer than the file"},
        {"length within the header", bytes_of(R"({"x":1})", {}, 4), "not JSON"},
        {"empty header", bytes_of(""), "not JSON"},
        {"open header", bytes_of("{"), "not JSON"},
        {"two values", bytes_of("{}{}"), "not JSON"},
        {"not UTF-8", bytes_of("{\"\xff\":1}"), "not JSON"},
        {"zero byte", bytes_of(std::string("{}\0", 3)), "not JSON"},
        {"a list", bytes_of("[]"), "not an object"},
        {"a number", bytes_of("1"), "not an object"},
        {"deep", bytes_of(std::string(100000, '[')), "too deep"},
        {"deep objects", bytes_of(R"({"a":{"b":{"c":{"d":{}}}}})"), "too deep"},
        {"tensor twice", bytes_of(R"({"x":1,"x":1})"), "'x' twice"},
        {"field twice", one(R"({"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]})"), "'dtype' twice"},
        {"metadata twice", bytes_of(R"({"__metadata__":{},"__metadata__":{}})"), "twice"},
        {"metadata list", bytes_of(R"({"__metadata__":[]})"), "metadata is not an object"},
        {"metadata number", bytes_of(R"({"__metadata__":{"k":1}})"), "metadata 'k' is not a string"},
        {"entry is a number", one("1"), "tensor 'x': entry is not"},
        {"no dtype", one(R"({"shape":[0],"data_offsets":[0,0]})"), "no field 'dtype'"},
        {"no shape", one(R"({"dtype":"U8","data_offsets":[0,0]})"), "no field 'shape'"},
        {"no offsets", one(R"({"dtype":"U8","shape":[0]})"), "no field 'data_offsets'"},
        {"one field more", one(R"({"dtype":"U8","shape":[0],"data_offsets":[0,0],"y":0})"), "unknown field"},
        {"unknown dtype", one(entry("\"F8\"", "[1]", "[0,1]"), "x"), "dtype \"F8\""},
        {"dtype number", one(entry("1", "[1]", "[0,1]"), "x"), "dtype 1"},
        {"shape number", one(entry("\"U8\"", "1", "[0,1]"), "x"), "shape is not"},
        {"shape of strings", one(entry("\"U8\"", "[\"1\"]", "[0,1]"), "x"), "shape is not"},
        {"negative size", one(entry("\"U8\"", "[-1,-1]", "[0,1]"), "x"), "shape is not"},
        {"fraction", one(entry("\"U8\"", "[1.0]", "[0,1]"), "x"), "shape is not"},
        {"size beyond int64", one(entry("\"U8\"", "[9223372036854775808]", "[0,1]"), "x"), "shape is not"},
        {"size beyond uint64", one(entry("\"U8\"", "[18446744073709551616]", "[0,1]"), "x"), "shape is not"},
        {"product overflows", one(entry("\"U8\"", "[4294967296,4294967296]", "[0,0]")), "overflows"},
        {"bytes overflow", one(entry("\"F64\"", "[2305843009213693952]", "[0,0]")), "overflows"},
        {"one offset", one(entry("\"U8\"", "[1]", "[1]"), "x"), "not a pair"},
        {"three offsets", one(entry("\"U8\"", "[1]", "[0,1,1]"), "x"), "not a pair"},
        {"negative offset", one(entry("\"U8\"", "[1]", "[-1,0]"), "x"), "data_offsets is not"},
        {"offset of a string", one(entry("\"U8\"", "[1]", "[0,\"1\"]"), "x"), "data_offsets is not"},
        {"begin after end", one(entry("\"U8\"", "[1]", "[1,0]"), "x"), "not within"},
        {"end beyond the data", one(entry("\"U8\"", "[2]", "[0,2]"), "x"), "not within"},
        {"too few bytes", one(entry("\"F32\"", "[2]", "[0,4]"), "wxyz"), "are not F32 [2]"},
        {"too many bytes", one(entry("\"F32\"", "[]", "[0,5]"), "vwxyz"), "are not F32 []"},
        {"two tensors, well formed", two("[0,2]", "[2,4]"), "none"},
        {"same bytes", two("[0,2]", "[0,2]"), "overlaps"},
        {"overlap", two("[0,2]", "[1,3]"), "overlaps"},
        {"gap at the front", one(entry("\"U8\"", "[1]", "[1,2]"), "xy"), "gap before tensor 'x'"},
        {"bytes at the end", one(entry("\"U8\"", "[1]", "[0,1]"), "xy"), "after the last"},
        {"bytes without tensors", bytes_of("{}", "x"), "after the last"},
    };
    for (auto const& [name, bytes, says] : rows) {
        INFO(name);
        CHECK_THAT(failure(bytes), Catch::Contains(says));
    }
    CHECK(failure(bytes_of("{}")) == "none");
    CHECK(failure(bytes_of("{}   ")) == "none");
    CHECK_THROWS_WITH(safetensors::file::read("no such file"), "no such file: cannot be read");
    CHECK_THROWS_WITH(safetensors::file::read("/"), "/: cannot be read");
}

TEST_CASE("safetensors: no file that was cut short is read", "[examples][safetensors]") {
    auto const all = small().bytes();
    for (std::size_t size = 0; size < all.size(); ++size) {
        INFO(size << " of " << all.size() << " bytes");
        CHECK(failure({all.begin(), all.begin() + static_cast<std::ptrdiff_t>(size)}) != "none");
    }
}

TEST_CASE("safetensors: damaged files are refused or read, never worse", "[examples][safetensors]") {
    auto const all = small().bytes();
    std::mt19937 random{7};
    int refused = 0;
    for (int round = 0; round < 20000; ++round) {
        auto bytes = all;
        for (auto flips = 1 + random() % 4; flips > 0; --flips)
            bytes[random() % bytes.size()] ^= static_cast<std::byte>(1U << random() % 8);
        try {
            auto const f = safetensors::file::parse(std::move(bytes));
            for (auto const& [name, t] : f.tensors())
                CHECK((is_floating(t.type) ? f.floats(name).size() : f.integers(name).size()) ==
                      static_cast<std::size_t>(t.elements()));
        } catch (safetensors::error const&) {
            ++refused;
        }
    }
    CHECK(refused > 10000);
    CHECK(refused < 20000);
}

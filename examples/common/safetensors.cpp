#include "common/safetensors.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <fstream>
#include <limits>
#include <set>
#include <type_traits>
#include <utility>

#include <nlohmann/json.hpp>

#include <terse/core/types.hpp>

namespace safetensors {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "tensors are read where they lie");

struct dtype_row {
    dtype type;
    char const* name;
    std::size_t width;
};

constexpr std::array<dtype_row, 10> dtypes{{{dtype::f64, "F64", 8},
                                            {dtype::f32, "F32", 4},
                                            {dtype::f16, "F16", 2},
                                            {dtype::bf16, "BF16", 2},
                                            {dtype::i64, "I64", 8},
                                            {dtype::i32, "I32", 4},
                                            {dtype::i16, "I16", 2},
                                            {dtype::i8, "I8", 1},
                                            {dtype::u8, "U8", 1},
                                            {dtype::boolean, "BOOL", 1}}};

constexpr std::size_t length_bytes = sizeof(std::uint64_t);

std::string the(std::string const& name) { return "tensor '" + name + "'"; }

std::int64_t bytes_of(dtype type, shape const& s) {
    auto const count = elements(s);
    auto const size = static_cast<std::int64_t>(width(type));
    if (count > std::numeric_limits<std::int64_t>::max() / size) throw error("shape " + to_string(s) + " overflows");
    return count * size;
}

/// The header as JSON. A key that stands twice and nesting that no header has are errors.
json parse_header(std::string const& text) {
    constexpr int deepest = 3;
    if (text.find('\0') != text.npos) throw error("header is not JSON: it has a zero byte");  // which would end it
    std::vector<std::set<std::string>> keys;
    auto const check = [&keys](int depth, json::parse_event_t event, json& parsed) {
        if (depth > deepest) throw error("header is nested too deep");
        if (event == json::parse_event_t::object_start) keys.emplace_back();
        if (event == json::parse_event_t::object_end) keys.pop_back();
        if (event == json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second)
            throw error("header has key '" + parsed.get<std::string>() + "' twice");
        return true;
    };
    try {
        return json::parse(text, check);
    } catch (json::exception const& e) {
        throw error(std::string("header is not JSON: ") + e.what());
    }
}

std::int64_t size_from(json const& value, char const* what) {
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max())
        throw error(std::string(what) + " is not a list of sizes");
    return value.get<std::int64_t>();
}

/// A tensor from its entry in the header.
tensor tensor_from(json const& entry, std::span<std::byte const> data) {
    if (!entry.is_object()) throw error("entry is not an object");
    for (auto const* const field : {"dtype", "shape", "data_offsets"})
        if (!entry.contains(field)) throw error(std::string("no field '") + field + "'");
    if (entry.size() != 3) throw error("unknown field in its entry");

    auto const& type = entry["dtype"];
    auto const row = std::find_if(dtypes.begin(), dtypes.end(),
                                  [&type](dtype_row const& d) { return type.is_string() && type == d.name; });
    if (row == dtypes.end()) throw error("dtype " + type.dump() + " is not known");

    tensor t;
    t.type = row->type;
    if (!entry["shape"].is_array()) throw error("shape is not a list of sizes");
    for (auto const& size : entry["shape"]) t.shape.push_back(size_from(size, "shape"));

    auto const& offsets = entry["data_offsets"];
    if (!offsets.is_array() || offsets.size() != 2) throw error("data_offsets are not a pair");
    auto const begin = size_from(offsets[0], "data_offsets"), end = size_from(offsets[1], "data_offsets");
    if (begin > end || end > std::ssize(data))
        throw error("data_offsets " + offsets.dump() + " are not within " + std::to_string(data.size()) + " bytes");
    if (bytes_of(t.type, t.shape) != end - begin)
        throw error(std::to_string(end - begin) + " bytes are not " + name(t.type) + " " + to_string(t.shape));
    t.bytes = data.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    return t;
}

template <class Stored, class To>
std::vector<To> read_as(tensor const& t) {
    std::vector<To> out(static_cast<std::size_t>(t.elements()));
    for (std::size_t i = 0; i < out.size(); ++i) {
        std::array<std::byte, sizeof(Stored)> element;
        std::memcpy(element.data(), t.bytes.data() + i * sizeof(Stored), sizeof(Stored));
        out[i] = static_cast<To>(std::bit_cast<Stored>(element));
    }
    return out;
}

template <class T>
void add_elements(writer& w, std::string name, dtype type, shape const& s, std::vector<T> const& data) {
    w.add(std::move(name), type, s, std::as_bytes(std::span{data}));
}

}  // namespace

char const* name(dtype type) noexcept { return dtypes[static_cast<std::size_t>(type)].name; }

std::size_t width(dtype type) noexcept { return dtypes[static_cast<std::size_t>(type)].width; }

bool is_floating(dtype type) noexcept { return type <= dtype::bf16; }

std::string to_string(shape const& s) { return json(s).dump(); }

std::int64_t elements(shape const& s) {
    std::int64_t count = 1;
    for (std::int64_t const size : s) {
        if (size < 0) throw error("shape " + to_string(s) + " has a negative size");
        if (size != 0 && count > std::numeric_limits<std::int64_t>::max() / size)
            throw error("shape " + to_string(s) + " overflows");
        count *= size;
    }
    return count;
}

file file::read(std::filesystem::path const& path) {
    std::ifstream in(path, std::ios::binary | std::ios::ate);
    auto const size = in ? static_cast<std::streamoff>(in.tellg()) : -1;
    if (size < 0 || std::filesystem::is_directory(path)) throw error(path.string() + ": cannot be read");
    std::vector<std::byte> bytes(static_cast<std::size_t>(size));
    in.seekg(0).read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    if (!in) throw error(path.string() + ": cannot be read");
    try {
        return parse(std::move(bytes));
    } catch (error const& e) {
        throw error(path.string() + ": " + e.what());
    }
}

file file::parse(std::vector<std::byte> bytes) {
    if (bytes.size() < length_bytes) throw error("shorter than the header's length");
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), length_bytes);
    if (length > bytes.size() - length_bytes) throw error("header is longer than the file");

    file f;
    f.bytes_ = std::move(bytes);
    auto const rest = std::span<std::byte const>{f.bytes_}.subspan(length_bytes);
    auto const header = rest.first(static_cast<std::size_t>(length));
    f.read_header({reinterpret_cast<char const*>(header.data()), header.size()}, rest.subspan(header.size()));
    return f;
}

void file::read_header(std::string const& text, std::span<std::byte const> data) {
    auto const header = parse_header(text);
    if (!header.is_object()) throw error("header is not an object");
    for (auto const& [name, entry] : header.items()) {
        if (name == "__metadata__") {
            if (!entry.is_object()) throw error("metadata is not an object");
            for (auto const& [key, value] : entry.items()) {
                if (!value.is_string()) throw error("metadata '" + key + "' is not a string");
                metadata_.emplace(key, value.get<std::string>());
            }
            continue;
        }
        try {
            tensors_.emplace(name, tensor_from(entry, data));
        } catch (error const& e) {
            throw error(the(name) + ": " + e.what());
        }
    }

    std::vector<std::pair<std::span<std::byte const>, std::string>> order;
    for (auto const& [name, t] : tensors_) order.emplace_back(t.bytes, name);
    std::sort(order.begin(), order.end(), [](auto const& a, auto const& b) {
        return std::pair(a.first.data(), a.first.size()) < std::pair(b.first.data(), b.first.size());
    });
    auto const* next = data.data();
    for (auto const& [bytes, name] : order) {
        if (bytes.data() < next) throw error(the(name) + " overlaps the tensor before it");
        if (bytes.data() > next) throw error("there is a gap before " + the(name));
        next += bytes.size();
    }
    if (next != data.data() + data.size()) throw error("there are bytes after the last tensor");
}

tensor const& file::at(std::string const& name) const {
    auto const found = tensors_.find(name);
    if (found == tensors_.end()) throw error("there is no " + the(name));
    return found->second;
}

std::vector<float> file::floats(std::string const& name) const {
    auto const& t = at(name);
    switch (t.type) {
        case dtype::f64:
            return read_as<double, float>(t);
        case dtype::f32:
            return read_as<float, float>(t);
        case dtype::f16:
            return read_as<terse::half, float>(t);
        case dtype::bf16:
            return read_as<terse::bfloat16, float>(t);
        default:
            throw error(the(name) + " is " + safetensors::name(t.type) + ", not floating point");
    }
}

std::vector<std::int64_t> file::integers(std::string const& name) const {
    auto const& t = at(name);
    switch (t.type) {
        case dtype::i64:
            return read_as<std::int64_t, std::int64_t>(t);
        case dtype::i32:
            return read_as<std::int32_t, std::int64_t>(t);
        case dtype::i16:
            return read_as<std::int16_t, std::int64_t>(t);
        case dtype::i8:
            return read_as<std::int8_t, std::int64_t>(t);
        case dtype::u8:
        case dtype::boolean:
            return read_as<std::uint8_t, std::int64_t>(t);
        default:
            throw error(the(name) + " is " + safetensors::name(t.type) + ", not of integers");
    }
}

void writer::add(std::string name, dtype type, shape const& s, std::span<std::byte const> data) {
    if (name == "__metadata__" || entries_.contains(name)) throw error(the(name) + ": the name is taken");
    if (bytes_of(type, s) != std::ssize(data))
        throw error(the(name) + ": " + std::to_string(data.size()) + " bytes are not " + safetensors::name(type) + " " +
                    to_string(s));
    entries_.emplace(std::move(name), entry{type, s, {data.begin(), data.end()}});
}

void writer::add(std::string name, shape const& s, std::vector<float> const& data) {
    add_elements(*this, std::move(name), dtype::f32, s, data);
}

void writer::add(std::string name, shape const& s, std::vector<std::int64_t> const& data) {
    add_elements(*this, std::move(name), dtype::i64, s, data);
}

void writer::add(std::string name, shape const& s, std::vector<std::uint8_t> const& data) {
    add_elements(*this, std::move(name), dtype::u8, s, data);
}

std::vector<std::byte> writer::bytes() const {
    std::vector<std::pair<std::string const, entry> const*> order;
    for (auto const& item : entries_) order.push_back(&item);
    // Widest first, after a header padded to eight bytes: every tensor is aligned.
    std::stable_sort(order.begin(), order.end(),
                     [](auto const* a, auto const* b) { return width(a->second.type) > width(b->second.type); });

    json header = json::object();
    if (!metadata.empty()) header["__metadata__"] = metadata;
    std::size_t end = 0;
    for (auto const* const item : order) {
        auto const& [name, e] = *item;
        std::size_t const begin = std::exchange(end, end + e.bytes.size());
        header[name] = {{"dtype", safetensors::name(e.type)}, {"shape", e.shape}, {"data_offsets", {begin, end}}};
    }
    std::string text = header.dump();
    text.resize((text.size() + length_bytes - 1) / length_bytes * length_bytes, ' ');

    auto const length = std::bit_cast<std::array<std::byte, length_bytes>>(std::uint64_t{text.size()});
    auto const head = std::as_bytes(std::span{text});
    std::vector<std::byte> out(length.begin(), length.end());
    out.reserve(length_bytes + head.size() + end);
    out.insert(out.end(), head.begin(), head.end());
    for (auto const* const item : order) out.insert(out.end(), item->second.bytes.begin(), item->second.bytes.end());
    return out;
}

void writer::write(std::filesystem::path const& path) const {
    auto const all = bytes();
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<char const*>(all.data()), static_cast<std::streamsize>(all.size())).flush();
    if (!out) throw error(path.string() + ": cannot be written");
}

}  // namespace safetensors

#include "cli/method.hpp"

#include <algorithm>
#include <cstdint>

#include <terse/core/arena.hpp>
#include <terse/move/apply.hpp>

namespace cli {
namespace {

constexpr std::string_view prefix = "in.";

std::string full(std::string const& name) { return std::string(prefix) + name; }

std::string mismatch(std::string const& name, shape const& got, shape const& expected) {
    std::string text;
    for (auto const n : expected) {
        if (!text.empty()) text += ',';
        text += n == any ? "any" : std::to_string(n);
    }
    return full(name) + " is " + safetensors::to_string(got) + ", not [" + text + "]";
}

bool fits(shape const& got, shape const& expected) {
    return std::equal(got.begin(), got.end(), expected.begin(), expected.end(),
                      [](auto g, auto e) { return e == any || g == e; });
}

}  // namespace

case_input::case_input(safetensors::file const& file, std::vector<parameter> const& parameters, json const& given) {
    for (auto const& [name, tensor] : file.tensors()) {
        if (!name.starts_with(prefix)) continue;
        // With a size of zero the others are not bounded by the file's size; their products must not overflow.
        if (std::any_of(tensor.shape.begin(), tensor.shape.end(), [](auto n) { return n > terse::max_tokens; }))
            throw case_error(name + " is " + safetensors::to_string(tensor.shape) + ", which is too large");
        input in{tensor.shape, is_floating(tensor.type)};
        if (in.floating)
            in.floats = file.floats(name);
        else
            in.integers = file.integers(name);
        inputs_.emplace(name.substr(prefix.size()), std::move(in));
    }
    for (auto const& p : parameters) {
        auto const found = given.find(p.name);
        if (found == given.end() && p.value.is_null()) throw case_error("parameter '" + p.name + "' is missing");
        parameters_[p.name] = found == given.end() ? p.value : *found;
    }
}

json const& case_input::given(std::string const& name) const { return parameters_.at(name); }

index case_input::integer(std::string const& name, index least, index most) const {
    auto const& value = given(name);
    if (!value.is_number_integer() || value < least || value > most)
        throw case_error("parameter '" + name + "' is " + value.dump() + ", not an integer from " +
                         std::to_string(least) + " to " + std::to_string(most));
    return value.get<index>();
}

std::vector<index> case_input::integers(std::string const& name, index least) const {
    auto const& value = given(name);
    auto const good = [least](json const& e) { return e.is_number_integer() && e >= least && e <= terse::max_tokens; };
    if (!value.is_array() || !std::all_of(value.begin(), value.end(), good))
        throw case_error("parameter '" + name + "' is " + value.dump() + ", not a list of integers from " +
                         std::to_string(least));
    return value.get<std::vector<index>>();
}

double case_input::number(std::string const& name, double least, double most) const {
    auto const& value = given(name);
    if (!value.is_number() || value < least || value > most)
        throw case_error("parameter '" + name + "' is " + value.dump() + ", not a number from " + json(least).dump() +
                         " to " + json(most).dump());
    return value.get<double>();
}

bool case_input::flag(std::string const& name) const {
    auto const& value = given(name);
    if (!value.is_boolean()) throw case_error("parameter '" + name + "' is " + value.dump() + ", not true or false");
    return value.get<bool>();
}

case_input::input const& case_input::find(std::string const& name) const {
    auto const found = inputs_.find(name);
    if (found == inputs_.end()) throw case_error(full(name) + " is missing");
    return found->second;
}

case_input::input const& case_input::at(std::string const& name, shape const& expected, bool floating) const {
    auto const& in = find(name);
    if (in.floating != floating)
        throw case_error(full(name) + (floating ? " is not floating point" : " does not hold integers"));
    if (!fits(in.shape, expected)) throw case_error(mismatch(name, in.shape, expected));
    return in;
}

shape const& case_input::shape_of(std::string const& name, std::size_t rank) const {
    auto const& got = find(name).shape;
    if (got.size() != rank) throw case_error(mismatch(name, got, shape(rank, any)));
    return got;
}

std::span<float const> case_input::floats(std::string const& name, shape const& expected) const {
    return at(name, expected, true).floats;
}

terse::tokens_view<float> case_input::tokens(std::string const& name, index tokens, index dim) const {
    auto const& in = at(name, {tokens, dim}, true);
    return terse::view(in.floats.data(), in.shape[0], in.shape[1]);
}

terse::heads_view<float> case_input::heads(std::string const& name, index heads, index tokens, index dim) const {
    auto const& in = at(name, {heads, tokens, dim}, true);
    return terse::head_major(in.floats.data(), in.shape[0], in.shape[1], in.shape[2]);
}

std::vector<terse::token> case_input::positions(std::string const& name, shape const& expected, index below) const {
    auto const& in = at(name, expected, false);
    auto const row = in.shape.back();
    for (std::size_t i = 0; i < in.integers.size(); ++i) {
        auto const least = static_cast<std::int64_t>(i) % row == 0 ? 0 : in.integers[i - 1] + 1;
        if (in.integers[i] < least || in.integers[i] >= below)
            throw case_error(full(name) + " is not ascending below " + std::to_string(below));
    }
    return {in.integers.begin(), in.integers.end()};
}

std::vector<index> case_input::counts(std::string const& name, shape const& expected, index least, index most) const {
    auto const& in = at(name, expected, false);
    for (auto const n : in.integers)
        if (n < least || n > most)
            throw case_error(full(name) + " holds " + std::to_string(n) + ", not a number from " +
                             std::to_string(least) + " to " + std::to_string(most));
    return {in.integers.begin(), in.integers.end()};
}

void outputs::floats(std::string const& name, shape const& s, std::vector<float> const& data) {
    file.add("out." + name, s, data);
}

void outputs::integers(std::string const& name, shape const& s, std::vector<std::int64_t> const& data) {
    file.add("out." + name, s, data);
}

void outputs::mask(std::string const& name, shape const& s, std::vector<std::uint8_t> const& data) {
    file.add("out." + name, s, data);
}

void outputs::keep(std::string const& name, terse::plan const& p) {
    integers(name, {p.kept()}, {p.anchor.begin(), p.anchor.end()});
}

void outputs::keep(std::string const& name, terse::plans const& p, index heads) {
    std::vector<std::int64_t> all;
    for (index h = 0; h < heads; ++h) all.insert(all.end(), p[h].anchor.begin(), p[h].anchor.end());
    integers(name, {heads, p[0].kept()}, all);
}

void outputs::rows(std::string const& name, terse::plan const& p, terse::tokens_view<float> in) {
    std::vector<float> out(size(p.kept() * in.dim));
    check(apply(p, in, terse::view(out.data(), p.kept(), in.dim)));
    floats(name, {p.kept(), in.dim}, out);
}

void outputs::rows(std::string const& name, terse::plans const& p, terse::heads_view<float> in) {
    index const kept = p[0].kept();
    std::vector<float> out(size(in.heads * kept * in.dim));
    check(apply(p, in, terse::head_major(out.data(), in.heads, kept, in.dim)));
    floats(name, {in.heads, kept, in.dim}, out);
}

void outputs::scores(std::string const& name, terse::scores const& s, index count, index first) {
    std::vector<float> all;
    for (index h = 0; h < s.heads; ++h) {
        auto const row = s.row(h).subspan(size(first), size(count));
        all.insert(all.end(), row.begin(), row.end());
    }
    floats(name, {s.heads, count}, all);
}

void outputs::scores(std::string const& name, std::span<float const> row) {
    floats(name, {std::ssize(row)}, {row.begin(), row.end()});
}

void outputs::source(std::string const& name, terse::plan const& p) {
    std::vector<float> all(size(p.kept() * p.tokens));
    for (index row = 0; row < p.kept(); ++row)
        for (auto const token : p.row(row).sources) all[size(row * p.tokens + token)] = 1;
    floats(name, {p.kept(), p.tokens}, all);
}

void outputs::assign(std::string const& name, terse::plan const& p) {
    integers(name, {p.tokens}, {p.owner.begin(), p.owner.end()});
}

std::vector<method> const& methods() {
    static std::vector<method> const all = [] {
        std::vector<method> rows;
        for (auto const family : {
                 prune_methods,
                 merge_methods,
                 pool_methods,
                 kv_attention_methods,
                 kv_budgets_methods,
                 kv_chunks_methods,
                 kv_decoding_methods,
                 kv_history_methods,
                 kv_keys_methods,
                 kv_positions_methods,
                 kv_reconstructed_methods,
                 kv_statistics_methods,
             }) {
            auto const more = family();
            rows.insert(rows.end(), more.begin(), more.end());
        }
        return rows;
    }();
    return all;
}

method const& find_method(std::string const& name, json const& parameters) {
    auto const& all = methods();
    auto const named = [&name](method const& m) { return m.name == name; };
    if (std::none_of(all.begin(), all.end(), named)) throw unknown_method("method '" + name + "' is not known");
    auto const variant = parameters.find("variant");
    auto const found = std::find_if(all.begin(), all.end(), [&](method const& m) {
        return named(m) && (m.variant.empty() || variant == parameters.end() || *variant == m.variant);
    });
    if (found == all.end()) throw case_error("method '" + name + "' has no variant " + variant->dump());
    return *found;
}

void check(terse::errc error) {
    if (error != terse::errc::ok) throw case_error(std::string("refused: ") + message(error));
}

}  // namespace cli

#include "cli/compare.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <sstream>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

namespace cli {
namespace {

using nlohmann::json;
using safetensors::error;
using safetensors::file;
using safetensors::shape;

using finding = std::optional<std::string>;
using integers = std::vector<std::int64_t>;

constexpr std::array<std::pair<char const*, rule_kind>, 7> kinds{
    {{"exact", rule_kind::exact},
     {"set", rule_kind::set},
     {"set-per-row", rule_kind::set_per_row},
     {"allclose", rule_kind::allclose},
     {"partition", rule_kind::partition},
     {"allclose-by-partition", rule_kind::allclose_by_partition},
     {"allclose-row-blocks", rule_kind::allclose_row_blocks}}};

double tolerance_from(json const& entry, char const* name) {
    if (!entry.contains(name)) return 0;
    auto const& value = entry[name];
    if (!value.is_number() || !(value.get<double>() >= 0)) throw error(std::string(name) + " is not a tolerance");
    return value.get<double>();
}

rule rule_from(json const& entry) {
    if (!entry.is_object() || !entry.contains("kind")) throw error("no kind");
    auto const& kind = entry["kind"];
    auto const row = std::find_if(kinds.begin(), kinds.end(),
                                  [&kind](auto const& k) { return kind.is_string() && kind == k.first; });
    if (row == kinds.end()) throw error("kind " + kind.dump() + " is not known");
    auto const labels = entry.value("labels", json(""));
    if (!labels.is_string()) throw error("labels are not a name");
    return {row->second, tolerance_from(entry, "rtol"), tolerance_from(entry, "atol"), labels.get<std::string>()};
}

/// [rows, width], the first axis against all others.
struct table {
    std::vector<double> values;
    std::size_t rows = 0;
    std::size_t width = 0;

    [[nodiscard]] double at(std::size_t row, std::size_t column) const { return values[row * width + column]; }
};

table table_from(file const& f, std::string const& name) {
    auto const& t = f.at(name);
    table all;
    if (is_floating(t.type)) {
        auto const elements = f.floats(name);
        all.values.assign(elements.begin(), elements.end());
    } else {
        for (auto const element : f.integers(name)) all.values.push_back(static_cast<double>(element));
    }
    all.rows = t.shape.empty() ? 1 : static_cast<std::size_t>(t.shape.front());
    all.width = all.rows == 0 ? 0 : all.values.size() / all.rows;
    return all;
}

bool close(double got, double want, rule const& r) {
    return got == want || (std::isfinite(want) && std::abs(got - want) <= r.atol + r.rtol * std::abs(want));
}

std::string place(shape const& s, std::size_t element) {
    auto rest = static_cast<std::int64_t>(element);
    shape at(s.size());
    for (std::size_t axis = s.size(); axis-- > 0; rest /= s[axis]) at[axis] = rest % s[axis];
    return safetensors::to_string(at);
}

template <class T>
std::string differs(std::string const& where, T got, T want) {
    std::ostringstream text;
    text.precision(9);
    text << where << " is " << got << ", expected " << want;
    return text.str();
}

finding exact(std::string const& name, file const& want, file const& got) {
    auto const &w = want.at(name), &g = got.at(name);
    auto const step = width(w.type), count = w.bytes.size() / step;
    for (std::size_t i = 0; i < count; ++i) {
        if (std::memcmp(w.bytes.data() + i * step, g.bytes.data() + i * step, step) == 0) continue;
        auto const where = name + place(w.shape, i);
        if (is_floating(w.type)) return differs(where, got.floats(name)[i], want.floats(name)[i]);
        return differs(where, got.integers(name)[i], want.integers(name)[i]);
    }
    return {};
}

finding same_sets(std::string const& name, file const& want, file const& got, std::size_t row_width) {
    auto const w = want.integers(name), g = got.integers(name);
    for (std::size_t begin = 0; begin < w.size(); begin += row_width) {
        auto const sorted = [begin, row_width](integers const& all) {
            auto const first = all.begin() + static_cast<std::ptrdiff_t>(begin);
            integers row(first, first + static_cast<std::ptrdiff_t>(row_width));
            std::sort(row.begin(), row.end());
            row.erase(std::unique(row.begin(), row.end()), row.end());
            return row;
        };
        auto const want_set = sorted(w), got_set = sorted(g);
        auto const without = [](integers const& all, integers const& these) {
            integers rest;
            std::set_difference(all.begin(), all.end(), these.begin(), these.end(), std::back_inserter(rest));
            return rest;
        };
        auto const missing = without(want_set, got_set), surplus = without(got_set, want_set);
        auto const where = row_width == w.size() ? name : name + " row " + std::to_string(begin / row_width);
        if (!missing.empty()) return where + " lacks " + std::to_string(missing.front());
        if (!surplus.empty()) return where + " has " + std::to_string(surplus.front()) + ", which is not expected";
    }
    return {};
}

finding allclose(rule const& r, std::string const& name, file const& want, file const& got) {
    auto const w = table_from(want, name).values, g = table_from(got, name).values;
    for (std::size_t i = 0; i < w.size(); ++i)
        if (!close(g[i], w[i], r)) return differs(name + place(want.at(name).shape, i), g[i], w[i]);
    return {};
}

/// The got label of each expected one, or the first token where there is none.
struct renaming {
    std::map<std::int64_t, std::int64_t> names;
    finding first_difference;
};

renaming rename(std::string const& name, file const& want, file const& got) {
    auto const w = want.integers(name), g = got.integers(name);
    std::map<std::int64_t, std::int64_t> forth, back;
    for (std::size_t i = 0; i < w.size(); ++i) {
        bool const known = forth.contains(w[i]);
        if (forth.emplace(w[i], g[i]).first->second == g[i] && back.emplace(g[i], w[i]).first->second == w[i]) continue;
        return {{},
                name + ": token " + std::to_string(i) + (known ? " is not" : " is") + " with token " +
                    std::to_string((known ? std::find(w.begin(), w.end(), w[i]) - w.begin()
                                          : std::find(g.begin(), g.end(), g[i]) - g.begin()))};
    }
    return {std::move(forth), {}};
}

/// out.size.1 has its labels in out.assign.1, every other name in out.assign.
std::string labels_of(rule const& r, std::string const& name, file const& want) {
    if (!r.labels.empty()) return r.labels;
    auto const dot = name.rfind('.');
    auto const numbered = "out.assign" + name.substr(dot);
    return want.contains(numbered) ? numbered : "out.assign";
}

finding shape_difference(std::string const& name, file const& want, file const& got) {
    if (!got.contains(name)) return name + " is missing";
    auto const &w = want.at(name), &g = got.at(name);
    if (g.type != w.type) return name + " is " + safetensors::name(g.type) + ", expected " + safetensors::name(w.type);
    if (g.shape != w.shape)
        return name + " is " + safetensors::to_string(g.shape) + ", expected " + safetensors::to_string(w.shape);
    return {};
}

finding by_partition(rule const& r, std::string const& name, file const& want, file const& got) {
    auto const labels = labels_of(r, name, want);
    if (auto const found = shape_difference(labels, want, got)) return found;
    auto const [names, different] = rename(labels, want, got);
    if (different) return different;
    auto const w = table_from(want, name), g = table_from(got, name);
    for (std::size_t row = 0; row < w.rows; ++row) {
        auto const found = names.find(static_cast<std::int64_t>(row));
        if (found == names.end()) throw error(name + ": " + labels + " gives row " + std::to_string(row) + " no token");
        auto const got_row = static_cast<std::size_t>(found->second);
        if (got_row >= g.rows) return labels + " has label " + std::to_string(found->second) + ", which is no row";
        for (std::size_t c = 0; c < w.width; ++c)
            if (!close(g.at(got_row, c), w.at(row, c), r))
                return differs(name + place(want.at(name).shape, got_row * w.width + c), g.at(got_row, c),
                               w.at(row, c));
    }
    return {};
}

/// Whether rows [begin, end) can be paired so that every pair is close: augmenting paths.
class pairing {
  public:
    pairing(rule const& r, table const& want, table const& got, std::size_t begin, std::size_t end)
        : rule_{r}, want_{want}, got_{got}, begin_{begin}, partner_(end - begin, none) {}

    [[nodiscard]] bool complete() {
        for (std::size_t row = 0; row < partner_.size(); ++row) {
            seen_.assign(partner_.size(), false);
            if (!place(row)) return false;
        }
        return true;
    }

  private:
    static constexpr std::size_t none = static_cast<std::size_t>(-1);

    [[nodiscard]] bool pair_is_close(std::size_t want_row, std::size_t got_row) const {
        for (std::size_t c = 0; c < want_.width; ++c)
            if (!close(got_.at(begin_ + got_row, c), want_.at(begin_ + want_row, c), rule_)) return false;
        return true;
    }

    [[nodiscard]] bool place(std::size_t want_row) {
        for (std::size_t g = 0; g < partner_.size(); ++g) {
            if (seen_[g] || !pair_is_close(want_row, g)) continue;
            seen_[g] = true;
            if (partner_[g] == none || place(partner_[g])) return partner_[g] = want_row, true;
        }
        return false;
    }

    rule const& rule_;
    table const& want_;
    table const& got_;
    std::size_t begin_;
    std::vector<std::size_t> partner_;  // of each got row
    std::vector<bool> seen_;
};

/// The rows of each block: of every window its static part, then each frame's dynamic part.
std::vector<std::size_t> blocks(file const& want, std::size_t rows) {
    auto const windows = want.integers("out.windows"), fixed = want.integers("out.static_sizes"),
               moving = want.integers("out.dynamic_sizes");
    if (fixed.size() != windows.size() || moving.size() != windows.size())
        throw error("windows do not fit their sizes");
    std::vector<std::size_t> sizes;
    std::size_t left = rows;
    auto const add = [&sizes, &left](std::int64_t size) {
        if (size < 0 || static_cast<std::size_t>(size) > left) throw error("windows do not fit the rows");
        sizes.push_back(static_cast<std::size_t>(size));
        left -= sizes.back();
    };
    for (std::size_t w = 0; w < windows.size(); ++w) {
        if (windows[w] < 1 || moving[w] % windows[w] != 0) throw error("a window's frames do not fit its rows");
        add(fixed[w]);
        for (std::int64_t frame = 0; frame < windows[w]; ++frame) add(moving[w] / windows[w]);
    }
    if (left != 0) throw error("windows do not fit the rows");
    return sizes;
}

finding row_blocks(rule const& r, std::string const& name, file const& want, file const& got) {
    auto const w = table_from(want, name), g = table_from(got, name);
    std::size_t begin = 0;
    for (auto const size : blocks(want, w.rows)) {
        if (!pairing(r, w, g, begin, begin + size).complete())
            return name + ": rows " + std::to_string(begin) + " to " + std::to_string(begin + size - 1) +
                   " are not those expected, in any order";
        begin += size;
    }
    return {};
}

}  // namespace

std::map<std::string, rule> rules_from(std::string const& text) {
    auto const all = json::parse(text, nullptr, false);
    if (!all.is_object()) throw error("'compare' is not a JSON object");
    std::map<std::string, rule> rules;
    for (auto const& [name, entry] : all.items()) {
        try {
            rules.emplace(name, rule_from(entry));
        } catch (error const& e) {
            throw error("'compare' of " + name + ": " + e.what());
        }
    }
    return rules;
}

finding difference(rule const& r, std::string const& name, file const& want, file const& got) {
    if (auto const found = shape_difference(name, want, got)) return found;
    auto const& s = want.at(name).shape;
    auto const elements = static_cast<std::size_t>(want.at(name).elements());
    if (elements == 0) return {};
    switch (r.kind) {
        case rule_kind::exact:
            return exact(name, want, got);
        case rule_kind::set:
            return same_sets(name, want, got, elements);
        case rule_kind::set_per_row:
            return same_sets(name, want, got, s.empty() ? 1 : static_cast<std::size_t>(s.back()));
        case rule_kind::allclose:
            return allclose(r, name, want, got);
        case rule_kind::partition:
            return rename(name, want, got).first_difference;
        case rule_kind::allclose_by_partition:
            return by_partition(r, name, want, got);
        case rule_kind::allclose_row_blocks:
            return row_blocks(r, name, want, got);
    }
    throw error(name + ": no such rule");
}

}  // namespace cli

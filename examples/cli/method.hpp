// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>
#include <limits>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <terse/core/plan.hpp>
#include <terse/core/view.hpp>
#include <terse/score/scores.hpp>

#include "common/safetensors.hpp"

namespace cli {

using nlohmann::json;
using safetensors::shape;
using terse::index;

constexpr std::size_t size(index n) { return static_cast<std::size_t>(n); }

/// Why a case cannot be run; the message names the tensor or the parameter.
class case_error : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct parameter {
    std::string name;
    std::string help;
    json value = nullptr;  ///< the default; null: must be given
};

inline constexpr index any = -1;  ///< a size that may be any

/// A case as a method sees it: its inputs, in float and 64-bit integers, and its parameters.
class case_input {
  public:
    /// Takes the file's tensors in.*, and `given` over the parameters' defaults.
    case_input(safetensors::file const&, std::vector<parameter> const&, json const& given);

    [[nodiscard]] index integer(std::string const& name, index least = 0, index most = terse::max_tokens) const;
    [[nodiscard]] std::vector<index> integers(std::string const& name, index least = 0) const;
    [[nodiscard]] double number(std::string const& name, double least = std::numeric_limits<double>::lowest(),
                                double most = std::numeric_limits<double>::max()) const;
    [[nodiscard]] bool flag(std::string const& name) const;

    /// The value that a parameter's text stands for.
    template <class T>
    [[nodiscard]] T choice(std::string const& name,
                           std::initializer_list<std::pair<char const*, std::type_identity_t<T>>> values) const {
        std::string known;
        for (auto const& [text, value] : values) {
            if (given(name) == text) return value;
            known += known.empty() ? "" : ", ";
            known += text;
        }
        throw case_error("parameter '" + name + "' is " + given(name).dump() + ", not one of: " + known);
    }

    [[nodiscard]] bool has(std::string const& name) const { return inputs_.contains(name); }
    [[nodiscard]] shape const& shape_of(std::string const& name, std::size_t rank) const;

    /// An input of the given shape, where `any` stands for any size.
    [[nodiscard]] std::span<float const> floats(std::string const& name, shape const& expected) const;

    /// The same as views.
    [[nodiscard]] terse::tokens_view<float> tokens(std::string const& name, index tokens = any, index dim = any) const;
    [[nodiscard]] terse::heads_view<float> heads(std::string const& name, index heads = any, index tokens = any,
                                                 index dim = any) const;
    /// Positions below `below`, rows ascending strictly.
    [[nodiscard]] std::vector<terse::token> positions(std::string const& name, shape const& expected,
                                                      index below) const;
    /// Integers from `least` to `most`.
    [[nodiscard]] std::vector<index> counts(std::string const& name, shape const& expected, index least,
                                            index most) const;

  private:
    struct input {
        safetensors::shape shape;
        bool floating = false;
        std::vector<float> floats{};
        std::vector<std::int64_t> integers{};
    };

    [[nodiscard]] json const& given(std::string const& name) const;
    [[nodiscard]] input const& find(std::string const& name) const;
    [[nodiscard]] input const& at(std::string const& name, shape const& expected, bool floating) const;

    std::map<std::string, input> inputs_;
    json parameters_;
};

/// What a method returns: tensors that are written as out.*.
class outputs {
  public:
    void floats(std::string const& name, shape const&, std::vector<float> const&);
    void integers(std::string const& name, shape const&, std::vector<std::int64_t> const&);
    void mask(std::string const& name, shape const&, std::vector<std::uint8_t> const&);

    /// [kept]: the anchors of a plan.
    void keep(std::string const& name, terse::plan const&);
    /// [heads, kept]: the anchors of each head's plan.
    void keep(std::string const& name, terse::plans const&, index heads);
    /// [kept, dim]: the plan applied to tokens.
    void rows(std::string const& name, terse::plan const&, terse::tokens_view<float>);
    /// [heads, kept, dim]: the plans applied to each head's tokens.
    void rows(std::string const& name, terse::plans const&, terse::heads_view<float>);
    /// [heads, count]: the scores of tokens [first, first + count).
    void scores(std::string const& name, terse::scores const&, index count, index first = 0);
    /// [tokens]: scores that all heads share.
    void scores(std::string const& name, std::span<float const>);
    /// [kept, tokens]: 1 where a token is in a row.
    void source(std::string const& name, terse::plan const&);
    /// [tokens]: each token's row.
    void assign(std::string const& name, terse::plan const&);

    safetensors::writer file;
};

/// A policy of the library under the name that cases give it.
struct method {
    std::string name;     ///< in kebab-case
    std::string variant;  ///< the case's parameter "variant"; empty: whatever it is
    std::string family;
    std::string summary;
    std::vector<parameter> parameters;
    void (*run)(case_input const&, outputs&);
};

[[nodiscard]] std::vector<method> prune_methods();
[[nodiscard]] std::vector<method> merge_methods();
[[nodiscard]] std::vector<method> pool_methods();
[[nodiscard]] std::vector<method> kv_attention_methods();
[[nodiscard]] std::vector<method> kv_budgets_methods();
[[nodiscard]] std::vector<method> kv_chunks_methods();
[[nodiscard]] std::vector<method> kv_decoding_methods();
[[nodiscard]] std::vector<method> kv_history_methods();
[[nodiscard]] std::vector<method> kv_keys_methods();
[[nodiscard]] std::vector<method> kv_positions_methods();
[[nodiscard]] std::vector<method> kv_reconstructed_methods();
[[nodiscard]] std::vector<method> kv_statistics_methods();

/// All methods, by family.
[[nodiscard]] std::vector<method> const& methods();

/// A method that is not there; no failure of what is.
class unknown_method : public case_error {
    using case_error::case_error;
};

/// The method of this name for `parameters`' variant, the first of its name where that gives none.
/// Throws `unknown_method` when no method has the name, `case_error` when none has the variant.
[[nodiscard]] method const& find_method(std::string const& name, json const& parameters);

/// The value, or a `case_error` with the library's message.
template <class T>
[[nodiscard]] T value(terse::result<T> const& r) {
    if (!r) throw case_error(std::string("refused: ") + message(r.error()));
    return *r;
}
void check(terse::errc);

}  // namespace cli

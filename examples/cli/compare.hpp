// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <optional>
#include <string>

#include "common/safetensors.hpp"

namespace cli {

/// How an output is compared with the expected one; shapes and types must always be the same.
enum class rule_kind {
    exact,                  ///< every element, bit by bit
    set,                    ///< integers, in any order and number
    set_per_row,            ///< the same for each row of the last axis
    allclose,               ///< |got - want| <= atol + rtol |want|
    partition,              ///< labels, up to their names
    allclose_by_partition,  ///< rows belong to groups of tokens; a row may stand anywhere
    allclose_row_blocks,    ///< rows of a block (see `blocks` in compare.cpp) in any order
};

struct rule {
    rule_kind kind = rule_kind::exact;
    double rtol = 0;
    double atol = 0;
    std::string labels{};  ///< allclose_by_partition: the tensor with the row of each token; empty: by the name
};

/// From a case's metadata: {"out.keep": {"kind": "exact"}, ...}. Throws `safetensors::error` on anything else.
[[nodiscard]] std::map<std::string, rule> rules_from(std::string const& text);

/// What is wrong with `got`'s tensor `name`, first of all; nothing when it equals the expected one.
/// Throws `safetensors::error` when the expected one does not suit its rule.
[[nodiscard]] std::optional<std::string> difference(rule const&, std::string const& name, safetensors::file const& want,
                                                    safetensors::file const& got);

}  // namespace cli

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <iosfwd>

namespace cli {

/// The `terse` command. Returns 0, 1 when a case failed or could not be run, or 2 for wrong usage.
int program(int argc, char const* const* argv, std::ostream& out, std::ostream& err);

}  // namespace cli

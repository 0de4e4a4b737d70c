#pragma once

#include <string>
#include <utility>
#include <vector>

#include "compare.hpp"

namespace terse::bench {

struct outcome {
    double seconds = 0;                                   ///< a call of terse
    double percent = 0;                                   ///< of the limit
    std::vector<std::pair<std::string, double>> peers{};  ///< how many times faster terse is
};

/// Keeps a row for `write_results`.
void record(subject const& what, std::string const& limit, outcome const& found);

/// Writes the rows recorded to `file`.json, into those that stand there already, and all of them as a Markdown table
/// to `file`.md.
void write_results(std::string const& file);

}  // namespace terse::bench

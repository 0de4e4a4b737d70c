// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace report {

/// How a policy looks in every chart: a colour of the style sheet, and a dash where policies share one.
struct look {
    std::string colour;  ///< a CSS variable's name
    std::string dash{};  ///< SVG's stroke-dasharray; empty: solid
};

/// The policy's look; policies without one of their own are grey.
[[nodiscard]] look look_of(std::string const& policy);

/// Whether the policy is one of those that charts draw: the others are in the tables.
[[nodiscard]] bool has_look(std::string const& policy);

struct point {
    double x = 0;
    double y = 0;
    std::string tip{};
};

struct series {
    std::string name;
    look style;
    std::vector<point> points;
};

struct tick {
    double at = 0;
    std::string text;
};

struct axis {
    std::string label;
    double from = 0;  ///< at the left, or the bottom
    double to = 0;
    std::vector<tick> ticks{};
    bool logarithmic = false;

    /// Where a value stands between `from` (0) and `to` (1).
    [[nodiscard]] double share(double value) const;
};

/// Lines with a point for every measurement, each with its name and last value at its end.
struct line_chart {
    std::string title;
    axis x;
    axis y;
    std::vector<series> lines{};
    int decimals = 0;  ///< of the values at the ends of the lines
    double width = 480;
    double height = 340;
};

struct bar {
    std::string name;
    look style;
    double value = 0;
    std::string text;
};

/// Horizontal bars from zero, each with its name before and its value behind it.
struct bar_chart {
    std::string title;
    std::vector<bar> bars{};
    double width = 480;
};

[[nodiscard]] std::string draw(line_chart const& chart);
[[nodiscard]] std::string draw(bar_chart const& chart);

}  // namespace report

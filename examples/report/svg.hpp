// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <type_traits>

namespace report {

/// Text as HTML and SVG want it.
[[nodiscard]] std::string escape(std::string_view text);

/// A number with at most `decimals` decimals and no zeros behind the last.
[[nodiscard]] std::string number(double value, int decimals = 2);

/// A number with exactly `decimals` decimals.
[[nodiscard]] std::string fixed(double value, int decimals);

/// Text and numbers as one text, such as a path's commands: join("M", x, " ", y, "h", width).
template <class... Parts>
[[nodiscard]] std::string join(Parts const&... parts) {
    std::string whole;
    auto const add = [&whole](auto const& part) {
        if constexpr (std::is_arithmetic_v<std::remove_cvref_t<decltype(part)>>) {
            whole += number(part);
        } else {
            whole += part;
        }
    };
    (add(parts), ...);
    return whole;
}

/// A drawing, built front to back. Colours come from the page's style sheet, so that it follows light and dark.
class svg {
  public:
    /// @param label what a reader who cannot see it is told
    svg(double width, double height, std::string_view label);

    svg& open(std::string_view group_attributes);
    svg& close();
    svg& line(double x1, double y1, double x2, double y2, std::string_view style);
    svg& rect(double x, double y, double width, double height, std::string_view style);
    /// @param tip what the pointer over it tells
    svg& circle(double x, double y, double radius, std::string_view style, std::string_view tip);
    svg& path(std::string_view commands, std::string_view style);
    /// @param style e.g. class="label" text-anchor="end"
    svg& text(double x, double y, std::string_view content, std::string_view style = {});
    svg& image(double x, double y, double side, std::string_view uri);

    [[nodiscard]] std::string str() const { return body_ + "</svg>\n"; }

  private:
    std::string body_;
};

}  // namespace report

#include "report/svg.hpp"

#include <array>
#include <cstdio>

namespace report {

std::string escape(std::string_view text) {
    std::string result;
    for (char const c : text) {
        switch (c) {
            case '&':
                result += "&amp;";
                break;
            case '<':
                result += "&lt;";
                break;
            case '>':
                result += "&gt;";
                break;
            case '"':
                result += "&quot;";
                break;
            default:
                result += c;
        }
    }
    return result;
}

std::string fixed(double value, int decimals) {
    std::array<char, 64> digits{};
    std::snprintf(digits.data(), digits.size(), "%.*f", decimals, value);
    return digits.data();
}

std::string number(double value, int decimals) {
    std::string text = fixed(value, decimals);
    if (text.find('.') == std::string::npos) return text;
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
    return text == "-0" ? "0" : text;
}

svg::svg(double width, double height, std::string_view label)
    : body_{join("<svg viewBox=\"0 0 ", width, " ", height, "\" role=\"img\" aria-label=\"", escape(label), "\">\n")} {}

svg& svg::open(std::string_view group_attributes) {
    body_ += join("<g ", group_attributes, ">\n");
    return *this;
}

svg& svg::close() {
    body_ += "</g>\n";
    return *this;
}

svg& svg::line(double x1, double y1, double x2, double y2, std::string_view style) {
    body_ += join("<line x1=\"", x1, "\" y1=\"", y1, "\" x2=\"", x2, "\" y2=\"", y2, "\" ", style, "/>\n");
    return *this;
}

svg& svg::rect(double x, double y, double width, double height, std::string_view style) {
    body_ += join("<rect x=\"", x, "\" y=\"", y, "\" width=\"", width, "\" height=\"", height, "\" ", style, "/>\n");
    return *this;
}

svg& svg::circle(double x, double y, double radius, std::string_view style, std::string_view tip) {
    body_ += join("<circle cx=\"", x, "\" cy=\"", y, "\" r=\"", radius, "\" ", style, "><title>", escape(tip),
                  "</title></circle>\n");
    return *this;
}

svg& svg::path(std::string_view commands, std::string_view style) {
    body_ += join("<path d=\"", commands, "\" ", style, "/>\n");
    return *this;
}

svg& svg::text(double x, double y, std::string_view content, std::string_view style) {
    body_ += join("<text x=\"", x, "\" y=\"", y, "\" ", style, ">", escape(content), "</text>\n");
    return *this;
}

svg& svg::image(double x, double y, double side, std::string_view uri) {
    body_ +=
        join("<image x=\"", x, "\" y=\"", y, "\" width=\"", side, "\" height=\"", side, "\" href=\"", uri, "\"/>\n");
    return *this;
}

}  // namespace report

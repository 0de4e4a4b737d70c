#include "report/svg.hpp"

#include <array>
#include <cstdio>

namespace report {
namespace {

std::string with_tip(std::string_view element, std::string_view tip) {
    if (tip.empty()) return "/>\n";
    return "><title>" + escape(tip) + "</title></" + std::string{element} + ">\n";
}

}  // namespace

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
    : body_{"<svg viewBox=\"0 0 " + number(width) + " " + number(height) + "\" role=\"img\" aria-label=\"" +
            escape(label) + "\">\n"} {}

svg& svg::open(std::string_view group_attributes) {
    body_ += "<g " + std::string{group_attributes} + ">\n";
    return *this;
}

svg& svg::close() {
    body_ += "</g>\n";
    return *this;
}

svg& svg::line(double x1, double y1, double x2, double y2, std::string_view style) {
    body_ += "<line x1=\"" + number(x1) + "\" y1=\"" + number(y1) + "\" x2=\"" + number(x2) + "\" y2=\"" + number(y2) +
             "\" " + std::string{style} + "/>\n";
    return *this;
}

svg& svg::rect(double x, double y, double width, double height, std::string_view style, std::string_view tip) {
    body_ += "<rect x=\"" + number(x) + "\" y=\"" + number(y) + "\" width=\"" + number(width) + "\" height=\"" +
             number(height) + "\" " + std::string{style} + with_tip("rect", tip);
    return *this;
}

svg& svg::circle(double x, double y, double radius, std::string_view style, std::string_view tip) {
    body_ += "<circle cx=\"" + number(x) + "\" cy=\"" + number(y) + "\" r=\"" + number(radius) + "\" " +
             std::string{style} + with_tip("circle", tip);
    return *this;
}

svg& svg::path(std::string_view commands, std::string_view style) {
    body_ += "<path d=\"" + std::string{commands} + "\" " + std::string{style} + "/>\n";
    return *this;
}

svg& svg::text(double x, double y, std::string_view content, std::string_view style) {
    body_ += "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" " + std::string{style} + ">" + escape(content) +
             "</text>\n";
    return *this;
}

svg& svg::image(double x, double y, double side, std::string_view uri) {
    body_ += "<image x=\"" + number(x) + "\" y=\"" + number(y) + "\" width=\"" + number(side) + "\" height=\"" +
             number(side) + "\" href=\"" + std::string{uri} + "\"/>\n";
    return *this;
}

}  // namespace report

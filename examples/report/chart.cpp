#include "report/chart.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "report/svg.hpp"

namespace report {
namespace {

std::string colour(look const& style) { return "style=\"--c:var(--" + style.colour + ")\""; }

/// Moves labels apart, in place: each keeps its order and is at least `gap` below the one above, all within the frame.
std::vector<double> spread(std::vector<double> const& wanted, double gap, double top, double bottom) {
    std::vector<std::size_t> order(wanted.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return wanted[a] < wanted[b]; });
    std::vector<double> at = wanted;
    double above = top - gap;
    for (std::size_t const i : order) above = at[i] = std::max(at[i], above + gap);
    double below = bottom + gap;
    for (auto i = order.rbegin(); i != order.rend(); ++i) below = at[*i] = std::min(at[*i], below - gap);
    return at;
}

}  // namespace

namespace {

std::map<std::string, look> const& looks() {
    static std::map<std::string, look> const all{
        {"snapkv13", {"blue"}},
        {"snapkv7", {"blue", "7 3"}},
        {"snapkv", {"blue"}},
        {"chunkkv", {"blue", "2 3"}},
        {"tova", {"orange"}},
        {"razor-attention", {"orange", "7 3"}},
        {"h2o", {"green"}},
        {"blocks", {"green", "7 3"}},
        {"r-kv", {"red"}},
        {"compresskv", {"red", "7 3"}},
        {"streaming", {"purple"}},
        {"lagkv", {"purple", "7 3"}},
        {"keydiff", {"olive"}},
        {"knorm", {"olive", "7 3"}},
        {"random", {"grey", "2 3"}},
        {"tome", {"blue"}},
        {"tome-noprop", {"blue", "7 3"}},
        {"class-attention-once", {"orange"}},
        {"class-attention", {"orange", "7 3"}},
        {"divprune", {"green"}},
        {"average", {"purple"}},
    };
    return all;
}

}  // namespace

look look_of(std::string const& policy) {
    auto const found = looks().find(policy);
    return found == looks().end() ? look{"grey"} : found->second;
}

bool has_look(std::string const& policy) { return looks().contains(policy); }

double axis::share(double value) const {
    if (logarithmic) return std::log(value / from) / std::log(to / from);
    return (value - from) / (to - from);
}

std::string draw(line_chart const& chart) {
    constexpr double left = 40, top = 48, bottom = 42, gap = 15;
    std::size_t longest = 0;
    for (series const& line : chart.lines) longest = std::max(longest, line.name.size());
    double const right = 80 + 7.2 * static_cast<double>(longest);
    double const inner = chart.width - left - right, depth = chart.height - top - bottom;
    auto const x = [&](double value) { return left + inner * chart.x.share(value); };
    auto const y = [&](double value) { return top + depth * (1 - chart.y.share(value)); };

    svg s{chart.width, chart.height, chart.title};
    s.text(0, 14, chart.title, "class=\"title\"");
    for (tick const& t : chart.y.ticks) {
        s.line(left, y(t.at), left + inner, y(t.at), "class=\"grid\"");
        s.text(left - 8, y(t.at) + 4, t.text, "class=\"tick\" text-anchor=\"end\"");
    }
    for (tick const& t : chart.x.ticks) {
        s.line(x(t.at), top + depth, x(t.at), top + depth + 5, "class=\"axis\"");
        s.text(x(t.at), top + depth + 19, t.text, "class=\"tick\" text-anchor=\"middle\"");
    }
    s.line(left, top + depth, left + inner, top + depth, "class=\"axis\"");
    s.text(left + inner / 2, chart.height - 6, chart.x.label, "class=\"tick\" text-anchor=\"middle\"");
    s.text(0, 31, chart.y.label, "class=\"tick\"");

    std::vector<double> ends;
    for (series const& line : chart.lines) ends.push_back(y(line.points.back().y));
    std::vector<double> const labels = spread(ends, gap, top, top + depth);
    for (std::size_t i = 0; i < chart.lines.size(); ++i) {
        series const& line = chart.lines[i];
        s.open("class=\"series\" " + colour(line.style));
        std::string way;
        for (point const& p : line.points) way += join(way.empty() ? "M" : " L", x(p.x), " ", y(p.y));
        std::string const dash = line.style.dash.empty() ? "" : " stroke-dasharray=\"" + line.style.dash + "\"";
        s.path(way, "class=\"line\"" + dash);
        for (point const& p : line.points) s.circle(x(p.x), y(p.y), 3.5, "class=\"dot\"", p.tip);
        double const end = x(line.points.back().x), edge = left + inner;
        s.path(join("M", end + 6, " ", ends[i], " L", edge + 10, " ", labels[i]), "class=\"leader\"");
        s.path(join("M", edge + 12, " ", labels[i], " h16"), "class=\"line\"" + dash);
        s.text(edge + 33, labels[i] + 4, line.name, "class=\"name\"");
        s.text(chart.width, labels[i] + 4, fixed(line.points.back().y, chart.decimals),
               "class=\"value\" text-anchor=\"end\"");
        s.close();
    }
    return s.str();
}

std::string draw(bar_chart const& chart) {
    constexpr double left = 150, right = 96, top = 30, pitch = 25, thickness = 15;
    double largest = 0;
    for (bar const& b : chart.bars) largest = std::max(largest, b.value);
    svg s{chart.width, top + pitch * static_cast<double>(chart.bars.size()), chart.title};
    s.text(0, 14, chart.title, "class=\"title\"");
    double at = top;
    for (bar const& b : chart.bars) {
        double const length = largest > 0 ? (chart.width - left - right) * b.value / largest : 0;
        s.open("class=\"series\" " + colour(b.style));
        s.text(left - 10, at + 12, b.name, "class=\"row\" text-anchor=\"end\"");
        s.rect(left, at, std::max(length, 1.0), thickness, "class=\"bar\" rx=\"2\"");
        s.text(left + length + 8, at + 12, b.text, "class=\"value\"");
        s.close();
        at += pitch;
    }
    s.line(left, top - 4, left, at - pitch + thickness + 4, "class=\"axis\"");
    return s.str();
}

}  // namespace report

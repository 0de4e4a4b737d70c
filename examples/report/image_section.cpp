#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "report/chart.hpp"
#include "report/png.hpp"
#include "report/sections.hpp"
#include "report/svg.hpp"

namespace report {
namespace {

using nlohmann::json;

/// What policies are called in a picture's heading.
std::string title_of(std::string const& policy) {
    static std::map<std::string, std::string> const titles{
        {"tome", "ToMe"},
        {"class-attention", "class attention"},
        {"class-attention-once", "class attention, once"},
        {"divprune", "DivPrune"},
        {"average", "average pooling"},
    };
    auto const found = titles.find(policy);
    return found == titles.end() ? policy : found->second;
}

/// A line a policy, from the full sequence on, over what `x` reads; those that fall below `lowest` are left out.
std::vector<series> lines(json const& rows, char const* x, double lowest) {
    json const& full = rows.at(0);
    std::vector<series> result;
    auto const at = [&](json const& r) {
        double const accuracy = 100 * r.at("accuracy").get<double>();
        return point{r.at(x), accuracy,
                     r.at("policy").get<std::string>() + ", " + r.at("setting").get<std::string>() + ": " +
                         number(accuracy, 1) + " %, " + fixed(r.at("milliseconds"), 2) + " ms, " +
                         fixed(r.at("speedup"), 2) + "x"};
    };
    for (json const& r : rows) {
        auto const name = r.at("policy").get<std::string>();
        if (name == "full") continue;
        if (result.empty() || result.back().name != name) result.push_back({name, look_of(name), {at(full)}});
        result.back().points.push_back(at(r));
    }
    std::erase_if(result, [&](series const& s) {
        return std::any_of(s.points.begin(), s.points.end(), [&](point const& p) { return p.y < lowest; });
    });
    return result;
}

axis accuracy_axis(double from, double step) {
    axis a{.label = "accuracy, %", .from = from, .to = 100};
    for (double at = from; at <= 100; at += step) a.ticks.push_back({at, number(at)});
    return a;
}

axis tokens_axis(json const& rows) {
    axis a{.label = "mean tokens in a block", .from = rows.at(0).at("mean_tokens")};
    a.to = a.from;
    for (json const& r : rows) a.to = std::min(a.to, r.at("mean_tokens").get<double>());
    a.ticks.push_back({a.from, number(a.from, 0)});
    for (double at = 150; at > a.to; at -= 50)
        if (at < a.from) a.ticks.push_back({at, number(at)});
    return a;
}

std::string time_chart(json const& rows) {
    bar_chart chart{.title = "Milliseconds an image, one thread; policies at their fewest tokens"};
    auto const add = [&](json const& r) {
        auto const name = r.at("policy").get<std::string>();
        double const time = r.at("milliseconds");
        chart.bars.push_back({name == "full" ? "all tokens" : name, look_of(name), time,
                              fixed(time, 2) + (name == "full" ? "" : ", " + fixed(r.at("speedup"), 1) + "\u00d7")});
    };
    for (std::size_t i = 0; i < rows.size(); ++i)
        if (i + 1 == rows.size() || rows.at(i + 1).at("policy") != rows.at(i).at("policy")) add(rows.at(i));
    return draw(chart);
}

/// The image as the remaining tokens stand for it: every patch the mean of its group, dropped patches transparent.
std::string reduced(std::vector<std::uint8_t> const& pixels, int side, int grid, std::vector<int> const& owner) {
    int const patch = side / grid;
    auto const at = [&](int p, int k) {
        return static_cast<std::size_t>((p / grid * patch + k / patch) * side + p % grid * patch + k % patch);
    };
    std::map<int, std::vector<int>> groups;
    for (int p = 0; p < grid * grid; ++p)
        if (owner[static_cast<std::size_t>(p)] >= 0) groups[owner[static_cast<std::size_t>(p)]].push_back(p);
    std::vector<std::uint8_t> out(static_cast<std::size_t>(2 * side * side), 0);
    for (auto const& [row, members] : groups)
        for (int k = 0; k < patch * patch; ++k) {
            int sum = 0;
            for (int const p : members) sum += pixels[at(p, k)];
            for (int const p : members) {
                out[2 * at(p, k)] = static_cast<std::uint8_t>(sum / static_cast<int>(members.size()));
                out[2 * at(p, k) + 1] = 255;
            }
        }
    return png_uri(out, side);
}

/// Lines between patches of different groups, where one of them has more than one member.
std::string borders(std::vector<int> const& owner, int grid, double x, double y, double patch) {
    std::map<int, int> size;
    for (int const o : owner) ++size[o];
    std::string way;
    auto const edge = [&](int a, int b, double dx, double dy, char const* direction) {
        int const p = owner[static_cast<std::size_t>(a)], q = owner[static_cast<std::size_t>(b)];
        if (p == q || (size[p] < 2 && size[q] < 2)) return;
        way += join("M", x + dx * patch, " ", y + dy * patch, direction, patch);
    };
    for (int r = 0; r < grid; ++r)
        for (int c = 0; c < grid; ++c) {
            int const p = r * grid + c;
            if (c + 1 < grid) edge(p, p + 1, c + 1, r, "v");
            if (r + 1 < grid) edge(p, p + grid, c, r + 1, "h");
        }
    return way;
}

std::string pictures(json const& vit) {
    constexpr double side = 150, gap = 22, top = 44, caption = 24;
    json const& images = vit.at("pictures");
    json const& policies = images.at(0).at("policies");
    int const grid = vit.at("grid"), pixels = vit.at("image_side");
    auto const columns = static_cast<double>(policies.size() + 1);
    svg s{columns * (side + gap) - gap, top + static_cast<double>(images.size()) * (side + caption),
          "Which patches each policy keeps or merges"};
    s.text(0, 14, "image", "class=\"title\"").text(0, 32, "196 patches", "class=\"tick\"");
    double x = side + gap;
    for (json const& p : policies) {
        s.text(x, 14, title_of(p.at("policy")), "class=\"title\"");
        s.text(x, 32, p.at("setting").get<std::string>(), "class=\"tick\"");
        x += side + gap;
    }
    std::vector<int> own(static_cast<std::size_t>(grid * grid));
    for (std::size_t i = 0; i < own.size(); ++i) own[i] = static_cast<int>(i);
    double y = top;
    for (json const& image : images) {
        auto const values = image.at("pixels").get<std::vector<std::uint8_t>>();
        s.image(0, y, side, reduced(values, pixels, grid, own));
        x = side + gap;
        for (json const& p : image.at("policies")) {
            auto owner = p.at("owner").get<std::vector<int>>();
            s.rect(x, y, side, side, "class=\"dropped\"");
            s.image(x, y, side, reduced(values, pixels, grid, owner));
            bool const merges = p.at("policy") == "tome" || p.at("policy") == "average";
            if (merges) s.path(borders(owner, grid, x, y, side / grid), "class=\"border\"");
            bool const right = p.at("predicted") == image.at("label");
            s.text(x, y + side + 14, (right ? "reads " : "misreads ") + std::to_string(p.at("predicted").get<int>()),
                   right ? "class=\"tick\"" : "class=\"tick wrong\"");
            x += side + gap;
        }
        y += side + caption;
    }
    return s.str();
}

std::string table(json const& rows) {
    std::string html =
        "<details><summary>All numbers</summary><div class=\"wide\"><table><thead><tr><th>policy<th>setting<th>patches "
        "left<th>tokens a block<th>accuracy<th>ms an image<th>speed-up</tr></thead><tbody>\n";
    for (json const& r : rows)
        html += "<tr><th>" + escape(r.at("policy").get<std::string>()) + "<td>" +
                escape(r.at("setting").get<std::string>()) + "<td>" +
                std::to_string(r.at("tokens").back().get<int>() - 1) + "<td>" + fixed(r.at("mean_tokens"), 1) + "<td>" +
                fixed(100 * r.at("accuracy").get<double>(), 1) + " %<td>" + fixed(r.at("milliseconds"), 2) + "<td>" +
                fixed(r.at("speedup"), 2) + "\u00d7</tr>\n";
    return html + "</tbody></table></div></details>\n";
}

}  // namespace

highlight speed_highlight(json const& vit) {
    json const& rows = vit.at("rows");
    double const full = rows.at(0).at("accuracy");
    json const* best = &rows.at(0);
    for (json const& r : rows)
        if (r.at("accuracy").get<double>() >= full - 0.01 && r.at("speedup") > best->at("speedup")) best = &r;
    return {fixed(best->at("speedup"), 1) + "\u00d7 faster",
            "image classification end to end, at " + fixed(100 * best->at("accuracy").get<double>(), 1) +
                " % accuracy instead of " + fixed(100 * full, 1) + " % (" + best->at("policy").get<std::string>() +
                ", " + best->at("setting").get<std::string>() + ")"};
}

std::string image_section(json const& vit) {
    json const& rows = vit.at("rows");
    constexpr double high = 94;
    line_chart all{.title = "Accuracy on " + std::to_string(vit.at("images").get<int>()) + " test images",
                   .x = tokens_axis(rows),
                   .y = accuracy_axis(0, 20),
                   .lines = lines(rows, "mean_tokens", 0),
                   .decimals = 1};
    line_chart best = all;
    best.title = "The same from " + number(high) + " %: policies that stay above";
    best.y = accuracy_axis(high, 1);
    best.lines = lines(rows, "mean_tokens", high);
    line_chart fast = best;
    fast.title = "The same against time: accuracy for the speed-up measured";
    fast.lines = lines(rows, "speedup", high);
    double slowest = 1, quickest = 1;
    for (series const& s : fast.lines)
        for (point const& p : s.points) slowest = std::min(slowest, p.x), quickest = std::max(quickest, p.x);
    fast.x = {.label = "speed-up end to end", .from = std::floor(2 * slowest) / 2, .to = std::ceil(2 * quickest) / 2};
    for (double at = fast.x.from; at <= fast.x.to; at += 0.5) fast.x.ticks.push_back({at, number(at, 1) + "\u00d7"});

    std::string html =
        "<section><h2>Visual tokens</h2>\n<p>A small Vision Transformer classifies handwritten digits on a cluttered "
        "canvas. Between attention and MLP its patch tokens are pruned, merged or pooled, in every block or once in "
        "the "
        "second.</p>\n<div class=\"two\">\n";
    html += draw(all) + draw(best) + draw(fast) + time_chart(rows) + "</div>\n";
    html += "<p class=\"note\">" + escape(vit.at("note").get<std::string>()) + "</p>\n" + table(rows);
    html +=
        "<h3>What is left of the images</h3>\n<p>Each patch is drawn as the mean of the patches that share its token "
        "after the last block; outlines part the groups. Hatched patches were dropped.</p>\n";
    return html + "<figure class=\"wide\">" + pictures(vit) + "</figure>\n</section>\n";
}

}  // namespace report

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "report/chart.hpp"
#include "report/sections.hpp"
#include "report/svg.hpp"

namespace report {
namespace {

using nlohmann::json;

std::string percent(double share) { return number(100 * share, 1) + " %"; }

double smallest_budget(json const& rows) {
    double least = 1;
    for (json const& r : rows) least = std::min(least, r.at("budget").get<double>());
    return least;
}

json const& full_row(json const& llm) {
    for (json const& r : llm.at("rows"))
        if (r.at("policy") == "full") return r;
    return llm.at("rows").front();
}

bool has_own_share(json const& r) { return r.value("own_share", false); }

/// The share of the cache that a row keeps: its budget, or what it is where that bounds a part of the cache alone.
double kept_share(json const& r) {
    if (!has_own_share(r)) return r.at("budget");
    return r.at("bytes_after").get<double>() / r.at("bytes_before").get<double>();
}

/// The names of the policies that charts draw, as the rows have them.
std::vector<std::string> names(json const& rows) {
    std::vector<std::string> result;
    for (json const& r : rows) {
        auto const name = r.at("policy").get<std::string>();
        if (has_look(name) && std::find(result.begin(), result.end(), name) == result.end()) result.push_back(name);
    }
    return result;
}

axis budget_axis(json const& rows) {
    axis a{.label = "share of the cache that is kept", .from = 1, .to = smallest_budget(rows), .logarithmic = true};
    std::set<double> budgets;
    for (json const& r : rows) budgets.insert(r.at("budget").get<double>());
    for (double const b : budgets) a.ticks.push_back({b, percent(b)});
    return a;
}

/// A line a policy over the budgets; `value` gives what a row contributes and `unit` how it reads.
template <class Value, class Text>
std::vector<series> lines(json const& rows, Value const& value, Text const& text) {
    std::vector<series> result;
    for (std::string const& name : names(rows)) {
        series line{name, look_of(name), {}};
        for (json const& r : rows) {
            if (r.at("policy") != name) continue;
            double const kept = kept_share(r);
            line.points.push_back({kept, value(r), name + ", " + percent(kept) + " kept: " + text(value(r))});
        }
        result.push_back(line);
    }
    return result;
}

std::string recall_chart(json const& rows, std::size_t kind) {
    json const& sample = rows.at(0).at("recall").at(kind);
    line_chart chart{.title = "Pass keys recalled: one of " + std::to_string(sample.at("facts").get<int>()) +
                              " facts, " + std::to_string(sample.at("documents").get<int>()) + " documents",
                     .x = budget_axis(rows),
                     .y = {.label = "documents answered right, %", .from = 0, .to = 100}};
    for (int const at : {0, 25, 50, 75, 100}) chart.y.ticks.push_back({static_cast<double>(at), std::to_string(at)});
    auto const share = [kind](json const& r) {
        json const& k = r.at("recall").at(kind);
        return 100 * k.at("right").get<double>() / k.at("documents").get<double>();
    };
    chart.lines = lines(rows, share, [](double v) { return number(v, 1) + " %"; });
    return draw(chart);
}

std::string bits_chart(json const& rows) {
    auto const bits = [](json const& r) { return r.at("bits_per_byte").get<double>(); };
    double low = bits(rows.at(0)), high = low;
    for (json const& r : rows) {
        if (!has_look(r.at("policy"))) continue;  // what is not drawn takes no room
        low = std::min(low, bits(r));
        high = std::max(high, bits(r));
    }
    constexpr double step = 0.02;
    line_chart chart{.title = "Ordinary prose: bits per byte of the next 256 bytes",
                     .x = budget_axis(rows),
                     .y = {.label = "bits per byte, lower is better",
                           .from = std::floor(low / step) * step,
                           .to = std::ceil(high / step) * step}};
    for (double at = chart.y.from; at < chart.y.to + step / 2; at += step) chart.y.ticks.push_back({at, fixed(at, 2)});
    chart.decimals = 3;
    chart.height = 480;
    chart.lines = lines(rows, bits, [](double v) { return fixed(v, 4) + " bits per byte"; });
    return draw(chart);
}

/// A bar a budget: the mean over the policies, for what depends on the number of slots alone.
template <class Value>
std::string budget_chart(json const& rows, std::string title, int decimals, Value const& value) {
    std::map<double, std::vector<double>, std::greater<>> measured;
    for (json const& r : rows)
        if (!has_own_share(r)) measured[r.at("budget")].push_back(value(r));
    bar_chart chart{.title = std::move(title)};
    for (auto const& [budget, values] : measured) {
        double const mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
        chart.bars.push_back(
            {percent(budget) + " kept", {budget == 1 ? "grey" : "blue"}, mean, number(mean, decimals)});
    }
    return draw(chart);
}

std::string compress_chart(json const& llm) {
    double const least = smallest_budget(llm.at("rows"));
    bar_chart chart{.title = "Milliseconds to compress one document's cache to " + percent(least)};
    for (json const& r : llm.at("rows")) {
        auto const name = r.at("policy").get<std::string>();
        if (name == "full" || r.at("budget") != least) continue;
        double const time = r.at("compress_ms");
        std::string const own = has_own_share(r) ? " (" + number(100 * kept_share(r), 0) + " %)" : "";
        chart.bars.push_back({name + own, look_of(name), time, fixed(time, 2)});
    }
    return draw(chart);
}

/// The sentence that the document's question asks for: its first byte and the one behind its last.
std::pair<std::size_t, std::size_t> asked(std::string const& text) {
    constexpr std::string_view question = "What is the pass key of ";
    std::size_t const at = text.rfind(question);
    if (at == std::string::npos) return {0, 0};
    std::size_t const name = at + question.size();
    std::string const fact = "The pass key of " + text.substr(name, text.find('?', name) - name) + " is ";
    std::size_t const first = text.find(fact);
    if (first == std::string::npos || first >= at) return {0, 0};
    return {first, text.find('.', first) + 1};
}

/// Of each token, how many heads of all layers keep it.
std::vector<int> keepers(json const& layers, std::size_t tokens) {
    std::vector<int> count(tokens, 0);
    for (json const& heads : layers)
        for (json const& kept : heads)
            for (json const& t : kept) ++count.at(t.get<std::size_t>());
    return count;
}

/// A strip a policy: a row a head, a mark a kept slot.
std::string slots_picture(json const& document) {
    constexpr double left = 116, width = 1060, row = 5, layer_gap = 2, strip_gap = 14, top = 42;
    auto const text = document.at("text").get<std::string>();
    json const policies = [&] {
        json result = json::array();
        for (json const& p : document.at("policies"))
            if (has_look(p.at("policy"))) result.push_back(p);
        return result;
    }();
    json const& first = policies.at(0).at("kept");
    auto const layers = static_cast<double>(first.size()), heads = static_cast<double>(first.at(0).size());
    double const strip = layers * heads * row + (layers - 1) * layer_gap;
    double const height = top + (strip + strip_gap) * static_cast<double>(policies.size());
    double const token = (width - left) / static_cast<double>(text.size() + 1);

    svg s{width, height, "Which cache slots each head keeps"};
    auto const [begin, end] = asked(text);
    auto const question = text.rfind("What is the pass key");
    auto const band = [&](std::size_t from, std::size_t to, std::string_view name, std::string_view anchor) {
        double const x = left + token * static_cast<double>(from + 1), w = token * static_cast<double>(to - from);
        s.rect(x, top - 8, w, height - top + 4, "class=\"band\"");
        s.text(anchor == "end" ? x + w : x, top - 14, name,
               "class=\"tick\" text-anchor=\"" + std::string{anchor} + "\"");
    };
    for (std::size_t i = 0; i < policies.size(); ++i)
        s.rect(left, top - 2 + (strip + strip_gap) * static_cast<double>(i), width - left, strip + 4, "class=\"bed\"");
    if (end > begin) band(begin, end, "the fact that is asked for", begin > text.size() / 2 ? "end" : "start");
    if (question != std::string::npos) band(question, text.size(), "the question", "end");
    double y = top;
    for (json const& p : policies) {
        auto const name = p.at("policy").get<std::string>();
        s.open("class=\"series\" style=\"--c:var(--" + look_of(name).colour + ")\"");
        s.text(left - 12, y + strip / 2 + 4, name, "class=\"row\" text-anchor=\"end\"");
        std::string marks;
        double at = y;
        for (json const& layer : p.at("kept")) {
            for (json const& kept : layer) {
                auto slots = kept.get<std::vector<int>>();
                std::sort(slots.begin(), slots.end());
                for (std::size_t i = 0; i < slots.size();) {
                    std::size_t j = i + 1;
                    while (j < slots.size() && slots[j] == slots[j - 1] + 1) ++j;
                    double const run = token * static_cast<double>(j - i);
                    marks += join("M", left + token * slots[i], " ", at, "h", run, "v", row - 1, "h", -run, "z");
                    i = j;
                }
                at += row;
            }
            at += layer_gap;
        }
        s.path(marks, "class=\"marks\"");
        s.close();
        y += strip + strip_gap;
    }
    return s.str();
}

/// The document, the darker the more heads keep a byte.
std::string text_picture(json const& document, json const& policy, std::string const& summary) {
    auto const text = document.at("text").get<std::string>();
    auto const name = policy.at("policy").get<std::string>();
    std::size_t heads = 0;
    for (json const& layer : policy.at("kept")) heads += layer.size();
    auto const kept = keepers(policy.at("kept"), text.size() + 1);
    auto const fact = asked(text);
    std::string html = "<figure class=\"text\" style=\"--c:var(--" + look_of(name).colour + ")\"><figcaption><b>" +
                       escape(name) + "</b> " + escape(summary) + "</figcaption><p>";
    for (std::size_t i = 0; i < text.size();) {
        auto const key = [&](std::size_t at) { return std::pair{kept[at + 1], fact.first <= at && at < fact.second}; };
        std::size_t j = i + 1;
        while (j < text.size() && key(j) == key(i)) ++j;
        std::string const words = escape(text.substr(i, j - i));
        int const share = static_cast<int>(100 * static_cast<std::size_t>(kept[i + 1]) / heads);
        std::string const classes = std::string{share == 0 ? "gone" : ""} + (key(i).second ? " asked" : "");
        html += "<span" + (classes.empty() ? "" : " class=\"" + classes + "\"") +
                (share == 0 ? "" : " style=\"--k:" + std::to_string(share) + "%\"") + ">" + words + "</span>";
        i = j;
    }
    return html + "</p></figure>\n";
}

std::string texts(json const& llm) {
    constexpr std::array<std::string_view, 4> shown{"snapkv13", "tova", "h2o", "streaming"};
    json const& document = llm.at("document");
    std::string html = "<div class=\"two\">\n";
    for (std::string_view const name : shown) {
        std::string summary;
        for (json const& p : llm.at("policies"))
            if (p.at("name") == name) summary = p.at("summary");
        for (json const& p : document.at("policies"))
            if (p.at("policy") == name) html += text_picture(document, p, summary);
    }
    return html + "</div>\n";
}

std::string table(json const& rows) {
    std::string html =
        "<details><summary>All numbers</summary><div class=\"wide\"><table><thead><tr><th>policy<th>budget<th>kept";
    for (json const& k : rows.at(0).at("recall"))
        html += "<th>recall, " + std::to_string(k.at("facts").get<int>()) + " facts";
    html += "<th>bits per byte<th>first 64<th>KiB left<th>tokens/s<th>ms to compress</tr></thead><tbody>\n";
    for (json const& r : rows) {
        html += "<tr><th>" + escape(r.at("policy").get<std::string>()) + "<td>" + percent(r.at("budget")) + "<td>" +
                percent(kept_share(r));
        for (json const& k : r.at("recall"))
            html += "<td>" + std::to_string(k.at("right").get<int>()) + " of " +
                    std::to_string(k.at("documents").get<int>());
        html += "<td>" + fixed(r.at("bits_per_byte"), 4) + "<td>" + fixed(r.at("bits_per_byte_opening"), 4) + "<td>" +
                number(r.at("bytes_after").get<double>() / 1024, 1) + "<td>" + number(r.at("tokens_per_second"), 0) +
                "<td>" + fixed(r.at("compress_ms"), 2) + "</tr>\n";
    }
    return html + "</tbody></table></div></details>\n";
}

/// What a small cache costs each stretch of a text, beside the first row, the full cache.
std::string bounded_chart(json const& bounded) {
    double const slots = bounded.at("slots");
    json const& rows = bounded.at("rows");
    auto const full = rows.at(0).at("curve").get<std::vector<double>>();
    auto const last = static_cast<double>(full.size()) * slots;
    line_chart chart{.title = "Reading on with " + number(slots, 0) + " slots a head: what each " + number(slots, 0) +
                              " bytes cost more",
                     .x = {.label = "bytes read", .from = 0, .to = last},
                     .y = {.label = "bits per byte above the full cache"}};
    for (double at = 0; at <= last; at += 2 * slots) chart.x.ticks.push_back({at, number(at, 0)});
    double low = 0, high = 0;
    for (std::size_t i = 1; i < rows.size(); ++i) {
        auto const name = rows[i].at("policy").get<std::string>();
        series line{name, look_of(name), {}};
        for (std::size_t c = 0; c < full.size(); ++c) {
            double const more = rows[i].at("curve").at(c).get<double>() - full[c];
            double const end = static_cast<double>(c + 1) * slots;
            low = std::min(low, more);
            high = std::max(high, more);
            line.points.push_back({end, more, name + ", to byte " + number(end, 0) + ": " + fixed(more, 3)});
        }
        chart.lines.push_back(line);
    }
    constexpr double step = 0.05;
    chart.y.from = std::floor(low / step) * step;
    chart.y.to = std::ceil(high / step) * step;
    for (double at = chart.y.from; at < chart.y.to + step / 2; at += step) chart.y.ticks.push_back({at, fixed(at, 2)});
    chart.decimals = 2;
    chart.height = 420;
    return draw(chart);
}

std::string bounded_table(json const& bounded) {
    std::string html = "<div class=\"wide\"><table><thead><tr><th>policy<th>recalled of " +
                       number(bounded.at("documents"), 0) +
                       "<th>bits per byte<th>KiB of cache<th>&micro;s a token</tr></thead><tbody>\n";
    for (json const& r : bounded.at("rows"))
        html += "<tr><th>" + escape(r.at("policy").get<std::string>()) + "<td>" + number(r.at("right"), 0) + "<td>" +
                fixed(r.at("bits_per_byte"), 4) + "<td>" + number(r.at("cache_bytes").get<double>() / 1024, 0) +
                "<td>" + number(r.at("us_per_token"), 0) + "</tr>\n";
    return html + "</tbody></table></div>\n";
}

/// The row that recalls most at the smallest budget.
json const& best_row(json const& llm) {
    json const& rows = llm.at("rows");
    double const least = smallest_budget(rows);
    json const* best = nullptr;
    auto const right = [](json const& r) { return r.at("recall").back().at("right").get<int>(); };
    for (json const& r : rows)
        if (r.at("budget") == least && !has_own_share(r) && (best == nullptr || right(r) > right(*best))) best = &r;
    return *best;
}

}  // namespace

highlight recall_highlight(json const& llm) {
    json const& best = best_row(llm);
    json const& kind = best.at("recall").back();
    auto const count = [](json const& k) { return std::to_string(k.at("right").get<int>()); };
    return {count(kind) + " of " + std::to_string(kind.at("documents").get<int>()),
            "pass keys recalled with " + percent(best.at("budget")) + " of the cache (" +
                best.at("policy").get<std::string>() + "); the full cache recalls " +
                count(full_row(llm).at("recall").back())};
}

highlight memory_highlight(json const& llm) {
    json const& best = best_row(llm);
    double const before = best.at("bytes_before"), after = best.at("bytes_after");
    return {number(before / after, 1) + "\u00d7 smaller",
            "a document's cache, " + number(before / 1024, 0) + " KiB before and " + number(after / 1024, 0) +
                " KiB after, in " + fixed(best.at("compress_ms"), 1) + " ms"};
}

std::string cache_section(json const& llm) {
    json const& rows = llm.at("rows");
    std::string html =
        "<section><h2>KV-cache eviction</h2>\n<p>A small Llama model reads a document that hides pass keys between "
        "sentences of prose. Every layer&rsquo;s cache is then compressed, and the model answers from what is left. "
        "Lines start at the full cache, on the left.</p>\n<div class=\"two\">\n";
    for (std::size_t kind = 0; kind < rows.at(0).at("recall").size(); ++kind) html += recall_chart(rows, kind);
    html += bits_chart(rows) + "<div>" +
            budget_chart(rows, "Cache of one document, KiB", 1,
                         [](json const& r) { return r.at("bytes_after").get<double>() / 1024; }) +
            budget_chart(rows, "Tokens decoded a second, mean over policies", 0,
                         [](json const& r) { return r.at("tokens_per_second").get<double>(); }) +
            compress_chart(llm) +
            "</div></div>\n<p>Compressing includes deciding and moving. H2O recomputes the attention of every prompt "
            "token here; an engine that sums it while it reads the prompt does not pay for that. What keeps whole "
            "blocks or partitions keeps about as many slots as the budget says. RazorAttention, "
            "DuoAttention, SimLayerKV, ZipVL and ThinK let the model or the text decide how much they keep: their "
            "budget bounds local "
            "heads, lazy layers or channels, and they are drawn at the share of the bytes that is left.</p>\n" +
            table(rows);

    json const& bounded = llm.at("bounded");
    html +=
        "<h3>A cache that does not grow</h3>\n<p>The model reads on token by token; whenever a head holds more than "
        "its slots, the policy says which stay. The full cache holds everything. Recalled are the pass keys of the "
        "documents with the fewest facts, read like that too.</p>\n<div class=\"two\">\n" +
        bounded_chart(bounded) + bounded_table(bounded) + "</div>\n";

    json const& document = llm.at("document");
    html += "<h3>What is left of one document</h3>\n<p>Slots that each head keeps at a budget of " +
            percent(document.at("budget")) +
            ": eight rows a policy, one a key/value head, in four layers from top to bottom; time runs to "
            "the right. The answer is <b>" +
            escape(document.at("answer").get<std::string>()) + "</b>.</p>\n";
    html += "<figure class=\"wide\">" + slots_picture(document) + "</figure>\n";
    html +=
        "<p>The same as text: the stronger the colour, the more heads keep a byte; grey bytes are kept by none. The "
        "fact "
        "that is asked for is underlined.</p>\n";
    return html + texts(llm) + "</section>\n";
}

}  // namespace report

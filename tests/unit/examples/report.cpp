#include <filesystem>
#include <fstream>
#include <regex>
#include <string>
#include <vector>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "report/chart.hpp"
#include "report/page.hpp"
#include "report/png.hpp"
#include "report/svg.hpp"

namespace {

using nlohmann::json;

json fixture(char const* name) {
    std::ifstream in{std::filesystem::path{TERSE_SOURCE_DIR} / "tests/report" / name};
    return json::parse(in);
}

std::size_t count(std::string const& text, std::string const& what) {
    std::size_t found = 0;
    for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++found;
    return found;
}

/// The first element whose end is missing or in the wrong place, or "".
std::string unbalanced(std::string const& html) {
    static std::regex const tag{R"(<(/?)(\w+)[^<>]*?(/?)>)"};
    std::vector<std::string> open;
    for (std::sregex_iterator i{html.begin(), html.end(), tag}, end; i != end; ++i) {
        std::string const name = (*i)[2];
        bool const closes = (*i)[1].length() > 0, empty = (*i)[3].length() > 0;
        bool const optional = name == "meta" || name == "td" || name == "th" || name == "tr" || name == "thead";
        if (empty || optional) continue;
        if (!closes) {
            open.push_back(name);
        } else {
            if (open.empty() || open.back() != name) return name;
            open.pop_back();
        }
    }
    return open.empty() ? "" : open.back();
}

}  // namespace

TEST_CASE("the report stands on its own and is well formed", "[examples][report]") {
    std::string const page = report::page(fixture("llm.json"), fixture("vit.json"));
    CHECK(page.starts_with("<!DOCTYPE html>"));
    CHECK(unbalanced(page).empty());
    CHECK(count(page, "<svg") == count(page, "</svg>"));
    for (char const* const outside : {"http:", "https:", "//", "<script", "<link", "<iframe", "@import", "src="}) {
        INFO(outside);
        // Base64 may hold any run of letters and slashes.
        std::string const text = std::regex_replace(page, std::regex{R"(base64,[A-Za-z0-9+/=]*)"}, "");
        CHECK(count(text, outside) == 0);
    }
    CHECK(count(page, "nan") == 0);
    CHECK(count(page, "=\"inf") + count(page, "=\"-inf") == 0);
}

TEST_CASE("the report shows what was measured", "[examples][report]") {
    json const llm = fixture("llm.json"), vit = fixture("vit.json");
    std::string const page = report::page(llm, vit);
    CHECK(count(page, "<b>78 of 80</b>") == 1);
    CHECK(count(page, "<b>4\u00d7 smaller</b>") == 1);
    CHECK(count(page, "<b>2.0\u00d7 faster</b>") == 1);
    CHECK(count(page, "snapkv13, 25 % kept: 97.5 %") == 1);
    CHECK(count(page, "divprune, keep 2 once: 62 %, 4.00 ms, 2.00x") == 1);
    CHECK(count(page, "Merging &lt;first&gt; &amp; pruning later.") == 1);
    CHECK(count(page, "misreads 5") == 1);
    CHECK(count(page, "the fact that is asked for</text>") == 1);
    // A picture of the image, and one a policy.
    CHECK(count(page, "data:image/png;base64,iVBORw0KGgo") == 3);
    CHECK(count(page, "streaming, to byte 192: 0.050") == 1);
    CHECK(count(page, "<th>streaming<td>3<td>1.6434<td>222<td>146</tr>") == 1);
    json own = llm;
    json& row = own["rows"].back();
    row["own_share"] = true;
    row["bytes_after"] = row.at("bytes_before").get<double>() * 0.4;
    std::string const of_own = report::page(own, vit);
    CHECK(count(of_own, "snapkv13, 40 % kept: 97.5 %") == 1);
    CHECK(count(of_own, "<th>snapkv13<td>25 %<td>40 %") == 1);
    CHECK(count(of_own, "<b>78 of 80</b>") == 0);  // its budget is not what it keeps
    for (char const* const part : {"document", "bounded"}) {
        json less = llm;
        less.erase(part);
        CHECK_THROWS_AS(report::page(less, vit), json::exception);
    }
}

TEST_CASE("numbers and text as the page writes them", "[examples][report]") {
    CHECK(report::number(12.5, 1) == "12.5");
    CHECK(report::number(100, 1) == "100");
    CHECK(report::number(-0.001) == "0");
    CHECK(report::fixed(1, 2) == "1.00");
    CHECK(report::escape("a<b & \"c\">") == "a&lt;b &amp; &quot;c&quot;&gt;");
}

TEST_CASE("an axis maps its ends to 0 and 1", "[examples][report]") {
    report::axis const budget{.label = "kept", .from = 1, .to = 0.125, .logarithmic = true};
    CHECK(budget.share(1) == Approx(0).margin(1e-12));
    CHECK(budget.share(0.5) == Approx(1.0 / 3));
    CHECK(budget.share(0.125) == Approx(1));
    report::axis const tokens{.label = "tokens", .from = 200, .to = 100};
    CHECK(tokens.share(150) == Approx(0.5));
}

TEST_CASE("labels of lines that end together stand apart, within the frame", "[examples][report]") {
    double const end = GENERATE(0.0, 0.5, 1.0);
    report::line_chart chart{
        .title = "t", .x = {.label = "x", .from = 0, .to = 1}, .y = {.label = "y", .from = 0, .to = 1}};
    for (char const* const name : {"tova", "h2o", "knorm"})
        chart.lines.push_back({name, {"blue"}, {{0, 0.5}, {1, end}}});
    std::string const drawn = report::draw(chart);
    std::regex const label{R"!(y="([0-9.]+)" class="name")!"};
    std::vector<double> at;
    for (std::sregex_iterator i{drawn.begin(), drawn.end(), label}, last; i != last; ++i)
        at.push_back(std::stod((*i)[1]));
    REQUIRE(at.size() == 3);
    CHECK(at[1] - at[0] >= 14);
    CHECK(at[2] - at[1] >= 14);
    CHECK(at[0] >= 40);
    CHECK(at[2] <= chart.height - 30);
}

TEST_CASE("a picture that PNG readers know", "[examples][report]") {
    std::vector<std::uint8_t> const pixels{0, 255, 80, 255, 160, 255, 255, 0};
    // Signature, and the header's length, name, width 2 and height 2, in base 64.
    CHECK(report::png_uri(pixels, 2).starts_with("data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAQAAAD"));
}

#include "report/page.hpp"

#include <string_view>

#include "report/sections.hpp"
#include "report/svg.hpp"

namespace report {
namespace {

constexpr std::string_view style = R"(
:root { color-scheme: light dark;
  --page: #fcfcfa; --ink: #1d1d1b; --muted: #605f5a; --rule: #dddbd4; --bed: #f1f0eb;
  --blue: #0b62ad; --orange: #c2500a; --green: #087a52; --purple: #7d3fc0; --olive: #7a6500; --red: #b3261e; --grey: #6f6e69; }
@media (prefers-color-scheme: dark) { :root {
  --page: #161615; --ink: #ecebe6; --muted: #a5a49c; --rule: #3a3935; --bed: #222220;
  --blue: #62b0f2; --orange: #f79a5b; --green: #43c896; --purple: #c49bf5; --olive: #d3b93f; --red: #ff8a80; --grey: #9b9a93; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 3rem 1.5rem 4rem; max-width: 1120px; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", sans-serif; }
h1 { font-size: 2.1rem; line-height: 1.2; letter-spacing: -0.02em; margin: 0 0 0.4rem; font-weight: 650; }
h2 { font-size: 1.45rem; letter-spacing: -0.01em; margin: 3.2rem 0 0.4rem; padding-top: 1.4rem;
  border-top: 1px solid var(--rule); font-weight: 650; }
h3 { font-size: 1.1rem; margin: 2.4rem 0 0.3rem; font-weight: 650; }
p { max-width: 72ch; margin: 0.3rem 0 1.1rem; }
header p { color: var(--muted); font-size: 1.08rem; }
ul.highlights { list-style: none; display: grid; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr));
  gap: 1.5rem; padding: 0; margin: 1.8rem 0 0; }
ul.highlights b { display: block; font-size: 1.9rem; line-height: 1.25; letter-spacing: -0.02em; font-weight: 650; }
ul.highlights span { color: var(--muted); font-size: 0.93rem; line-height: 1.45; display: block; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 2rem 2.4rem;
  margin: 1.2rem 0; align-items: start; }
.two > * { min-width: 0; }
svg { display: block; width: 100%; height: auto; overflow: visible; font-size: 12px; fill: var(--ink); }
figure { margin: 1rem 0; }
.wide { overflow-x: auto; }
.wide svg { min-width: 860px; }
.note { border-left: 3px solid var(--blue); padding-left: 1rem; }
.title { font-weight: 600; font-size: 13px; }
.tick { fill: var(--muted); font-size: 11.5px; font-variant-numeric: tabular-nums; }
.wrong { fill: var(--orange); font-weight: 600; }
.grid { stroke: var(--rule); stroke-width: 1; }
.axis { stroke: var(--muted); stroke-width: 1; }
.line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.dot { fill: var(--c); stroke: var(--page); stroke-width: 1.5; }
.leader { fill: none; stroke: var(--c); stroke-width: 1; opacity: 0.45; }
.name { fill: var(--c); font-weight: 600; }
.two > div > svg + svg { margin-top: 1.8rem; }
.bar, .marks { fill: var(--c); }
.row { font-size: 12px; }
.value { font-size: 12px; font-variant-numeric: tabular-nums; fill: var(--muted); }
.bed { fill: var(--bed); }
.band { fill: var(--ink); opacity: 0.1; }
.dropped { fill: url(#hatch); stroke: var(--rule); stroke-width: 1; }
.border { fill: none; stroke: var(--orange); stroke-width: 1; opacity: 0.85; }
image { image-rendering: pixelated; }
.text { font-size: 0.88rem; line-height: 1.6; }
.text figcaption { color: var(--muted); margin-bottom: 0.3rem; }
.text figcaption b { color: var(--c); }
.text p { margin: 0; max-width: none; overflow-wrap: anywhere; }
.text span { background: color-mix(in srgb, var(--c) calc(var(--k, 0%) * 0.55), transparent); }
.text .gone { color: var(--muted); opacity: 0.6; }
.text .asked { text-decoration: underline 2px; text-underline-offset: 3px; opacity: 1; }
summary { cursor: pointer; color: var(--muted); margin: 0.6rem 0; }
table { border-collapse: collapse; font-size: 0.86rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 0.2rem 0.9rem 0.2rem 0; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child { text-align: left; font-weight: 600; }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--rule); color: var(--muted); font-size: 0.86rem; }
)";

constexpr std::string_view hatch =
    "<svg width=\"0\" height=\"0\" style=\"position:absolute\" aria-hidden=\"true\"><defs><pattern id=\"hatch\" "
    "width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\"><rect width=\"6\" "
    "height=\"6\" fill=\"var(--bed)\"/><line x1=\"0\" y1=\"0\" x2=\"0\" y2=\"6\" stroke=\"var(--rule)\" "
    "stroke-width=\"2.5\"/></pattern></defs></svg>\n";

std::string item(highlight const& h) {
    return "<li><b>" + escape(h.value) + "</b><span>" + escape(h.meaning) + "</span></li>\n";
}

}  // namespace

std::string page(nlohmann::json const& llm, nlohmann::json const& vit) {
    std::string html = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
    html += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
    html += "<title>terse: what token compression keeps</title>\n<style>" + std::string{style} + "</style>\n</head>\n";
    html += "<body>\n" + std::string{hatch} + "<header><h1>What token compression keeps</h1>\n";
    html +=
        "<p>Two small trained models, run by terse&rsquo;s examples on this machine: what each policy costs in "
        "quality, "
        "and what it saves in memory and time.</p>\n<ul class=\"highlights\">\n";
    html += item(recall_highlight(llm)) + item(memory_highlight(llm)) + item(speed_highlight(vit)) + "</ul></header>\n";
    html += cache_section(llm) + image_section(vit);
    html +=
        "<footer>Made by <code>cmake --build --preset demo</code>. The models are small, so that this runs anywhere; "
        "differences of a few documents or images are noise. Digits: MNIST, Y. LeCun and C. Cortes.</footer>\n";
    return html + "</body>\n</html>\n";
}

}  // namespace report

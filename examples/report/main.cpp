#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "report/page.hpp"

namespace {

nlohmann::json read(std::filesystem::path const& path) {
    std::ifstream in{path};
    if (!in) throw std::runtime_error("cannot read " + path.string());
    return nlohmann::json::parse(in);
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app{"One page of what `llm --json` and `vit --json` measured"};
    std::filesystem::path llm, vit, output = "report.html";
    app.add_option("llm", llm, "what llm --json wrote")->required();
    app.add_option("vit", vit, "what vit --json wrote")->required();
    app.add_option("-o,--output", output, "the page")->capture_default_str();
    CLI11_PARSE(app, argc, argv);
    try {
        std::string const page = report::page(read(llm), read(vit));
        std::ofstream out{output, std::ios::binary};
        out << page;
        if (!out.flush()) throw std::runtime_error("cannot write " + output.string());
        std::printf("The report: %s\n", std::filesystem::absolute(output).c_str());
    } catch (std::exception const& e) {
        std::fprintf(stderr, "report: %s\n", e.what());
        return 1;
    }
    return 0;
}

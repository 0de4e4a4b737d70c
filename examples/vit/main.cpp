#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "vit/evaluate.hpp"

namespace {

using nlohmann::json;

struct options {
    std::filesystem::path data = VIT_DATA;
    std::filesystem::path json;
    std::size_t images = 0;
    unsigned threads = std::max(std::thread::hardware_concurrency(), 1U);
    bool all = false;
};

double mean(std::vector<terse::index> const& counts) {
    return static_cast<double>(std::accumulate(counts.begin(), counts.end(), terse::index{0})) /
           static_cast<double>(counts.size());
}

/// One object a policy: how many tokens go into each block and out of the last, and what that costs and gains.
json evaluate(vit::model const& m, vit::images const& test, std::vector<vit::policy> const& policies,
              options const& given) {
    auto const wrong = vit::errors(m, test, policies, given.images, given.threads);
    auto const times = vit::milliseconds(m, test, policies, std::min<std::size_t>(given.images, 8), 3);
    vit::engine e{m};
    json rows = json::array();
    for (std::size_t p = 0; p < policies.size(); ++p) {
        vit::trace t;
        e.classify(test[0], policies[p].how, &t);
        auto const blocks = std::vector(t.tokens.begin() + 1, t.tokens.end());
        double const errors = static_cast<double>(wrong[p].size()) / static_cast<double>(given.images);
        rows.push_back({{"policy", policies[p].name},
                        {"setting", policies[p].setting},
                        {"tokens", t.tokens},
                        {"mean_tokens", mean(blocks)},
                        {"accuracy", 1 - errors},
                        {"errors", wrong[p]},
                        {"milliseconds", times[p]},
                        {"speedup", times.front() / times[p]}});
    }
    return rows;
}

/// What became of the patches of a few images.
json pictures(vit::model const& m, vit::images const& test) {
    vit::engine e{m};
    json result = json::array();
    for (std::size_t const i : {0U, 3U, 8U, 13U}) {
        json rows = json::array();
        for (vit::policy const& p : vit::pictured(m)) {
            vit::trace t;
            terse::index best = 0;
            e.classify(test[i], p.how, &t).maxCoeff(&best);
            rows.push_back({{"policy", p.name},
                            {"setting", p.setting},
                            {"predicted", best},
                            {"owner", std::vector(t.owner.begin() + 1, t.owner.end())}});
        }
        result.push_back({{"image", i}, {"label", test.labels[i]}, {"pixels", test[i]}, {"policies", rows}});
    }
    return result;
}

void print(json const& rows, std::size_t images) {
    std::printf("%-22s%-20s%10s%10s%13s%12s%10s\n", "policy", "setting", "patches", "a block", "accuracy", "ms/image",
                "speed-up");
    for (json const& r : rows)
        std::printf("%-22s%-20s%10d%10.1f%11.1f %%%12.2f%9.2fx\n", r["policy"].get<std::string>().c_str(),
                    r["setting"].get<std::string>().c_str(), r["tokens"].back().get<int>() - 1,
                    r["mean_tokens"].get<double>(), 100 * r["accuracy"].get<double>(), r["milliseconds"].get<double>(),
                    r["speedup"].get<double>());
    std::printf(
        "patches: left after the last block, of %d; a block: mean tokens through an MLP; accuracy on %zu images;\n"
        "ms/image on one thread, deciding and moving included\n",
        rows.front()["tokens"].front().get<int>() - 1, images);
}

/// Why merging does worse than pruning here, measured rather than asserted.
std::string explanation(vit::ink const& i) {
    char text[512];
    std::snprintf(
        text, sizeof text,
        "On this classifier ToMe is weaker than pruning by class attention. It merges the most similar keys, "
        "and in the first block those are often of ink: %.0f %% of the tokens it merges away are ink patches, "
        "where %.0f %% of all patches are. The model also saw only 56 of the 196 patches, ink first, for most "
        "of its training, so that dropping background costs it little. Other models differ.",
        100 * i.merged, 100 * i.patches);
    return text;
}

void run(options& given) {
    auto const m = vit::model::read(given.data / "vit.safetensors");
    auto const test = vit::images::read(given.data / "vit-test.safetensors");
    if (test.side != static_cast<std::size_t>(m.image_side)) throw std::runtime_error("the images are of another size");
    given.images = given.images == 0 ? test.count() : std::min(given.images, test.count());

    json const rows = evaluate(m, test, vit::policies(m, given.all), given);
    std::string const note = explanation(vit::first_merges(m, test, std::min<std::size_t>(given.images, 200)));
    print(rows, given.images);
    std::printf("\n%s\n", note.c_str());
    if (given.json.empty()) return;
    std::ofstream out{given.json};
    out << json{{"images", given.images}, {"grid", m.grid()}, {"image_side", m.image_side},
                {"note", note},           {"rows", rows},     {"pictures", pictures(m, test)}};
    if (!out.flush()) throw std::runtime_error("cannot write " + given.json.string());
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app{"A small Vision Transformer whose tokens are pruned, merged or pooled on their way"};
    options given;
    app.add_option("--data", given.data, "folder of vit.safetensors and vit-test.safetensors")->capture_default_str();
    app.add_option("--images", given.images, "how many test images (default: all)");
    app.add_option("--threads", given.threads, "for the accuracy")->check(CLI::PositiveNumber)->capture_default_str();
    app.add_option("--json", given.json, "where to write the table and pictures");
    app.add_flag("--all", given.all, "more settings of each policy");
    CLI11_PARSE(app, argc, argv);
    try {
        run(given);
    } catch (std::exception const& e) {
        std::fprintf(stderr, "vit: %s\n", e.what());
        return 1;
    }
    return 0;
}

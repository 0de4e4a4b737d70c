#include "results.hpp"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <sstream>

#include <nlohmann/json.hpp>

#include "machine.hpp"

namespace terse::bench {
namespace {

using json = nlohmann::ordered_json;

json rows = json::array();

bool same_subject(json const& a, json const& b) {
    return a["kernel"] == b["kernel"] && a["shape"] == b["shape"] && a["dtype"] == b["dtype"] && a["isa"] == b["isa"];
}

std::string fixed(double value, int digits) {
    std::ostringstream text;
    text.setf(std::ios::fixed);
    text.precision(digits);
    text << value;
    return text.str();
}

/// Those of this program's instruction set first; others say theirs.
std::string table(json all) {
    std::stable_partition(all.begin(), all.end(), [](json const& row) { return row["isa"] == isa_name(); });
    std::ostringstream text;
    std::time_t const now = std::time(nullptr);
    char date[sizeof "2000-01-01"];
    std::strftime(date, sizeof date, "%F", std::localtime(&now));
    text << cpu_name() << ", one core; " << compiler_name() << ", -O3, kernels for " << isa_name() << "; " << date
         << "\n\n| This core, at most | |\n|---|---|\n";
    for (auto const& [name, unit, value] : measure_machine())
        text << "| " << name << " | " << fixed(value, 1) << " " << unit << " |\n";
    text << "\n| Kernel | Shape | Type | µs | Of the limit | Times faster than |\n|---|---|---|---|---|---|\n";
    for (auto const& row : all) {
        std::string shape, peers;
        for (auto const& [key, value] : row["shape"].items())
            shape += (shape.empty() ? "" : ", ") + key + " " + value.dump();
        for (auto const& [name, times] : row["peers"].items())
            peers += (peers.empty() ? "" : ", ") + name + " " + fixed(times.get<double>(), 2);
        text << "| " << row["kernel"].get<std::string>() << " | " << shape << " | " << row["dtype"].get<std::string>()
             << (row["isa"] == isa_name() ? "" : ", " + row["isa"].get<std::string>()) << " | "
             << fixed(row["microseconds"].get<double>(), 1) << " | " << fixed(row["percent_of_limit"].get<double>(), 0)
             << " % " << row["limit"].get<std::string>() << " | " << peers << " |\n";
    }
    return text.str();
}

}  // namespace

void record(subject const& what, std::string const& limit, outcome const& found) {
    json shape = json::object(), peers = json::object();
    for (auto const& [key, value] : what.shape) shape[key] = value;
    for (auto const& [name, times] : found.peers) peers[name] = times;
    rows.push_back({{"kernel", what.kernel},
                    {"shape", shape},
                    {"dtype", what.dtype},
                    {"isa", isa_name()},
                    {"microseconds", 1e6 * found.seconds},
                    {"limit", limit},
                    {"percent_of_limit", found.percent},
                    {"peers", peers}});
}

void write_results(std::string const& file) {
    json all = json::array();
    if (std::ifstream before(file + ".json"); before) all = json::parse(before);
    for (auto const& row : rows) {
        auto const known = std::find_if(all.begin(), all.end(), [&](auto const& r) { return same_subject(r, row); });
        if (known == all.end()) {
            all.push_back(row);
            continue;
        }
        json peers = (*known)["peers"];
        peers.update(row["peers"]);
        *known = row;
        (*known)["peers"] = peers;
    }
    std::ofstream(file + ".json") << all.dump(1) << '\n';
    std::string const text = table(all);
    std::ofstream(file + ".md") << text;
    std::fputs(("\n" + text).c_str(), stdout);
}

}  // namespace terse::bench

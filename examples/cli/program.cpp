#include "cli/program.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <terse/core/version.hpp>

#include "cli/case.hpp"
#include "cli/method.hpp"

namespace cli {
namespace {

constexpr int ok = 0, failure = 1, wrong_usage = 2;

std::string version() {
    return "terse " + std::to_string(terse::version_major) + "." + std::to_string(terse::version_minor) + "." +
           std::to_string(terse::version_patch);
}

json described(method const& m) {
    json row{{"name", m.name}, {"family", m.family}, {"summary", m.summary}, {"parameters", json::array()}};
    if (!m.variant.empty()) row["variant"] = m.variant;
    for (auto const& p : m.parameters) {
        json entry{{"name", p.name}, {"help", p.help}, {"required", p.value.is_null()}};
        if (!p.value.is_null()) entry["default"] = p.value;
        row["parameters"].push_back(entry);
    }
    return row;
}

int list(bool as_json, std::ostream& out) {
    if (as_json) {
        auto rows = json::array();
        for (auto const& m : methods()) rows.push_back(described(m));
        out << rows.dump(2) << '\n';
        return ok;
    }
    for (auto const& m : methods()) {
        out << m.name << (m.variant.empty() ? "" : " variant=" + m.variant);
        for (auto const& p : m.parameters) {
            out << ' ' << p.name;
            if (!p.value.is_null()) out << '=' << p.value;
        }
        out << ": " << m.summary << '\n';
    }
    return ok;
}

/// NAME=VALUE, the value as JSON where it is, else as text.
void set_parameter(json& parameters, std::string const& argument) {
    auto const equals = argument.find('=');
    if (equals == 0 || equals == argument.npos) throw CLI::ValidationError("--param", argument + " is not NAME=VALUE");
    auto const text = argument.substr(equals + 1);
    auto const value = json::parse(text, nullptr, false);
    parameters[argument.substr(0, equals)] = value.is_discarded() ? json(text) : value;
}

struct run_options {
    std::string input;
    std::string output;
    std::string method;
    std::vector<std::string> parameters;
};

int run_one(run_options const& options) {
    auto const file = safetensors::file::read(options.input);
    auto call = call_from(file);
    if (!options.method.empty()) call.method = options.method;
    if (call.method.empty()) throw CLI::RequiredError("--method, since " + options.input + " names none");
    json given = json::object();
    for (auto const& argument : options.parameters) set_parameter(given, argument);
    call.parameters.update(given);

    auto const& m = find_method(call.method, call.parameters);
    for (auto const& [name, value] : given.items()) {
        auto const named = [&name = name](parameter const& p) { return p.name == name; };
        if (name != "variant" && std::none_of(m.parameters.begin(), m.parameters.end(), named))
            throw CLI::ValidationError("--param", "method '" + m.name + "' has no parameter '" + name + "'");
    }
    run(call, file).write(options.output);
    return ok;
}

std::vector<std::filesystem::path> cases_in(std::vector<std::string> const& paths) {
    std::vector<std::filesystem::path> cases;
    for (std::filesystem::path const path : paths) {
        if (!is_directory(path)) {
            cases.push_back(path);
            continue;
        }
        for (auto const& entry : std::filesystem::recursive_directory_iterator(path))
            if (entry.is_regular_file() && entry.path().extension() == ".safetensors") cases.push_back(entry.path());
    }
    std::sort(cases.begin(), cases.end());
    cases.erase(std::unique(cases.begin(), cases.end()), cases.end());
    return cases;
}

constexpr std::array words{"passed  ", "FAILED  ", "skipped "};  // by verdict

int check_all(std::vector<std::string> const& paths, std::ostream& out) {
    auto const cases = cases_in(paths);
    if (cases.empty()) throw std::runtime_error("no cases there");
    std::map<verdict, int> count;
    std::set<std::string> missing;
    for (auto const& path : cases) {
        auto const result = check(path);
        ++count[result.is];
        if (result.is == verdict::skipped) missing.insert(result.method);
        out << words[static_cast<std::size_t>(result.is)] << path.string()
            << (result.message.empty() ? "" : ": " + result.message) << '\n';
    }
    if (!missing.empty()) {
        out << "missing methods:";
        for (auto const& name : missing) out << ' ' << name;
        out << '\n';
    }
    out << count[verdict::passed] << " passed, " << count[verdict::failed] << " failed, " << count[verdict::skipped]
        << " skipped\n";
    return count[verdict::failed] == 0 ? ok : failure;
}

}  // namespace

int program(int argc, char const* const* argv, std::ostream& out, std::ostream& err) {
    CLI::App app{"Makes token sequences shorter: runs any method of the library on safetensors files.", "terse"};
    app.set_version_flag("--version", version());

    bool as_json = false;
    auto* const list_command = app.add_subcommand("list", "The methods, their parameters and defaults");
    list_command->add_flag("--json", as_json, "As JSON");

    run_options options;
    auto* const run_command = app.add_subcommand("run", "Run a method on a file's tensors in.*");
    run_command->add_option("case", options.input, "The file")
        ->required()
        ->check(CLI::ExistingFile)
        ->type_name("CASE.safetensors");
    run_command->add_option("-o,--output", options.output, "Where out.* go")->required()->type_name("OUT.safetensors");
    run_command->add_option("--method", options.method, "The method, instead of the file's")->type_name("NAME");
    run_command->add_option("--param", options.parameters, "A parameter, over the file's; may be repeated")
        ->type_name("NAME=VALUE")
        ->allow_extra_args(false);

    std::vector<std::string> paths;
    auto* const check_command = app.add_subcommand("check", "Run cases and compare with what they expect");
    check_command->add_option("path", paths, "Files, or folders of them")->required()->check(CLI::ExistingPath);

    try {
        app.parse(argc, argv);
        if (list_command->parsed()) return list(as_json, out);
        if (run_command->parsed()) return run_one(options);
        if (check_command->parsed()) return check_all(paths, out);
        throw CLI::RequiredError::Subcommand(1);
    } catch (CLI::ParseError const& e) {
        return app.exit(e, out, err) == ok ? ok : wrong_usage;
    } catch (unknown_method const& e) {
        err << "terse: " << e.what() << "; 'terse list' names all\n";
        return wrong_usage;
    } catch (std::exception const& e) {
        err << "terse: " << e.what() << '\n';
        return failure;
    }
}

}  // namespace cli

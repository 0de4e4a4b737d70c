#include "cli/case.hpp"

#include <set>

#include "cli/compare.hpp"

namespace cli {
namespace {

std::string first_difference(safetensors::file const& want, safetensors::file const& got) {
    auto const metadata = want.metadata().find("compare");
    if (metadata == want.metadata().end()) throw case_error("metadata has no 'compare'");
    auto const rules = rules_from(metadata->second);
    if (rules.empty()) throw case_error("'compare' names no output");
    for (auto const& [name, tensor] : want.tensors())
        if (name.starts_with("out.") && !rules.contains(name)) throw case_error("'compare' has no rule for " + name);
    for (auto const& [name, rule] : rules)
        if (auto const found = difference(rule, name, want, got)) return *found;
    return {};
}

}  // namespace

call call_from(safetensors::file const& file) {
    call c;
    auto const& metadata = file.metadata();
    if (auto const found = metadata.find("method"); found != metadata.end()) c.method = found->second;
    if (auto const found = metadata.find("params"); found != metadata.end()) {
        c.parameters = json::parse(found->second, nullptr, false);
        if (!c.parameters.is_object()) throw case_error("'params' is not a JSON object");
    }
    return c;
}

safetensors::writer run(call const& c, safetensors::file const& file) {
    auto const& m = find_method(c.method, c.parameters);
    outputs out;
    m.run(case_input(file, m.parameters, c.parameters), out);
    out.file.metadata = {{"method", c.method}, {"params", c.parameters.dump()}};
    return std::move(out.file);
}

outcome check(std::filesystem::path const& path) {
    outcome result;
    try {
        auto const file = safetensors::file::read(path);
        auto const c = call_from(file);
        if (c.method.empty()) throw case_error("metadata has no 'method'");
        result.method = c.method;
        result.message = first_difference(file, safetensors::file::parse(run(c, file).bytes()));
        result.is = result.message.empty() ? verdict::passed : verdict::failed;
    } catch (unknown_method const& e) {
        result.is = verdict::skipped;
        result.message = e.what();
    } catch (std::exception const& e) {
        result.is = verdict::failed;
        result.message = e.what();
    }
    return result;
}

}  // namespace cli

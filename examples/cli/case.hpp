// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "cli/method.hpp"
#include "common/safetensors.hpp"

namespace cli {

/// A method and its parameters.
struct call {
    std::string method;
    json parameters = json::object();
};

/// From the metadata "method" and "params" of a case's file; either may be missing.
[[nodiscard]] call call_from(safetensors::file const&);

/// Runs a method on a file's inputs. The result has its outputs, and the call as metadata.
[[nodiscard]] safetensors::writer run(call const&, safetensors::file const&);

enum class verdict { passed, failed, skipped };

struct outcome {
    verdict is = verdict::passed;
    std::string method;   ///< empty where the file does not say
    std::string message;  ///< why it did not pass
};

/// Runs a case and compares every output that its file expects.
[[nodiscard]] outcome check(std::filesystem::path const&);

}  // namespace cli

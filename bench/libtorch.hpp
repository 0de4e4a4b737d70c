#pragma once

#include <string>

#include <dlfcn.h>
#include <torch/torch.h>

namespace terse::bench {

/// libtorch with its version and whose products it calls: MKL's, or those of the BLAS that it found, which may be OpenBLAS
/// for the processor that this chose.
inline std::string libtorch_name() {
    std::string name = "libtorch " TORCH_VERSION;
    if (at::hasMKL()) return name + " on MKL";
    void* const core = dlsym(RTLD_DEFAULT, "openblas_get_corename");
    if (core != nullptr) name += std::string(" on OpenBLAS ") + reinterpret_cast<char* (*)()>(core)();
    return name;
}

}  // namespace terse::bench

#pragma once

#include <string>

#include <cblas.h>

namespace terse::bench {

/// OpenBLAS with its version and the processor whose kernels it chose (OPENBLAS_CORETYPE names another).
inline std::string openblas_name() {
    std::string const configuration = openblas_get_config();  // "OpenBLAS 0.3.21 NO_LAPACKE ..."
    std::string const version = configuration.substr(0, configuration.find(' ', sizeof "OpenBLAS"));
    return version + " " + openblas_get_corename();
}

}  // namespace terse::bench

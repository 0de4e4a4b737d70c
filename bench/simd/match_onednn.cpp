#include <oneapi/dnnl/dnnl.h>

#include "match.hpp"

namespace terse::bench {
namespace {

void multiply(dense const& a, dense const& b, dense& product) {
    dnnl_sgemm('N', 'T', a.rows(), b.rows(), a.cols(), 1.0F, a.data(), a.cols(), b.data(), b.cols(), 0.0F,
               product.data(), b.rows());
}

bool const added = [] {
    auto const* const v = dnnl_version();
    matching_peers.push_back(
        {"oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch),
         [] { return by_product(multiply); }});
    return true;
}();

}  // namespace
}  // namespace terse::bench

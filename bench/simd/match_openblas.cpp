#include "../openblas.hpp"
#include "match.hpp"

namespace terse::bench {
namespace {

void multiply(dense const& a, dense const& b, dense& product) {
    auto const size = [](index n) { return static_cast<int>(n); };
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, size(a.rows()), size(b.rows()), size(a.cols()), 1.0F, a.data(),
                size(a.cols()), b.data(), size(b.cols()), 0.0F, product.data(), size(b.rows()));
}

bool const added = [] {
    matching_peers.push_back({openblas_name(), [] { return by_product(multiply); }});
    return true;
}();

}  // namespace
}  // namespace terse::bench

#include "../openblas.hpp"
#include "gram.hpp"

namespace terse::bench {
namespace {

void sgemm(dense const& x, dense& product) {
    auto const n = static_cast<int>(x.rows()), d = static_cast<int>(x.cols());
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, n, d, 1.0F, x.data(), d, x.data(), d, 0.0F, product.data(),
                n);
}

void ssyrk(dense const& x, dense& product) {
    auto const n = static_cast<int>(x.rows()), d = static_cast<int>(x.cols());
    cblas_ssyrk(CblasRowMajor, CblasLower, CblasNoTrans, n, d, 1.0F, x.data(), d, 0.0F, product.data(), n);
    mirror(product);
}

bool const added = [] {
    gram_peers.push_back({openblas_name(), sgemm});
    gram_peers.push_back({openblas_name() + " syrk", ssyrk});
    return true;
}();

}  // namespace
}  // namespace terse::bench

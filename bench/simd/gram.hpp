#pragma once

#include <string>
#include <vector>

#include <terse/core/view.hpp>

namespace terse::bench {

using dense = row_major<float>;

/// How a library makes all of x * x^T.
struct gram_peer {
    std::string name;
    void (*multiply)(dense const& x, dense& product);
};
inline std::vector<gram_peer> gram_peers;

/// The lower triangle's mirror image.
inline void mirror(dense& product) { product.triangularView<Eigen::StrictlyUpper>() = product.transpose(); }

}  // namespace terse::bench

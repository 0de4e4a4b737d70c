#pragma once

#include <functional>
#include <string>
#include <vector>

#include <Eigen/Core>

#include <terse/core/types.hpp>

namespace terse::bench {

/// Bipartite matching of n tokens: for each even one the odd one of highest cosine.
struct matching {
    index left, right, dim;
    std::vector<float> best{};
    std::vector<token> partner{};

    matching(index n, index d) : left((n + 1) / 2), right(n / 2), dim(d) {
        best.resize(static_cast<std::size_t>(left));
        partner.resize(best.size());
    }
};

/// What solves a matching of tokens [n, dim] in float.
using matcher = std::function<void(matching&, float const* tokens)>;

/// The peers that were built in: each makes its matcher for one shape.
struct matching_peer {
    std::string name;
    std::function<matcher()> make;
};
inline std::vector<matching_peer> matching_peers;

using dense = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// How an engine author would match with a library's `product` of [left, dim] and [dim, right]: copies of both sides
/// with every row divided by its norm, the product, the largest of each row.
matcher by_product(std::function<void(dense const& a, dense const& b, dense& product)> product);

}  // namespace terse::bench

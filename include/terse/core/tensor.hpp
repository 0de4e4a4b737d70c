// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include <unsupported/Eigen/CXX11/Tensor>

#include <terse/core/view.hpp>

namespace terse {

template <class Tensor>
using tensor_value =
    std::conditional_t<std::is_const_v<Tensor>, typename Tensor::Scalar const, typename Tensor::Scalar>;

/// [tokens, dim] from an Eigen tensor map of rank 2, row major. An `Eigen::Tensor<T const, ...>` map gives a view that
/// cannot be written.
template <class Tensor>
requires(Tensor::NumIndices == 2 && Tensor::Layout == Eigen::RowMajor)
    [[nodiscard]] auto view(Eigen::TensorMap<Tensor> const& m) noexcept {
    using value = tensor_value<Tensor>;
    return tokens_span<value>{const_cast<value*>(m.data()), m.dimension(0), m.dimension(1), m.dimension(1)};
}

/// [heads, tokens, dim] from an Eigen tensor map of rank 3, row major.
template <class Tensor>
requires(Tensor::NumIndices == 3 && Tensor::Layout == Eigen::RowMajor)
    [[nodiscard]] auto view(Eigen::TensorMap<Tensor> const& m) noexcept {
    using value = tensor_value<Tensor>;
    return head_major(const_cast<value*>(m.data()), m.dimension(0), m.dimension(1), m.dimension(2));
}

}  // namespace terse

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "cache.hpp"
#include "common/safetensors.hpp"

namespace llm {

/// The shape of a Llama model, as the metadata of its file gives it.
struct shape {
    index vocabulary;    ///< vocab_size
    index width;         ///< dim
    index layers;        ///< n_layers
    index heads;         ///< n_heads
    index kv_heads;      ///< n_kv_heads: query head h reads kv head h / (heads / kv_heads)
    index head_dim;      ///< head_dim; dim / n_heads where it is missing
    index hidden;        ///< ffn_dim: width of the SwiGLU
    index context;       ///< max_seq_len: the longest sequence seen in training; 0 where it is missing
    token bos;           ///< bos_id; -1 where it is missing
    double rope_theta;   ///< rope_theta; 10000 where it is missing
    float norm_epsilon;  ///< rms_eps; 1e-5 where it is missing
};

/// What a call of the model has computed for its tokens, of every layer: [tokens, heads * head_dim], and keys
/// [tokens, kv_heads * head_dim].
struct trace {
    std::vector<matrix> queries;                    ///< rotated
    std::vector<matrix> plain_queries, plain_keys;  ///< before rotation
    std::vector<matrix> attended;                   ///< what attention hands to the output projection
};

/// A Llama model in float: RMSNorm, rotary positions (half-split), grouped-query attention, SwiGLU, no biases.
class model {
  public:
    /// Reads tensors by their Hugging Face names, of any float type, matrices [out, in]; the output is
    /// `lm_head.weight`, or the embedding where the file has none.
    /// Throws std::runtime_error when the metadata or a tensor is missing, malformed or of another architecture.
    static model read(safetensors::file const& source);

    [[nodiscard]] llm::shape const& shape() const { return shape_; }

    [[nodiscard]] cache make_cache(index capacity) const {
        return {shape_.layers, shape_.kv_heads, shape_.head_dim, capacity};
    }

    /// Reads `tokens` on top of the cache, each attending to what its heads hold and to the tokens before it, and
    /// appends them. Prefilling is a call on an empty cache, a decoding step is a call with one token.
    ///
    /// @param seen  where given, receives what the cache does not hold
    /// @return      the normalised states [tokens, width] that `logits` takes
    matrix forward(std::span<token const> tokens, cache& kv, trace* seen = nullptr) const;

    /// The output projection of a layer's attention, [width, heads * head_dim].
    [[nodiscard]] matrix const& output_projection(index layer) const {
        return blocks_[static_cast<std::size_t>(layer)].output;
    }

    /// [head_dim / 2]: by how much a position turns each pair of channels.
    [[nodiscard]] std::vector<float> rope_frequencies() const;

    /// [tokens, vocabulary]
    [[nodiscard]] matrix logits(Eigen::Ref<matrix const> const& states) const {
        return states * (output_.size() == 0 ? embedding_ : output_).transpose();
    }

  private:
    struct block {
        Eigen::RowVectorXf attention_norm, mlp_norm;
        matrix query, key, value, output;
        matrix gate, up, down;
    };

    [[nodiscard]] matrix attend(matrix const& queries, cache const& kv, index layer) const;
    [[nodiscard]] Eigen::ArrayXd frequencies() const;
    void rotate(matrix& heads, index position) const;

    llm::shape shape_{};
    matrix embedding_, output_;
    std::vector<block> blocks_;
    Eigen::RowVectorXf norm_;
};

}  // namespace llm

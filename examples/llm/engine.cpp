// SPDX-License-Identifier: Apache-2.0
#include "engine.hpp"

#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>

namespace llm {
namespace {

using safetensors::file;

template <class T>
T number(file const& source, std::string const& key, std::optional<T> missing = {}) {
    auto const found = source.metadata().find(key);
    if (found == source.metadata().end()) {
        if (missing) return *missing;
        throw std::runtime_error("the model's metadata has no '" + key + "'");
    }
    std::string const& text = found->second;
    T value{};
    auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size())
        throw std::runtime_error("the model's metadata '" + key + "' is not a number: " + text);
    return value;
}

shape read_shape(file const& source) {
    auto const size = [&](char const* key) { return number<index>(source, key); };
    shape s{.vocabulary = size("vocab_size"),
            .width = size("dim"),
            .layers = size("n_layers"),
            .heads = size("n_heads"),
            .kv_heads = size("n_kv_heads"),
            .head_dim = 0,
            .hidden = size("ffn_dim"),
            .context = number<index>(source, "max_seq_len", 0),
            .bos = number<token>(source, "bos_id", -1),
            .rope_theta = number<double>(source, "rope_theta", 10000.0),
            .norm_epsilon = number<float>(source, "rms_eps", 1e-5F)};
    if (s.vocabulary < 1 || s.width < 1 || s.layers < 1 || s.heads < 1 || s.kv_heads < 1 || s.hidden < 1)
        throw std::runtime_error("a size in the model's metadata is not positive");
    s.head_dim = number<index>(source, "head_dim", s.width / s.heads);
    if (s.heads % s.kv_heads != 0 || s.head_dim < 2 || s.head_dim % 2 != 0)
        throw std::runtime_error(
            "the heads in the model's metadata do not fit: kv heads must divide heads, and a "
            "head's dimension must be even");

    struct {
        char const *key, *supported;
    } const fixed[] = {{"architecture", "llama"},
                       {"activation", "silu"},
                       {"attention_bias", "false"},
                       {"rope_style", "half-split (rotate_half)"}};
    for (auto const& [key, supported] : fixed) {
        auto const found = source.metadata().find(key);
        if (found != source.metadata().end() && found->second != supported)
            throw std::runtime_error(std::string("the model's '") + key + "' must be '" + supported + "', not '" +
                                     found->second + "'");
    }
    return s;
}

matrix read_matrix(file const& source, std::string const& name, index rows, index columns) {
    std::vector<std::int64_t> const& found = source.at(name).shape;
    if (found != std::vector<std::int64_t>{rows, columns})
        throw std::runtime_error("'" + name + "' must be [" + std::to_string(rows) + ", " + std::to_string(columns) +
                                 "]");
    return Eigen::Map<matrix const>(source.floats(name).data(), rows, columns);
}

Eigen::RowVectorXf read_vector(file const& source, std::string const& name, index size) {
    if (source.at(name).shape != std::vector<std::int64_t>{size})
        throw std::runtime_error("'" + name + "' must be [" + std::to_string(size) + "]");
    return Eigen::Map<Eigen::RowVectorXf const>(source.floats(name).data(), size);
}

matrix rms_norm(matrix const& x, Eigen::RowVectorXf const& weight, float epsilon) {
    Eigen::VectorXf const mean_square = x.rowwise().squaredNorm() / static_cast<float>(x.cols());
    Eigen::VectorXf const factor = (mean_square.array() + epsilon).rsqrt();
    return factor.asDiagonal() * x * weight.asDiagonal();
}

/// silu(x) * y
matrix swiglu(matrix const& x, matrix const& y) {
    return (x.array() / (1.0F + (-x.array()).exp()) * y.array()).matrix();
}

}  // namespace

model model::read(file const& source) {
    model m;
    m.shape_ = read_shape(source);
    llm::shape const& s = m.shape_;
    m.embedding_ = read_matrix(source, "model.embed_tokens.weight", s.vocabulary, s.width);
    if (source.contains("lm_head.weight")) m.output_ = read_matrix(source, "lm_head.weight", s.vocabulary, s.width);
    m.norm_ = read_vector(source, "model.norm.weight", s.width);
    for (index l = 0; l < s.layers; ++l) {
        std::string const prefix = "model.layers." + std::to_string(l) + ".";
        auto const weight = [&](char const* name, index rows, index columns) {
            return read_matrix(source, prefix + name + ".weight", rows, columns);
        };
        m.blocks_.push_back({
            .attention_norm = read_vector(source, prefix + "input_layernorm.weight", s.width),
            .mlp_norm = read_vector(source, prefix + "post_attention_layernorm.weight", s.width),
            .query = weight("self_attn.q_proj", s.heads * s.head_dim, s.width),
            .key = weight("self_attn.k_proj", s.kv_heads * s.head_dim, s.width),
            .value = weight("self_attn.v_proj", s.kv_heads * s.head_dim, s.width),
            .output = weight("self_attn.o_proj", s.width, s.heads * s.head_dim),
            .gate = weight("mlp.gate_proj", s.hidden, s.width),
            .up = weight("mlp.up_proj", s.hidden, s.width),
            .down = weight("mlp.down_proj", s.width, s.hidden),
        });
    }
    return m;
}

matrix model::forward(std::span<token const> tokens, cache& kv, trace* seen) const {
    matrix x(std::ssize(tokens), shape_.width);
    for (index t = 0; t < x.rows(); ++t) {
        token const id = tokens[static_cast<std::size_t>(t)];
        if (id < 0 || id >= shape_.vocabulary)
            throw std::out_of_range("token " + std::to_string(id) + " is outside the vocabulary");
        x.row(t) = embedding_.row(id);
    }
    if (seen != nullptr) *seen = {};

    for (index l = 0; l < shape_.layers; ++l) {
        block const& b = blocks_[static_cast<std::size_t>(l)];
        matrix n = rms_norm(x, b.attention_norm, shape_.norm_epsilon);
        matrix q = n * b.query.transpose();
        matrix k = n * b.key.transpose();
        matrix const v = n * b.value.transpose();
        if (seen != nullptr) {
            seen->plain_queries.push_back(q);
            seen->plain_keys.push_back(k);
        }
        rotate(q, kv.position());
        rotate(k, kv.position());
        kv.append(l, k, v);
        matrix attended = attend(q, kv, l);
        x += attended * b.output.transpose();

        n = rms_norm(x, b.mlp_norm, shape_.norm_epsilon);
        x += swiglu(n * b.gate.transpose(), n * b.up.transpose()) * b.down.transpose();
        if (seen != nullptr) {
            seen->queries.push_back(std::move(q));
            seen->attended.push_back(std::move(attended));
        }
    }
    kv.advance(x.rows());
    return rms_norm(x, norm_, shape_.norm_epsilon);
}

/// Softmax attention of the newest `queries.rows()` tokens, which the cache already holds. Queries go in blocks, so
/// that little is computed above the diagonal.
matrix model::attend(matrix const& queries, cache const& kv, index layer) const {
    constexpr index block_rows = 64;
    index const group = shape_.heads / shape_.kv_heads, dim = shape_.head_dim;
    float const scale = 1.0F / std::sqrt(static_cast<float>(dim));
    matrix out(queries.rows(), queries.cols());
    matrix weights;
    for (index h = 0; h < shape_.heads; ++h) {
        auto const keys = kv.keys(layer).head(h / group).map();
        auto const values = kv.values(layer).head(h / group).map();
        Eigen::Map<Eigen::RowVectorXf const> const bias(kv.bias(layer, h / group).data(), keys.rows());
        matrix const own = queries.middleCols(h * dim, dim)(Eigen::all, kv.channels(layer, h / group));
        index const older = kv.held(layer, h / group) - queries.rows();
        for (index first = 0; first < queries.rows(); first += block_rows) {
            index const rows = std::min(block_rows, queries.rows() - first), seen = older + first + rows;
            weights.noalias() = scale * own.middleRows(first, rows) * keys.topRows(seen).transpose();
            weights.rowwise() += bias.head(seen);
            for (index r = 0; r < rows; ++r) {
                index const visible = older + first + r + 1;
                auto row = weights.row(r).head(visible).array();
                row = (row - row.maxCoeff()).exp();
                row /= row.sum();
                weights.row(r).tail(seen - visible).setZero();
            }
            out.block(first, h * dim, rows, dim).noalias() = weights * values.topRows(seen);
        }
    }
    return out;
}

/// theta^(-2i / head_dim)
Eigen::ArrayXd model::frequencies() const {
    index const half = shape_.head_dim / 2;
    Eigen::ArrayXd const power = Eigen::ArrayXd::LinSpaced(half, 0.0, static_cast<double>(half - 1));
    return (power * (-std::log(shape_.rope_theta) / static_cast<double>(half))).exp();
}

std::vector<float> model::rope_frequencies() const {
    Eigen::ArrayXd const all = frequencies();
    return {all.begin(), all.end()};
}

/// Turns dimensions (i, i + head_dim / 2) of every head by position * frequency.
void model::rotate(matrix& heads, index position) const {
    index const half = shape_.head_dim / 2;
    Eigen::ArrayXd const frequency = frequencies();
    for (index t = 0; t < heads.rows(); ++t) {
        Eigen::ArrayXd const angle = static_cast<double>(position + t) * frequency;
        Eigen::ArrayXf const cosine = angle.cos().cast<float>(), sine = angle.sin().cast<float>();
        for (index c = 0; c < heads.cols(); c += shape_.head_dim) {
            auto a = heads.row(t).segment(c, half).transpose().array();
            auto b = heads.row(t).segment(c + half, half).transpose().array();
            Eigen::ArrayXf const turned = a * cosine - b * sine;
            b = b * cosine + a * sine;
            a = turned;
        }
    }
}

}  // namespace llm

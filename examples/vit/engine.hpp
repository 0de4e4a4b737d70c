// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <vector>

#include <Eigen/Core>

#include <terse/core/arena.hpp>
#include <terse/core/plan.hpp>
#include <terse/core/result.hpp>
#include <terse/core/view.hpp>

namespace vit {

using matrix = terse::row_major<float>;
using row_vector = Eigen::RowVectorXf;

struct linear {
    matrix weight;  ///< [in, out], so that out = in * weight + bias
    row_vector bias;
};

struct layer_norm {
    row_vector weight;
    row_vector bias;
};

struct block {
    layer_norm norm1;
    linear qkv;  ///< [width, 3 * width]: queries of all heads, then keys, then values
    linear projection;
    layer_norm norm2;
    linear fc1;
    linear fc2;
};

/// A pre-norm Vision Transformer with a class token in front, by timm's tensor names.
struct model {
    terse::index image_side = 0;
    terse::index patch_side = 0;
    terse::index width = 0;
    terse::index heads = 0;
    float epsilon = 0;
    linear patch_embedding;
    row_vector class_token;
    matrix positions;  ///< [tokens, width]
    std::vector<block> blocks;
    layer_norm norm;
    linear head;

    /// Throws `safetensors::error` when the file is not such a model.
    [[nodiscard]] static model read(std::filesystem::path const& path);

    [[nodiscard]] terse::index grid() const noexcept { return image_side / patch_side; }
    [[nodiscard]] terse::index patches() const noexcept { return grid() * grid(); }
    [[nodiscard]] terse::index tokens() const noexcept { return 1 + patches(); }
};

/// What a reduction sees between a block's attention and its MLP. Token 0 is the class token.
struct site {
    terse::index grid = 0;               ///< patches a side of the whole image
    terse::tokens_view<float> tokens{};  ///< [tokens, width]: after attention
    terse::tokens_view<float> keys{};    ///< [tokens, head dim]: mean over heads
    std::span<float const> attention{};  ///< [tokens]: of the class token's query, mean over heads
    std::span<float const> sizes{};      ///< [tokens]: how many inputs each token stands for
};

/// How a sequence is made shorter on its way through the blocks.
struct reduction {
    static constexpr terse::index every_block = -1;

    std::function<terse::result<terse::plan>(site const&, terse::arena&)> decide{};  ///< empty: never
    terse::index block = every_block;     ///< the one block that it happens in, or every one
    bool proportional_attention = false;  ///< log(size) is added to the logits of each key

    [[nodiscard]] terse::index first_block() const noexcept { return block == every_block ? 0 : block; }
};

/// What became of the tokens of one image.
struct trace {
    std::vector<terse::index> tokens;  ///< [blocks + 1]: into each block, and out of the last
    std::vector<terse::token> owner;   ///< [tokens]: the last block's token that an input went to, or -1
};

/// Runs the model on one image at a time, in memory of its own: one engine a thread.
class engine {
  public:
    /// `weights` must outlive the engine.
    explicit engine(model const& weights);

    /// @param pixels [image_side, image_side]
    /// @return       the logits [classes], valid until the next call. Throws `terse::bad_result` when `r` fails.
    row_vector const& classify(std::span<std::uint8_t const> pixels, reduction const& r = {}, trace* t = nullptr) {
        begin(pixels, r.first_block());
        return finish(r, t);
    }

    /// The same in two steps, for several reductions of one image that share their first block: all that comes before
    /// the first of them is computed once.
    void begin(std::span<std::uint8_t const> pixels, terse::index first_block);

    /// What a reduction would see now.
    [[nodiscard]] site look() const noexcept;

    row_vector const& finish(reduction const& r = {}, trace* t = nullptr);

  private:
    /// The sequence between a block's attention and its MLP. The buffers have a row for every input token; the first
    /// `count` are in use.
    struct state {
        explicit state(model const& weights);

        terse::index block = 0;
        terse::index count = 0;
        matrix x;     // [tokens, width]
        matrix keys;  // [tokens, head dim]: mean over heads
        Eigen::ArrayXf attention;
        Eigen::ArrayXf sizes;
    };

    void embed(std::span<std::uint8_t const> pixels);
    void attend(bool proportional);
    void reduce(reduction const& r, trace* t);
    void transform();

    model const& weights_;
    state start_;
    state now_;
    matrix next_;        // [tokens, width]
    matrix normalised_;  // [tokens, width]
    matrix qkv_;         // [tokens, 3 * width]
    matrix mixed_;       // [tokens, width]
    matrix hidden_;      // [tokens, MLP width]
    matrix scores_;      // [tokens, tokens]
    Eigen::ArrayXf next_sizes_;
    Eigen::ArrayXf log_sizes_;
    row_vector logits_;
    terse::arena memory_;
};

}  // namespace vit

#include "engine.hpp"

#include <cmath>
#include <numeric>
#include <string>

#include <unsupported/Eigen/SpecialFunctions>

#include <terse/merge/tome.hpp>
#include <terse/move/apply.hpp>

#include "common/safetensors.hpp"

namespace vit {
namespace {

using terse::index;

class reader {
  public:
    explicit reader(std::filesystem::path const& path) : file_{safetensors::file::read(path)} {}

    [[nodiscard]] float number(std::string const& key) const {
        auto const found = file_.metadata().find(key);
        if (found == file_.metadata().end()) throw safetensors::error{"metadata has no '" + key + "'"};
        return std::stof(found->second);
    }
    [[nodiscard]] index count(std::string const& key) const { return static_cast<index>(number(key)); }

    [[nodiscard]] matrix table(std::string const& name, index rows, index columns) const {
        std::vector<float> const values = file_.floats(name);
        if (std::ssize(values) != rows * columns) throw safetensors::error{"'" + name + "' has another shape"};
        return Eigen::Map<matrix const>{values.data(), rows, columns};
    }
    [[nodiscard]] row_vector vector(std::string const& name, index size) const { return table(name, 1, size); }

    [[nodiscard]] linear projection(std::string const& name, index out, index in) const {
        return {table(name + ".weight", out, in).transpose(), vector(name + ".bias", out)};
    }
    [[nodiscard]] layer_norm norm(std::string const& name, index width) const {
        return {vector(name + ".weight", width), vector(name + ".bias", width)};
    }

  private:
    safetensors::file file_;
};

void check(terse::errc error) {
    if (error != terse::errc::ok) throw terse::bad_result{error};
}

template <class In, class Out>
void normalise(In const& in, layer_norm const& n, float epsilon, Out&& out) {
    for (index t = 0; t < in.rows(); ++t) {
        auto const centred = in.row(t).array() - in.row(t).mean();
        float const deviation = std::sqrt(centred.square().mean() + epsilon);
        out.row(t) = centred / deviation * n.weight.array() + n.bias.array();
    }
}

template <class In, class Out>
void project(In const& in, linear const& l, Out&& out) {
    out.noalias() = in * l.weight;
    out.rowwise() += l.bias;
}

}  // namespace

model model::read(std::filesystem::path const& path) {
    reader const r{path};
    model m;
    m.image_side = r.count("image_size");
    m.patch_side = r.count("patch_size");
    m.width = r.count("dim");
    m.heads = r.count("n_heads");
    m.epsilon = r.number("layernorm_eps");
    index const mlp = r.count("mlp_dim");
    m.patch_embedding = r.projection("patch_embed", m.width, m.patch_side * m.patch_side);
    m.class_token = r.vector("cls_token", m.width);
    m.positions = r.table("pos_embed", m.tokens(), m.width);
    for (index i = 0; i < r.count("n_layers"); ++i) {
        std::string const name = "blocks." + std::to_string(i);
        m.blocks.push_back({.norm1 = r.norm(name + ".norm1", m.width),
                            .qkv = r.projection(name + ".attn.qkv", 3 * m.width, m.width),
                            .projection = r.projection(name + ".attn.proj", m.width, m.width),
                            .norm2 = r.norm(name + ".norm2", m.width),
                            .fc1 = r.projection(name + ".mlp.fc1", mlp, m.width),
                            .fc2 = r.projection(name + ".mlp.fc2", m.width, mlp)});
    }
    m.norm = r.norm("norm", m.width);
    m.head = r.projection("head", r.count("num_classes"), m.width);
    return m;
}

engine::state::state(model const& weights)
    : x{weights.tokens(), weights.width},
      keys{weights.tokens(), weights.width / weights.heads},
      attention{weights.tokens()},
      sizes{weights.tokens()} {}

engine::engine(model const& weights)
    : weights_{weights},
      start_{weights},
      now_{weights},
      next_{weights.tokens(), weights.width},
      normalised_{weights.tokens(), weights.width},
      qkv_{weights.tokens(), 3 * weights.width},
      mixed_{weights.tokens(), weights.width},
      hidden_{weights.tokens(), weights.blocks.front().fc1.weight.cols()},
      scores_{weights.tokens(), weights.tokens()},
      next_sizes_{weights.tokens()},
      log_sizes_{weights.tokens()} {}

void engine::begin(std::span<std::uint8_t const> pixels, index first_block) {
    embed(pixels);
    for (now_.block = 0; now_.block < first_block; ++now_.block) {
        attend(false);
        transform();
    }
    attend(false);
    start_ = now_;
}

row_vector const& engine::finish(reduction const& r, trace* t) {
    now_ = start_;
    if (t != nullptr) {
        t->tokens.assign(static_cast<std::size_t>(now_.block) + 1, now_.count);
        t->owner.resize(static_cast<std::size_t>(now_.count));
        std::iota(t->owner.begin(), t->owner.end(), terse::token{0});
    }
    while (true) {
        if (r.decide && (r.block == now_.block || r.block == reduction::every_block)) reduce(r, t);
        transform();
        if (t != nullptr) t->tokens.push_back(now_.count);
        if (++now_.block == std::ssize(weights_.blocks)) break;
        attend(r.proportional_attention);
    }
    normalise(now_.x.topRows(1), weights_.norm, weights_.epsilon, normalised_.topRows(1));
    logits_ = normalised_.row(0) * weights_.head.weight + weights_.head.bias;
    return logits_;
}

void engine::embed(std::span<std::uint8_t const> pixels) {
    constexpr float mean = 0.1F, deviation = 0.25F;  // of the training images' pixels
    index const side = weights_.patch_side, grid = weights_.grid();
    Eigen::Map<terse::row_major<std::uint8_t> const> const image{pixels.data(), weights_.image_side,
                                                                 weights_.image_side};
    auto patches = hidden_.block(0, 0, weights_.patches(), side * side);
    for (index p = 0; p < weights_.patches(); ++p) {
        auto const patch = image.block(p / grid * side, p % grid * side, side, side).cast<float>();
        patches.row(p).reshaped<Eigen::RowMajor>(side, side) = (patch.array() / 255.0F - mean) / deviation;
    }
    now_.x.row(0) = weights_.class_token;
    project(patches, weights_.patch_embedding, now_.x.bottomRows(weights_.patches()));
    now_.x += weights_.positions;
    now_.sizes.setOnes();
    now_.count = weights_.tokens();
}

void engine::attend(bool proportional) {
    block const& b = weights_.blocks[static_cast<std::size_t>(now_.block)];
    index const n = now_.count, dim = weights_.width / weights_.heads;
    auto const heads = static_cast<float>(weights_.heads);
    float const scale = 1.0F / std::sqrt(static_cast<float>(dim));
    auto x = now_.x.topRows(n);
    auto qkv = qkv_.topRows(n);
    auto mixed = mixed_.topRows(n);
    auto scores = scores_.topLeftCorner(n, n);
    normalise(x, b.norm1, weights_.epsilon, normalised_.topRows(n));
    project(normalised_.topRows(n), b.qkv, qkv);

    auto const count = static_cast<std::size_t>(n);
    if (proportional) check(terse::merge::log_sizes({now_.sizes.data(), count}, {log_sizes_.data(), count}));
    now_.attention.setZero();
    now_.keys.setZero();
    for (index h = 0; h < weights_.heads; ++h) {
        auto const queries = qkv.middleCols(h * dim, dim);
        auto const keys = qkv.middleCols(weights_.width + h * dim, dim);
        auto const values = qkv.middleCols(2 * weights_.width + h * dim, dim);
        scores.noalias() = queries * keys.transpose();
        for (index i = 0; i < n; ++i) {
            auto row = scores.row(i).transpose().array();
            row *= scale;
            if (proportional) row += log_sizes_.head(n);
            row = (row - row.maxCoeff()).exp();
            row /= row.sum();
        }
        mixed.middleCols(h * dim, dim).noalias() = scores * values;
        now_.keys.topRows(n) += keys / heads;
        now_.attention.head(n) += scores.row(0).transpose().array() / heads;
    }
    x.noalias() += mixed * b.projection.weight;
    x.rowwise() += b.projection.bias;
}

site engine::look() const noexcept {
    auto const n = static_cast<std::size_t>(now_.count);
    return {.grid = weights_.grid(),
            .tokens = {now_.x.data(), now_.count, now_.x.cols(), now_.x.cols()},
            .keys = {now_.keys.data(), now_.count, now_.keys.cols(), now_.keys.cols()},
            .attention = {now_.attention.data(), n},
            .sizes = {now_.sizes.data(), n}};
}

void engine::reduce(reduction const& r, trace* t) {
    memory_.rewind();
    site const s = look();
    terse::plan const p = r.decide(s, memory_).value();
    check(terse::apply(p, s.tokens, terse::view(next_.data(), p.kept(), weights_.width)));
    check(terse::sizes(p, s.sizes, {next_sizes_.data(), static_cast<std::size_t>(p.kept())}));
    now_.x.swap(next_);
    now_.sizes.swap(next_sizes_);
    now_.count = p.kept();
    if (t == nullptr) return;
    for (terse::token& o : t->owner) o = o < 0 ? o : p.owner[static_cast<std::size_t>(o)];
}

void engine::transform() {
    constexpr float sqrt_half = 0.70710678F;
    block const& b = weights_.blocks[static_cast<std::size_t>(now_.block)];
    auto x = now_.x.topRows(now_.count);
    auto hidden = hidden_.topRows(now_.count);
    normalise(x, b.norm2, weights_.epsilon, normalised_.topRows(now_.count));
    project(normalised_.topRows(now_.count), b.fc1, hidden);
    for (index i = 0; i < now_.count; ++i) {
        auto row = hidden.row(i).array();
        row *= 0.5F * (1.0F + (row * sqrt_half).erf());
    }
    x.noalias() += hidden * b.fc2.weight;
    x.rowwise() += b.fc2.bias;
}

}  // namespace vit

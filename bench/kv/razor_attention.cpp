// RazorAttention's compensation rows: the means of what local heads drop of a prompt, and their roll at a step of
// decoding, against the same with Eigen.
#include <algorithm>
#include <memory>
#include <vector>

#include <Eigen/Core>

#include <terse/kv/razor_attention.hpp>

#include "prompt.hpp"

namespace terse::bench {
namespace {

/// Means of keys and values of every head.
struct means {
    row_major<float> keys = row_major<float>::Zero(prompt::kv_heads, prompt::dim), values = keys;
    std::vector<float> sizes = std::vector<float>(prompt::kv_heads);

    [[nodiscard]] kv::compensation view() { return {terse::view(keys), terse::view(values), sizes}; }
    [[nodiscard]] bool near(means const& other) const {
        return keys.isApprox(other.keys, 1e-3F) && values.isApprox(other.values, 1e-3F) && sizes == other.sizes;
    }
};

constexpr kv::razor_attention policy{};

/// What local heads drop of a prompt: all but the sinks and the window, which of a short prompt would be almost all.
range dropped(index n) { return {policy.sinks, n - std::max(n / policy.compression, index{256})}; }

contest of_prompt(index n) {
    struct state {
        std::shared_ptr<prompt const> p;
        means ours{}, theirs{};
    };
    auto const s = std::make_shared<state>(state{.p = prompt_of(n)});
    auto const ours = [s, n](std::size_t) {
        std::fill(s->ours.sizes.begin(), s->ours.sizes.end(), 0.0F);
        keep(s->ours.view().add(s->p->layer(), {}, dropped(n)));
    };
    auto const theirs = [s, n](std::size_t) {
        range const gone = dropped(n);
        for (index h = 0; h < prompt::kv_heads; ++h) {
            s->theirs.keys.row(h) = s->p->keys_of(h).middleRows(gone.begin, gone.size()).colwise().mean();
            s->theirs.values.row(h) = s->p->values_of(h).middleRows(gone.begin, gone.size()).colwise().mean();
            s->theirs.sizes[static_cast<std::size_t>(h)] = static_cast<float>(gone.size());
        }
        keep(s->theirs.keys);
    };
    ours(0);
    theirs(0);
    return {.bound = read_limit(s->p->keys.size() * sizeof(float), 1),
            .candidates = {{"terse", ours}, {eigen_name(), theirs}},
            .inputs = 1,
            .agree = s->ours.near(s->theirs)};
}

contest of_step(index n) {
    struct state {
        std::shared_ptr<prompt const> p;
        means ours{}, theirs{};
    };
    auto const s = std::make_shared<state>(state{.p = prompt_of(n)});
    auto const ours = [s](std::size_t slot) {
        auto const at = static_cast<index>(slot);
        keep(s->ours.view().add(s->p->layer(), {}, {at, at + 1}));
    };
    auto const theirs = [s](std::size_t slot) {
        auto const at = static_cast<index>(slot);
        for (index h = 0; h < prompt::kv_heads; ++h) {
            float& size = s->theirs.sizes[static_cast<std::size_t>(h)];
            s->theirs.keys.row(h) = (size * s->theirs.keys.row(h) + s->p->keys_of(h).row(at)) / (size + 1);
            s->theirs.values.row(h) = (size * s->theirs.values.row(h) + s->p->values_of(h).row(at)) / (size + 1);
            ++size;
        }
        keep(s->theirs.keys);
    };
    bool agree = true;
    for (std::size_t slot = 0; slot < 64; ++slot) {
        ours(slot);
        theirs(slot);
        agree = agree && s->ours.near(s->theirs);
    }
    std::size_t const bytes = std::size_t{2} * prompt::kv_heads * prompt::dim * sizeof(float);
    return {.bound = copy_limit(bytes, 64),
            .candidates = {{"terse", ours}, {eigen_name(), theirs}},
            .inputs = 64,
            .agree = agree};
}

bool const added = [] {
    for (index const n : prompt::lengths)
        add({"razor-means", {{"n", n}, {"kv_heads", prompt::kv_heads}, {"d", prompt::dim}}},
            [n] { return of_prompt(n); });
    add({"razor-step", {{"kv_heads", prompt::kv_heads}, {"d", prompt::dim}}}, [] { return of_step(4096); });
    return true;
}();

}  // namespace
}  // namespace terse::bench

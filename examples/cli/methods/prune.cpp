#include <terse/core/arena.hpp>
#include <terse/prune/divprune.hpp>
#include <terse/prune/fastv.hpp>

#include "cli/layers.hpp"
#include "cli/method.hpp"

namespace cli {
namespace {

void fastv(case_input const& in, outputs& out) {
    layer const l = attention_layer(1, in.heads("attention", any, 1));
    terse::prune::fastv const policy{.image_start = in.integer("image_start"),
                                     .image_tokens = in.integer("image_length"),
                                     .keep = in.integer("image_kept", 1)};
    terse::arena memory;
    out.keep("keep", value(policy(l, memory)));
    auto const scores = value(policy.scorer()(l, memory));
    out.scores("scores", scores.row(0).subspan(static_cast<std::size_t>(policy.image_start),
                                               static_cast<std::size_t>(policy.image_tokens)));
}

void divprune(case_input const& in, outputs& out) {
    auto const tokens = in.tokens("tokens");
    terse::prune::divprune policy{.keep = in.integer("budget", 1)};
    terse::arena memory;
    out.keep("keep", value(policy(tokens, memory)));
    policy.pick_order = true;
    out.keep("order", value(policy(tokens, memory)));
}

}  // namespace

std::vector<method> prune_methods() {
    return {
        {"fastv",
         "",
         "prune",
         "Keeps the image tokens that the last query attends to",
         {{"image_start", "the image's first token"},
          {"image_length", "its tokens"},
          {"image_kept", "how many of them to keep"}},
         fastv},
        {"divprune",
         "",
         "prune",
         "Keeps the tokens that are most unlike each other",
         {{"budget", "tokens to keep"}},
         divprune},
    };
}

}  // namespace cli

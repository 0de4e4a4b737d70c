// Methods that go by position or by the tokens' types alone: making their plans, against the same with the standard
// library. They read no keys; how little they take beside one pass over them is what their rows say.
#include <algorithm>
#include <array>
#include <numeric>
#include <vector>

#include <terse/kv/duo_attention.hpp>
#include <terse/kv/moa.hpp>
#include <terse/kv/razor_attention.hpp>
#include <terse/kv/retention.hpp>
#include <terse/kv/streaming_llm.hpp>

#include "prompt.hpp"

namespace terse::bench {
namespace {

constexpr kv::streaming_llm streaming{.sinks = 4, .recent = 1020};

/// Every other head looks far back.
constexpr std::array<unsigned char, prompt::kv_heads> classes = {0, 1, 0, 1, 0, 1, 0, 1};
constexpr kv::duo_attention duo{.streaming = classes};

constexpr kv::razor_attention razor{.recent = 1024, .local = classes};

/// Spans that stay, that grow, and that are the whole prompt.
constexpr std::array<budget::elastic_span, prompt::kv_heads> spans = {
    {{1024, 0}, {2048, 0}, {512, 0.0625}, {512, 0.125}, {0, 0.25}, {256, 0.25}, {0, 0.5}, {0, 1}}};
constexpr kv::moa moa{.spans = spans};

std::vector<token> ends(index tokens, index first, index last) {
    std::vector<token> kept(static_cast<std::size_t>(std::min(first + last, tokens)));
    if (std::ssize(kept) == tokens) first = tokens;
    std::iota(kept.begin(), kept.begin() + first, token{0});
    std::iota(kept.begin() + first, kept.end(), static_cast<token>(tokens - last));
    return kept;
}

slots duo_by_the_book(prompt const& p) {
    slots kept;
    for (unsigned char const streams : classes)
        kept.push_back(streams != 0 ? ends(p.tokens, duo.sinks, duo.recent) : ends(p.tokens, p.tokens, 0));
    return kept;
}

slots moa_by_the_book(prompt const& p) {
    slots kept;
    index const length = p.tokens + moa.coming;
    for (auto const& [base, slope] : spans) {
        auto const span = static_cast<index>(base + slope * static_cast<double>(length));
        index const wanted = std::max(std::min(span, length), moa.minimum);
        index const size = (wanted + moa.multiple - 1) / moa.multiple * moa.multiple;
        kept.push_back(ends(p.tokens, moa.sinks, size - moa.sinks));
    }
    return kept;
}

/// What local heads drop stays as one mean: all slots in order, with their weights.
slots razor_by_the_book(prompt const& p) {
    index const recent = std::max(razor.recent, p.tokens / razor.compression), gone = p.tokens - razor.sinks - recent;
    slots sources;
    for (unsigned char const local : classes) {
        sources.push_back(ends(p.tokens, p.tokens, 0));
        std::vector<float> weights(local != 0 ? sources.back().size() : 0, 1.0F);
        if (local != 0) std::fill_n(weights.begin() + razor.sinks, gone, 1 / static_cast<float>(gone));
        keep(weights);
    }
    return sources;
}

/// An image in the first half and a compression token behind it; in the text, one after every 15 others.
std::vector<kv::token_type> const& types_of(index tokens) {
    static std::vector<kv::token_type> types;
    if (std::ssize(types) == tokens) return types;
    types.assign(static_cast<std::size_t>(tokens), kv::token_type::text);
    std::fill(types.begin() + 32, types.begin() + tokens / 2, kv::token_type::visual);
    for (std::size_t t = static_cast<std::size_t>(tokens / 2); t < types.size(); t += 16)
        types[t] = kv::token_type::compression;
    return types;
}

template <class Stays>
slots by_types(prompt const& p, Stays stays) {
    auto const& types = types_of(p.tokens);
    std::vector<token> kept;
    for (std::size_t t = 0; t < types.size(); ++t)
        if (stays(t, types[t])) kept.push_back(static_cast<token>(t));
    return {kept};
}

slots meta_tokens_by_the_book(prompt const& p) {
    auto const recent = static_cast<std::size_t>(p.tokens - kv::meta_tokens{}.recent);
    return by_types(
        p, [=](std::size_t t, kv::token_type type) { return t >= recent || type == kv::token_type::compression; });
}

bool const added = [] {
    add_prompt_rows(
        "streaming-llm",
        {.ours = [](prompt const& p, arena& memory) { return streaming(p.layer(), memory); },
         .theirs = [](prompt const& p) -> slots { return {ends(p.tokens, streaming.sinks, streaming.recent)}; },
         .differ = 0,
         .peer = std_name("iota")});
    add_prompt_rows("duo-attention", {.ours = [](prompt const& p, arena& memory) { return duo(p.layer(), memory); },
                                      .theirs = duo_by_the_book,
                                      .differ = 0,
                                      .peer = std_name("iota")});
    add_prompt_rows("razor-attention", {.ours = [](prompt const& p, arena& memory) { return razor(p.layer(), memory); },
                                        .theirs = razor_by_the_book,
                                        .differ = 0,
                                        .peer = std_name("iota")});
    add_prompt_rows("moa", {.ours = [](prompt const& p, arena& memory) { return moa(p.layer(), memory); },
                            .theirs = moa_by_the_book,
                            .differ = 0,
                            .peer = std_name("iota")});
    add_prompt_rows("meta-tokens", {.ours = [](prompt const& p,
                                               arena& memory) { return kv::meta_tokens{}(types_of(p.tokens), memory); },
                                    .theirs = meta_tokens_by_the_book,
                                    .differ = 0,
                                    .peer = std_name("push_back")});
    add_prompt_rows(
        "voco-llama",
        {.ours = [](prompt const& p, arena& memory) { return kv::voco_llama{}(types_of(p.tokens), memory); },
         .theirs =
             [](prompt const& p) {
                 return by_types(p, [](std::size_t, kv::token_type type) { return type != kv::token_type::visual; });
             },
         .differ = 0,
         .peer = std_name("push_back")});
    return true;
}();

}  // namespace
}  // namespace terse::bench

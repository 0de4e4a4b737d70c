// Evictions of whole chunks, and of a prompt chunk by chunk.
#include <terse/core/arena.hpp>
#include <terse/kv/by_blocks.hpp>
#include <terse/kv/by_chunks.hpp>
#include <terse/kv/chunkkv.hpp>
#include <terse/kv/compact.hpp>
#include <terse/kv/finch.hpp>
#include <terse/kv/rotate.hpp>

#include "cli/layers.hpp"
#include "cli/method.hpp"

namespace cli {
namespace {

void chunkkv(case_input const& in, outputs& out) {
    auto const scores = scores_of(in);
    layer const l = bare_layer(scores.all.heads, scores.all.tokens);
    index const chunk = in.integer("chunk", 1), chunks = in.integer("chunks_kept");
    terse::kv::chunkkv<given_scores> const policy{
        .score = scores, .keep = chunks > 0 ? chunks * chunk : in.integer("budget", 1), .chunk = chunk, .exact = false};
    keep(policy, l, out);
}

/// What kvpress keeps of so many.
terse::budget::ratio press_budget(case_input const& in) {
    return {.keep = 1 - in.number("compression_ratio", 0, 1), .round = terse::budget::rounding::truncate};
}

void finch(case_input const& in, outputs& out) {
    layer const l = whole_layer(in, in.integer("window", 1));
    auto const& keys = l.keys;
    terse::kv::finch<terse::budget::ratio> const policy{.budget = press_budget(in),
                                                        .window = l.window(),
                                                        .chunk = in.integer("chunk_length"),
                                                        .normalise = in.flag("normalize_scores")};
    terse::arena memory;
    auto const kept = value(policy(l, memory));
    out.scores("scores", value(policy.scorer()(l, memory)), l.tokens() - policy.window);
    out.keep("keep", kept, l.kv_heads());
    out.rows("values", kept, l.values);
    if (!in.flag("rerotate_keys")) return out.rows("keys", kept, keys);
    std::vector<float> cache(keys.data, keys.data + keys.heads * keys.tokens * keys.dim);
    auto const own = terse::head_major(cache.data(), keys.heads, keys.tokens, keys.dim);
    check(terse::kv::compact(own, kept));
    check(terse::kv::renumber(own, kept, {}, rope_of(in, keys.dim)));
    index const count = kept[0].kept();
    std::vector<float> rows;
    for (index h = 0; h < keys.heads; ++h) rows.insert(rows.end(), own.row(h, 0), own.row(h, count));
    out.floats("keys", {keys.heads, count, keys.dim}, rows);
}

void block_press(case_input const& in, outputs& out) {
    layer const l = key_layer(in);
    with_scorer(in, [&]<class Score>(Score const& score) {
        terse::kv::by_blocks<Score> const policy{score, in.integer("budget", 1), in.integer("block", 1)};
        keep(policy, l, out);
    });
}

void chunk_press(case_input const& in, outputs& out) {
    layer const l = key_layer(in);
    with_scorer(in, [&]<class Score>(Score const& score) {
        terse::kv::by_chunks<Score> const policy{score, press_budget(in), in.integer("chunk", 1)};
        keep(policy, l, out);
    });
}

}  // namespace

std::vector<method> kv_chunks_methods() {
    parameter const budget{"budget", "tokens to keep for each head"};
    parameter const ratio{"compression_ratio", "share of the tokens to drop"};
    parameter const scorer{"scorer", "keydiff or knorm", "keydiff"};
    return {
        {"chunkkv",
         "",
         "kv",
         "Keeps whole chunks of tokens",
         {{"budget", "tokens to keep for each head where there is no whole chunk", 1},
          {"chunk", "tokens of a chunk", 20},
          {"chunks_kept", "chunks to keep"}},
         chunkkv},
        {"finch",
         "",
         "kv",
         "Keeps what the question attends to, and renumbers it",
         {ratio,
          {"window", "tokens of the question", 32},
          {"chunk_length", "tokens of a chunk, 0 for one", 0},
          {"normalize_scores", "count a query by the keys before it", true},
          {"rerotate_keys", "give the kept keys the positions they stand at", true},
          {"rope_layout", "half or interleaved", "half"}},
         finch},
        {"block-press",
         "",
         "kv",
         "Compresses a prompt block by block",
         {budget, scorer, {"block", "tokens of a block", 128}},
         block_press},
        {"chunk-press",
         "",
         "kv",
         "Compresses each chunk of a prompt by itself",
         {ratio, scorer, {"chunk", "tokens of a chunk", 1024}},
         chunk_press},
    };
}

}  // namespace cli

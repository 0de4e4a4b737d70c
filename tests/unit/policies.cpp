// The laws that every policy obeys, over a table that every policy enters.
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <functional>
#include <iomanip>
#include <map>
#include <sstream>
#include <string>

#include <terse/terse.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {
template <class T>
using call = std::function<result<plans>(random_layer<T> const& r, index keep, arena& memory, threads const& run)>;

/// One call for every storage.
struct decision {
    template <class Call>
    decision(Call const& c) : of_float{c}, of_half{c}, of_bfloat16{c} {}  // implicit: a row of the table is a lambda

    template <class T>
    result<plans> operator()(random_layer<T> const& r, index keep, arena& memory, threads const& run) const {
        if constexpr (std::same_as<T, float>) return of_float(r, keep, memory, run);
        if constexpr (std::same_as<T, half>) return of_half(r, keep, memory, run);
        if constexpr (std::same_as<T, bfloat16>) return of_bfloat16(r, keep, memory, run);
    }

    call<float> of_float;
    call<half> of_half;
    call<bfloat16> of_bfloat16;
};

/// One policy on one random input of `tokens` tokens that it may shorten to `keep`.
struct entry {
    std::string name;
    std::function<index(index tokens, index keep)> count;  ///< rows that it promises from shapes alone; none: nothing
    decision decide;
    bool selects = true;              ///< copies tokens, in their order
    bool partitions = true;           ///< no token is in two rows
    index smallest = 1;               ///< least budget it takes
    index leading = 0, trailing = 0;  ///< tokens that it must keep
    bool averages = true;             ///< the weights of a row sum to one

    [[nodiscard]] bool promises(index tokens, index keep, index kept) const {
        return !count || kept == count(tokens, keep);
    }
};

constexpr index heads = 4, kv_heads = 2, dim = 12;

/// A single plan as all heads' plan.
result<plans> one(result<plan> const& p, arena& memory) {
    if (!p) return p.error();
    auto const item = memory.take<plan>(1);
    if (!taken(item)) return errc::out_of_memory;
    std::construct_at(item.data(), *p);
    return plans{item};
}

template <class T>
tokens_view<T> first_head(random_layer<T> const& r) {
    return {r.keys.values.data(), r.keys.tokens, dim, dim};
}

index number(index n) { return n; }
index number(result<index> const& n) { return n.value(); }

template <class Make>
entry on_layer(std::string name, Make make, index smallest, index leading = 0, index trailing = 0) {
    return {name,
            [make](index n, index keep) { return number(make(keep).count(n)); },
            [make](auto const& r, index keep, arena& memory, threads const& run) {
                return make(keep)(r.view(), memory, run);
            },
            true,
            true,
            smallest,
            leading,
            trailing};
}

template <class Make>
entry on_tokens(std::string name, Make make, bool selects = true) {
    return {name, [make](index n, index keep) { return make(n, keep).count(n); },
            [make](auto const& r, index keep, arena& memory, threads const& run) {
                return one(make(r.keys.tokens, keep)(first_head(r), memory, run), memory);
            },
            selects};
}

/// From the moments of all queries.
entry on_moments() {
    auto const policy = [](index keep) { return kv::expected_attention{.keep = keep, .sinks = 1, .recent = 1}; };
    return {"kv::expected_attention",
            [policy](index n, index keep) { return policy(keep).count(n); },
            [policy](auto const& r, index keep, arena& memory, threads const& run) -> result<plans> {
                static constexpr std::array<float, 3> frequencies = {1, 0.1F, 0.01F};
                auto const mean = memory.take<float>(heads * dim), covariance = memory.take<float>(heads * dim * dim);
                if (!taken(mean, covariance)) return errc::out_of_memory;
                auto full = policy(keep);
                full.moments = {.mean = mean, .covariance = covariance, .heads = heads, .dim = dim};
                full.encoding = {frequencies};
                errc const error = full.moments.add(r.queries.by_head(), memory, run);
                if (error != errc::ok) return error;
                return full(r.view(), memory, run);
            },
            true,
            true,
            2,
            1,
            1};
}

/// The same for both heads, so that these can change places.
tokens_view<float> same_filters() {
    static std::vector<float> const filter = uniform(dim, 8);
    return {filter.data(), kv_heads, dim, 0};
}

/// The same memory with as many channels as there were tokens, for what selects channels.
template <class T>
layer<T> tokens_as_channels(random_layer<T> const& r) {
    return {.keys = head_major(r.keys.values.data(), kv_heads, dim, r.keys.tokens),
            .queries = head_major(r.queries.values.data(), heads, dim, r.keys.tokens)};
}
constexpr index fetching[] = {0, 2};  // what compresskv asks: the first of each kv head

/// Heads have equal shares: the laws are of counts known before.
struct even_adakv : kv::adakv<score::norm> {
    [[nodiscard]] index count(index tokens) const { return std::min(keep, tokens); }
};

/// The same projection of every head: heads differ by their keys alone.
kv::criticalkv<score::norm> critical(index keep) {
    static auto const weight = [] {
        auto w = random_tokens(5, heads * dim, 1);
        for (index m = 0; m < w.tokens; ++m)
            for (index c = dim; c < heads * dim; ++c) w.row(m)[c] = w.row(m)[c - dim];
        return w;
    }();
    return {.score = {.longest = true}, .projection = weight.view(), .keep = keep, .sinks = 1, .recent = 1};
}

template <class T>
layer<T> keys_as_values(random_layer<T> const& r) {
    auto l = r.view();
    l.values = l.keys;
    return l;
}

/// The whole input is the image.
prune::fastv fastv(index n, index keep) { return {.image_tokens = n, .keep = keep}; }

/// Windows of n / keep tokens in a row.
pool::average average(index n, index keep) {
    return {.grid = {.columns = n}, .kernel = {.columns = std::max<index>(n / keep, 1)}};
}

/// Of a partition the share that `keep` is of all.
kv::recursive_lagkv recursive_lagkv(index n, index keep) {
    double const share = static_cast<double>(keep) / static_cast<double>(std::max<index>(n, 1));
    return {.ratio = std::clamp(share, 0.0, 1.0), .sinks = 1, .lag = 4};
}

/// Blocks of at most n / keep tokens, as many as fit.
pool::unshuffle unshuffle(index n, index keep) {
    index side = std::max<index>(n / keep, 1);
    while (n % side != 0) --side;
    return {.grid = {.columns = n}, .factor = {.columns = side}};
}

/// All but the last `keep` tokens are an image, and the first after it holds what it saw.
std::vector<kv::token_type> image_and_text(index n, index keep) {
    auto const text = std::clamp<index>(keep, 0, n);
    std::vector<kv::token_type> types(static_cast<std::size_t>(n), kv::token_type::text);
    std::fill(types.begin(), types.end() - text, kv::token_type::visual);
    if (text > 0) types[static_cast<std::size_t>(n - text)] = kv::token_type::compression;
    return types;
}

/// One row stands for what goes.
kv::razor_attention razor(index keep) { return {.sinks = 2, .recent = keep - 3, .compression = max_tokens}; }

std::vector<entry> const& policies() {
    static std::vector<entry> const all = {
        on_layer(
            "kv::streaming_llm", [](index keep) { return kv::streaming_llm{.sinks = 2, .recent = keep - 2}; }, 3, 2, 1),
        on_layer(
            "kv::key_norm", [](index keep) { return kv::key_norm{.keep = keep, .sinks = 1, .recent = 2}; }, 3, 1, 2),
        on_layer(
            "kv::keydiff", [](index keep) { return kv::keydiff{.keep = keep, .sinks = 1, .recent = 2}; }, 3, 1, 2),
        on_layer(
            "kv::q_filter",
            [](index keep) { return kv::q_filter{.keep = keep, .filters = same_filters(), .sinks = 1, .recent = 2}; },
            3, 1, 2),
        on_layer(
            "kv::cur", [](index keep) { return kv::cur{.keep = keep, .sinks = 1, .recent = 2}; }, 3, 1, 2),
        on_layer(
            "kv::lagkv", [](index keep) { return kv::lagkv{.keep = keep, .sinks = 1, .lag = 4}; }, 1, 1),
        {"kv::recursive_lagkv", [](index n, index keep) { return recursive_lagkv(n, keep).count(n).value(); },
         [](auto const& r, index keep, arena& memory, threads const& run) {
             return recursive_lagkv(r.keys.tokens, keep)(r.view(), memory, run);
         },
         true, true, 1, 1},
        {"kv::threshold",
         {},
         [](auto const& r, index keep, arena& memory, threads const& run) {
             return kv::threshold<score::norm>{.least = -2, .sinks = 1, .recent = keep - 1}(r.view(), memory, run);
         },
         true,
         true,
         3,
         1,
         2},
        {"kv::think", [](index n, index keep) { return kv::think{.keep = keep}.count(n); },
         [](auto const& r, index keep, arena& memory, threads const& run) {
             return kv::think{.keep = keep, .window = dim}(tokens_as_channels(r), memory, run);
         }},
        on_layer(
            "kv::snapkv", [](index keep) { return kv::snapkv{.keep = keep, .window = 4}; }, 4, 0, 4),
        on_layer(
            "kv::r_kv", [](index keep) { return kv::r_kv{.keep = keep, .window = 4, .importance = 0.5F}; }, 4, 0, 4),
        on_layer(
            "kv::compresskv", [](index keep) { return kv::compresskv{.heads = fetching, .keep = keep, .window = 4}; },
            4, 0, 4),
        on_layer(
            "kv::tova", [](index keep) { return kv::tova{.keep = keep}; }, 1, 0, 1),
        on_layer(
            "kv::h2o", [](index keep) { return kv::h2o{.keep = keep, .recent = keep / 2}; }, 1),
        on_layer(
            "kv::leverage", [](index keep) { return kv::leverage{.keep = keep, .sinks = 1, .columns = 7}; }, 1, 1),
        on_layer(
            "kv::non_causal_attention",
            [](index keep) { return kv::non_causal_attention{.keep = keep, .recent = 1, .chunk = 9}; }, 1, 0, 1),
        on_layer(
            "kv::compactor",
            [](index keep) { return kv::compactor{.keep = keep, .sinks = 2, .recent = 1, .columns = 7, .chunk = 9}; },
            3, 2, 1),
        on_moments(),
        on_layer(
            "kv::scissorhands", [](index keep) { return kv::scissorhands{.keep = keep, .recent = 3, .sinks = 1}; }, 1),
        on_layer(
            "kv::ems", [](index keep) { return kv::ems{.keep = keep, .window = 4}; }, 4, 0, 4),
        on_layer(
            "kv::simlayerkv",
            [](index keep) {
                return kv::simlayerkv{
                    .threshold = -1, .recent = keep - 2, .sinks = 2, .judged = kv::simlayerkv::judged_recent::newest};
            },
            3, 2, 1),
        on_layer(
            "kv::prompt_distill", [](index keep) { return kv::prompt_distill{.keep = keep, .recent = 2}; }, 2, 0, 2),
        {"kv::zipvl", [](index n, index keep) { return std::min(n, keep); },
         [](auto const& r, index keep, arena& memory, threads const& run) {
             return kv::zipvl{.share = 0.9, .least = keep, .most = keep}(r.view(), memory, run);
         }},
        on_layer(
            "kv::adakv",
            [](index keep) { return even_adakv{{.keep = keep, .share = {.floor = 1}, .sinks = 1, .recent = 2}}; }, 3, 1,
            2),
        {"kv::criticalkv", [](index n, index keep) { return std::min(n, keep); },
         [](auto const& r, index keep, arena& memory, threads const& run) {
             return critical(keep)(keys_as_values(r), memory, run);
         },
         true, true, 2, 1, 1},
        on_layer(
            "kv::chunkkv",
            [](index keep) { return kv::chunkkv<score::norm>{.keep = keep, .chunk = 5, .sinks = 1, .recent = 2}; }, 3,
            1, 2),
        on_layer(
            "kv::by_blocks",
            [](index keep) { return kv::by_blocks<score::norm>{.keep = keep, .block = 5, .sinks = 1, .recent = 2}; }, 3,
            1, 2),
        on_layer(
            "kv::by_chunks",
            [](index keep) {
                return kv::by_chunks<score::norm, budget::fixed>{{}, {keep}, 8};
            },
            1),
        on_layer(
            "kv::finch",
            [](index keep) {
                return kv::finch<>{{keep}, 4};
            },
            4, 0, 4),
        on_layer(
            "kv::pyramidkv", [](index keep) { return kv::pyramidkv{.keep = keep, .layers = 3, .window = 4}; }, 4, 0, 4),
        on_layer(
            "kv::block_eviction",
            [](index keep) {
                return kv::block_eviction{
                    .keep = keep, .sinks = 1, .recent = 2, .block = 1, .snapkv_window = 4, .pool = 3};
            },
            4, 1, 2),
        on_layer(
            "kv::block_eviction/adaptive_rkv",
            [](index keep) {
                return kv::block_eviction{.keep = keep,
                                          .sinks = 1,
                                          .recent = 2,
                                          .block = 1,
                                          .aggregation = kv::block_aggregation::adaptive_rkv,
                                          .snapkv_window = 4,
                                          .mass = 0.2};
            },
            4, 1, 2),
        on_layer(
            "kv::duo_attention", [](index keep) { return kv::duo_attention{.sinks = 2, .recent = keep - 2}; }, 3, 2, 1),
        {"kv::razor_attention", [](index n, index keep) { return razor(keep).count(n); },
         [](auto const& r, index keep, arena& memory, threads const& run) {
             return razor(keep)(r.view(), memory, run);
         },
         false, true, 3},
        {"kv::moa", [](index n, index keep) { return std::min(n, keep); },
         [](auto const& r, index keep, arena& memory, threads const& run) {
             std::vector<budget::elastic_span> const spans(heads, {static_cast<double>(keep), 0});
             return kv::moa{.spans = spans, .sinks = 2, .minimum = keep, .multiple = 1, .coming = 0}(r.view(), memory,
                                                                                                     run);
         },
         true, true, 3, 2, 1},
        {"kv::meta_tokens", [](index n, index keep) { return std::min(n, keep); },
         [](auto const& r, index keep, arena& memory, threads const&) {
             std::vector<kv::token_type> const types(static_cast<std::size_t>(r.keys.tokens), kv::token_type::text);
             return kv::meta_tokens{.sinks = 2, .recent = keep - 2}(types, memory);
         },
         true, true, 3, 2, 1},
        {"kv::voco_llama", [](index n, index keep) { return keep == 0 ? n : std::min(n, keep); },
         [](auto const& r, index keep, arena& memory, threads const&) {
             return kv::voco_llama{.keep = keep}(image_and_text(r.keys.tokens, keep), memory);
         },
         true, true, 0},
        on_layer(
            "kv::deep_forcing",
            [](index
                   keep) { return kv::deep_forcing{.frame = 1, .capacity = 1, .keep = keep, .sinks = 1, .recent = 2}; },
            3, 1, 2),
        on_tokens("prune::top_k", [](index, index keep) { return prune::top_k<score::norm>{.keep = keep}; }),
        on_tokens("prune::divprune", [](index, index keep) { return prune::divprune{.keep = keep}; }),
        {"prune::fastv", [](index n, index keep) { return fastv(n, keep).count(n); },
         [](auto const& r, index keep, arena& memory, threads const& run) {
             return one(fastv(r.keys.tokens, keep)(r.view(), memory, run), memory);
         }},
        on_tokens(
            "merge::tome", [](index n, index keep) { return merge::tome{.remove = std::max<index>(n - keep, 0)}; },
            false),
        on_tokens(
            "merge::tome_kth",
            [](index n,
               index keep) { return merge::tome_kth{.every = std::max<index>(n / keep, 1), .keep_tail = true}; },
            false),
        {"pool::average", [](index n, index keep) { return average(n, keep).count(n).value(); },
         [](auto const& r, index keep, arena& memory, threads const&) {
             return one(average(r.keys.tokens, keep)(r.keys.tokens, memory), memory);
         },
         false},
        {"pool::adaptive_average", [](index n, index keep) { return std::min(n, keep); },
         [](auto const& r, index keep, arena& memory, threads const&) {
             index const n = r.keys.tokens;
             return one(
                 pool::adaptive_average{.grid = {.columns = n}, .out = {.columns = std::min(n, keep)}}(n, memory),
                 memory);
         },
         false, false},
        {"pool::unshuffle", [](index n, index keep) { return unshuffle(n, keep).count(n).value(); },
         [](auto const& r, index keep, arena& memory, threads const&) {
             return one(unshuffle(r.keys.tokens, keep)(r.keys.tokens, memory), memory);
         },
         false, true, 1, 0, 0, false},
    };
    return all;
}

constexpr index sizes_to_try[] = {1, 2, 3, 7, 16, 33, 70};
}  // namespace

TEST_CASE("every policy's plan is valid, of the promised size, and the same for any workers", "[laws]") {
    for (entry const& policy : policies()) {
        for (index const n : sizes_to_try) {
            for (index const keep : {index{1}, index{4}, n / 2, n - 1, n, n + 5}) {
                if (keep < policy.smallest) continue;
                CAPTURE(policy.name, n, keep);
                random_layer<> const r{heads, kv_heads, n, dim, n, static_cast<unsigned>(n)};
                arena memory;
                auto const got = policy.decide(r, keep, memory, threads{1});
                REQUIRE(got);
                for (plan const& p : got->items) {
                    REQUIRE(is_valid(p));
                    REQUIRE(p.tokens == n);
                    REQUIRE(policy.promises(n, keep, p.kept()));
                    if (policy.averages) REQUIRE(p.is_row_stochastic());
                    if (policy.selects) {
                        REQUIRE(p.is_selection());
                        REQUIRE(p.keeps_order());
                        for (index t = 0; t < std::min(policy.leading, p.kept()); ++t)
                            REQUIRE(p.sources[static_cast<std::size_t>(t)] == t);
                        for (index t = 1; t <= std::min(policy.trailing, p.kept()); ++t)
                            REQUIRE(p.sources[static_cast<std::size_t>(p.kept() - t)] == n - t);
                    }
                    if (policy.partitions) REQUIRE(p.is_partition());
                    // Keeping all is the identity: as many rows, each its own token.
                    if (keep >= n) {
                        REQUIRE(p.kept() == n);
                        for (index i = 0; i < n; ++i)
                            REQUIRE(list(p.row(i).sources) == tokens_list{static_cast<token>(i)});
                    }
                }
                for (index const workers : worker_counts) {
                    auto const again = policy.decide(r, keep, memory, threads{workers});
                    REQUIRE(again->items.size() == got->items.size());
                    for (std::size_t h = 0; h < got->items.size(); ++h)
                        require_same_plan(again->items[h], got->items[h]);
                }
            }
        }
    }
}

TEST_CASE("every policy takes NaN, infinities and zero rows without harm", "[laws]") {
    for (entry const& policy : policies()) {
        for (float const poison : {not_a_number, infinity, -infinity, 0.0F, 3e38F}) {
            CAPTURE(policy.name, poison);
            random_layer<> r{heads, kv_heads, 24, dim, 24, 6};
            std::fill_n(r.keys.row(5), 2 * dim, poison);
            std::fill_n(r.queries.row(23, 1), dim, poison);
            arena memory;
            auto const got = policy.decide(r, 8, memory, threads{1});
            REQUIRE(got);
            for (plan const& p : got->items) {
                REQUIRE(is_valid(p));
                REQUIRE(policy.promises(24, 8, p.kept()));
            }
            std::fill(r.keys.values.begin(), r.keys.values.end(), poison);
            REQUIRE(policy.decide(r, 8, memory, threads{1}));
        }
    }
}

TEST_CASE("every policy works in fixed memory of its peak, and fails cleanly below", "[laws]") {
    random_layer<> const r{heads, kv_heads, 40, dim, 40, 2};
    for (entry const& policy : policies()) {
        CAPTURE(policy.name);
        require_exact_peak([&](arena& memory) {
            rollback undo{memory};
            auto const got = policy.decide(r, 12, memory, threads{2});
            if (got) undo.keep();
            return got;
        });
    }
}

TEST_CASE("every policy takes an empty input and refuses a budget of none", "[laws]") {
    random_layer<> const nothing{heads, kv_heads, 0, dim, 0, 1}, r{heads, kv_heads, 9, dim, 9, 1};
    for (entry const& policy : policies()) {
        CAPTURE(policy.name);
        arena memory;
        auto const got = policy.decide(nothing, 8, memory, threads{1});
        if (policy.name.starts_with("pool")) continue;  // no grid has no cells
        REQUIRE(got);
        CHECK((*got)[0].kept() == 0);
        if (policy.selects) {
            if (policy.smallest > 0) CHECK(policy.decide(r, 0, memory, threads{1}).error() == errc::bad_budget);
            CHECK(policy.decide(r, -3, memory, threads{1}).error() == errc::bad_budget);
        }
    }
}

TEST_CASE("a permuted kv head gets the permuted plan", "[laws]") {
    random_layer<> const r{heads, kv_heads, 30, dim, 30, 3};
    random_layer<> swapped = r;
    for (index t = 0; t < 30; ++t) {
        for (index c = 0; c < dim; ++c) {
            std::swap(swapped.keys.row(t, 0)[c], swapped.keys.row(t, 1)[c]);
            std::swap(swapped.values.row(t, 0)[c], swapped.values.row(t, 1)[c]);
            for (index h = 0; h < 2; ++h) std::swap(swapped.queries.row(t, h)[c], swapped.queries.row(t, h + 2)[c]);
        }
    }
    for (entry const& policy : policies()) {
        if (!policy.name.starts_with("kv")) continue;
        CAPTURE(policy.name);
        arena memory;
        auto const a = policy.decide(r, 10, memory, threads{1}).value();
        auto const b = policy.decide(swapped, 10, memory, threads{1}).value();
        require_same_plan(a[0], b[1]);
        require_same_plan(a[1], b[0]);
    }
}

/// All that a plan says, in 64 bits (FNV-1a).
class digest {
  public:
    void add(plans const& all) {
        add(all.items.size());
        for (plan const& p : all.items) {
            add(static_cast<std::uint64_t>(p.tokens));
            for (auto const& numbers : {p.offsets, p.sources, p.anchor, p.owner}) {
                add(numbers.size());
                for (auto const n : numbers) add(static_cast<std::uint64_t>(n));
            }
            for (float const w : p.weights) add(std::bit_cast<std::uint32_t>(w));
        }
    }
    [[nodiscard]] std::string text() const {
        std::ostringstream out;
        out << std::hex << std::setw(16) << std::setfill('0') << state_;
        return out.str();
    }

  private:
    void add(std::uint64_t number) {
        for (int byte = 0; byte < 8; ++byte, number >>= 8) state_ = (state_ ^ (number & 0xFF)) * 0x100000001B3;
    }

    std::uint64_t state_ = 0xCBF29CE484222325;
};

constexpr index digest_tokens = 70, digest_keep = 16;
constexpr unsigned digest_seed = 5;

/// Values that all storages hold exactly, so that all must decide the same.
template <class T>
random_layer<T> coarse_layer() {
    random_layer<> exact{heads, kv_heads, digest_tokens, dim, digest_tokens, digest_seed};
    for (auto* const t : {&exact.keys, &exact.values, &exact.queries})
        for (float& x : t->values) x = std::round(x * 32) / 32;
    random_layer<T> r{heads, kv_heads, digest_tokens, dim, digest_tokens, digest_seed};
    r.keys = cast<T>(exact.keys), r.values = cast<T>(exact.values), r.queries = cast<T>(exact.queries);
    return r;
}

template <class T>
std::string digest_of(entry const& policy, random_layer<T> const& r) {
    arena memory;
    digest d;
    d.add(policy.decide(r, digest_keep, memory, threads{1}).value());
    return d.text();
}

TEST_CASE("every policy's plan is the same on every architecture and in every storage", "[laws][digests]") {
    std::map<std::string, std::string> expected;
    std::ifstream in{TERSE_SOURCE_DIR "/tests/digests.txt"};
    for (std::string name, value; in >> name >> value;) expected[name] = value;
    REQUIRE(!expected.empty());
    for (entry const& policy : policies()) {
        CAPTURE(policy.name);
        auto const r = coarse_layer<float>();
        auto const got = digest_of(policy, r);
        // Without near-ties: what another architecture's order of sums may change, changes no plan.
        for (unsigned seed = 1; seed <= 8; ++seed) {
            CAPTURE(seed);
            auto near = r;
            for (auto* const t : {&near.keys, &near.values, &near.queries}) {
                auto const noise = uniform(std::ssize(t->values), seed, 1 - 2e-5F, 1 + 2e-5F);
                for (std::size_t i = 0; i < noise.size(); ++i) t->values[i] *= noise[i];
            }
            CHECK(digest_of(policy, near) == got);
        }
        CHECK(got == expected[policy.name]);
        CHECK(digest_of(policy, coarse_layer<half>()) == got);
        CHECK(digest_of(policy, coarse_layer<bfloat16>()) == got);
    }
}
}  // namespace terse::test

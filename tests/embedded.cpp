// What an engine without exceptions, RTTI or hidden allocation gets: every policy runs, a growing arena allocates for
// the first call only, a fixed one never, and nothing else allocates at all. Built for every x86-64, it holds no
// instruction of another: kernels of all storages and bits are here for that, too.
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <span>

#include <terse/core/thread_pool.hpp>
#include <terse/simd/dot_quantised.hpp>
#include <terse/simd/quantise.hpp>
#include <terse/terse.hpp>

namespace {
int allocations = 0;

void* counted(std::size_t bytes, std::size_t alignment) noexcept {
    ++allocations;
    return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}
}  // namespace

void* operator new(std::size_t bytes) { return counted(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::nothrow_t const&) noexcept {
    return counted(bytes, alignof(std::max_align_t));
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
    return counted(bytes, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t bytes, std::align_val_t alignment, std::nothrow_t const&) noexcept {
    return counted(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

namespace {
constexpr terse::index kv_heads = 2, heads = 4, tokens = 96, dim = 40, window = 8;

template <class T>
std::array<T, kv_heads * tokens * dim> keys{};
template <class T>
std::array<T, heads * tokens * dim> queries{};
template <class T>
std::array<T, tokens * dim> out{};
std::array<float, kv_heads * tokens> sums{};
alignas(64) std::array<std::byte, std::size_t{1} << 20> fixed{};

template <class T = float>
terse::layer<T> whole_prompt() {
    auto const all = terse::head_major(std::as_const(keys<T>).data(), kv_heads, tokens, dim);
    return {
        .keys = all, .values = all, .queries = terse::head_major(std::as_const(queries<T>).data(), heads, tokens, dim)};
}

struct check {
    char const* name;
    bool (*run)(terse::arena& memory);
};

template <class T = float, class Policy>
bool evicts(Policy const& policy, terse::arena& memory) {
    auto const plans = policy(whole_prompt<T>(), memory);
    return plans && (*plans)[0].kept() == policy.count(tokens);
}

template <class T = float>
bool reduces(terse::result<terse::plan> const& p, terse::index kept, terse::arena& memory) {
    auto const x = terse::view(std::as_const(keys<T>).data(), tokens, dim);
    auto const y = terse::view(out<T>.data(), kept, dim);
    return p && p->kept() == kept && terse::apply(*p, x, y) == terse::errc::ok &&
           terse::compose(*p, *terse::keep_all(tokens, memory), memory);
}

template <class T = float>
terse::tokens_view<T> tokens_in() {
    return terse::view(std::as_const(keys<T>).data(), tokens, dim);
}

constexpr check checks[] = {
    {"kv::streaming_llm", [](terse::arena& m) { return evicts(terse::kv::streaming_llm{.recent = 20}, m); }},
    {"kv::key_norm", [](terse::arena& m) { return evicts(terse::kv::key_norm{.keep = 20}, m); }},
    {"kv::keydiff", [](terse::arena& m) { return evicts(terse::kv::keydiff{.keep = 20}, m); }},
    {"kv::q_filter",
     [](terse::arena& m) {
         auto const filters = terse::view(std::as_const(queries<float>).data(), kv_heads, dim);
         return evicts(terse::kv::q_filter{.keep = 20, .filters = filters}, m);
     }},
    {"kv::cur", [](terse::arena& m) { return evicts(terse::kv::cur{.keep = 20}, m); }},
    {"kv::lagkv", [](terse::arena& m) { return evicts(terse::kv::lagkv{.keep = 20, .lag = 8}, m); }},
    {"kv::recursive_lagkv",
     [](terse::arena& m) {
         terse::kv::recursive_lagkv const policy{.sinks = 4, .lag = 8};
         auto const plans = policy(whole_prompt(), m);
         return plans && (*plans)[0].kept() == *policy.count(tokens) && (*plans)[0].kept() < tokens;
     }},
    {"kv::threshold",
     [](terse::arena& m) {
         auto const plans = terse::kv::threshold<terse::score::norm>{.least = -3.5F, .recent = 8}(whole_prompt(), m);
         return plans && (*plans)[0].kept() > 8 && (*plans)[0].kept() < tokens;
     }},
    {"kv::think",
     [](terse::arena& m) {
         auto const plans = terse::kv::think{.keep = 16, .window = window}(whole_prompt(), m);
         if (!plans || (*plans)[0].kept() != 16) return false;
         auto const thin = terse::head_major(out<float>.data(), kv_heads, tokens, 16);
         return terse::kv::gather_channels(whole_prompt().keys, thin, *plans, kv_heads) == terse::errc::ok;
     }},
    {"kv::snapkv", [](terse::arena& m) { return evicts(terse::kv::snapkv{.keep = 20, .window = window}, m); }},
    {"kv::r_kv", [](terse::arena& m) { return evicts(terse::kv::r_kv{.keep = 20, .window = window}, m); }},
    {"kv::compresskv",
     [](terse::arena& m) {
         static constexpr terse::index voting[] = {0, 1};
         return evicts(terse::kv::compresskv{.heads = voting, .keep = 20, .window = window}, m);
     }},
    {"kv::tova", [](terse::arena& m) { return evicts(terse::kv::tova{.keep = 20}, m); }},
    {"kv::h2o", [](terse::arena& m) { return evicts(terse::kv::h2o{.keep = 20, .recent = 10}, m); }},
    {"kv::scissorhands", [](terse::arena& m) { return evicts(terse::kv::scissorhands{.keep = 20}, m); }},
    {"kv::hit_counts",
     [](terse::arena& m) {
         terse::kv::hit_counts state{.values = sums, .heads = kv_heads, .capacity = tokens};
         terse::kv::scissorhands const policy{.keep = 20};
         if (policy.observe(state, whole_prompt(), m) != terse::errc::ok) return false;
         auto const plans = policy(state, m);
         return plans && state.compact(*plans) == terse::errc::ok && state.tokens() == 20;
     }},
    {"kv::ems", [](terse::arena& m) { return evicts(terse::kv::ems{.keep = 20, .window = window}, m); }},
    {"kv::zipvl",
     [](terse::arena& m) {
         auto const plans = terse::kv::zipvl{.most = 20}(whole_prompt(), m);
         return plans && (*plans)[0].kept() <= 20;
     }},
    {"kv::simlayerkv", [](terse::arena& m) { return evicts(terse::kv::simlayerkv{.threshold = 0, .recent = 20}, m); }},
    {"kv::prompt_distill", [](terse::arena& m) { return evicts(terse::kv::prompt_distill{.keep = 20}, m); }},
    {"kv::adakv",
     [](terse::arena& m) {
         auto const plans = terse::kv::adakv<terse::score::norm>{.keep = 20}(whole_prompt(), m);
         return plans && (*plans)[0].kept() + (*plans)[1].kept() == 2 * 20;
     }},
    {"kv::criticalkv",
     [](terse::arena& m) {
         auto const projection = terse::view(std::as_const(queries<float>).data(), 6, heads * dim);
         return evicts(terse::kv::criticalkv<terse::score::norm>{.projection = projection, .keep = 20}, m);
     }},
    {"kv::chunkkv",
     [](terse::arena& m) { return evicts(terse::kv::chunkkv<terse::score::norm>{.keep = 20, .chunk = 6}, m); }},
    {"kv::by_blocks",
     [](terse::arena& m) { return evicts(terse::kv::by_blocks<terse::score::norm>{.keep = 20, .block = 16}, m); }},
    {"kv::by_chunks",
     [](terse::arena& m) {
         terse::kv::by_chunks<terse::score::norm> const policy{.budget = {.keep = 0.25}, .chunk = 16};
         auto const plans = policy(whole_prompt(), m);
         return plans && (*plans)[0].kept() == tokens / 4;
     }},
    {"kv::finch",
     [](terse::arena& m) {
         auto const plans = terse::kv::finch<>{.budget = {20}, .window = window}(whole_prompt(), m);
         return plans && (*plans)[0].kept() == 20;
     }},
    {"kv::pyramidkv",
     [](terse::arena& m) {
         terse::kv::pyramidkv const policy{.keep = 20, .layers = 4, .window = window};
         auto const plans = policy(whole_prompt(), m);
         return plans && (*plans)[0].kept() == *policy.count(tokens);
     }},
    {"kv::column_sums",
     [](terse::arena& m) {
         terse::kv::column_sums state{.values = sums, .heads = kv_heads, .capacity = tokens};
         if (state.add(whole_prompt(), m) != terse::errc::ok) return false;
         auto const plans = terse::kv::h2o{.keep = 20, .recent = 10}(state, m);
         return plans && state.compact(*plans) == terse::errc::ok && state.tokens() == 20;
     }},
    {"kv::leverage", [](terse::arena& m) { return evicts(terse::kv::leverage{.keep = 20, .columns = 12}, m); }},
    {"kv::non_causal_attention",
     [](terse::arena& m) { return evicts(terse::kv::non_causal_attention{.keep = 20, .chunk = 32}, m); }},
    {"kv::compactor",
     [](terse::arena& m) { return evicts(terse::kv::compactor{.keep = 20, .columns = 12, .chunk = 32}, m); }},
    {"kv::expected_attention",
     [](terse::arena& m) {
         static std::array<float, heads * dim> mean;
         static std::array<float, heads * dim * dim> covariance;
         terse::kv::query_moments moments{.mean = mean, .covariance = covariance, .heads = heads, .dim = dim};
         return moments.add(whole_prompt().queries, m) == terse::errc::ok &&
                evicts(terse::kv::expected_attention{.keep = 20, .moments = moments}, m);
     }},
    {"kv::h2o::step",
     [](terse::arena&) {
         static std::array<terse::token, kv_heads> slots;
         terse::kv::column_sums state{.values = sums, .heads = kv_heads, .capacity = tokens, .used = tokens};
         auto const attention = terse::head_major<float const>(keys<float>.data(), kv_heads, 1, tokens);
         terse::kv::h2o const policy{.keep = tokens - 1, .recent = 10};
         return policy.step(state, attention, tokens - 1, slots) == terse::errc::ok && slots[0] < tokens - 10;
     }},
    {"kv::block_eviction",
     [](terse::arena& m) {
         return evicts(terse::kv::block_eviction{.keep = 32, .sinks = 8, .recent = 8, .block = 8, .rescued = 2}, m);
     }},
    {"kv::block_eviction, adaptive_rkv",
     [](terse::arena& m) {
         return evicts(terse::kv::block_eviction{.keep = 32,
                                                 .sinks = 8,
                                                 .recent = 8,
                                                 .block = 8,
                                                 .aggregation = terse::kv::block_aggregation::adaptive_rkv,
                                                 .mass = 0.1},
                       m);
     }},
    {"kv::pack",
     [](terse::arena& m) {
         auto const plans = terse::kv::key_norm{.keep = 20}(whole_prompt(), m);
         return plans && terse::kv::pack(*plans, 8, m)->table.kept() == 3;
     }},
    {"kv::ledger",
     [](terse::arena& m) {
         using books = terse::kv::ledger<float>;
         alignas(64) static std::array<std::byte, 8192> memory;
         auto opened = books::open({.kv_heads = kv_heads, .capacity = tokens}, memory);
         if (!opened) return false;
         books all = *opened;
         if (all.append(tokens) != terse::errc::ok) return false;
         auto const e = all.evict_if_needed(terse::kv::key_norm{.keep = 20}, whole_prompt(), {}, m);
         return e && e->evicts() && all.commit(*e) == terse::errc::ok && all.longest() == 20;
     }},
    {"kv::ring",
     [](terse::arena&) {
         terse::kv::ring r{.sinks = 4, .recent = tokens - 4};
         auto const cache = terse::head_major(std::as_const(keys<float>).data(), kv_heads, tokens, dim);
         return r.append(tokens) == terse::errc::ok && r.append(7) == terse::errc::ok &&
                terse::kv::in_order(cache, r)->row(1, 4) == cache.row(1, 11);
     }},
    {"kv::moves",
     [](terse::arena& m) {
         auto const plans = terse::kv::streaming_llm{.recent = 20}(tokens, m);
         auto const list = plans ? terse::kv::moves((*plans)[0], m) : plans.error();
         return list && list->size() == 1 && list->front() == terse::kv::row_move{tokens - 20, 4, 20};
     }},
    {"kv::key_norm in 8 bit",
     [](terse::arena& m) {
         static std::array<std::int8_t, kv_heads * tokens * 32> codes;
         static std::array<float, kv_heads * tokens> scales;
         auto const row = [](terse::index t) { return keys<float>.data() + t * dim; };
         terse::simd::quantise_int8(kv_heads * tokens, row, 32, 32, codes.data(), scales.data());
         terse::layer<float, terse::quantised_view<float>> l{};
         l.keys = terse::quantised(terse::head_major(std::as_const(codes).data(), kv_heads, tokens, 32),
                                   terse::head_major(std::as_const(scales).data(), kv_heads, tokens, 1), 32);
         auto const plans = terse::kv::key_norm{.keep = 20}(l, m);
         auto const cache = terse::quantised(terse::head_major(codes.data(), kv_heads, tokens, 32),
                                             terse::head_major(scales.data(), kv_heads, tokens, 1), 32);
         return plans && terse::kv::compact(cache, *plans) == terse::errc::ok;
     }},
    {"an engine's thread pool",
     [](terse::arena& m) {
         return terse::kv::snapkv{.keep = 20, .window = window}(whole_prompt(), m, terse::thread_pool{}).error() ==
                terse::errc::ok;
     }},
    {"kv::duo_attention",
     [](terse::arena& m) { return evicts(terse::kv::duo_attention{.sinks = 4, .recent = 20}, m); }},
    {"kv::razor_attention", [](terse::arena& m) { return evicts(terse::kv::razor_attention{.recent = 20}, m); }},
    {"kv::moa",
     [](terse::arena& m) {
         static constexpr std::array<terse::budget::elastic_span, heads> spans = {{{0, .25}, {8, 0}, {0, .5}, {4, 0}}};
         auto const plans =
             terse::kv::moa{.spans = spans, .sinks = 4, .minimum = 1, .multiple = 8, .coming = 0}(whole_prompt(), m);
         return plans && (*plans)[0].kept() == 24 && (*plans)[1].kept() == 48;
     }},
    {"kv::voco_llama",
     [](terse::arena& m) {
         constexpr std::array types = {terse::kv::token_type::visual, terse::kv::token_type::compression};
         auto const plans = terse::kv::voco_llama{}(types, m);
         return plans && (*plans)[0].kept() == 1;
     }},
    {"kv::meta_tokens",
     [](terse::arena& m) {
         static constexpr auto types = [] {
             std::array<terse::kv::token_type, tokens> all{};
             all[40] = terse::kv::token_type::compression;
             return all;
         }();
         auto const plans = terse::kv::meta_tokens{.sinks = 4, .recent = 20}(types, m);
         return plans && (*plans)[0].kept() == 25;
     }},
    {"kv::deep_forcing",
     [](terse::arena& m) {
         return evicts(terse::kv::deep_forcing{.frame = 8, .capacity = 12, .keep = 8, .sinks = 4, .recent = 2}, m);
     }},
    {"merge::tome", [](terse::arena& m) { return reduces(terse::merge::tome{.remove = 16}(tokens_in(), m), 80, m); }},
    {"merge::tome_kth",
     [](terse::arena& m) { return reduces(terse::merge::tome_kth{.every = 4}(tokens_in(), m), 24, m); }},
    {"prune::top_k",
     [](terse::arena& m) { return reduces(terse::prune::top_k<terse::score::norm>{.keep = 9}(tokens_in(), m), 9, m); }},
    {"prune::divprune",
     [](terse::arena& m) { return reduces(terse::prune::divprune{.keep = 9}(tokens_in(), m), 9, m); }},
    {"prune::fastv",
     [](terse::arena& m) {
         return reduces(terse::prune::fastv{.image_start = 10, .image_tokens = 40, .keep = 9}(whole_prompt(), m), 65,
                        m);
     }},
    {"pool::average",
     [](terse::arena& m) {
         return reduces(
             terse::pool::average{.grid = {.rows = 8, .columns = 12}, .kernel = {.rows = 2, .columns = 2}}(tokens, m),
             24, m);
     }},
    {"pool::adaptive_average",
     [](terse::arena& m) {
         return reduces(terse::pool::adaptive_average{.grid = {.rows = 8, .columns = 12},
                                                      .out = {.rows = 3, .columns = 5}}(tokens, m),
                        15, m);
     }},
    {"pool::unshuffle",
     [](terse::arena& m) {
         return reduces(
             terse::pool::unshuffle{.grid = {.rows = 8, .columns = 12}, .factor = {.rows = 2, .columns = 3}}(tokens, m),
             16, m);
     }},
};

/// The kernels that read keys, queries and tokens, in their storage.
template <class T>
constexpr check in_storage[] = {
    {"norms", [](terse::arena& m) { return evicts<T>(terse::kv::key_norm{.keep = 20}, m); }},
    {"differences", [](terse::arena& m) { return evicts<T>(terse::kv::keydiff{.keep = 20}, m); }},
    {"attention", [](terse::arena& m) { return evicts<T>(terse::kv::snapkv{.keep = 20, .window = window}, m); }},
    {"similarities and means",
     [](terse::arena& m) { return reduces<T>(terse::merge::tome{.remove = 16}(tokens_in<T>(), m), 80, m); }},
    {"products with keys in 8 and 4 bit",
     [](terse::arena&) {
         static std::array<std::int8_t, tokens * 32> bytes;
         static std::array<std::uint8_t, tokens * 16> nibbles;
         static std::array<T, tokens> scales, minima;
         static std::array<std::int8_t, 32> codes;
         static std::array<float, tokens> in_8_bit, in_4_bit;
         auto const row = [](terse::index t) { return keys<T>.data() + t * dim; };
         auto const scale = [](terse::index t) { return scales.data() + t; };
         auto const minimum = [](terse::index t) { return minima.data() + t; };
         float query_scale = 0, sum = 0;
         terse::simd::quantise_query(queries<T>.data(), 32, 32, codes.data(), &query_scale, &sum);
         terse::simd::quantised_query const query{codes.data(), &query_scale, &sum};
         terse::simd::quantise_int8(tokens, row, 32, 32, bytes.data(), scales.data());
         terse::simd::dot_int8(
             tokens, [](terse::index t) { return bytes.data() + t * 32; }, scale, query, 32, 32, in_8_bit.data());
         terse::simd::quantise_int4(tokens, row, 32, 32, nibbles.data(), scales.data(), minima.data());
         terse::simd::dot_int4(
             tokens, [](terse::index t) { return nibbles.data() + t * 16; }, scale, minimum, query, 32, 32,
             in_4_bit.data());
         for (std::size_t t = 0; t < tokens; ++t)
             if (std::abs(in_8_bit[t] - in_4_bit[t]) > 1) return false;
         return in_8_bit[0] != 0;
     }},
};

template <class T>
void fill() {
    unsigned state = 1;
    for (auto const values : {std::span<T>{keys<T>}, std::span<T>{queries<T>}}) {
        for (T& x : values) {
            state = state * 1664525U + 1013904223U;
            x = static_cast<T>(static_cast<float>(state >> 8) / 8388608.0F - 1.0F);
        }
    }
}

/// How many checks fail.
int failures_of(std::span<check const> all, char const* storage) {
    int failures = 0;
    auto const expect = [&](bool right, char const* name, char const* what) {
        if (!right) {
            ++failures;
            std::printf("%s, %s: %s\n", name, storage, what);
        }
    };
    for (auto const& [name, run] : all) {
        terse::arena growing;
        expect(run(growing), name, "failed");
        growing.rewind();
        allocations = 0;
        expect(run(growing), name, "failed the second time");
        expect(allocations == 0, name, "allocated the second time");

        terse::arena bounded{fixed};
        allocations = 0;
        expect(run(bounded), name, "failed in fixed memory");
        expect(allocations == 0, name, "allocated with fixed memory");
    }
    return failures;
}
}  // namespace

int main() {
    fill<float>(), fill<terse::half>(), fill<terse::bfloat16>();
    return failures_of(checks, "f32") + failures_of(in_storage<float>, "f32") +
           failures_of(in_storage<terse::half>, "f16") + failures_of(in_storage<terse::bfloat16>, "bf16");
}

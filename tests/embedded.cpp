// What an engine without exceptions, RTTI or hidden allocation gets: every policy runs, a growing arena allocates for
// the first call only, a fixed one never, and nothing else allocates at all.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <span>

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

std::array<float, kv_heads * tokens * dim> keys{};
std::array<float, heads * tokens * dim> queries{};
std::array<float, tokens * dim> out{};
std::array<float, kv_heads * tokens> sums{};
alignas(64) std::array<std::byte, std::size_t{1} << 20> fixed{};

terse::layer<float> whole_prompt() {
    return {.keys = terse::head_major(std::as_const(keys).data(), kv_heads, tokens, dim),
            .queries = terse::head_major(std::as_const(queries).data(), heads, tokens, dim)};
}

struct check {
    char const* name;
    bool (*run)(terse::arena& memory);
};

template <class Policy>
bool evicts(Policy const& policy, terse::arena& memory) {
    auto const plans = policy(whole_prompt(), memory);
    return plans && (*plans)[0].kept() == policy.count(tokens);
}

bool reduces(terse::result<terse::plan> const& p, terse::index kept, terse::arena& memory) {
    auto const x = terse::view(std::as_const(keys).data(), tokens, dim);
    auto const y = terse::view(out.data(), kept, dim);
    return p && p->kept() == kept && terse::apply(*p, x, y) == terse::errc::ok &&
           terse::compose(*p, *terse::keep_all(tokens, memory), memory);
}

terse::tokens_view<float> tokens_in() { return terse::view(std::as_const(keys).data(), tokens, dim); }

constexpr check checks[] = {
    {"kv::streaming_llm", [](terse::arena& m) { return evicts(terse::kv::streaming_llm{.recent = 20}, m); }},
    {"kv::key_norm", [](terse::arena& m) { return evicts(terse::kv::key_norm{.keep = 20}, m); }},
    {"kv::snapkv", [](terse::arena& m) { return evicts(terse::kv::snapkv{.keep = 20, .window = window}, m); }},
    {"kv::tova", [](terse::arena& m) { return evicts(terse::kv::tova{.keep = 20}, m); }},
    {"kv::h2o", [](terse::arena& m) { return evicts(terse::kv::h2o{.keep = 20, .recent = 10}, m); }},
    {"kv::column_sums",
     [](terse::arena& m) {
         terse::kv::column_sums state{.values = sums, .heads = kv_heads, .capacity = tokens};
         if (state.add(whole_prompt(), m) != terse::errc::ok) return false;
         auto const plans = terse::kv::h2o{.keep = 20, .recent = 10}(state, m);
         return plans && state.compact(*plans) == terse::errc::ok && state.tokens() == 20;
     }},
    {"kv::h2o::step",
     [](terse::arena&) {
         static std::array<terse::token, kv_heads> slots;
         terse::kv::column_sums state{.values = sums, .heads = kv_heads, .capacity = tokens, .used = tokens};
         auto const attention = terse::head_major<float const>(keys.data(), kv_heads, 1, tokens);
         terse::kv::h2o const policy{.keep = tokens - 1, .recent = 10};
         return policy.step(state, attention, tokens - 1, slots) == terse::errc::ok && slots[0] < tokens - 10;
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
}  // namespace

int main() {
    unsigned state = 1;
    for (auto* const values : {keys.data(), queries.data()}) {
        terse::index const count = values == keys.data() ? std::ssize(keys) : std::ssize(queries);
        for (terse::index i = 0; i < count; ++i) {
            state = state * 1664525U + 1013904223U;
            values[i] = static_cast<float>(state >> 8) / 8388608.0F - 1.0F;
        }
    }
    int failures = 0;
    auto const expect = [&](bool right, char const* name, char const* what) {
        if (!right) {
            ++failures;
            std::printf("%s: %s\n", name, what);
        }
    };
    for (auto const& [name, run] : checks) {
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

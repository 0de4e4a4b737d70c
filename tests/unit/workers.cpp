// What is not a policy's plan is the same to the bit for any workers, too: the state between steps, and what a plan does
// to tensors.
#include <span>
#include <utility>
#include <vector>

#include <terse/terse.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {

constexpr index heads = 10, kv_heads = 5, tokens = 301, dim = 19, queries = 40;

/// What calls wrote, as bytes.
class bytes {
  public:
    template <class T>
    void add(std::vector<T> const& values) {
        auto const more = std::as_bytes(std::span{values});
        all_.insert(all_.end(), more.begin(), more.end());
    }
    bool operator==(bytes const&) const = default;

  private:
    std::vector<std::byte> all_;
};

/// What `write(bytes, run)` writes is what one worker writes.
template <class Write>
void require_same_bytes(Write const& write) {
    bytes alone;
    write(alone, threads{1});
    for (index const workers : worker_counts) {
        CAPTURE(workers);
        bytes together;
        write(together, threads{workers});
        REQUIRE(together == alone);
    }
}

template <class T>
std::vector<T> room(index count) {
    return std::vector<T>(static_cast<std::size_t>(count));
}

/// The layer's last queries in two calls, as after a prompt and one more chunk.
template <class Add>
void in_two_calls(random_layer<> const& r, Add const& add) {
    for (auto const& [begin, end] : {std::pair{index{0}, queries - 9}, std::pair{queries - 9, queries}})
        REQUIRE(add(chunk_of(r.view(), begin, end)) == errc::ok);
}

TEST_CASE("the state between steps is the same for any workers", "[laws][state]") {
    random_layer<> const r{heads, kv_heads, tokens, dim, queries, 4};
    SECTION("column sums") {
        require_same_bytes([&](bytes& out, threads const& run) {
            arena memory;
            auto values = room<float>(kv_heads * tokens);
            kv::column_sums state{.values = values, .heads = kv_heads, .capacity = tokens};
            in_two_calls(r, [&](layer<float> const& l) { return state.add(l, memory, run); });
            out.add(values);
        });
    }
    SECTION("steps of h2o") {
        auto const attention = uniform(heads * tokens, 5, 0, 1);
        require_same_bytes([&](bytes& out, threads const& run) {
            auto values = uniform(kv_heads * tokens, 6, 0, 1);
            auto slots = room<token>(kv_heads);
            kv::column_sums state{.values = values, .heads = kv_heads, .capacity = tokens, .used = tokens};
            kv::h2o const policy{.keep = tokens - 1, .recent = 20};
            for (index oldest = tokens - 20; oldest < tokens; ++oldest) {
                auto const now = head_major(attention.data(), heads, 1, tokens);
                REQUIRE(policy.step(state, now, oldest, slots, run) == errc::ok);
                out.add(slots);
            }
            out.add(values);
        });
    }
    SECTION("hit counts") {
        for (auto const counted : {score::hit::above_uniform, score::hit::above_quantile, score::hit::attention}) {
            require_same_bytes([&](bytes& out, threads const& run) {
                arena memory;
                auto values = room<float>(kv_heads * tokens), visible = values;
                kv::hit_counts state{.values = values, .visible = visible, .heads = kv_heads, .capacity = tokens};
                in_two_calls(
                    r, [&](layer<float> const& l) { return state.add(l, memory, run, {.counted = counted}, 0.75F); });
                out.add(values), out.add(visible);
            });
        }
    }
    SECTION("block scores") {
        require_same_bytes([&](bytes& out, threads const& run) {
            arena memory;
            auto sums = room<double>(tokens);
            auto history = room<float>(3 * tokens);
            kv::block_scores added{.sums = sums, .capacity = tokens};
            kv::block_scores remembered{.history = history, .capacity = tokens};
            for (auto* const state : {&added, &remembered})
                in_two_calls(r, [&](layer<float> const& l) { return state->add(l, 3, 0, memory, run); });
            out.add(sums), out.add(history);
        });
    }
    SECTION("query moments") {
        auto const x = random_heads(heads, 600, dim, 7);
        require_same_bytes([&](bytes& out, threads const& run) {
            arena memory;
            auto mean = room<float>(heads * dim), covariance = room<float>(heads * dim * dim);
            kv::query_moments state{.mean = mean, .covariance = covariance, .heads = heads, .dim = dim};
            for (index const count : {index{600}, index{3}}) {
                auto const some = head_major(x.values.data(), heads, count, dim);
                REQUIRE(state.add(some, memory, run) == errc::ok);
            }
            out.add(mean), out.add(covariance);
        });
    }
}

TEMPLATE_TEST_CASE("what a plan does to tensors is the same for any workers", "[laws][move]", float, half, bfloat16) {
    auto const x = cast<TestType>(random_tokens(tokens, dim, 8));
    arena memory;
    auto const merged = merge::tome{.remove = 120}(x.view(), memory).value();
    auto const selected = with_owner(prune::divprune{.keep = 77}(x.view(), memory).value(), memory).value();
    auto const stacked = pool::unshuffle{.grid = {.columns = tokens}, .factor = {.columns = 7}}(tokens, memory).value();
    require_same_bytes([&](bytes& out, threads const& run) {
        for (plan const& p : {merged, selected, stacked}) {
            auto rows = room<TestType>(p.kept() * dim);
            auto const to = view(rows.data(), p.kept(), dim);
            REQUIRE(apply_mean(p, x.view(), to, run) == errc::ok);
            out.add(rows);
            REQUIRE(apply_max(p, x.view(), to, run) == errc::ok);
            out.add(rows);
            REQUIRE(apply(p, x.view(), to, run) == errc::ok);
            out.add(rows);
            REQUIRE(pick(p, x.view(), to, run) == errc::ok);
            out.add(rows);
            auto back = x.values;
            for (auto const without_row : {dropped::keep, dropped::zero}) {
                REQUIRE(unmerge(p, to, view(back.data(), tokens, dim), without_row, run) == errc::ok);
                out.add(back);
            }
        }
        auto wide = room<TestType>(tokens * dim);
        auto const side_by_side = view(wide.data(), stacked.kept(), 7 * dim);
        for (auto const order : {channel_order::source_major, channel_order::channel_major}) {
            REQUIRE(gather_concat(stacked, x.view(), side_by_side, order, run) == errc::ok);
            out.add(wide);
        }
    });

    auto const cache = cast<TestType>(random_heads(kv_heads, tokens, dim, 9));
    layer<TestType> l{};
    l.keys = cache.by_head();
    auto const kept = kv::threshold<score::norm>{.least = -2.6F, .recent = 8}(l, memory).value();
    require_same_bytes([&](bytes& out, threads const& run) {
        auto rows = cache.values;
        auto moved = rows;
        REQUIRE(apply(kept, cache.by_head(), head_major(moved.data(), kv_heads, tokens, dim), run) == errc::ok);
        REQUIRE(kv::compact(head_major(rows.data(), kv_heads, tokens, dim), kept, run) == errc::ok);
        out.add(moved), out.add(rows);
    });
}

}  // namespace
}  // namespace terse::test

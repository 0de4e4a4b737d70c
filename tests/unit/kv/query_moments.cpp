#include <cmath>

#include <terse/kv/query_moments.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {
/// Moments with their memory.
struct state {
    std::vector<float> mean, covariance;
    kv::query_moments moments;

    state(index heads, index dim, bool squares = true)
        : mean(static_cast<std::size_t>(heads * dim), not_a_number),
          covariance(static_cast<std::size_t>(squares ? heads * dim * dim : 0), not_a_number),
          moments{.mean = mean, .covariance = covariance, .heads = heads, .dim = dim} {}
    state(state const&) = delete;
};

template <class T>
heads_view<T> rows(tensor<T> const& x, index first, index last) {
    auto v = x.by_head();
    v.data = v.row(0, first), v.tokens = last - first;
    return v;
}

template <class T>
void check(kv::query_moments const& m, tensor<T> const& x, double tolerance) {
    auto const n = static_cast<double>(x.tokens);
    REQUIRE(m.count == x.tokens);
    for (index h = 0; h < x.heads; ++h) {
        matrix centred = head_rows(x, h, x.tokens);
        bool close = true;
        for (std::size_t c = 0; c < centred[0].size(); ++c) {
            double mean = 0;
            for (auto const& row : centred) mean += row[c] / n;
            for (auto& row : centred) row[c] -= mean;
            close = close && is_close(m.means().row(h)[c], mean, tolerance, tolerance);
        }
        for (std::size_t a = 0; a < centred[0].size() && !m.covariance.empty(); ++a)
            for (std::size_t b = 0; b <= a; ++b) {
                double sum = 0;
                for (auto const& row : centred) sum += row[a] * row[b];
                close =
                    close && is_close(m.covariances().row(h, static_cast<index>(a))[b], sum / n, tolerance, tolerance);
                close =
                    close && is_close(m.covariances().row(h, static_cast<index>(b))[a], sum / n, tolerance, tolerance);
            }
        REQUIRE(close);
    }
}
}  // namespace

TEMPLATE_TEST_CASE("moments agree with double precision, however queries come", "[kv][query_moments]", float, half,
                   bfloat16) {
    for (scorer_shape const& s : scorer_shapes()) {
        if (s.tokens < 255 && s.tokens > 9 && s.window != s.tokens && s.window != 1) continue;
        CAPTURE(s.heads, s.tokens, s.dim, s.window);
        auto const x = cast<TestType>(random_heads(s.heads, s.tokens, s.dim, 4));
        arena memory;
        state all(s.heads, s.dim), means(s.heads, s.dim, false);
        for (auto* const m : {&all.moments, &means.moments}) {
            REQUIRE(m->add(rows(x, 0, s.tokens - s.window), memory) == errc::ok);
            REQUIRE(m->add(rows(x, s.tokens - s.window, s.tokens), memory, threads{2}) == errc::ok);
            REQUIRE(memory.used() == 0);
            check(*m, x, 2e-6);
        }
        CHECK(means.moments.covariances().data == nullptr);
    }
    auto const x = cast<TestType>(random_heads(3, 600, 11, 4));
    arena memory;
    state one(3, 11), many(3, 11);
    REQUIRE(one.moments.add(x.by_head(), memory) == errc::ok);
    REQUIRE(many.moments.add(x.by_head(), memory, threads{7}) == errc::ok);
    CHECK(one.covariance == many.covariance);
    CHECK(one.mean == many.mean);
}

TEST_CASE("moments by hand, token by token", "[kv][query_moments]") {
    std::vector<float> const q = {1, 0, 3, 4};
    state s(1, 2);
    arena memory;
    REQUIRE(s.moments.add(head_major(q.data(), 1, 1, 2), memory) == errc::ok);
    CHECK(s.mean == std::vector<float>{1, 0});
    CHECK(s.covariance == std::vector<float>{0, 0, 0, 0});
    REQUIRE(s.moments.add(head_major(q.data() + 2, 1, 1, 2), memory) == errc::ok);
    CHECK(s.mean == std::vector<float>{2, 2});
    CHECK(s.covariance == std::vector<float>{1, 2, 2, 4});
}

TEST_CASE("moments do not cancel around a great mean", "[kv][query_moments]") {
    auto x = random_heads(1, 2000, 4, 4);
    for (float& v : x.values) v += 1000;
    state s(1, 4);
    arena memory;
    for (index t = 0; t < 2000; t += 10) REQUIRE(s.moments.add(rows(x, t, t + 10), memory) == errc::ok);
    check(s.moments, x, 1e-4);
}

TEST_CASE("moments merge, and an empty one becomes the other", "[kv][query_moments]") {
    auto const x = random_heads(2, 90, 5, 4);
    arena memory;
    state a(2, 5), b(2, 5), copy(2, 5), none(2, 5);
    REQUIRE(a.moments.add(rows(x, 0, 20), memory) == errc::ok);
    REQUIRE(b.moments.add(rows(x, 20, 90), memory) == errc::ok);
    REQUIRE(copy.moments.merge(a.moments) == errc::ok);
    CHECK(copy.mean == a.mean);
    CHECK(copy.covariance == a.covariance);
    CHECK(copy.moments.count == 20);
    REQUIRE(a.moments.merge(none.moments) == errc::ok);
    CHECK(copy.covariance == a.covariance);
    REQUIRE(a.moments.merge(b.moments) == errc::ok);
    check(a.moments, x, 2e-6);

    state means(2, 5, false), others(2, 5, false);
    REQUIRE(others.moments.add(rows(x, 0, 20), memory) == errc::ok);
    REQUIRE(means.moments.merge(others.moments) == errc::ok);
    CHECK(means.mean == copy.mean);
}

TEST_CASE("moments say what does not fit", "[kv][query_moments]") {
    auto const x = random_heads(2, 9, 5, 4);
    arena memory;
    state s(2, 5), other(3, 5), wide(2, 6), means(2, 5, false);
    CHECK(other.moments.add(x.by_head(), memory) == errc::bad_shape);
    CHECK(wide.moments.add(x.by_head(), memory) == errc::bad_shape);
    kv::query_moments little = s.moments;
    little.mean = little.mean.first(9);
    CHECK(little.add(x.by_head(), memory) == errc::bad_shape);
    little = s.moments;
    little.covariance = little.covariance.first(49);
    CHECK(little.add(x.by_head(), memory) == errc::bad_shape);
    little = s.moments;
    little.count = -1;
    CHECK(little.add(x.by_head(), memory) == errc::bad_shape);
    auto fewer_than_none = x.by_head();
    fewer_than_none.tokens = -1;
    CHECK(s.moments.add(fewer_than_none, memory) == errc::bad_shape);
    CHECK(kv::query_moments{}.add(x.by_head(), memory) == errc::bad_shape);
    CHECK(s.moments.merge(other.moments) == errc::bad_shape);
    CHECK(s.moments.merge(wide.moments) == errc::bad_shape);
    CHECK(s.moments.merge(means.moments) == errc::bad_shape);
    little = s.moments;
    little.covariance = little.covariance.first(49);
    CHECK(s.moments.merge(little) == errc::bad_shape);
    CHECK(s.moments.merge(s.moments) == errc::aliased);
    state second(2, 5);
    for (auto const part : {&kv::query_moments::mean, &kv::query_moments::covariance}) {
        kv::query_moments mixed = second.moments;
        mixed.*part = s.moments.*part;
        CHECK(s.moments.merge(mixed) == errc::aliased);
    }
    CHECK(s.moments.count == 0);

    std::byte few[64];
    arena fixed{few};
    CHECK(s.moments.add(x.by_head(), fixed) == errc::out_of_memory);
    CHECK(s.moments.count == 0);
}

}  // namespace terse::test

#include <array>
#include <cmath>
#include <numeric>

#include <terse/score/block_diversity.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {

/// [blocks, slots] by the book: cosines, an empty diagonal, zeros below a row's mean, the mean over heads, negated sums
/// over the rows of a block.
template <class T>
matrix diversity_matrix(layer<T> const& l, range slots, index block) {
    auto const n = static_cast<std::size_t>(slots.size());
    matrix sums(n / static_cast<std::size_t>(block), std::vector<double>(n));
    for (index h = 0; h < l.kv_heads(); ++h) {
        matrix keys = head_rows(l.keys, h, slots.end);
        keys.erase(keys.begin(), keys.begin() + slots.begin);
        std::vector<double> norms(n), c(n);
        for (std::size_t i = 0; i < n; ++i) norms[i] = std::sqrt(product(keys[i], keys[i]));
        for (std::size_t i = 0; i < n; ++i) {
            for (std::size_t j = 0; j < n; ++j)
                c[j] = i == j || norms[i] * norms[j] == 0 ? 0 : product(keys[i], keys[j]) / (norms[i] * norms[j]);
            double const mean = std::accumulate(c.begin(), c.end(), 0.0) / static_cast<double>(n);
            for (std::size_t j = 0; j < n; ++j)
                sums[i / static_cast<std::size_t>(block)][j] -=
                    c[j] < mean ? 0 : c[j] / static_cast<double>(l.kv_heads());
        }
    }
    return sums;
}

template <class T>
std::vector<double> expected(layer<T> const& l, range slots, index block, tokens_list const& competing) {
    auto const all = diversity_matrix(l, slots, block);
    std::vector<double> means;
    for (token const row : competing) {
        double sum = 0;
        for (token const b : competing)
            for (index i = b * block; i < (b + 1) * block; ++i)
                sum += all[static_cast<std::size_t>(row)][static_cast<std::size_t>(i)];
        means.push_back(sum / static_cast<double>(std::ssize(competing) * block));
    }
    return means;
}

template <class T>
void check(random_layer<T> const& r, range slots, index block, tokens_list const& competing) {
    matrix const want{expected(r.view(), slots, block, competing)};
    for (index const workers : {index{1}, index{3}}) {
        arena memory;
        score::block_diversity const scorer{.block = block, .slots = slots, .competing = competing};
        require_close(scorer(r.view(), memory, threads{workers}).value(), want, 1e-3, 1e-5);
    }
}

}  // namespace

TEST_CASE("a block is diverse where its keys are unlike the others", "[score][block_diversity]") {
    // Of eight keys in blocks of two: three blocks along x, one along y. All cosines are 0 or 1.
    std::vector<float> keys;
    for (int t = 0; t < 8; ++t) keys.insert(keys.end(), {t / 2 == 2 ? 0.0F : 2.0F, t / 2 == 2 ? 3.0F : 0.0F});
    layer<float> const l{.keys = head_major(keys.data(), 1, 8, 2)};
    arena memory;
    auto const all = score::block_diversity{.block = 2, .slots = {0, 8}}(l, memory).value();
    // Along x: each slot has 5 like it, 10 of 8 columns a block; along y: 1 each.
    CHECK(list(all.row(0)) == std::vector<float>{-10.0F / 8, -10.0F / 8, -2.0F / 8, -10.0F / 8});

    tokens_list const two = {1, 2};
    auto const some = score::block_diversity{.block = 2, .slots = {0, 8}, .competing = two}(l, memory).value();
    CHECK(list(some.row(0)) == std::vector<float>{-2.0F / 4, -2.0F / 4});

    // From the second block on.
    auto const rest = score::block_diversity{.block = 2, .slots = {2, 8}}(l, memory).value();
    CHECK(list(rest.row(0)) == std::vector<float>{-6.0F / 6, -2.0F / 6, -6.0F / 6});
}

TEMPLATE_TEST_CASE("diversity agrees with the whole matrix in double precision", "[score][block_diversity]", float,
                   half, bfloat16) {
    for (scorer_shape const& s : key_shapes()) {
        CAPTURE(s.kv_heads, s.tokens, s.dim);
        random_layer<TestType> r{s, static_cast<unsigned>(s.dim)};
        if (s.tokens % 2 == 0)  // directions in common, so that means are far from 0
            for (index t = 0; t < s.tokens; ++t)
                for (index h = 0; h < s.kv_heads; ++h) {
                    TestType& x = r.keys.row(t, h)[t % 3 % s.dim];
                    x = static_cast<TestType>(static_cast<float>(x) + 6);
                }
        // Blocks of all sizes, from some slot on; every third does not compete.
        index const first = std::min<index>(s.tokens % 5, s.tokens - 1), size = 1 + s.tokens % 21 % (s.tokens - first);
        index const blocks = (s.tokens - first) / size;
        tokens_list competing;
        for (token b = 0; b < blocks; ++b)
            if (b % 3 != 1 || s.kv_heads == 1) competing.push_back(b);
        check(r, {first, first + blocks * size}, size, competing);
    }
}

TEST_CASE("zero keys are like nothing, and what is not finite harms nobody else", "[score][block_diversity]") {
    random_layer<> r{1, 1, 32, 8, 1, 5};
    std::fill_n(r.keys.row(4), 4 * 8, 0.0F);
    check(r, {0, 32}, 4, {0, 1, 2, 7});
    for (float const poison : {not_a_number, infinity, -infinity}) {
        auto poisoned = r;
        std::fill_n(poisoned.keys.row(4), 4 * 8, poison);
        arena memory;
        score::block_diversity const scorer{.block = 4, .slots = {0, 32}};
        auto const got = scorer(poisoned.view(), memory).value(), want = scorer(r.view(), memory).value();
        CHECK(list(got.row(0)) == list(want.row(0)));
    }
    std::fill(r.keys.values.begin(), r.keys.values.end(), 0.0F);
    check(r, {0, 32}, 4, {0, 1});
}

TEST_CASE("slots that a head does not hold are like nothing", "[score][block_diversity]") {
    random_layer<> r{2, 2, 32, 8, 1, 5};
    for (index const length : {32, 21, 9, 4, 2}) {
        uneven const held{32, {32, length}};
        auto const l = r.view(held);
        arena memory;
        score::block_diversity const scorer{.block = 4, .slots = {4, 32}};
        std::fill_n(r.keys.row(length, 1), (32 - length) * 8, 9.0F);  // what was there before
        auto const got = scorer(l, memory).value();
        std::fill_n(r.keys.row(length, 1), (32 - length) * 8, 0.0F);
        CHECK(list(got.row(0)) == list(scorer(r.view(), memory)->row(0)));
    }
}

TEST_CASE("diversity refuses what does not fit", "[score][block_diversity]") {
    random_layer<> const r{1, 1, 32, 8, 1, 5};
    arena memory;
    auto const error = [&](score::block_diversity const& scorer) { return scorer(r.view(), memory).error(); };
    CHECK(error({.block = 0, .slots = {0, 32}}) == errc::bad_setting);
    CHECK(error({.block = 4, .slots = {0, 30}}) == errc::bad_shape);
    CHECK(error({.block = 4, .slots = {-4, 4}}) == errc::bad_shape);
    CHECK(error({.block = 4, .slots = {4, 36}}) == errc::bad_shape);
    CHECK(error({.block = 4, .slots = {8, 4}}) == errc::bad_shape);
    tokens_list const beyond = {0, 8}, negative = {-1};
    CHECK(error({.block = 4, .slots = {0, 32}, .competing = beyond}) == errc::bad_shape);
    CHECK(error({.block = 4, .slots = {0, 32}, .competing = negative}) == errc::bad_shape);
    CHECK(memory.used() == 0);
    CHECK(score::block_diversity{.block = 4, .slots = {0, 0}}(r.view(), memory).value().tokens == 0);
    require_exact_peak([&](arena& m) { return score::block_diversity{.block = 4, .slots = {0, 32}}(r.view(), m); });
}

}  // namespace terse::test

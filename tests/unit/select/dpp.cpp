#include <cmath>
#include <numeric>

#include <terse/select/dpp.hpp>

#include "support.hpp"

namespace terse::test {
namespace {

/// values[i] * cosine(i, j) * values[j]; all in double, so that the kernel is symmetric.
tensor<float> kernel_of(tensor<float> const& x, std::vector<float> const& values) {
    tensor<float> kernel{std::vector<float>(static_cast<std::size_t>(x.tokens * x.tokens)), 1, x.tokens, x.tokens};
    auto const dot = [&](index i, index j) { return std::inner_product(x.row(i), x.row(i) + x.dim, x.row(j), 0.0); };
    for (index i = 0; i < x.tokens; ++i) {
        for (index j = 0; j < x.tokens; ++j) {
            double const norms = std::sqrt(dot(i, i) * dot(j, j)), cosine = norms > 0 ? dot(i, j) / norms : 0;
            kernel.row(i)[j] = static_cast<float>(double{values[static_cast<std::size_t>(i)]} * cosine *
                                                  values[static_cast<std::size_t>(j)]);
        }
    }
    return kernel;
}

struct picks {
    tokens_list order;
    index by_determinant;
};

template <class Run = serial>
picks pick(tensor<float> const& kernel, index count, Run const& run = {}) {
    tokens_list order(static_cast<std::size_t>(count), -7);
    arena memory;
    auto const found = select::dpp(kernel.view(), order, memory, run);
    REQUIRE(found);
    CHECK(memory.used() == 0);
    return {order, *found};
}

/// The determinant of the kernel of some rows, by elimination in double precision.
double determinant(tensor<float> const& kernel, tokens_list const& rows) {
    auto const n = rows.size();
    std::vector<double> m;
    for (token const i : rows)
        for (token const j : rows) m.push_back(kernel.row(i)[j]);
    double product = 1;
    for (std::size_t k = 0; k < n; ++k) {
        product *= m[k * n + k];
        for (std::size_t i = k + 1; i < n; ++i) {
            double const factor = m[i * n + k] / m[k * n + k];
            for (std::size_t j = k; j < n; ++j) m[i * n + j] -= factor * m[k * n + j];
        }
    }
    return product;
}

/// Each pick's determinant with those before it is the highest there is, up to rounding.
void check_greedy(tensor<float> const& kernel, tokens_list const& order) {
    tokens_list before;
    for (token const p : order) {
        CAPTURE(before.size(), p);
        auto const with = [&](token i) {
            auto rows = before;
            rows.push_back(i);
            return determinant(kernel, rows);
        };
        double highest = 0;
        for (token i = 0; i < kernel.tokens; ++i)
            if (std::find(before.begin(), before.end(), i) == before.end()) highest = std::max(highest, with(i));
        CHECK(with(p) >= highest * (1 - 1e-4));
        before.push_back(p);
    }
}

TEST_CASE("dpp checks what it is given before it writes", "[select][dpp]") {
    std::vector<float> const x(12, 1.0F);
    tokens_list picked(4, -7);
    arena memory;
    auto const error = [&](index rows, index columns, std::size_t count) {
        auto const answer = select::dpp(view(x.data(), rows, columns), std::span(picked).first(count), memory);
        CHECK(memory.used() == 0);
        return answer.error();
    };
    CHECK(error(3, 4, 2) == errc::bad_shape);
    CHECK(error(4, 3, 2) == errc::bad_shape);
    CHECK(error(-1, -1, 0) == errc::bad_shape);
    CHECK(error(3, 3, 4) == errc::bad_budget);
    CHECK(error(0, 0, 1) == errc::bad_budget);
    CHECK(picked == tokens_list(4, -7));
    CHECK(error(3, 3, 0) == errc::ok);
    CHECK(error(0, 0, 0) == errc::ok);
    CHECK(picked == tokens_list(4, -7));
}

TEST_CASE("dpp by hand", "[select][dpp]") {
    // Seven directions of the plane: two picks span them all, then the rest comes by value.
    tensor<float> const x{{1, 0, 0.9F, 0.1F, 0.8F, 0.6F, 0, 1, -1, 0.1F, 0.1F, 1, -0.9F, 0.2F}, 1, 7, 2};
    std::vector<float> const values{0.142859F, 1.000001F, 0.428573F, 0.571430F, 0.000001F, 0.857144F, 0.285716F};
    auto const two = pick(kernel_of(x, values), 2);
    CHECK(two.order == tokens_list{1, 5});
    CHECK(two.by_determinant == 2);
    auto const all = pick(kernel_of(x, values), 7);
    CHECK(all.order == tokens_list{1, 5, 3, 2, 6, 0, 4});
    CHECK(all.by_determinant == 2);

    // 4, then of 3 - 2 * 2 / 4 = 2 and 2.5 - 0 the second, then 2.
    tensor<float> const kernel{{4, 2, 0, 2, 3, 0, 0, 0, 2.5F}, 1, 3, 3};
    CHECK(pick(kernel, 3).order == tokens_list{0, 2, 1});
    CHECK(pick(kernel, 1).order == tokens_list{0});
    CHECK(pick({{5}, 1, 1, 1}, 1).order == tokens_list{0});
}

TEST_CASE("dpp: equal rows, zeros, and values below zero", "[select][dpp]") {
    tensor<float> const same{std::vector<float>(16, 2.0F), 1, 4, 4};
    CHECK(pick(same, 4).order == tokens_list{0, 1, 2, 3});
    CHECK(pick(same, 4).by_determinant == 1);
    tensor<float> const zero{std::vector<float>(16, 0.0F), 1, 4, 4};
    CHECK(pick(zero, 3).order == tokens_list{0, 1, 2});
    CHECK(pick(zero, 3).by_determinant == 0);
    tensor<float> const negative{{-1, 0, 0, 0, 0, 0, 0, 0, 2}, 1, 3, 3};
    CHECK(pick(negative, 3).order == tokens_list{2, 1, 0});
    CHECK(pick(negative, 3).by_determinant == 1);
    tensor<float> const endless{{infinity, 0, 0, 0, -1, 0, 0, 0, 2}, 1, 3, 3};
    CHECK(pick(endless, 3).order == tokens_list{2, 1, 0});
}

TEST_CASE("dpp: values that are not finite come last", "[select][dpp]") {
    auto const bad = GENERATE(as<float>{}, not_a_number, infinity, -infinity);
    auto kernel = kernel_of(random_tokens(12, 20, 5), std::vector<float>(12, 1.0F));
    for (index i = 0; i < 12; ++i)
        for (index const j : {index{0}, index{7}}) kernel.row(i)[j] = kernel.row(j)[i] = bad;
    auto const found = pick(kernel, 12);
    CHECK(tokens_list(found.order.end() - 2, found.order.end()) == tokens_list{0, 7});
    CHECK(found.by_determinant == 10);
    auto sorted = found.order;
    std::sort(sorted.begin(), sorted.end());
    CHECK(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end());

    // One bad pair: the second of it is out of the determinant, and follows by its value.
    kernel = kernel_of(random_tokens(12, 20, 5), std::vector<float>(12, 1.0F));
    kernel.row(0)[0] = 2;
    kernel.row(0)[3] = kernel.row(3)[0] = not_a_number;
    auto const pair = pick(kernel, 12);
    CHECK(pair.order.front() == 0);
    CHECK(pair.order.back() == 3);
    CHECK(pair.by_determinant == 11);
}

TEST_CASE("dpp: each pick raises the determinant the most", "[select][dpp]") {
    struct shape {
        index rows, dim, clusters, count;
    };
    auto const s = GENERATE(values<shape>({{5, 8, 5, 5}, {40, 64, 40, 12}, {70, 33, 9, 12}, {130, 40, 130, 10}}));
    CAPTURE(s.rows, s.dim, s.clusters);
    auto const kernel =
        kernel_of(clustered_tokens(s.rows, s.dim, s.clusters, 31, 0.3F), uniform(s.rows, 32, 0.1F, 1.0F));
    auto const found = pick(kernel, s.count);
    CHECK(found.by_determinant == s.count);
    check_greedy(kernel, found.order);
    auto const fewer = pick(kernel, s.count / 2);
    CHECK(std::equal(fewer.order.begin(), fewer.order.end(), found.order.begin()));

    auto scaled = kernel;
    for (float& v : scaled.values) v *= 0x1p-20F;
    CHECK(pick(scaled, s.count).order == found.order);
}

TEST_CASE("dpp stops where the rows are spanned", "[select][dpp]") {
    auto const kernel = kernel_of(random_tokens(90, 24, 8), std::vector<float>(90, 1.0F));
    auto const found = pick(kernel, 60);
    CHECK(found.by_determinant == 24);
    auto sorted = found.order;
    std::sort(sorted.begin(), sorted.end());
    CHECK(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end());
}

TEST_CASE("dpp does not depend on threads, nor on the distance between rows", "[select][dpp]") {
    index const rows = 1500;  // enough for steps to be shared
    index const dim = 3;
    auto const x = random_tokens(rows, dim, 9);
    tensor<float> kernel{std::vector<float>(static_cast<std::size_t>(rows * rows)), 1, rows, rows};
    for (index i = 0; i < rows; ++i) {
        for (index j = 0; j < rows; ++j) {
            float sum = i == j ? 0.01F : 0.0F;
            for (index c = 0; c < dim; ++c) sum += x.row(i)[c] * x.row(j)[c];
            kernel.row(i)[j] = sum;
        }
    }
    auto const alone = pick(kernel, 200);
    for (index const workers : worker_counts) CHECK(pick(kernel, 200, threads{workers}).order == alone.order);

    index const few = 50;
    tensor<float> packed{{}, 1, few, few};
    for (index i = 0; i < few; ++i) packed.values.insert(packed.values.end(), kernel.row(i), kernel.row(i) + few);
    tokens_list order(20);
    arena memory;
    REQUIRE(select::dpp(view(kernel.values.data(), few, few, rows), order, memory));
    CHECK(order == pick(packed, 20).order);
}

TEST_CASE("dpp needs its peak of memory and no less", "[select][dpp]") {
    auto const kernel = kernel_of(random_tokens(50, 10, 6), std::vector<float>(50, 1.0F));
    tokens_list order(20);
    arena growing;
    REQUIRE(select::dpp(kernel.view(), order, growing));
    std::size_t const peak = growing.peak();
    fixed_memory enough{peak};
    arena exact{enough.bytes()};
    CHECK(select::dpp(kernel.view(), order, exact));
    for (std::size_t bytes = 64; bytes < peak; bytes += 64) {
        fixed_memory little{bytes};
        arena memory{little.bytes()};
        tokens_list untouched(20, -7);
        CHECK(select::dpp(kernel.view(), untouched, memory).error() == errc::out_of_memory);
        CHECK(untouched == tokens_list(20, -7));
        CHECK(memory.used() == 0);
    }
}

}  // namespace
}  // namespace terse::test

#include <catch2/catch.hpp>

#include <terse/simd/scalar.hpp>
#include <terse/simd/softmax_columns.hpp>

#include "unit/simd/samples.hpp"

namespace terse::test {
namespace {

struct setting {
    float scale = 1.0F;
    float soft_cap = 0.0F;
    index visible = 0;
};

/// `query` holds the queries of one head after the other.
template <class T>
auto by_head(samples::rows<T> const& query, index queries) {
    return [row = query.view(), queries](index h, index i) { return row(h * queries + i); };
}

template <class Arch, class T>
std::vector<float> columns_of(index heads, index queries, samples::rows<T> const& query, index keys,
                              samples::rows<T> const& key, index dim, setting s, index wanted) {
    index const stride = wanted + 3;
    std::vector<float> columns(static_cast<std::size_t>(heads * stride), 0.25F);
    std::vector<float> scratch(static_cast<std::size_t>(simd::softmax_columns_scratch<Arch>(heads, queries, keys, dim)),
                               not_a_number);
    scratch.push_back(42.0F);
    simd::softmax_columns<Arch>(heads, queries, by_head(query, queries), keys, key.view(), dim, s.scale, s.soft_cap,
                                s.visible, columns, stride, wanted, std::span(scratch).first(scratch.size() - 1));
    CHECK(scratch.back() == 42.0F);
    return columns;
}

template <class Arch, class T>
void check(index heads, index queries, samples::rows<T> const& query, index keys, samples::rows<T> const& key,
           index dim, setting s, index wanted) {
    CAPTURE(heads, queries, keys, dim, s.scale, s.soft_cap, s.visible, wanted);
    auto const columns = columns_of<Arch>(heads, queries, query, keys, key, dim, s, wanted);
    std::vector<float> expected(columns.size(), 0.25F);
    simd::scalar::softmax_columns(heads, queries, by_head(query, queries), keys, key.view(), dim, s.scale, s.soft_cap,
                                  s.visible, expected, wanted + 3, wanted);
    for (std::size_t j = 0; j < columns.size(); ++j) {
        CAPTURE(j);
        CHECK(columns[j] == Approx(expected[j]).epsilon(2e-5).margin(1e-7));
    }
}

TEMPLATE_LIST_TEST_CASE("softmax columns agree with plain loops", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    for (index const queries :
         {index{0}, index{1}, index{2}, simd::lanes<Arch>, simd::lanes<Arch> + 1, index{16}, index{33}, index{75}}) {
        for (index const keys : {index{1}, index{6}, index{23}, index{24}, index{25}, index{80}}) {
            samples::rows<T> const query(queries, 19, 1, 2, 1), key(keys, 19, 2, 1, 3);
            for (setting const s : {setting{1.0F, 0, keys - queries + 1}, setting{5.0F, 0, keys}, setting{-2.0F, 0, 1},
                                    setting{8.0F, 2.5F, keys - queries + 1}, setting{1.0F, 0, -3}}) {
                check<Arch>(1, queries, query, keys, key, 19, s, keys);
            }
        }
    }
}

TEMPLATE_LIST_TEST_CASE("heads that share keys get what each would alone", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    for (index const heads : {index{2}, index{3}, index{7}, index{18}}) {
        for (index const queries : {index{1}, index{2}, index{9}, index{32}, index{70}}) {
            samples::rows<T> const query(heads * queries, 21, 11, 1), key(90, 21, 12);
            setting const s{1.5F, 0, 90 - queries + 1};
            check<Arch>(heads, queries, query, 90, key, 21, s, 90);
            auto const together = columns_of<Arch>(heads, queries, query, 90, key, 21, s, 90);
            for (index const h : {index{0}, heads - 1}) {
                samples::rows<T> own(queries, 21, 0);
                for (index i = 0; i < queries; ++i) std::copy_n(query.view()(h * queries + i), 21, own(i));
                auto const alone = columns_of<Arch>(1, queries, own, 90, key, 21, s, 90);
                for (index j = 0; j < 90; ++j)
                    CHECK(alone[static_cast<std::size_t>(j)] == together[static_cast<std::size_t>(h * 93 + j)]);
            }
        }
    }
}

TEMPLATE_TEST_CASE("pairs of bfloat16 give what they give one by one", "[simd]", samples::best, samples::base) {
    index const queries = 33, keys = 100, dim = 38;
    samples::rows<bfloat16> const query(queries, dim, 13, 2), key(keys, dim, 14);
    std::vector<float> scratch(
        static_cast<std::size_t>(simd::softmax_columns_scratch<TestType>(1, queries, keys, dim)));
    std::vector<float> columns(keys), expected(keys);
    simd::softmax_columns<TestType, simd::element::pair>(1, queries, simd::as_pairs(by_head(query, queries)), keys,
                                                         simd::as_pairs(key.view()), dim / 2, 1.0F, 0.0F,
                                                         keys - queries + 1, columns, keys, keys, scratch);
    simd::scalar::softmax_columns(1, queries, by_head(query, queries), keys, key.view(), dim, 1.0F, 0.0F,
                                  keys - queries + 1, expected, keys, keys);
    for (std::size_t j = 0; j < columns.size(); ++j) CHECK(columns[j] == Approx(expected[j]).epsilon(2e-5));
}

TEMPLATE_LIST_TEST_CASE("fewer columns than keys, many chunks, great logits", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    for (index const queries : {index{1}, index{32}}) {
        samples::rows<T> const query(queries, 64, 3), key(500, 64, 4, 3);
        for (float const scale : {0.125F, 4.0F, 300.0F}) {
            check<Arch>(1, queries, query, 500, key, 64, {scale, 0, 500 - queries + 1}, 500);
            check<Arch>(1, queries, query, 500, key, 64, {scale, 0, 500 - queries + 1}, 461);
            check<Arch>(1, queries, query, 500, key, 64, {scale, 0, 500 - queries + 1}, 0);
        }
    }
}

TEMPLATE_LIST_TEST_CASE("a logit that is not finite stays in its place", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    for (float const bad : {not_a_number, infinity, -infinity}) {
        for (float const soft_cap : {0.0F, 3.0F}) {
            for (index const queries : {index{1}, index{20}}) {
                CAPTURE(bad);
                samples::rows<T> query(queries, 7, 5), key(60, 7, 6);
                key(31)[2] = static_cast<T>(bad);  // +infinity for some queries, -infinity for others
                check<Arch>(1, queries, query, 60, key, 7, {1.0F, soft_cap, 60}, 60);
                query(queries / 2)[4] = static_cast<T>(bad);
                check<Arch>(1, queries, query, 60, key, 7, {1.0F, soft_cap, 60}, 60);
            }
        }
    }
}

TEMPLATE_LIST_TEST_CASE("a key that nobody sees receives nothing at all", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    samples::rows<typename TestType::value> const query(10, 8, 7), key(40, 8, 8);
    auto const columns = columns_of<Arch>(1, 10, query, 40, key, 8, {1.0F, 0, 11}, 40);
    for (std::size_t j = 0; j < 20; ++j) CHECK(columns[j] > 0.25F);
    for (std::size_t j = 20; j < 40; ++j) CHECK(columns[j] == 0.25F);
}

TEMPLATE_LIST_TEST_CASE("every query gives one in all", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    samples::rows<typename TestType::value> const query(50, 32, 9), key(3000, 32, 10);
    std::vector<float> const columns = columns_of<Arch>(1, 50, query, 3000, key, 32, {1.0F, 0, 2951}, 3000);
    double total = 0;
    for (float const c : columns) total += static_cast<double>(c) - 0.25;
    CHECK(total == Approx(50.0).epsilon(1e-5));
}

}  // namespace
}  // namespace terse::test

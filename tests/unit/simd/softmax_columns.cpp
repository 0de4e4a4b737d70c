#include <algorithm>

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
    index apart = 1;      // further keys that the next query sees
    float weight = 0.0F;  // what the next query counts more
    simd::shared_heads shared = simd::shared_heads::apart;
    bool known = false;
};

simd::attention_shape shape_of(index heads, index queries, index keys, index dim, setting s) {
    return {heads, queries, keys, dim, s.scale, s.soft_cap, s.shared, s.known};
}

/// The setting's numbers, as callables.
auto visible_of(setting s) {
    return [s](index i) { return s.visible + s.apart * i; };
}
auto weight_of(setting s) {
    return [s](index i) { return 1 + s.weight * static_cast<float>(i); };
}
/// Any number serves as the log of a sum: most are too small, and one query has none.
auto log_sum_of(setting) {
    return [](index h, index i) {
        return h == 0 && i == 1 ? -infinity : 0.3F * static_cast<float>(h) + 0.01F * static_cast<float>(i);
    };
}

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
    auto const of = shape_of(heads, queries, keys, dim, s);
    std::vector<float> scratch(static_cast<std::size_t>(simd::softmax_columns_scratch<Arch>(of)), not_a_number);
    for (std::size_t i = 1; i < scratch.size(); i += 2) scratch[i] = 1e30F;  // a NaN would pass for a hidden key
    scratch.push_back(42.0F);
    simd::softmax_columns<Arch>(of, by_head(query, queries), key.view(), visible_of(s), {columns, stride, wanted},
                                std::span(scratch).first(scratch.size() - 1), weight_of(s), log_sum_of(s));
    CHECK(scratch.back() == 42.0F);
    return columns;
}

template <class Arch, class T>
void check(index heads, index queries, samples::rows<T> const& query, index keys, samples::rows<T> const& key,
           index dim, setting s, index wanted) {
    CAPTURE(heads, queries, keys, dim, s.scale, s.soft_cap, s.visible, s.apart, s.weight, s.known, wanted);
    auto const columns = columns_of<Arch>(heads, queries, query, keys, key, dim, s, wanted);
    std::vector<float> expected(columns.size(), 0.25F);
    simd::scalar::softmax_columns(shape_of(heads, queries, keys, dim, s), by_head(query, queries), key.view(),
                                  visible_of(s), {expected, wanted + 3, wanted}, weight_of(s), log_sum_of(s));
    for (std::size_t j = 0; j < columns.size(); ++j) {
        CAPTURE(j);
        CHECK(columns[j] == Approx(expected[j]).epsilon(2e-5).margin(1e-7));
    }
}

TEMPLATE_LIST_TEST_CASE("softmax columns agree with plain loops", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    index const tile = simd::tile_rows<Arch>, chunk = simd::chunk_rows<Arch>;
    for (index const queries :
         {index{0}, index{1}, index{2}, simd::lanes<Arch>, simd::lanes<Arch> + 1, index{16}, index{33}, index{75}}) {
        for (index const keys : {index{1}, tile, chunk - 1, chunk, chunk + 1, 3 * chunk + tile + 2}) {
            samples::rows<T> const query(queries, 19, 1, 2, 1), key(keys, 19, 2, 1, 3);
            for (setting const s : {setting{1.0F, 0, keys - queries + 1}, setting{5.0F, 0, keys}, setting{-2.0F, 0, 1},
                                    setting{8.0F, 2.5F, keys - queries + 1}, setting{1.0F, 0, -3},
                                    setting{1.0F, 0, -5, 3, 0.5F}, setting{2.0F, 0, 4, 0, 0.25F}}) {
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

TEMPLATE_TEST_CASE("scratch for many queries is enough for fewer", "[simd]", samples::best, samples::base) {
    constexpr index keys = 5, dim = 3;
    for (index const heads : {index{1}, index{2}, index{4}, index{5}}) {
        for (index const many : {index{20}, index{40}, index{64}, index{70}}) {
            for (index queries = 1; queries <= many; ++queries) {
                CAPTURE(heads, many, queries);
                samples::rows<float> const query(heads * queries, dim, 7), key(keys, dim, 8);
                index const size = simd::softmax_columns_scratch<TestType>({heads, many, keys, dim});
                std::vector<float> scratch(static_cast<std::size_t>(size + 2048), 42.0F);
                std::vector<float> columns(static_cast<std::size_t>(heads * keys));
                simd::softmax_columns<TestType>(
                    {heads, queries, keys, dim, 0.3F}, [&](index h, index i) { return query.view()(h * queries + i); },
                    key.view(), keys, {columns, keys, keys}, std::span(scratch).first(static_cast<std::size_t>(size)));
                REQUIRE(std::count(scratch.begin() + size, scratch.end(), 42.0F) == 2048);
            }
        }
    }
}

TEMPLATE_TEST_CASE("pairs of bfloat16 give what they give one by one", "[simd]", samples::best, samples::base) {
    index const queries = 33, keys = 100;
    for (index const dim : {index{38}, 2 * simd::tile_depth<TestType> + 6}) {
        CAPTURE(dim);
        samples::rows<bfloat16> const query(queries, dim, 13, 2, 1),
            key(keys, dim, 14, 1);  // not as floats are aligned
        simd::attention_shape const of{1, queries, keys, dim, 0.5F}, of_pairs{1, queries, keys, dim / 2, 0.5F};
        std::vector<float> scratch(static_cast<std::size_t>(simd::softmax_columns_scratch<TestType>(of)));
        std::vector<float> columns(keys), expected(keys);
        simd::softmax_columns<TestType, simd::element::pair>(of_pairs, simd::as_pairs(by_head(query, queries)),
                                                             simd::as_pairs(key.view()), keys - queries + 1,
                                                             {columns, keys, keys}, scratch);
        simd::scalar::softmax_columns(of, by_head(query, queries), key.view(),
                                      visible_of({.visible = keys - queries + 1}), {expected, keys, keys},
                                      weight_of({}), log_sum_of({}));
        for (std::size_t j = 0; j < columns.size(); ++j) CHECK(columns[j] == Approx(expected[j]).epsilon(2e-5));
    }
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

TEMPLATE_LIST_TEST_CASE("more channels of queries and keys than a tile takes at once", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    index const depth = simd::tile_depth<Arch>, chunk = simd::chunk_rows<Arch>;
    for (index const dim : {depth - 1, depth, depth + 1, 2 * depth, 2 * depth + 7}) {
        for (index const heads : {index{1}, index{3}}) {
            for (index const queries : {index{1}, simd::lanes<Arch> + 1, index{33}}) {
                index const keys = 2 * chunk + 5;
                samples::rows<T> const query(heads * queries, dim, 15, 2, 1), key(keys, dim, 16, 1, 3);
                setting s{0.3F, 0, keys - queries + 1};
                check<Arch>(heads, queries, query, keys, key, dim, s, keys);
                s.known = true;
                check<Arch>(heads, queries, query, keys, key, dim, s, keys);
                s.known = false, s.shared = simd::shared_heads::highest;
                check<Arch>(heads, queries, query, keys, key, dim, s, keys);
            }
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

TEMPLATE_LIST_TEST_CASE("known sums, and the highest logit of heads that share keys", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    using T = typename TestType::value;
    index const chunk = simd::chunk_rows<Arch>;
    for (index const heads : {index{1}, index{2}, index{5}, index{18}}) {
        for (index const queries : {index{1}, index{3}, index{8}, index{33}, index{70}}) {
            for (index const keys : {index{1}, chunk, 3 * chunk + 6}) {
                for (setting s : {setting{1.5F, 0, keys - queries + 1}, setting{4.0F, 2.5F, keys, 0, 0.5F}}) {
                    samples::rows<T> query(heads * queries, 21, 31), key(keys, 21, 32);
                    query(0)[3] = static_cast<T>(not_a_number);
                    if (keys > 20) key(13)[2] = static_cast<T>(not_a_number);
                    s.known = true;
                    check<Arch>(heads, queries, query, keys, key, 21, s, keys);
                    check<Arch>(heads, queries, query, keys, key, 21, s, keys / 2);
                    s.known = false;
                    s.shared = simd::shared_heads::highest;
                    check<Arch>(heads, queries, query, keys, key, 21, s, keys);
                    check<Arch>(heads, queries, query, keys, key, 21, s, keys / 2);
                }
            }
        }
    }
}

TEST_CASE("a count of keys is a causal mask", "[simd]") {
    samples::rows<float> const query(40, 8, 7), key(90, 8, 8);
    for (index const queries : {index{1}, index{40}}) {
        std::vector<float> columns(93, 0.25F),
            scratch(static_cast<std::size_t>(simd::softmax_columns_scratch({1, queries, 90, 8})));
        simd::softmax_columns({1, queries, 90, 8}, by_head(query, queries), key.view(), index{30}, {columns, 93, 90},
                              scratch);
        CHECK(columns == columns_of<samples::best>(1, queries, query, 90, key, 8, {.visible = 30}, 90));
        CHECK(columns[29] > 0.25F);
    }
}

TEMPLATE_LIST_TEST_CASE("hits are the probabilities above their query's limit", "[simd]", samples::kernels) {
    using Arch = typename TestType::Arch;
    index const dim = 10, heads = 3, chunk = simd::chunk_rows<Arch>;
    for (bool const known : {false, true}) {
        for (index const queries : {index{1}, index{2}, simd::lanes<Arch> + 1, index{33}, index{75}}) {
            for (index const keys : {index{1}, chunk, chunk + 1, 3 * chunk + 8}) {
                CAPTURE(known, queries, keys);
                samples::rows<typename TestType::value> const query(heads * queries, dim, 7), key(keys, dim, 8);
                auto const visible = [&](index i) { return keys - queries + 1 + i; };
                auto const weight = [&](index i) { return static_cast<float>(std::max<index>(visible(i), 0)); };
                auto const log_sum = [&](index h, index i) {  // about that of the logits, and one query has none
                    return log_sum_of({})(h, i) + std::log(weight(i) + 1);
                };
                index const wanted = keys - keys / 3;
                std::vector<float> hits(static_cast<std::size_t>(wanted), 2.0F), least = hits, most = hits;
                simd::attention_shape of{heads, queries, keys, dim, 1.5F};
                of.known = known;
                std::vector<float> scratch(static_cast<std::size_t>(simd::softmax_columns_scratch<Arch>(of)));
                simd::softmax_columns<Arch, simd::element::single, simd::collect::hits>(
                    of, by_head(query, queries), key.view(), visible, {hits, 0, wanted}, scratch, weight, log_sum);
                of.heads = of.queries = 1;
                for (index i = 0; i < heads * queries; ++i) {
                    std::vector<float> row(static_cast<std::size_t>(wanted));
                    simd::scalar::softmax_columns(
                        of, [&](index, index) { return query.view()(i); }, key.view(),
                        [&](index) { return visible(i % queries); }, {row, wanted, wanted},
                        [&](index) { return weight(i % queries); },
                        [&](index, index) { return log_sum(i / queries, i % queries); });
                    for (std::size_t j = 0; j < row.size(); ++j) {
                        least[j] += row[j] > 1 + 2e-5F;
                        most[j] += row[j] > 1 - 2e-5F;
                    }
                }
                for (std::size_t j = 0; j < hits.size(); ++j) {
                    REQUIRE(hits[j] >= least[j]);
                    REQUIRE(hits[j] <= most[j]);
                }
                if (keys > queries) CHECK(*std::max_element(hits.begin(), hits.end()) > 2);
            }
        }
    }
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

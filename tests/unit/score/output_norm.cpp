#include <cmath>
#include <numeric>

#include <terse/score/output_norm.hpp>

#include "attention_reference.hpp"

namespace terse::test {
namespace {

/// From the whole projected values of every query head, in double precision.
template <class T, class W>
matrix reference(layer<T> const& l, tensor<W> const& weight) {
    index const dim = l.values.dim, group = weight.dim / (dim * l.kv_heads());
    matrix const columns = head_rows(weight, 0, weight.tokens);
    matrix all;
    for (index kv = 0; kv < l.kv_heads(); ++kv) {
        auto& row = all.emplace_back();
        for (auto const& value : head_rows(l.values, kv, l.tokens())) {
            double sum = 0;
            for (auto const& w : columns)
                for (index h = kv * group; h < (kv + 1) * group; ++h)
                    sum += std::abs(std::inner_product(value.begin(), value.end(), w.begin() + h * dim, 0.0));
            row.push_back(sum / static_cast<double>(group));
        }
    }
    return all;
}

}  // namespace

TEST_CASE("a value's norm behind the output projection, by hand", "[score][output-norm]") {
    // Two query heads share values of two channels; a hidden state of three.
    std::vector<float> const values = {1, 2, 0, 0, -1, 0};
    std::vector<float> const weight = {1, 0,  0,  1,  //
                                       1, -1, 2,  0,  //
                                       0, 3,  -1, -1};
    layer<float> const l{.keys = head_major<float const>(nullptr, 1, 3, 2),
                         .values = head_major(values.data(), 1, 3, 2)};
    arena memory;
    auto const s = score::output_norm<>{view(weight.data(), 3, 4)}(l, memory).value();
    // Slot 0: |1| + |-1| + |6| and |2| + |2| + |-3|. Slot 2: 1 + 1 + 0 and 0 + 2 + 1.
    CHECK(list(s.values) == std::vector<float>{7.5F, 0, 2.5F});
}

TEST_CASE("scores are weighed by those of the same rows", "[score][output-norm]") {
    std::vector<float> const x = {1, 2, 3, 4}, y = {10, 20, 99, 30, 40, 99};
    scores const s{x, 2, 2, 2}, weights{y, 2, 3, 3};
    arena memory;
    CHECK(list(score::weigh(s, weights, 0.5F, memory).value().values) == std::vector<float>{15, 50, 105, 180});
    memory.rewind();
    for (scores const& other : {scores{y, 1, 3, 3}, scores{y, 3, 2, 2}, scores{y, 2, 1, 3}})
        CHECK(score::weigh(s, other, 0.5F, memory).error() == errc::bad_shape);
    CHECK(memory.used() == 0);
}

TEMPLATE_TEST_CASE("norms behind the output projection agree with double precision", "[score][output-norm]", float,
                   half, bfloat16) {
    for (scorer_shape const& s : key_shapes()) {
        CAPTURE(s.heads, s.kv_heads, s.tokens, s.dim);
        random_layer<TestType> const r{s, 4};
        auto const weight = random_tokens(1 + s.tokens % 40, s.heads * s.dim, 9);
        score::output_norm<> const scorer{weight.view()};
        arena memory;
        auto const got = scorer(r.view(), memory).value();
        require_close(got, reference(r.view(), weight), 2e-5, 2e-6);
        index const workers = 2 + s.tokens % 6;
        REQUIRE(list(scorer(r.view(), memory, threads{workers}).value().values) == list(got.values));
        auto const stored = cast<TestType>(weight);
        score::output_norm<TestType> const from_stored{stored.view()};
        require_close(from_stored(r.view(), memory).value(), reference(r.view(), stored), 2e-5, 2e-6);
    }
}

TEST_CASE("norms behind the output projection: shorter heads, NaN, nothing, and what does not fit",
          "[score][output-norm]") {
    random_layer<> r{4, 2, 9, 6, 1, 4};
    auto const weight = random_tokens(5, 24, 9);
    score::output_norm<> const scorer{weight.view()};
    arena memory;
    auto const whole = list(scorer(r.view(), memory).value().values);
    uneven const held{9, {9, 4}};
    auto const cache = held.of(r.values);
    layer<float, ragged_view<float>> const short_head{.keys = cache, .values = cache};
    auto const some = scorer(short_head, memory).value();
    for (std::size_t t = 0; t < 9; ++t) {
        CHECK(some.row(0)[t] == whole[t]);
        if (t < 4)
            CHECK(some.row(1)[t] == whole[9 + t]);
        else
            CHECK(simd::is_nan(some.row(1)[t]));
    }
    r.values.row(3)[2] = not_a_number;
    auto const poisoned = scorer(r.view(), memory).value();
    CHECK(simd::is_nan(poisoned.values[3]));
    CHECK(poisoned.values[4] == whole[4]);

    random_layer<> const nothing{4, 2, 0, 6, 1, 4};
    CHECK(scorer(nothing.view(), memory).value().tokens == 0);

    memory.rewind();
    auto const error = [&](tokens_view<float> projection, layer<float> const& l) {
        return score::output_norm<>{projection}(l, memory).error();
    };
    auto wrong = weight.view();
    wrong.dim = 18;  // one head and a half a kv head
    CHECK(error(wrong, r.view()) == errc::bad_shape);
    wrong.dim = 6;
    CHECK(error(wrong, r.view()) == errc::bad_shape);
    CHECK(error({}, r.view()) == errc::bad_shape);
    CHECK(error(weight.view(), {}) == errc::bad_shape);
    auto l = r.view();
    l.values.tokens = 8;
    CHECK(error(weight.view(), l) == errc::bad_shape);
    l = r.view();
    l.values.heads = 1;  // of whose dim the projection has whole heads, too
    CHECK(error(weight.view(), l) == errc::bad_shape);
    CHECK(memory.used() == 0);
    require_exact_peak([&](arena& a) { return scorer(r.view(), a); });
}
}  // namespace terse::test

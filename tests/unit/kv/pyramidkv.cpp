#include <terse/kv/pyramidkv.hpp>

#include "attention_reference.hpp"

namespace terse::test {
TEST_CASE("pyramidkv is snapkv with a layer's count", "[kv][pyramidkv]") {
    random_layer<> const r{4, 2, 100, 16, 8, 3};
    arena memory;
    index total = 0;
    for (index layer_index = 0; layer_index < 4; ++layer_index) {
        kv::pyramidkv const p{.keep = 40, .layer_index = layer_index, .layers = 4, .window = 8, .kernel = 3};
        auto const got = p(r.view(), memory).value();
        index const count = p.count(100).value();
        auto const want = kv::snapkv{.keep = count, .window = 8, .kernel = 3}(r.view(), memory).value();
        for (index h = 0; h < 2; ++h) require_same_plan(got[h], want[h]);
        CHECK(got[0].kept() == count);
        total += count;
    }
    CHECK(total == 160);
    kv::pyramidkv const published{
        .keep = 40, .layer_index = 3, .layers = 4, .window = 8, .form = budget::pyramid_form::kvcache_factory};
    CHECK(published(r.view(), memory).value()[0].kept() == 11);
}

TEST_CASE("pyramidkv says what does not fit", "[kv][pyramidkv]") {
    random_layer<> const r{4, 2, 20, 16, 8, 3};
    arena memory;
    auto const error = [&](kv::pyramidkv const& p) { return p(r.view(), memory).error(); };
    CHECK(error({.keep = 10, .layer_index = 1, .window = 8}) == errc::bad_shape);
    CHECK(error({.keep = 10, .window = 11}) == errc::bad_budget);
    CHECK(error({.keep = 10, .window = 0}) == errc::bad_setting);
    CHECK(error({.keep = 10, .window = 8, .kernel = 2}) == errc::bad_setting);
    CHECK(error({.keep = 10, .window = 9}) == errc::bad_shape);
    CHECK(memory.used() == 0);
    random_layer<> const nothing{4, 2, 0, 16, 0, 3};
    random_layer<> const few{4, 2, 5, 16, 5, 3};
    CHECK(kv::pyramidkv{.layers = 3}(few.view(), memory).value()[0].kept() == 5);
    CHECK(kv::pyramidkv{}(nothing.view(), memory).value()[0].kept() == 0);
}
}  // namespace terse::test

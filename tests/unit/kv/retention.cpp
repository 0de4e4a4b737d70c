#include <string>

#include <terse/kv/retention.hpp>

#include "support.hpp"

namespace terse::test {
namespace {
using kv::token_type;

/// t, v and c for text, visual and compression.
std::vector<token_type> types(std::string const& letters) {
    std::vector<token_type> all;
    for (char const c : letters)
        all.push_back(c == 't' ? token_type::text : c == 'v' ? token_type::visual : token_type::compression);
    return all;
}

tokens_list kept(kv::voco_llama const& policy, std::string const& letters) {
    arena memory;
    auto const t = types(letters);
    auto const plans = policy(t, memory).value();
    REQUIRE(plans.shared());
    CHECK(is_valid(plans[0]));
    CHECK(plans[0].tokens == std::ssize(t));
    return list(plans[0].sources);
}

/// One row of ones and zeros a query.
std::vector<std::string> mask(kv::voco_llama const& policy, std::string const& letters) {
    auto const t = types(letters);
    std::vector<std::uint8_t> cells(t.size() * t.size(), 7);
    REQUIRE(policy.fill(t, cells) == errc::ok);
    auto const m = policy.prefill_mask(t);
    std::vector<std::string> rows(t.size());
    for (std::size_t i = 0; i < cells.size(); ++i) {
        rows[i / t.size()] += cells[i] != 0 ? '1' : '0';
        CHECK(m.sees(static_cast<index>(i / t.size()), static_cast<index>(i % t.size())) == (cells[i] != 0));
    }
    return rows;
}
}  // namespace

TEST_CASE("voco_llama keeps all but visual tokens", "[kv][retention]") {
    CHECK(kept({}, "ttvvcct") == tokens_list{0, 1, 4, 5, 6});
    CHECK(kept({}, "vvcvvctt") == tokens_list{2, 5, 6, 7});
    CHECK(kept({.hide_prefix = true}, "ttvvcct") == tokens_list{4, 5, 6});
    CHECK(kept({.hide_prefix = true}, "tvctvct") == tokens_list{2, 3, 4, 5, 6});
    CHECK(kept({}, "ttvvt") == tokens_list{0, 1, 2, 3, 4});  // nothing stands for them
    CHECK(kept({.hide_prefix = true}, "ttvvt") == tokens_list{0, 1, 2, 3, 4});
    CHECK(kept({}, "").empty());
    CHECK(kept({.keep = 5}, "ttvvcct") == tokens_list{0, 1, 4, 5, 6});
}

TEST_CASE("the paper's mask hides visual tokens from text", "[kv][retention]") {
    CHECK(mask({}, "tvvct") == std::vector<std::string>{"10000", "11000", "11100", "11110", "10011"});
    CHECK(mask({}, "vctvct") == std::vector<std::string>{"100000", "110000", "011000", "111100", "111110", "011011"});
    CHECK(mask({}, "tvt") == std::vector<std::string>{"100", "110", "111"});
    CHECK(mask({}, "").empty());
}

TEST_CASE("the code's mask hides what stands before the first compression token", "[kv][retention]") {
    CHECK(mask({.hide_prefix = true}, "tvvct") ==
          std::vector<std::string>{"10000", "11000", "11100", "11110", "00011"});
    CHECK(mask({.hide_prefix = true}, "tvcct") ==
          std::vector<std::string>{"10000", "11000", "11100", "11110", "00111"});
    CHECK(mask({.hide_prefix = true}, "vctvct") ==
          std::vector<std::string>{"100000", "110000", "111000", "111100", "111110", "011111"});
    CHECK(mask({.hide_prefix = true}, "tvt") == std::vector<std::string>{"100", "110", "111"});
}

TEST_CASE("what is kept is what later tokens see", "[kv][retention]") {
    for (bool const hide : {false, true}) {
        for (std::string const prompt : {"ttvvvcctt", "vvcvvct", "tvct", "ttt", "cv"}) {
            CAPTURE(prompt, hide);
            // A token that is decoded next is text after all others.
            auto const t = types(prompt + "t");
            auto const m = kv::voco_llama{.hide_prefix = hide}.prefill_mask(t);
            tokens_list seen;
            for (index j = 0; j + 1 < std::ssize(t); ++j)
                if (m.sees(std::ssize(t) - 1, j)) seen.push_back(static_cast<token>(j));
            if (prompt.find('c') != std::string::npos) CHECK(kept({.hide_prefix = hide}, prompt) == seen);
        }
    }
}

TEST_CASE("meta_tokens keeps meta-tokens, sinks and recent slots", "[kv][retention]") {
    arena memory;
    auto const t = types("tttcttctttt");
    auto const of = [&](kv::meta_tokens const& policy) { return list(policy(t, memory).value()[0].sources); };
    CHECK(of({.sinks = 1, .recent = 2}) == tokens_list{0, 3, 6, 9, 10});
    CHECK(of({.recent = 5}) == tokens_list{3, 6, 7, 8, 9, 10});
    CHECK(of({.recent = 0}) == tokens_list{3, 6});
    CHECK(of({.recent = 99}).size() == 11);
    CHECK(of({.recent = 0, .keep = 2}) == tokens_list{3, 6});
    CHECK(kv::meta_tokens{}(std::span<token_type const>{}, memory).value()[0].kept() == 0);
}

TEST_CASE("retention refuses a budget that it exceeds", "[kv][retention]") {
    arena memory;
    auto const t = types("ttvvcct");
    CHECK(kv::voco_llama{.keep = 4}(t, memory).error() == errc::bad_budget);
    CHECK(kv::voco_llama{.keep = -1}(t, memory).error() == errc::bad_budget);
    CHECK(kv::meta_tokens{.recent = 2, .keep = 2}(t, memory).error() == errc::bad_budget);
    CHECK(kv::meta_tokens{.recent = -1}(t, memory).error() == errc::bad_budget);
    CHECK(kv::meta_tokens{.sinks = -1}(t, memory).error() == errc::bad_budget);
    CHECK(kv::meta_tokens{.keep = -1}(t, memory).error() == errc::bad_budget);
    CHECK(memory.used() == 0);
    std::vector<std::uint8_t> cells(48);
    CHECK(kv::voco_llama{}.fill(t, cells) == errc::bad_shape);
    cells.resize(50);
    CHECK(kv::voco_llama{}.fill(t, cells) == errc::bad_shape);
    std::span<token_type const> const endless{t.data(), static_cast<std::size_t>(max_tokens) + 1};  // none is read
    CHECK(kv::meta_tokens{}(endless, memory).error() == errc::bad_shape);
    require_exact_peak([&](arena& m) { return kv::voco_llama{}(t, m); });
    require_exact_peak([&](arena& m) { return kv::meta_tokens{}(t, m); });
}
}  // namespace terse::test

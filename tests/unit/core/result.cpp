#include <set>
#include <string>

#include <terse/core/result.hpp>

#include "support.hpp"

using terse::errc;
using terse::result;

TEST_CASE("a result holds a value or a reason", "[core][result]") {
    result<int> const good = 3;
    REQUIRE(good);
    CHECK(*good == 3);
    CHECK(good.value() == 3);
    CHECK(good.error() == errc::ok);

    result<int> const bad = errc::bad_shape;
    CHECK_FALSE(bad);
    CHECK(bad.error() == errc::bad_shape);
}

TEST_CASE("value() of an error throws it", "[core][result]") {
    result<int> const bad = errc::bad_budget;
    try {
        (void)bad.value();
        FAIL("nothing was thrown");
    } catch (terse::bad_result const& e) {
        CHECK(e.error() == errc::bad_budget);
        CHECK(std::string{e.what()} == terse::message(errc::bad_budget));
    }
}

TEST_CASE("every error has a message of its own", "[core][result]") {
    std::set<std::string> messages{terse::message(static_cast<errc>(255))};
    auto const last = static_cast<int>(errc::out_of_memory);
    for (int e = 0; e <= last; ++e) messages.insert(terse::message(static_cast<errc>(e)));
    CHECK(messages.size() == static_cast<std::size_t>(last) + 2);
}

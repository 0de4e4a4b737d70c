// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cassert>
#include <cstdlib>
#include <exception>
#include <type_traits>

namespace terse {

/// Why a call did nothing.
enum class [[nodiscard]] errc : unsigned char{
    ok,
    bad_shape,      ///< tensors whose shapes do not fit each other, the plan or `token`
    bad_budget,     ///< a count to keep that is below one, or below what must be kept
    bad_setting,    ///< a policy's setting, or a token's size, outside its range or not finite
    bad_plan,       ///< a plan that the operation is not defined for
    aliased,        ///< an output that overlaps an input
    out_of_memory,  ///< a fixed arena too small, or no memory for a growing one
};

[[nodiscard]] constexpr char const* message(errc error) noexcept {
    switch (error) {
        case errc::ok:
            return "ok";
        case errc::bad_shape:
            return "the shapes of the tensors do not fit";
        case errc::bad_budget:
            return "the budget is below one, or below what must be kept";
        case errc::bad_setting:
            return "a setting or a size is outside its range";
        case errc::bad_plan:
            return "the operation is not defined for this plan";
        case errc::aliased:
            return "the output overlaps the input";
        case errc::out_of_memory:
            return "the arena is too small";
    }
    return "unknown error";
}

/// What `result::value()` throws, where exceptions exist.
class bad_result : public std::exception {
  public:
    explicit bad_result(errc error) noexcept : error_{error} {}
    [[nodiscard]] errc error() const noexcept { return error_; }
    [[nodiscard]] char const* what() const noexcept override { return message(error_); }

  private:
    errc error_;
};

/// A value, or the reason why there is none. A small trivially copyable value, passed by copy.
template <class T>
class [[nodiscard]] result {
    static_assert(std::is_trivially_copyable_v<T>);

  public:
    constexpr result(T value) noexcept : value_{value} {}
    constexpr result(errc error) noexcept : error_{error} { assert(error != errc::ok); }

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return error_ == errc::ok; }
    [[nodiscard]] constexpr errc error() const noexcept { return error_; }

    /// @pre the result holds a value
    [[nodiscard]] constexpr T const& operator*() const noexcept { return assert(*this), value_; }
    [[nodiscard]] constexpr T const* operator->() const noexcept { return assert(*this), &value_; }

    /// The value. Without one: throws `bad_result`, or ends the program where exceptions are off.
    [[nodiscard]] constexpr T const& value() const {
        if (error_ != errc::ok) {
#if defined(__cpp_exceptions)
            throw bad_result{error_};
#else
            std::abort();
#endif
        }
        return value_;
    }

  private:
    T value_{};
    errc error_ = errc::ok;
};

}  // namespace terse

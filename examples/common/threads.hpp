// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <exception>
#include <thread>
#include <vector>

/// Calls body() on `count` threads and hands on what one of them throws.
template <class Body>
void on_threads(std::size_t count, Body const& body) {
    std::vector<std::exception_ptr> failed(count);
    {
        std::vector<std::jthread> running;
        for (std::exception_ptr& failure : failed) {
            running.emplace_back([&body, &failure] {
                try {
                    body();
                } catch (...) {
                    failure = std::current_exception();
                }
            });
        }
    }
    for (std::exception_ptr const& failure : failed)
        if (failure) std::rethrow_exception(failure);
}

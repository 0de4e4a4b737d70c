// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include <terse/core/types.hpp>

namespace terse {

/// A stack of bytes that plans and scratch live in; nothing else in the library allocates.
///
/// A growing arena gets blocks from `operator new` (nothrow) and keeps them until it is destroyed, so that a call
/// with shapes it has seen allocates nothing. A fixed arena uses the caller's bytes and never allocates.
/// One thread at a time. What was taken lives until the arena is rewound past it.
class arena {
  public:
    /// A place to rewind to.
    struct mark {
        void* block = nullptr;
        std::size_t used = 0;
        std::size_t total = 0;
    };

    /// Grows as it needs to.
    arena() noexcept = default;

    /// Uses `memory` and no more; it must outlive the arena.
    explicit arena(std::span<std::byte> memory) noexcept : fixed_{memory.data()}, size_{memory.size()} {}

    arena(arena const&) = delete;
    arena& operator=(arena const&) = delete;
    arena(arena&& other) noexcept { *this = std::move(other); }
    arena& operator=(arena&& other) noexcept {
        std::swap(first_, other.first_);
        std::swap(block_, other.block_);
        std::swap(fixed_, other.fixed_);
        std::swap(size_, other.size_);
        std::swap(used_, other.used_);
        std::swap(total_, other.total_);
        std::swap(peak_, other.peak_);
        return *this;
    }
    ~arena() {
        while (first_ != nullptr) ::operator delete(std::exchange(first_, first_->next), alignment);
    }

    /// Room for `count` objects, not initialised, aligned to a cache line.
    /// @return a span of `count`; its data() is null when there is no memory, and only then
    /// @complexity constant
    template <class T>
    [[nodiscard]] std::span<T> take(index count) noexcept {
        static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= line);
        auto const n = static_cast<std::size_t>(count);
        if (n > (std::size_t{1} << 62) / sizeof(T)) return {};
        std::size_t const bytes = std::max(line, (n * sizeof(T) + line - 1) / line * line);
        void* const at = bump(bytes);
        return at == nullptr ? std::span<T>{} : std::span<T>{static_cast<T*>(at), n};
    }

    [[nodiscard]] mark here() const noexcept { return {block_, used_, total_}; }

    /// Gives back everything taken since `to`.
    void rewind(mark to) noexcept {
        block_ = static_cast<block*>(to.block);
        used_ = to.used;
        total_ = to.total;
    }

    /// Gives back everything. Growing arenas keep their blocks for the next call.
    void rewind() noexcept { rewind(mark{}); }

    /// The most bytes in use at one time so far: what a fixed arena must hold to serve the same calls,
    /// if its memory is aligned to 64 bytes.
    [[nodiscard]] std::size_t peak() const noexcept { return peak_; }

    /// Bytes in use.
    [[nodiscard]] std::size_t used() const noexcept { return total_; }

  private:
    static constexpr std::size_t line = 64;
    static constexpr std::align_val_t alignment{line};
    static constexpr std::size_t smallest_block = std::size_t{1} << 16;

    struct alignas(line) block {
        block* next;
        std::size_t size;
    };

    [[nodiscard]] void* bump(std::size_t bytes) noexcept {
        void* const at = fixed_ != nullptr || size_ != 0 ? bump_fixed(bytes) : bump_growing(bytes);
        if (at != nullptr) {
            total_ += bytes;
            peak_ = std::max(peak_, total_);
        }
        return at;
    }

    [[nodiscard]] void* bump_fixed(std::size_t bytes) noexcept {
        void* at = fixed_ + used_;
        std::size_t left = size_ - used_;
        if (std::align(line, bytes, at, left) == nullptr) return nullptr;
        used_ = size_ - left + bytes;
        return at;
    }

    [[nodiscard]] void* bump_growing(std::size_t bytes) noexcept {
        while (block_ == nullptr || block_->size - used_ < bytes) {
            block*& next = block_ == nullptr ? first_ : block_->next;
            if (next == nullptr || next->size < bytes) {
                std::size_t const size = std::max({bytes, smallest_block, block_ == nullptr ? 0 : 2 * block_->size});
                void* const memory = ::operator new(sizeof(block) + size, alignment, std::nothrow);
                if (memory == nullptr) return nullptr;
                next = new (memory) block{next, size};
            }
            block_ = next;
            used_ = 0;
        }
        std::byte* const at = reinterpret_cast<std::byte*>(block_ + 1) + used_;
        used_ += bytes;
        return at;
    }

    block* first_ = nullptr;
    block* block_ = nullptr;
    std::byte* fixed_ = nullptr;
    std::size_t size_ = 0;   // of the fixed memory
    std::size_t used_ = 0;   // of the present block, or of the fixed memory
    std::size_t total_ = 0;  // of all blocks
    std::size_t peak_ = 0;
};

/// Gives back what was taken in a scope, unless `keep` was called: a call that fails leaves the arena as it was.
class rollback {
  public:
    explicit rollback(arena& memory) noexcept : memory_{&memory}, start_{memory.here()} {}
    rollback(rollback const&) = delete;
    rollback& operator=(rollback const&) = delete;
    ~rollback() {
        if (memory_ != nullptr) memory_->rewind(start_);
    }
    void keep() noexcept { memory_ = nullptr; }

  private:
    arena* memory_;
    arena::mark start_;
};

/// Whether every span of a list was given memory.
template <class... Spans>
[[nodiscard]] constexpr bool taken(Spans const&... spans) noexcept {
    return (... && (spans.data() != nullptr));
}

}  // namespace terse

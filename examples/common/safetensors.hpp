// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

/// Reads and writes safetensors files: eight bytes of header length, a JSON header, the tensors' bytes.
/// Format: https://github.com/huggingface/safetensors#format
namespace safetensors {

/// A file that is not what it says, or a tensor that is not what was asked for. The message names the tensor.
class error : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

enum class dtype { f64, f32, f16, bf16, i64, i32, i16, i8, u8, boolean };

[[nodiscard]] char const* name(dtype) noexcept;  ///< as in a header: "F32"
[[nodiscard]] std::size_t width(dtype) noexcept;
[[nodiscard]] bool is_floating(dtype) noexcept;

using shape = std::vector<std::int64_t>;

[[nodiscard]] std::string to_string(shape const&);  ///< "[2, 3]"

/// The number of elements of a tensor of this shape; throws when a size is negative or the number overflows.
[[nodiscard]] std::int64_t elements(shape const&);

struct tensor {
    dtype type = dtype::f32;
    safetensors::shape shape;
    std::span<std::byte const> bytes;  ///< of the file that the tensor came from; little-endian, not aligned

    [[nodiscard]] std::int64_t elements() const { return safetensors::elements(shape); }
};

/// A file's tensors and their bytes. Moves but does not copy, since tensors point into it.
class file {
  public:
    /// Throws `error` unless header and data fit each other in every respect: no key twice, sizes equal shapes,
    /// tensors cover the data without overlap or gap.
    [[nodiscard]] static file read(std::filesystem::path const&);
    [[nodiscard]] static file parse(std::vector<std::byte>);

    file(file&&) = default;
    file& operator=(file&&) = default;

    [[nodiscard]] std::map<std::string, std::string> const& metadata() const noexcept { return metadata_; }
    [[nodiscard]] std::map<std::string, tensor> const& tensors() const noexcept { return tensors_; }

    [[nodiscard]] bool contains(std::string const& name) const { return tensors_.contains(name); }
    [[nodiscard]] tensor const& at(std::string const& name) const;

    [[nodiscard]] std::vector<float> floats(std::string const& name) const;           ///< of any floating type
    [[nodiscard]] std::vector<std::int64_t> integers(std::string const& name) const;  ///< of any other type

  private:
    file() = default;
    void read_header(std::string const& text, std::span<std::byte const> data);

    std::vector<std::byte> bytes_;
    std::map<std::string, std::string> metadata_;
    std::map<std::string, tensor> tensors_;
};

/// Gathers tensors and metadata for a file.
class writer {
  public:
    std::map<std::string, std::string> metadata;

    /// Throws `error` when the name is taken or the data is not of the shape.
    void add(std::string name, dtype type, shape const&, std::span<std::byte const> data);
    void add(std::string name, shape const&, std::vector<float> const& data);
    void add(std::string name, shape const&, std::vector<std::int64_t> const& data);
    void add(std::string name, shape const&, std::vector<std::uint8_t> const& data);

    [[nodiscard]] std::vector<std::byte> bytes() const;
    void write(std::filesystem::path const&) const;

  private:
    struct entry {
        dtype type;
        safetensors::shape shape;
        std::vector<std::byte> bytes;
    };
    std::map<std::string, entry> entries_;
};

}  // namespace safetensors

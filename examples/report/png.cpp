#include "report/png.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string_view>
#include <vector>

#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image_write.h>

namespace report {
namespace {

std::string base64(std::span<std::uint8_t const> bytes) {
    constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string text;
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
        std::size_t const some = std::min<std::size_t>(3, bytes.size() - i);
        std::array<std::uint8_t, 3> three{};
        std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(i), some, three.begin());
        unsigned const all = three[0] * 65536U + three[1] * 256U + three[2];
        for (std::size_t d = 0; d < 4; ++d) text += d <= some ? digits[all >> (18 - 6 * d) & 63U] : '=';
    }
    return text;
}

}  // namespace

std::string png_uri(std::span<std::uint8_t const> pixels, int side) {
    std::vector<std::uint8_t> file;
    auto const append = [](void* to, void* data, int size) {
        auto const* const bytes = static_cast<std::uint8_t const*>(data);
        static_cast<std::vector<std::uint8_t>*>(to)->insert(static_cast<std::vector<std::uint8_t>*>(to)->end(), bytes,
                                                            bytes + size);
    };
    if (stbi_write_png_to_func(append, &file, side, side, 2, pixels.data(), 2 * side) == 0)
        throw std::runtime_error{"cannot encode a picture"};
    return "data:image/png;base64," + base64(file);
}

}  // namespace report

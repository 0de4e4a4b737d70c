#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <terse/simd/convert.hpp>
#include <terse/simd/dot_quantised.hpp>
#include <terse/simd/quantise.hpp>
#include <terse/simd/scalar_quantise.hpp>

#include "../compare.hpp"

namespace terse::bench {
namespace {

// The peer: blocks of 32 values with their scale in front, each in a plain loop, as engines store a cache.
struct block8 {
    half scale;
    std::int8_t codes[32];
};
struct block4 {
    half scale, minimum;
    std::uint8_t codes[16];
};
struct query_block {
    float scale, sum;
    std::int8_t codes[32];
};

// One instruction where there is one, as engines have it.
half to_half(float x) {
#ifdef __F16C__
    auto const all = _mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT);
    return std::bit_cast<half>(static_cast<std::uint16_t>(_mm_cvtsi128_si32(all)));
#else
    return static_cast<half>(x);
#endif
}

template <class T>
std::span<float const, 32> as_floats(T const* values, std::array<float, 32>& converted) {
    if constexpr (std::same_as<T, float>) {
        return std::span<float const, 32>(values, 32);
    } else {
        simd::convert<>(std::span(values, 32), std::span<float>(converted));
        return converted;
    }
}

template <class T>
void quantise(T const* values, index blocks, block8* to) {
    for (index b = 0; b < blocks; ++b, values += 32) {
        std::array<float, 32> converted;
        auto const x = as_floats(values, converted);
        float most = 0;
        for (float const value : x) most = std::max(most, std::abs(value));
        float const scale = most / 127, inverse = scale != 0 ? 1 / scale : 0;
        to[b].scale = to_half(scale);
        for (std::size_t i = 0; i < 32; ++i) to[b].codes[i] = static_cast<std::int8_t>(std::nearbyint(x[i] * inverse));
    }
}

template <class T>
void quantise(T const* values, index blocks, block4* to) {
    for (index b = 0; b < blocks; ++b, values += 32) {
        std::array<float, 32> converted;
        auto const x = as_floats(values, converted);
        float least = x[0], most = least;
        for (float const value : x) {
            least = std::min(least, value);
            most = std::max(most, value);
        }
        float const scale = (most - least) / 15, inverse = scale != 0 ? 1 / scale : 0;
        to[b].scale = to_half(scale);
        to[b].minimum = to_half(least);
        for (std::size_t i = 0; i < 16; ++i) {
            auto const low = static_cast<int>((x[i] - least) * inverse + 0.5F);
            auto const high = static_cast<int>((x[i + 16] - least) * inverse + 0.5F);
            to[b].codes[i] = static_cast<std::uint8_t>(std::min(low, 15) | std::min(high, 15) << 4);
        }
    }
}

float dot(block8 const* key, query_block const* query, index blocks) {
    float sum = 0;
    for (index b = 0; b < blocks; ++b) {
        int products = 0;
        for (index i = 0; i < 32; ++i) products += key[b].codes[i] * query[b].codes[i];
        sum += static_cast<float>(products) * simd::to_float(key[b].scale) * query[b].scale;
    }
    return sum;
}

float dot(block4 const* key, query_block const* query, index blocks) {
    float sum = 0;
    for (index b = 0; b < blocks; ++b) {
        int products = 0;
        for (index i = 0; i < 16; ++i) {
            products += (key[b].codes[i] & 15) * query[b].codes[i];
            products += (key[b].codes[i] >> 4) * query[b].codes[i + 16];
        }
        sum += static_cast<float>(products) * simd::to_float(key[b].scale) * query[b].scale +
               simd::to_float(key[b].minimum) * query[b].sum;
    }
    return sum;
}

constexpr index group = 32;

template <class T>
T* at(aligned<T>& plane, index i) {
    return plane.data() + i;
}
template <class T>
aligned<T> plane(index size) {
    return aligned<T>(static_cast<std::size_t>(size));
}

/// Rows of one cache in planes and in blocks.
template <int Bits>
struct cache {
    using code = std::conditional_t<Bits == 8, std::int8_t, std::uint8_t>;
    using block = std::conditional_t<Bits == 8, block8, block4>;

    cache(index rows_, index dim_)
        : rows{rows_},
          dim{dim_},
          codes(plane<code>(rows * dim * Bits / 8)),
          scales(plane<half>(rows * dim / group)),
          minima(scales),
          blocks(plane<block>(rows * dim / group)) {}

    template <class T>
    void fill_planes(T const* x) {
        auto const row = [x, d = dim](index i) noexcept { return x + i * d; };
        if constexpr (Bits == 8)
            simd::quantise_int8<>(rows, row, dim, group, codes.data(), scales.data());
        else
            simd::quantise_int4<>(rows, row, dim, group, codes.data(), scales.data(), minima.data());
    }
    template <class T>
    void fill_blocks(T const* x) {
        quantise(x, rows * dim / group, blocks.data());
    }
    void copy_to_blocks() {
        constexpr index size = group * Bits / 8;
        for (index b = 0; b < rows * dim / group; ++b) {
            std::copy_n(at(codes, b * size), size, at(blocks, b)->codes);
            at(blocks, b)->scale = *at(scales, b);
            if constexpr (Bits == 4) at(blocks, b)->minimum = *at(minima, b);
        }
    }
    /// Whether both stand for the same values, but for a step of the codes.
    bool agree() {
        for (index b = 0; b < rows * dim / group; ++b) {
            auto const scale = static_cast<float>(*at(scales, b)), other = static_cast<float>(at(blocks, b)->scale);
            for (index i = 0; i < group; ++i) {
                float ours = 0, theirs = 0;
                if constexpr (Bits == 8) {
                    ours = scale * static_cast<float>(*at(codes, b * group + i));
                    theirs = other * static_cast<float>(at(blocks, b)->codes[i]);
                } else {
                    auto const value = [i](auto const* c, half s, half m) {
                        return static_cast<float>(s) * static_cast<float>(simd::scalar::int4_code(c, i)) +
                               static_cast<float>(m);
                    };
                    ours = value(at(codes, b * group / 2), *at(scales, b), *at(minima, b));
                    theirs = value(at(blocks, b)->codes, at(blocks, b)->scale, at(blocks, b)->minimum);
                }
                if (!(std::abs(ours - theirs) <= 1.1F * scale)) return false;
            }
        }
        return true;
    }
    [[nodiscard]] index bytes() const { return rows * dim * Bits / 8 + rows * dim / group * (Bits == 8 ? 2 : 4); }

    index rows, dim;
    aligned<code> codes;
    aligned<half> scales, minima;
    aligned<block> blocks;
};

template <int Bits, class T>
contest quantising(index rows, index dim) {
    struct state {
        cache<Bits> stored;
        aligned<T> input;
    };
    // No branch depends on the values: one input will do, and stays in the cache.
    auto const s = std::make_shared<state>(state{cache<Bits>(rows, dim), random_values<T>(rows * dim, 1)});
    auto const touched = rows * dim * static_cast<index>(sizeof(T)) + s->stored.bytes();
    contest c{.bound = copy_limit(static_cast<std::size_t>(touched / 2), 1), .candidates = {}};
    c.candidates.push_back({"terse", [s](std::size_t) {
                                s->stored.fill_planes(s->input.data());
                                keep(*s->stored.codes.data());
                            }});
    c.candidates.push_back({"block-of-32 loop", [s](std::size_t) {
                                s->stored.fill_blocks(s->input.data());
                                keep(*s->stored.blocks.data());
                            }});
    for (auto const& each : c.candidates) each.run(0);
    c.agree = s->stored.agree();
    return c;
}

template <int Bits>
contest multiplying(index keys, index dim) {
    struct state {
        cache<Bits> stored;
        aligned<std::int8_t> codes;
        aligned<float> scales, sums;
        aligned<query_block> blocks;
        aligned<float> found, expected;
    };
    auto const groups = dim / group;
    auto const s = std::make_shared<state>(state{cache<Bits>(keys, dim), plane<std::int8_t>(dim), plane<float>(groups),
                                                 plane<float>(groups), plane<query_block>(groups), plane<float>(keys),
                                                 plane<float>(keys)});
    auto const values = random_values(keys * dim, 1), query = random_values(dim, 2);
    s->stored.fill_planes(values.data());
    s->stored.copy_to_blocks();
    simd::quantise_query<>(query.data(), dim, group, s->codes.data(), s->scales.data(), s->sums.data());
    for (index b = 0; b < groups; ++b) {
        at(s->blocks, b)->scale = *at(s->scales, b);
        at(s->blocks, b)->sum = *at(s->sums, b);
        std::copy_n(at(s->codes, b * group), group, at(s->blocks, b)->codes);
    }

    contest c{.bound = read_limit(static_cast<std::size_t>(s->stored.bytes()), 1), .candidates = {}};
    c.candidates.push_back({"terse", [s, dim, groups](std::size_t) {
                                auto& k = s->stored;
                                auto const codes = [&k, dim](index i) noexcept {
                                    return at(k.codes, i * dim * Bits / 8);
                                };
                                auto const scales = [&k, groups](index i) noexcept { return at(k.scales, i * groups); };
                                auto const minima = [&k, groups](index i) noexcept { return at(k.minima, i * groups); };
                                simd::quantised_query const q{s->codes.data(), s->scales.data(), s->sums.data()};
                                if constexpr (Bits == 8)
                                    simd::dot_int8<>(k.rows, codes, scales, q, dim, group, s->found.data());
                                else
                                    simd::dot_int4<>(k.rows, codes, scales, minima, q, dim, group, s->found.data());
                                keep(*s->found.data());
                            }});
    c.candidates.push_back({"block-of-32 loop", [s, groups](std::size_t) {
                                for (index i = 0; i < s->stored.rows; ++i)
                                    *at(s->expected, i) =
                                        dot(at(s->stored.blocks, i * groups), s->blocks.data(), groups);
                                keep(*s->expected.data());
                            }});
    for (auto const& each : c.candidates) each.run(0);
    for (index i = 0; i < keys; ++i) c.agree = c.agree && std::abs(*at(s->found, i) - *at(s->expected, i)) < 1e-4F;
    return c;
}

template <int Bits, class T>
void add_quantising(std::string const& kernel, index rows, index dim) {
    add({kernel, {{"rows", rows}, {"d", dim}}, dtype_name<T>()}, [=] { return quantising<Bits, T>(rows, dim); });
}

bool const added = [] {
    for (auto const& [rows, dim] : {std::pair<index, index>{512, 64}, {512, 128}, {65'536, 128}}) {
        add_quantising<8, float>("quantise-int8", rows, dim);
        add_quantising<4, float>("quantise-int4", rows, dim);
        add({"dot-int8", {{"rows", rows}, {"d", dim}}, "int8"},
            [rows = rows, dim = dim] { return multiplying<8>(rows, dim); });
        add({"dot-int4", {{"rows", rows}, {"d", dim}}, "int4"},
            [rows = rows, dim = dim] { return multiplying<4>(rows, dim); });
    }
    add_quantising<8, half>("quantise-int8", 512, 128);
    add_quantising<8, bfloat16>("quantise-int8", 512, 128);
    add_quantising<4, half>("quantise-int4", 512, 128);
    add_quantising<4, bfloat16>("quantise-int4", 512, 128);
    return true;
}();

}  // namespace
}  // namespace terse::bench

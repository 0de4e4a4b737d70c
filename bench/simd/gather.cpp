// Moving the rows that stay: half of a cache's, scattered, to another place or within it.
#include <algorithm>
#include <cstring>
#include <memory>

#include <terse/simd/rows.hpp>

#include "../compare.hpp"

namespace terse::bench {
namespace {

template <class T>
contest gather(index kept, bool in_place) {
    constexpr index dim = 128;
    struct state {
        std::vector<std::vector<token>> sources;
        std::vector<aligned<T>> from;
        aligned<T> to, others;
    };
    auto const s = std::make_shared<state>();
    constexpr std::size_t places = 2, choices = 8;
    for (unsigned choice = 0; choice < choices; ++choice) {
        std::mt19937 random(choice);
        auto& sources = s->sources.emplace_back();
        // Either of each two, so that all choices are as long.
        for (index i = 0; i < kept; ++i)
            sources.push_back(static_cast<token>(2 * i + static_cast<index>(random() >> 31)));
    }
    s->from = random_inputs<T>(2 * kept, dim, places);
    s->to.resize(static_cast<std::size_t>(kept * dim));
    s->others = s->to;

    auto const ours = [=](std::size_t input) {
        auto& from = s->from[input % places];
        if (in_place)
            simd::compact_rows(from.data(), dim, s->sources[input], dim);
        else
            simd::gather_rows<>(std::as_const(from).data(), dim, s->sources[input], s->to.data(), dim, dim);
        keep(s->to);
    };
    auto const theirs = [=](std::size_t input) {
        auto& from = s->from[input % places];
        T* to = in_place ? from.data() : s->others.data();
        for (token const source : s->sources[input]) {
            if (in_place)
                std::memmove(to, from.data() + source * dim, dim * sizeof(T));
            else
                std::memcpy(to, from.data() + source * dim, dim * sizeof(T));
            to += dim;
        }
        keep(s->others);
    };
    contest c{.bound = copy_limit(static_cast<std::size_t>(kept * dim) * sizeof(T), places),
              .candidates = {{"terse", ours}, {c_name(in_place ? "memmove a row" : "memcpy a row"), theirs}},
              .inputs = choices};
    auto const probe = c.bound.probe;
    c.bound.probe = [probe](std::size_t input) { probe(input % places); };
    if (in_place) {
        auto const before = s->from;
        ours(1);
        auto const after = s->from;
        s->from = before;
        theirs(1);
        c.agree = std::memcmp(s->from[1].data(), after[1].data(), after[1].size() * sizeof(T)) == 0;
    } else {
        ours(1);
        theirs(1);
        c.agree = std::memcmp(s->to.data(), s->others.data(), s->to.size() * sizeof(T)) == 0;
    }
    return c;
}

template <class T>
void add_gather(index bytes, bool in_place) {
    auto const row = static_cast<index>(128 * sizeof(T));
    index const kept = bytes / row;
    add({"gather", {{"kept", kept}, {"row_bytes", row}, {"in_place", in_place}}, dtype_name<T>()},
        [=] { return gather<T>(kept, in_place); });
}

// Within the second cache, within the last, and in memory.
bool const added = [] {
    for (index const bytes : {index{64} << 10, index{2} << 20, index{32} << 20})
        for (bool const in_place : {false, true}) {
            add_gather<float>(bytes, in_place);
            add_gather<half>(bytes, in_place);
        }
    return true;
}();

}  // namespace
}  // namespace terse::bench

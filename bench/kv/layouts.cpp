// Caches in 8 bit and ragged ones: what is read and moved there, beside the same on floats and by the book.
#include <cstring>
#include <memory>

#include <Eigen/Core>

#include <terse/kv.hpp>
#include <terse/simd/dequantise.hpp>
#include <terse/simd/quantise.hpp>

#include "eigen.hpp"

namespace terse::bench {
namespace {

constexpr index dim = prompt::dim, group = 32, groups = dim / group, budget = 1024, kernel = 5;

/// A prompt's keys in 8 bit, and the floats that they stand for.
struct quantised_prompt {
    prompt exact;
    aligned<std::int8_t> codes;
    aligned<half> scales;

    explicit quantised_prompt(index n)
        : exact{n}, codes(exact.keys.size()), scales(exact.keys.size() / static_cast<std::size_t>(group)) {
        auto const row = [this](index t) { return exact.keys.data() + t * dim; };
        simd::quantise_int8(prompt::kv_heads * n, row, dim, group, codes.data(), scales.data());
        simd::dequantise_int8(codes.data(), scales.data(), std::ssize(codes), group, exact.keys.data());
    }
    [[nodiscard]] terse::layer<float, quantised_view<half>> layer() const {
        return {.keys = quantised(head_major(codes.data(), prompt::kv_heads, exact.tokens, dim),
                                  head_major(scales.data(), prompt::kv_heads, exact.tokens, groups), group),
                .queries = exact.layer().queries};
    }
    /// The keys of a head as floats, as one writes it with Eigen.
    void dequantise(index kv, matrix& keys) const {
        index const n = exact.tokens;
        keys.resize(n, dim);
        auto const* const code = codes.data() + kv * n * dim;
        auto const* const scale = scales.data() + kv * n * groups;
        for (index t = 0; t < n; ++t)
            for (index g = 0; g < groups; ++g)
                keys.row(t).segment<group>(g * group) =
                    Eigen::Map<Eigen::Matrix<std::int8_t, 1, group> const>(code + t * dim + g * group).cast<float>() *
                    static_cast<float>(scale[t * groups + g]);
    }
};

std::shared_ptr<quantised_prompt const> quantised_prompt_of(index n) {
    static std::shared_ptr<quantised_prompt const> last;
    if (last == nullptr || last->exact.tokens != n) {
        last.reset();
        last = std::make_shared<quantised_prompt const>(n);
    }
    return last;
}

slots key_norm(quantised_prompt const& q) {
    slots kept;
    matrix keys;
    for (index kv = 0; kv < prompt::kv_heads; ++kv) {
        q.dequantise(kv, keys);
        Eigen::VectorXf const norms = keys.rowwise().norm();
        auto const shorter = [&](token a, token b) { return norms[a] < norms[b]; };
        kept.push_back(kept_by(shorter, q.exact.tokens, budget));
    }
    return kept;
}

slots snapkv(quantised_prompt const& q) {
    index const n = q.exact.tokens, before = n - prompt::window;
    slots kept;
    matrix keys;
    for (index kv = 0; kv < prompt::kv_heads; ++kv) {
        q.dequantise(kv, keys);
        Eigen::RowVectorXf sums = Eigen::RowVectorXf::Zero(before);
        for (index h = kv * prompt::group; h < (kv + 1) * prompt::group; ++h)
            sums += attention(q.exact.queries_of(h), keys).leftCols(before).colwise().sum();
        auto const scores = pooled(sums, kernel);
        kept.push_back(kept_by(higher(scores), n, budget, prompt::window));
    }
    return kept;
}

template <class Policy>
void add_policy(std::string const& name, Policy const& policy, slots (*book)(quantised_prompt const&), bool products) {
    for (index const n : prompt::lengths) {
        add({name, {{"n", n}, {"d", dim}}, "int8"}, [=] {
            auto const q = quantised_prompt_of(n);
            auto const memory = std::make_shared<arena>();
            auto const found = policy(q->layer(), *memory);
            double const operations = 2.0 * static_cast<double>(prompt::heads * prompt::window * n * dim);
            contest c{.bound = products ? fma_limit(operations)
                                        : read_limit(q->codes.size() + q->scales.size() * sizeof(half), 1),
                      .candidates = {},
                      .agree = found && same(as_slots(*found), book(*q), 1e-3)};
            c.candidates.push_back({"terse", [=](std::size_t) {
                                        memory->rewind();
                                        keep(policy(q->layer(), *memory));
                                    }});
            c.candidates.push_back({"terse on f32", [=](std::size_t) {
                                        memory->rewind();
                                        keep(policy(q->exact.layer(), *memory));
                                    }});
            c.candidates.push_back({eigen_name(), [=](std::size_t) { keep(book(*q)); }});
            return c;
        });
    }
}

/// Either of each two rows.
std::vector<token> every_second(index kept, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<token> sources;
    for (index i = 0; i < kept; ++i) sources.push_back(static_cast<token>(2 * i + static_cast<index>(random() >> 31)));
    return sources;
}

/// Rows of `bytes` to their places, as one writes it.
void move_rows(char* rows, std::size_t bytes, std::vector<token> const& sources) {
    char* to = rows;
    for (token const source : sources) {
        std::memmove(to, rows + static_cast<std::size_t>(source) * bytes, bytes);
        to += bytes;
    }
}

contest compact_codes(index n) {
    struct state {
        aligned<std::int8_t> codes, other_codes;
        aligned<half> scales, other_scales;
        std::vector<token> sources;
        plan half_of_it;
    };
    auto const s = std::make_shared<state>();
    auto const q = quantised_prompt_of(n);
    s->codes = s->other_codes = q->codes;
    s->scales = s->other_scales = q->scales;
    s->sources = every_second(n / 2, 1);
    s->half_of_it = select_rows(s->sources, n);
    auto const ours = [s, n](std::size_t) {
        auto const cache = quantised(head_major(s->codes.data(), prompt::kv_heads, n, dim),
                                     head_major(s->scales.data(), prompt::kv_heads, n, groups), group);
        keep(kv::compact(cache, plans{{&s->half_of_it, 1}}));
    };
    auto const theirs = [s, n](std::size_t) {
        for (index h = 0; h < prompt::kv_heads; ++h) {
            move_rows(reinterpret_cast<char*>(s->other_codes.data() + h * n * dim), dim, s->sources);
            move_rows(reinterpret_cast<char*>(s->other_scales.data() + h * n * groups), groups * sizeof(half),
                      s->sources);
        }
        keep(s->other_codes);
    };
    ours(0);
    theirs(0);
    return {.bound = copy_limit((s->codes.size() + s->scales.size() * sizeof(half)) / 2, 1),
            .candidates = {{"terse", ours}, {c_name("memmove a row"), theirs}},
            .agree = s->codes == s->other_codes &&
                     std::memcmp(s->scales.data(), s->other_scales.data(), s->scales.size() * sizeof(half)) == 0};
}

/// Heads of n / 2 to n rows, each with its own plan, and 64 rows to grow.
contest compact_ragged(index n) {
    struct state {
        aligned<float> rows, others;
        std::vector<token> offsets{0}, lengths;
        std::vector<std::vector<token>> sources;
        std::vector<plan> items;
    };
    auto const s = std::make_shared<state>();
    std::size_t moved = 0;
    for (unsigned h = 0; h < prompt::kv_heads; ++h) {
        index const length = n / 2 + n / 2 * static_cast<index>(h) / (prompt::kv_heads - 1);
        s->lengths.push_back(static_cast<token>(length));
        s->offsets.push_back(static_cast<token>(s->offsets.back() + length + 64));
        s->sources.push_back(every_second(length / 2, h));
        moved += static_cast<std::size_t>(length / 2 * dim) * sizeof(float);
    }
    for (std::size_t h = 0; h < s->sources.size(); ++h) s->items.push_back(select_rows(s->sources[h], s->lengths[h]));
    s->rows = s->others = random_values(s->offsets.back() * dim, 1);
    auto const ours = [s](std::size_t) {
        keep(kv::compact(ragged(s->rows.data(), s->offsets, s->lengths, dim), plans{s->items}));
    };
    auto const theirs = [s](std::size_t) {
        for (std::size_t h = 0; h < s->sources.size(); ++h)
            move_rows(reinterpret_cast<char*>(s->others.data() + s->offsets[h] * dim), dim * sizeof(float),
                      s->sources[h]);
        keep(s->others);
    };
    ours(0);
    theirs(0);
    return {.bound = copy_limit(moved, 1),
            .candidates = {{"terse", ours}, {c_name("memmove a row"), theirs}},
            .agree = s->rows == s->others};
}

bool const added = [] {
    add_policy(
        "key-norm-int8", [](auto const& l, arena& memory) { return kv::key_norm{.keep = budget}(l, memory); }, key_norm,
        false);
    add_policy(
        "snapkv-int8",
        [](auto const& l, arena& memory) {
            return kv::snapkv{.keep = budget, .window = prompt::window, .kernel = kernel}(l, memory);
        },
        snapkv, true);
    for (index const n : prompt::lengths) {
        add({"compact-int8", {{"n", n}, {"d", dim}}, "int8"}, [n] { return compact_codes(n); });
        add({"compact-ragged", {{"n", n}, {"d", dim}}}, [n] { return compact_ragged(n); });
    }
    return true;
}();

}  // namespace
}  // namespace terse::bench

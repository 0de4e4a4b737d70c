#include <cmath>

#include <terse/score/attention.hpp>

#include "attention_reference.hpp"

namespace terse::test {

namespace {
/// What the references start from: whole matrices in double precision.
struct whole {
    std::vector<matrix> logits, attention;

    template <class T, class Cache>
    explicit whole(layer<T, Cache> const& l) : logits{logit_matrix(l)}, attention{softmax(logits)} {}
};

/// What score::attention computes, from them.
template <class T, class Cache>
matrix reference(score::attention const& s, layer<T, Cache> const& l, whole const& of) {
    index const n = l.tokens(), have = l.window(), group = l.group();
    index const voters = s.queries == 0 ? have : l.query_positions.empty() ? std::min(s.queries, n) : s.queries;
    // Slots before query i's own.
    auto const before = [&](index kv, index i) {
        index count = 0;
        for (index j = 0; j < l.length(kv) && sees(l, kv, i, j); ++j) {
            index const slot =
                (l.positions.data == nullptr) ? j : index{l.positions_of(kv)[static_cast<std::size_t>(j)]};
            bool const own = l.query_positions.empty() ? j == l.length(kv) - have + i
                                                       : slot == l.query_positions[static_cast<std::size_t>(i)];
            count += own ? 0 : 1;
        }
        return count;
    };
    bool const only_past = s.past_only || s.past_softmax;
    auto const scored = [&](index kv) { return only_past ? before(kv, have - voters) : l.length(kv); };
    auto const pool = [&](std::vector<double> const& row) {
        auto const reach = static_cast<index>(s.kernel / 2), size = static_cast<index>(row.size());
        std::vector<double> out;
        for (index t = 0; t < size; ++t) {
            double sum = 0, highest = -INFINITY;
            for (index k = std::max<index>(0, t - reach); k <= std::min(size - 1, t + reach); ++k) {
                sum += row[static_cast<std::size_t>(k)];
                highest = std::max(highest, row[static_cast<std::size_t>(k)]);
            }
            out.push_back(s.pool == score::pooling::none  ? row[static_cast<std::size_t>(t)]
                          : s.pool == score::pooling::max ? highest
                                                          : sum / static_cast<double>(s.kernel));
        }
        return out;
    };
    auto const votes = [&](index h) {
        return s.heads.empty() || std::find(s.heads.begin(), s.heads.end(), h) != s.heads.end();
    };
    bool const another = s.highest_logits || s.past_softmax;  // softmax than the layer's
    std::vector<matrix> own = another ? of.logits : std::vector<matrix>{};
    for (index h = 0; another && h < l.heads(); ++h) {
        auto& head = own[static_cast<std::size_t>(h)];
        for (index other = h + 1; s.highest_logits && votes(h) && other / group == h / group; ++other)
            for (std::size_t i = 0; i < head.size() && votes(other); ++i)
                for (std::size_t j = 0; j < head[i].size(); ++j)
                    head[i][j] = std::max(head[i][j], own[static_cast<std::size_t>(other)][i][j]);
        for (auto& row : head) {
            if (s.past_softmax) row.resize(static_cast<std::size_t>(scored(h / group)));
            row = softmax(row);
        }
    }
    auto const& a = another ? own : of.attention;
    matrix out(s.across_heads ? 1 : static_cast<std::size_t>(l.kv_heads()));
    std::vector<double> merged(out.size());
    std::size_t widest = 0;
    for (index h = 0; h < l.heads(); ++h) {
        index const kv = h / group;
        auto const r = s.across_heads ? std::size_t{0} : static_cast<std::size_t>(kv);
        if (!votes(h) || (s.highest_logits && merged[r] > 0)) continue;  // the first has the highest of all
        std::vector<double> row(static_cast<std::size_t>(scored(kv)), 0.0), seeing = row;
        for (index i = have - voters; i < have; ++i) {
            double const weight = s.times_visible ? static_cast<double>(before(kv, i)) : 1;
            auto const& received = a[static_cast<std::size_t>(h)][static_cast<std::size_t>(i)];
            for (std::size_t j = 0; j < row.size(); ++j) row[j] += weight * received[j];
            for (std::size_t j = 0; s.per_visible && j < row.size(); ++j)
                seeing[j] += sees(l, kv, i, static_cast<index>(j)) ? 1 : 0;
        }
        for (std::size_t j = 0; j < row.size(); ++j)
            row[j] /= s.per_visible ? std::max(seeing[j], 1.0) : s.mean_queries ? static_cast<double>(voters) : 1;
        if (s.pool_first) row = pool(row);
        widest = std::max(widest, row.size());
        auto& to = out[r];
        for (std::size_t j = 0; j < row.size() && merged[r] > 0; ++j)
            row[j] = s.group == score::reduction::max ? std::max(to[j], row[j]) : to[j] + row[j];
        to = row;
        merged[r] += 1;
    }
    for (std::size_t r = 0; r < out.size(); ++r) {
        if (s.group == score::reduction::mean)
            for (double& x : out[r]) x /= merged[r];
        if (!s.pool_first) out[r] = pool(out[r]);
        out[r].resize(only_past ? widest : static_cast<std::size_t>(n), NAN);
    }
    return out;
}

void require_close(scores const& got, matrix const& want, double tolerance) {
    terse::test::require_close(got, want, tolerance, tolerance * 1e-2);
}

std::vector<score::attention> const settings = {
    {},
    {.queries = 1, .across_heads = true},
    {.queries = 5, .past_only = true, .pool = score::pooling::average, .kernel = 5},
    {.queries = 5, .past_only = true, .mean_queries = true, .pool = score::pooling::max, .kernel = 7},
    {.past_only = true, .group = score::reduction::max, .pool = score::pooling::average, .kernel = 3},
    {.group = score::reduction::max, .pool = score::pooling::max, .kernel = 3, .pool_first = true},
    {.per_visible = true, .group = score::reduction::sum},
    {.past_only = true, .mean_queries = true, .times_visible = true},
    {.queries = 3, .per_visible = true, .times_visible = true, .across_heads = true},
    {.past_softmax = true, .times_visible = true, .group = score::reduction::max},
    {.queries = 4,
     .past_softmax = true,
     .mean_queries = true,
     .highest_logits = true,
     .pool = score::pooling::max,
     .kernel = 7},
    {.highest_logits = true},
};
}  // namespace

TEMPLATE_TEST_CASE("attention scores agree with the whole matrix in double precision", "[score][attention]", float,
                   half, bfloat16) {
    for (scorer_shape const& s : scorer_shapes()) {
        random_layer<TestType> const r{s, 7};
        layer<TestType> const l = r.view();
        whole const of{l};
        for (std::size_t i = 0; i < settings.size(); ++i) {
            if (settings[i].queries > s.window) continue;
            CAPTURE(s.heads, s.kv_heads, s.tokens, s.dim, s.window, i);
            arena memory;
            require_close(settings[i](l, memory).value(), reference(settings[i], l, of), 2e-5);
        }
    }
}

TEMPLATE_TEST_CASE("so they do with a scale, a cap and the engine's logs of sums", "[score][attention]", float, half,
                   bfloat16) {
    for (scorer_shape const& s : some_scorer_shapes()) {
        random_layer<TestType> const r{s, 8};
        for (int const given : {0, 1, 2, 3}) {
            layer<TestType> l = r.view();
            if (given == 0 || given == 3) l.scale = 0.7F;
            if (given == 1 || given == 3) l.soft_cap = 0.5F;
            whole const of{l};
            auto const logs = logs_of_sums(l);
            if (given >= 2) l.log_sum_exp = view(logs.data(), s.heads, s.window);
            for (std::size_t i = 0; i < settings.size(); ++i) {
                if (settings[i].queries > s.window) continue;
                CAPTURE(s.heads, s.kv_heads, s.tokens, s.dim, s.window, i, given);
                arena memory;
                require_close(settings[i](l, memory).value(), reference(settings[i], l, of), 4e-5);
            }
        }
    }
}

TEST_CASE("attention that the engine hands in scores as what is recomputed", "[score][attention]") {
    for (scorer_shape const& s : some_scorer_shapes()) {
        random_layer<> const r{s, 3};
        whole const of{r.view()};
        auto const rows = packed(of.attention);
        auto const handed = given(rows, s.heads, s.window, s.kv_heads);
        for (std::size_t i = 0; i < settings.size(); ++i) {
            if (settings[i].queries > s.window) continue;
            CAPTURE(s.heads, s.kv_heads, s.tokens, s.dim, s.window, i);
            arena memory;
            if (settings[i].highest_logits)
                CHECK(settings[i](handed, memory).error() == errc::bad_shape);
            else
                require_close(settings[i](handed, memory).value(), reference(settings[i], r.view(), of), 1e-5);
        }
    }
}

TEST_CASE("attention scores do not depend on the cache's layout or the workers", "[score][attention]") {
    random_layer<> const r{4, 2, 48, 24, 8, 11};
    score::attention const scorer{.queries = 6, .pool = score::pooling::average, .kernel = 5};
    arena memory;
    auto const expected = list(scorer(r.view(), memory).value().values);

    for (index const workers : worker_counts)
        CHECK(list(scorer(r.view(), memory, threads{workers}).value().values) == expected);

    // The same rows in blocks of 16 tokens, in another order, heads inside.
    std::vector<token> const blocks = {2, 0, 1};
    std::vector<float> pages(r.keys.values.size());
    paged_span<float> const keys{pages.data(), blocks, 2, 48, 24, 16, 2 * 16 * 24, 16 * 24, 24};
    for (index h = 0; h < 2; ++h)
        for (index t = 0; t < 48; ++t) std::copy_n(r.keys.row(t, h), 24, keys.row(h, t));
    layer<float, paged_view<float>> const paged{.keys = keys, .queries = r.queries.by_head()};
    CHECK(list(scorer(paged, memory).value().values) == expected);
}

TEMPLATE_TEST_CASE("queries stand where their positions say, and heads hold what their lengths say",
                   "[score][attention]", float, half, bfloat16) {
    index const heads = 6, kv_heads = 3, tokens = 70, dim = 20, window = 21;
    random_layer<TestType> r{heads, kv_heads, tokens, dim, window, 17};
    std::vector<index> const lengths{41, 70, 12};
    for (index kv = 0; kv < kv_heads; ++kv)  // nothing is read past a head's slots
        for (index t = lengths[static_cast<std::size_t>(kv)]; t < tokens; ++t)
            std::fill_n(r.keys.row(t, kv), dim, static_cast<TestType>(not_a_number));
    uneven const held{tokens, lengths}, all{tokens, {70, 70, 70}};
    auto l = r.view(held);

    // Slots of two positions and more, an own list for each head; queries at slots, between them, before the first.
    std::vector<token> positions, probes;
    for (index kv = 0; kv < kv_heads; ++kv)
        for (index t = 0; t < tokens; ++t) positions.push_back(static_cast<token>(5 + (2 + kv) * t + t % 2));
    for (index i = 0; i < window; ++i) probes.push_back(static_cast<token>(3 + 9 * i + i % 3));

    int const given = GENERATE(0, 1, 2, 3, 4);
    CAPTURE(given);
    if (given >= 1) l.query_positions = probes;
    if (given == 2) l.positions = view<token const>(positions.data(), 1, tokens);
    if (given >= 3) l.positions = view<token const>(positions.data(), kv_heads, tokens);
    if (given == 4) {
        l.keys = all.of(r.keys);
        std::fill(r.keys.values.begin(), r.keys.values.end(), static_cast<TestType>(0.5F));
    }
    for (score::attention const& scorer : settings) {
        if (scorer.across_heads && given < 4) continue;
        arena memory;
        require_close(scorer(l, memory).value(), reference(scorer, l, whole{l}), 2e-5);
    }
}

TEST_CASE("the engine's log of a query's sum spares the search for it", "[score][attention]") {
    random_layer<> const r{6, 2, 83, 24, 40, 29};
    layer<float> l = r.view();
    auto logs = logs_of_sums(l);
    for (float& x : logs) x += 1;  // it is the engine's that counts: all is exp(1) too small
    l.log_sum_exp = view<float const>(logs.data(), 6, 40);
    arena memory;
    for (index const queries : {0, 1}) {
        auto const less = list(score::attention{.queries = queries}(l, memory).value().values);
        auto const full = list(score::attention{.queries = queries}(r.view(), memory).value().values);
        for (std::size_t j = 0; j < less.size(); ++j) CHECK(less[j] * 2.7182818F == Approx(full[j]).epsilon(1e-4));
    }
    auto const softmax_of_past = [&](layer<float> const& from) {
        return list(score::attention{.queries = 7, .past_softmax = true}(from, memory).value().values);
    };
    CHECK(softmax_of_past(l) == softmax_of_past(r.view()));
}

TEST_CASE("only the heads named vote", "[score][attention]") {
    random_layer<> const r{8, 2, 33, 12, 9, 23};
    arena memory;
    whole const of{r.view()};
    std::vector<std::vector<index>> const some = {{0, 1, 2, 3, 4, 5, 6, 7}, {3, 4}, {0, 2, 3, 7}, {1, 2, 5, 6, 7}};
    for (auto const& heads : some) {
        for (score::attention scorer : settings) {
            scorer.heads = heads;
            CAPTURE(scorer.highest_logits, heads.size());
            require_close(scorer(r.view(), memory).value(), reference(scorer, r.view(), of), 2e-5);
        }
    }
    std::vector<index> const first{0, 1};  // none of the second kv head's
    score::attention const shared{.heads = first, .across_heads = true, .group = score::reduction::max};
    require_close(shared(r.view(), memory).value(), reference(shared, r.view(), of), 2e-5);
    auto const error = [&](std::vector<index> const& heads) {
        return score::attention{.heads = heads}(r.view(), memory).error();
    };
    CHECK(error(first) == errc::bad_setting);
    CHECK(error({7}) == errc::bad_setting);
    CHECK(error({0, 4, 4}) == errc::bad_setting);
    CHECK(error({5, 1}) == errc::bad_setting);
    CHECK(error({-1, 4}) == errc::bad_setting);
    CHECK(error({0, 8}) == errc::bad_setting);
}

TEST_CASE("attention with lengths and positions by hand", "[score][attention]") {
    // Zero queries see every slot alike. Head 0 holds four slots, head 1 two.
    std::vector<float> const zeros(8, 0.0F);
    uneven const held{4, {4, 2}};
    layer<float, ragged_view<float>> l{.keys = held.of(zeros.data(), 2, 1),
                                       .queries = head_major(zeros.data(), 2, 2, 1)};
    arena memory;
    auto const row = [&](score::attention const& s, index h) {
        auto const all = s(l, memory).value();
        std::vector<float> values;
        for (float const x : all.row(h)) values.push_back(simd::is_nan(x) ? -1 : x);
        return values;
    };
    using list = std::vector<float>;
    CHECK(row({}, 0) == list{1 / 3.0F + 0.25F, 1 / 3.0F + 0.25F, 1 / 3.0F + 0.25F, 0.25F});
    CHECK(row({}, 1) == list{1.5F, 0.5F, -1, -1});
    CHECK(row({.past_only = true}, 0) == list{1 / 3.0F + 0.25F, 1 / 3.0F + 0.25F});
    CHECK(row({.past_only = true}, 1) == list{-1, -1});
    CHECK(row({.times_visible = true}, 1) == list{0.5F, 0.5F, -1, -1});
    CHECK(row({.per_visible = true}, 1) == list{0.75F, 0.5F, -1, -1});

    // Slots at 2, 5, 6 and 9; a query at 6, one between 9 and infinity. Before the first one: two slots.
    std::vector<token> const positions{2, 5, 6, 9}, probes{6, 20};
    l.positions = view<token const>(positions.data(), 1, 4);
    l.query_positions = probes;
    CHECK(row({}, 0) == list{1 / 3.0F + 0.25F, 1 / 3.0F + 0.25F, 1 / 3.0F + 0.25F, 0.25F});
    CHECK(row({}, 1) == list{1, 1, -1, -1});
    CHECK(row({.past_only = true}, 0).size() == 2);
    CHECK(row({.times_visible = true}, 0) == list{2 / 3.0F + 1, 2 / 3.0F + 1, 2 / 3.0F + 1, 1});
    CHECK(row({.times_visible = true}, 1) == list{2, 2, -1, -1});
    CHECK(score::attention{.across_heads = true}(l, memory).error() == errc::bad_shape);
}

TEST_CASE("attention says what does not fit", "[score][attention]") {
    random_layer<> const r{4, 2, 20, 8, 5, 1};
    arena memory;
    auto const error = [&](score::attention const& s, layer<float> const& l) { return s(l, memory).error(); };

    CHECK(error({.queries = -1}, r.view()) == errc::bad_setting);
    CHECK(error({.kernel = 4}, r.view()) == errc::bad_setting);
    CHECK(error({.kernel = 0}, r.view()) == errc::bad_setting);
    CHECK(error({.highest_logits = true, .across_heads = true}, r.view()) == errc::bad_setting);
    CHECK(error({.queries = 6}, r.view()) == errc::bad_shape);

    layer<float> l = r.view();
    l.soft_cap = -1;
    CHECK(error({}, l) == errc::bad_setting);
    l = r.view();
    l.scale = not_a_number;
    CHECK(error({}, l) == errc::bad_setting);
    l = r.view();
    l.queries.heads = 3;
    CHECK(error({}, l) == errc::bad_shape);
    l = r.view();
    l.queries.dim = 7;
    CHECK(error({}, l) == errc::bad_shape);
    l = r.view();
    l.queries = {};
    CHECK(error({}, l) == errc::bad_shape);
    l = r.view();
    l.keys.tokens = 4;  // fewer tokens than queries
    CHECK(error({}, l) == errc::bad_shape);
    CHECK(error({}, {}) == errc::bad_shape);
    CHECK(memory.used() == 0);

    require_exact_peak(
        [&](arena& a) { return score::attention{.pool = score::pooling::max, .kernel = 3}(r.view(), a); });
}

TEST_CASE("more voters than tokens are all the tokens", "[score][attention]") {
    random_layer<> const r{2, 2, 6, 8, 6, 5};
    arena memory;
    CHECK(list(score::attention{.queries = 32}(r.view(), memory).value().values) ==
          list(score::attention{}(r.view(), memory).value().values));

    // Where queries have positions, those that there are vote: some may have been taken back.
    random_layer<> const fewer{2, 2, 20, 8, 3, 5};
    std::vector<token> const positions{17, 18, 19};
    layer<float> l = fewer.view();
    CHECK(score::attention{.queries = 8}(l, memory).error() == errc::bad_shape);
    l.query_positions = positions;
    for (bool const past_only : {false, true}) {
        auto const asked = score::attention{.queries = 8, .past_only = past_only}(l, memory).value();
        auto const all = score::attention{.past_only = past_only}(l, memory).value();
        CHECK(asked.tokens == (past_only ? 17 : 20));
        CHECK(list(asked.values) == list(all.values));
    }
}

TEST_CASE("attention with heads of 128 channels", "[score][attention]") {
    for (scorer_shape const s : {scorer_shape{8, 2, 65, 128, 7}, {4, 4, 129, 128, 1}, {5, 1, 300, 128, 33}}) {
        random_layer<> const r{s, 31};
        whole const of{r.view()};
        for (std::size_t i = 0; i < settings.size(); ++i) {
            if (settings[i].queries > s.window) continue;
            CAPTURE(s.tokens, i);
            arena memory;
            require_close(settings[i](r.view(), memory).value(), reference(settings[i], r.view(), of), 2e-5);
        }
    }
}

}  // namespace terse::test

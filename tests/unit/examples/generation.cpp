#include "llm/generation.hpp"

#include <cmath>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "llm/evaluate.hpp"
#include "unit/examples/bundled.hpp"

namespace {

using llm::matrix;
using terse::index;
using terse::token;

/// The slow way: every key and value of every token so far, unturned, and which of them each head still has. For each
/// token a cache is filled from scratch with those that are left, turned to where they stand.
class from_scratch {
  public:
    explicit from_scratch(llm::generation const& g) : g_{&g}, frequencies_{bundled().rope_frequencies()} {
        auto const& s = bundled().shape();
        history_.resize(static_cast<std::size_t>(s.layers * s.kv_heads));
    }

    /// What the model says of `next` behind what is left.
    [[nodiscard]] matrix read(token next) const {
        auto const& s = bundled().shape();
        auto kv = bundled().make_cache(g_->books(0).longest() + 1);
        for (index l = 0; l < s.layers; ++l) {
            index const held = g_->books(l).longest();
            matrix keys(held, s.kv_heads * s.head_dim), values(held, s.kv_heads * s.head_dim);
            for (index h = 0; h < s.kv_heads; ++h) {
                auto const positions = g_->books(l).positions(h);
                REQUIRE(std::ssize(positions) == held);
                head const& own = of(l, h);
                for (index i = 0; i < held; ++i) {
                    auto const& one = own.rows[static_cast<std::size_t>(own.left[static_cast<std::size_t>(i)])];
                    keys.row(i).segment(h * s.head_dim, s.head_dim) =
                        turned(one.key, positions[static_cast<std::size_t>(i)]);
                    values.row(i).segment(h * s.head_dim, s.head_dim) = one.value;
                }
            }
            if (held > 0) kv.append(l, keys, values);
        }
        kv.move_to(g_->books(0).next_position());
        return bundled().forward({&next, 1}, kv);
    }

    /// Enters the token that the generation has just read, and which tokens it has left.
    void follow(index tokens, llm::step_policy const& policy, index keep) {
        auto const& s = bundled().shape();
        for (index l = 0; l < s.layers; ++l) {
            for (index h = 0; h < s.kv_heads; ++h) {
                head& own = of(l, h);
                auto const positions = g_->books(l).positions(h);
                index const last = std::ssize(positions) - 1;
                Eigen::Map<Eigen::RowVectorXf const> const key(g_->kv().keys(l).row(h, last), s.head_dim);
                Eigen::Map<Eigen::RowVectorXf const> const value(g_->kv().values(l).row(h, last), s.head_dim);
                own.rows.push_back({turned(key, -positions.back()), value});
                own.left.push_back(static_cast<token>(tokens));
                if (policy.positions == terse::kv::numbering::keep) {
                    own.left.assign(positions.begin(), positions.end());
                } else if (std::ssize(own.left) > last + 1) {  // sinks and the most recent
                    own.left.erase(own.left.begin() + 4, own.left.end() - (keep - 4));
                }
            }
        }
    }

  private:
    struct entry {
        Eigen::RowVectorXf key, value;
    };
    struct head {
        std::vector<entry> rows;
        std::vector<token> left;
    };

    [[nodiscard]] head& of(index l, index h) {
        return history_[static_cast<std::size_t>(l * bundled().shape().kv_heads + h)];
    }
    [[nodiscard]] head const& of(index l, index h) const { return const_cast<from_scratch*>(this)->of(l, h); }

    [[nodiscard]] Eigen::RowVectorXf turned(Eigen::RowVectorXf const& key, token position) const {
        Eigen::RowVectorXf out = key;
        index const half = key.size() / 2;
        for (index i = 0; i < half; ++i) {
            double const angle =
                static_cast<double>(position) * static_cast<double>(frequencies_[static_cast<std::size_t>(i)]);
            double const c = std::cos(angle), s = std::sin(angle);
            auto const a = static_cast<double>(key[i]), b = static_cast<double>(key[i + half]);
            out[i] = static_cast<float>(a * c - b * s);
            out[i + half] = static_cast<float>(b * c + a * s);
        }
        return out;
    }

    llm::generation const* g_;
    std::vector<float> frequencies_;
    std::vector<head> history_;
};

TEST_CASE("llm: a generation ten times longer than the cache is what attention from scratch makes of what is left") {
    auto const text = llm::read_bytes(models / "heldout-moby.txt");
    constexpr index keep = 48;
    for (llm::step_policy const& policy : llm::step_policies()) {
        CAPTURE(policy.name);
        llm::generation g(bundled(), policy, keep);
        from_scratch slow(g);
        index const capacity = keep + policy.every, total = 10 * capacity;
        std::size_t bytes = 0;
        float worst = 0;
        for (index t = 0; t < total; ++t) {
            token const next = t == 0 ? bundled().shape().bos : text[static_cast<std::size_t>(t)];
            matrix const expected = slow.read(next), found = g.read(next);
            worst = std::max(worst, (found - expected).cwiseAbs().maxCoeff());
            slow.follow(t, policy, keep);
            REQUIRE(g.books(0).longest() <= capacity);
            if (t == 2 * capacity) bytes = g.bytes();
        }
        CHECK(worst < 1e-3F);
        CHECK(g.bytes() == bytes);
        CHECK(g.books(0).next_position() ==
              (policy.positions == terse::kv::numbering::keep ? total : g.books(0).longest()));
        CHECK(g.books(0).lossy());
    }
}

TEST_CASE("llm: a generation with room for all is the model's own") {
    auto const text = llm::read_bytes(models / "heldout-kjv.txt");
    for (llm::step_policy const& policy : llm::step_policies()) {
        llm::generation g(bundled(), policy, 40);
        auto kv = bundled().make_cache(40);
        for (std::size_t t = 0; t < 40; ++t)
            REQUIRE((g.read(text[t]) - bundled().forward({&text[t], 1}, kv)).cwiseAbs().maxCoeff() < 1e-5F);
    }
    CHECK_THROWS_AS(llm::find_step_policy("nothing"), std::invalid_argument);
}
}  // namespace

#include <atomic>

#include <terse/core/parallel.hpp>
#include <terse/core/thread_pool.hpp>

#include "support.hpp"

#ifdef _OPENMP
#include <terse/core/openmp.hpp>
#endif

namespace {

// Every number is visited once, workers are in range, and no two ranges run at a time for one worker.
template <class Run>
void require_each_once(Run const& run) {
    static_assert(terse::executor<Run>);
    for (terse::index count : {0, 1, 2, 3, 7, 8, 64, 1001}) {
        CAPTURE(count, run.workers());
        std::vector<std::atomic<int>> visits(static_cast<std::size_t>(count));
        std::vector<std::atomic<int>> busy(static_cast<std::size_t>(run.workers()));
        std::atomic<bool> sound = true;
        run(count, [&](terse::index begin, terse::index end, terse::index worker) noexcept {
            if (begin < 0 || end > count || worker < 0 || worker >= run.workers()) {
                sound = false;
                return;
            }
            if (busy[static_cast<std::size_t>(worker)]++ != 0) sound = false;
            for (terse::index i = begin; i < end; ++i) ++visits[static_cast<std::size_t>(i)];
            --busy[static_cast<std::size_t>(worker)];
        });
        CHECK(sound);
        CHECK(std::all_of(visits.begin(), visits.end(), [](auto const& v) { return v == 1; }));
    }
}

/// Does all on its second worker, and counts how often it is called.
struct counting {
    terse::index* calls;
    terse::index grain = 100;

    [[nodiscard]] static terse::index workers() noexcept { return 2; }

    template <class Body>
    void operator()(terse::index count, Body&& body) const {
        ++*calls;
        body(terse::index{0}, count, terse::index{1});
    }
};

}  // namespace

TEST_CASE("shares cover a range and differ by one at most", "[core][parallel]") {
    for (terse::index count : {0, 1, 5, 8, 100})
        for (terse::index workers : {1, 2, 3, 8}) {
            terse::index next = 0;
            for (terse::index w = 0; w < workers; ++w) {
                auto const [begin, end] = terse::share(count, w, workers);
                CHECK(begin == next);
                CHECK((end - begin == count / workers || end - begin == count / workers + 1));
                next = end;
            }
            CHECK(next == count);
        }
}

TEST_CASE("the calling thread", "[core][parallel]") { require_each_once(terse::serial{}); }

TEST_CASE("an Eigen thread pool", "[core][parallel]") {
    require_each_once(terse::thread_pool{});
    for (int threads : {1, 2, 5}) {
        Eigen::ThreadPool pool{threads};
        terse::thread_pool const run{&pool};
        CHECK(run.workers() == threads + 1);
        require_each_once(run);
    }
}

#ifdef _OPENMP
TEST_CASE("OpenMP", "[core][parallel]") {
    for (int threads : {0, 1, 2, 5}) require_each_once(terse::openmp{threads});
}
#endif

TEST_CASE("a job that is not worth it stays on the calling thread", "[core][parallel]") {
    terse::index calls = 0, done = 0, by = -1;
    auto const body = [&](terse::index begin, terse::index end, terse::index worker) noexcept {
        done += end - begin;
        by = worker;
    };
    counting const run{&calls};
    terse::share_out(run, 9, 11, body);
    CHECK((calls == 0 && done == 9 && by == 0));
    terse::share_out(run, 10, 10, body);
    CHECK((calls == 1 && done == 19 && by == 1));
    terse::share_out(terse::test::threads{3}, 1, 1, body);  // without a grain every job is worth it
    CHECK(done == 20);
    CHECK(terse::thread_pool{}.grain == terse::worth_sharing);
}

TEST_CASE("the tests' own threads", "[core][parallel]") {
    for (terse::index count : terse::test::worker_counts) require_each_once(terse::test::threads{count});
}

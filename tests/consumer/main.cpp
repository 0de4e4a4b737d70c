#include <terse/terse.hpp>

terse::index kept_elsewhere(terse::arena& memory);

int main() {
    terse::arena memory;
    auto const plans = terse::kv::streaming_llm{.sinks = 2, .recent = 3}(10, memory);
    return plans && (*plans)[0].kept() == 5 && kept_elsewhere(memory) == 5 ? 0 : 1;
}

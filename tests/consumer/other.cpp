// A second translation unit: the headers hold no definition that clashes.
#include <terse/terse.hpp>

terse::index kept_elsewhere(terse::arena& memory) {
    return (*terse::kv::streaming_llm{.sinks = 2, .recent = 3}(10, memory))[0].kept();
}

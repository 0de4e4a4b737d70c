// An error that nobody looks at.
#include <terse/merge/tome.hpp>

void wrong(std::span<float> sizes) { terse::merge::log_sizes(sizes, sizes); }

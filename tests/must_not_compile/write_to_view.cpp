// A view is read only.
#include <terse/core/view.hpp>

void wrong(terse::tokens_view<float> v) { v.row(0)[0] = 1; }

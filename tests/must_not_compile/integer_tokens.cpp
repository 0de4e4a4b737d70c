// Similarities are defined for real tokens, not for ids.
#include <terse/merge/tome.hpp>

void wrong(terse::tokens_view<int> ids, terse::arena& memory) { (void)terse::merge::tome{}(ids, memory); }

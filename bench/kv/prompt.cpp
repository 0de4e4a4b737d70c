#include "prompt.hpp"

#include <algorithm>
#include <iterator>

namespace terse::bench {

slots as_slots(plans const& p) {
    slots all;
    for (plan const& each : p.items) all.emplace_back(each.sources.begin(), each.sources.end());
    return all;
}

bool same(slots const& a, slots const& b, double share) {
    std::size_t count = 0;
    std::vector<token> apart;
    for (std::size_t h = 0; h < a.size() && h < b.size(); ++h) {
        count += a[h].size();
        std::set_symmetric_difference(a[h].begin(), a[h].end(), b[h].begin(), b[h].end(), std::back_inserter(apart));
    }
    return a.size() == b.size() && static_cast<double>(apart.size()) <= 2 * share * static_cast<double>(count);
}

void add_prompt_rows(std::string const& kernel, prompt_method const& method, std::vector<index> const& lengths) {
    for (index const n : lengths) {
        add({kernel, {{"n", n}, {"kv_heads", prompt::kv_heads}, {"heads", prompt::heads}, {"d", prompt::dim}}}, [=] {
            auto const p = prompt_of(n);
            auto const memory = std::make_shared<arena>();
            contest c{.bound = read_limit(p->keys.size() * sizeof(float), 1), .candidates = {}, .inputs = 1};
            auto const found = method.ours(*p, *memory);
            c.agree = found && same(as_slots(*found), method.theirs(*p), method.differ);
            c.candidates.push_back({"terse", [=](std::size_t) {
                                        memory->rewind();
                                        keep(method.ours(*p, *memory));
                                    }});
            c.candidates.push_back({method.peer, [=](std::size_t) { keep(method.theirs(*p)); }});
            return c;
        });
    }
}

}  // namespace terse::bench

// What several kernels compute with.

#pragma once

#include <ATen/cpu/vec/vec.h>

#include <cstdint>

namespace duologue {

using Vector = at::vec::Vectorized<float>;

// Of `count` things those from `first` to before `last` are for one of a team's members.
struct Share {
  int64_t first, last;

  Share(int64_t count, int64_t member, int64_t team) : first(count * member / team), last(count * (member + 1) / team) {}
};

}  // namespace duologue

// Attention by itself, for graphs whose products are in eight bits.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <optional>

#include "attention.h"

namespace {

// Queries [B, H, T, D] over keys and values [B, G, S, D], each of which H / G heads share: [B, H, T, D]. D is a
// multiple of 8; `mask` [B, 1, T, S] says what a query sees, everything by default.
at::Tensor attend(
    const at::Tensor& given, const at::Tensor& keys, const at::Tensor& values, const std::optional<at::Tensor>& mask) {
  const auto queries = given.contiguous();
  const int64_t steps = queries.size(2), size = queries.size(3), num_groups = keys.size(1), num_keys = keys.size(2);
  const int64_t rows = queries.size(1) / num_groups * steps;
  for (const auto& read : {keys, values}) {
    TORCH_CHECK(read.stride(3) == 1 && read.stride(2) == size, "keys and values have to lie one after the other");
  }
  TORCH_CHECK(
      size % duologue::Float::kWidth == 0, "heads of a multiple of ", duologue::Float::kWidth, ", not ", size);
  const auto seen = mask ? mask->contiguous() : at::Tensor();
  auto outputs = at::empty_like(queries, at::MemoryFormat::Contiguous);
  const auto* asking = queries.const_data_ptr<float>();
  auto* to = outputs.mutable_data_ptr<float>();
  at::parallel_for(0, queries.size(0) * num_groups, 1, [&](int64_t first, int64_t last) {
    for (int64_t index = first; index < last; ++index) {
      const int64_t batch = index / num_groups, group = index % num_groups, start = index * rows * size;
      const duologue::Held held{
          keys.const_data_ptr<float>() + batch * keys.stride(0) + group * keys.stride(1),
          values.const_data_ptr<float>() + batch * values.stride(0) + group * values.stride(1), num_keys, size};
      const auto* visible = mask ? static_cast<const char*>(seen.const_data_ptr()) + batch * steps * num_keys : nullptr;
      duologue::attend(asking + start, rows, held, {visible, steps}, to + start);
    }
  });
  return outputs;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(duologue_native, library) {
  library.def("attend(Tensor queries, Tensor keys, Tensor values, Tensor? mask) -> Tensor");
}

TORCH_LIBRARY_IMPL(duologue_native, CPU, library) {
  library.impl("attend", attend);
}

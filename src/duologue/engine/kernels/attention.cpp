// Attention of a few queries over many keys, which compiled graphs call.
//
// torch's takes one query at a time and reads the keys that heads share once for each of them. Here all queries of a
// head's keys are its rows (product.h), so that a step takes as long as memory needs for the keys and values.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "product.h"

namespace {

using duologue::Float;
using duologue::Product;
using Vector = at::vec::Vectorized<float>;

// Scores [S] to weights whose largest is 1, in place; their sum. `seen` says of each key whether it counts.
float weigh(float* scores, const bool* seen, int64_t num_keys, float scale) {
  float largest = -std::numeric_limits<float>::infinity(), sum = 0;
  for (int64_t key = 0; key < num_keys; ++key) {
    scores[key] = seen == nullptr || seen[key] ? scores[key] * scale : -std::numeric_limits<float>::infinity();
    largest = std::max(largest, scores[key]);
  }
  const Vector most(largest);
  for (int64_t key = 0; key < num_keys; key += Vector::size()) {
    const int64_t count = std::min<int64_t>(Vector::size(), num_keys - key);
    (Vector::loadu(scores + key, count) - most).exp_u20().store(scores + key, count);
  }
  for (int64_t key = 0; key < num_keys; ++key) sum += scores[key];
  return sum;
}

// Values [S, D] from one channel on, weighted for `rows` queries at once.
template <int rows, int vectors>
void mix(const float* weights, const float* values, float* mixed, int64_t num_keys, int64_t size, const float* sums) {
  __m256 totals[rows][vectors] = {};
  for (int64_t key = 0; key < num_keys; ++key) {
    __m256 value[vectors];
    for (int v = 0; v < vectors; ++v) value[v] = Float::load(values + key * size + v * Float::kWidth);
    for (int row = 0; row < rows; ++row) {
      const __m256 weight = _mm256_set1_ps(weights[row * num_keys + key]);
      for (int v = 0; v < vectors; ++v) totals[row][v] = Float::add(totals[row][v], weight, value[v]);
    }
  }
  for (int row = 0; row < rows; ++row) {
    const __m256 share = _mm256_set1_ps(1 / sums[row]);
    for (int v = 0; v < vectors; ++v) {
      _mm256_storeu_ps(mixed + row * size + v * Float::kWidth, _mm256_mul_ps(totals[row][v], share));
    }
  }
}

template <int rows>
void mix_all(const float* weights, const float* values, float* mixed, int64_t num_keys, int64_t size, const float* sums) {
  int64_t channel = 0;
  for (; channel + 4 * Float::kWidth <= size; channel += 4 * Float::kWidth) {
    mix<rows, 4>(weights, values + channel, mixed + channel, num_keys, size, sums);
  }
  for (; channel < size; channel += Float::kWidth) {
    mix<rows, 1>(weights, values + channel, mixed + channel, num_keys, size, sums);
  }
}

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
  TORCH_CHECK(size % Float::kWidth == 0, "heads of a multiple of ", Float::kWidth, ", not ", size);
  const auto seen = mask ? mask->contiguous() : at::Tensor();
  auto outputs = at::empty_like(queries, at::MemoryFormat::Contiguous);
  const auto* asking = queries.const_data_ptr<float>();
  auto* to = outputs.mutable_data_ptr<float>();
  at::parallel_for(0, queries.size(0) * num_groups, 1, [&](int64_t first, int64_t last) {
    std::vector<float> scores(rows * num_keys), sums(rows);
    for (int64_t index = first; index < last; ++index) {
      const int64_t batch = index / num_groups, group = index % num_groups, start = index * rows * size;
      const auto* key = keys.const_data_ptr<float>() + batch * keys.stride(0) + group * keys.stride(1);
      const auto* value = values.const_data_ptr<float>() + batch * values.stride(0) + group * values.stride(1);
      Product<Float>{asking + start, key, scores.data(), rows, size, num_keys}.compute(0, num_keys);
      for (int64_t row = 0; row < rows; ++row) {
        const bool* visible = mask ? seen.const_data_ptr<bool>() + (batch * steps + row % steps) * num_keys : nullptr;
        sums[row] = weigh(scores.data() + row * num_keys, visible, num_keys, 1 / std::sqrt(static_cast<float>(size)));
      }
      int64_t row = 0;
      for (; row + 2 <= rows; row += 2) {
        mix_all<2>(scores.data() + row * num_keys, value, to + start + row * size, num_keys, size, sums.data() + row);
      }
      if (row < rows) {
        mix_all<1>(scores.data() + row * num_keys, value, to + start + row * size, num_keys, size, sums.data() + row);
      }
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

// A layer of a transformer for a few rows; see decoder.cpp.
//
// As twenty steps of a graph Mimi's took a quarter longer than as one (dev/LOG.md): here threads begin once and meet
// four times, and otherwise wait for memory alone.

#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <omp.h>

#include <vector>

#include "attention.h"
#include "vectors.h"

namespace duologue {

// A row's values together.
inline float sum(const float* values, int64_t count) {
  __m256 sums = _mm256_setzero_ps();
  for (int64_t index = 0; index < count; index += Float::kWidth) sums = _mm256_add_ps(sums, Float::load(values + index));
  return Float::total(sums);
}

// The squares of a row's distances from `middle` together.
inline float spread(const float* values, int64_t count, float middle) {
  __m256 sums = _mm256_setzero_ps();
  for (int64_t index = 0; index < count; index += Float::kWidth) {
    const __m256 apart = _mm256_sub_ps(Float::load(values + index), _mm256_set1_ps(middle));
    sums = Float::add(sums, apart, apart);
  }
  return Float::total(sums);
}

// LayerNorm of rows [R, N].
struct Norm {
  const float *weight, *bias;
  int64_t size;
  float eps;

  std::vector<float> operator()(const float* rows, int64_t num_rows) const {
    std::vector<float> normed(num_rows * size);
    for (int64_t row = 0; row < num_rows; ++row) {
      const float* from = rows + row * size;
      float* to = normed.data() + row * size;
      const float middle = sum(from, size) / size;
      const float factor = 1 / std::sqrt(spread(from, size, middle) / size + eps);
      for (int64_t index = 0; index < size; ++index) {
        to[index] = (from[index] - middle) * factor * weight[index] + bias[index];
      }
    }
    return normed;
  }
};

// The outputs of a member of rows times a matrix, all of them in order.
inline void multiply(const std::vector<float>& rows, const at::Tensor& weights, const Share& mine, float* to) {
  const int64_t num_inputs = weights.size(1), num_rows = rows.size() / num_inputs;
  const Weights<Float> read{weights.const_data_ptr<float>(), weights.size(0), num_inputs};
  Product<Float>{{rows.data(), num_rows, num_inputs}, read, to}.compute(mine.first, mine.last);
}

// GELU in place.
inline void widen(float* values, int64_t count) {
  for (int64_t index = 0; index < count; index += Vector::size()) {
    const int64_t some = std::min<int64_t>(Vector::size(), count - index);
    const Vector given = Vector::loadu(values + index, some);
    const Vector share = Vector(1) + (given * Vector(static_cast<float>(M_SQRT1_2))).erf();
    (given * Vector(0.5) * share).store(values + index, some);
  }
}

// A head [D] turned by the angles of its position, neighbouring channels together.
inline void rotate(const float* from, const float* cosine, const float* sine, int64_t size, float* to) {
  for (int64_t pair = 0; pair < size / 2; ++pair) {
    const float first = from[2 * pair], second = from[2 * pair + 1];
    to[2 * pair] = first * cosine[pair] - second * sine[pair];
    to[2 * pair + 1] = second * cosine[pair] + first * sine[pair];
  }
}

// Where new steps [B, T] stand in a ring of so many slots, and which of these they see.
class Places {
 public:
  // Rows continue at `lengths` [B]; a step sees the last `window` positions. `frequencies` [D / 2] in radians a position.
  Places(const int64_t* lengths, int64_t batch, int64_t steps, int64_t capacity, int64_t window, const at::Tensor& frequencies)
      : batch(batch), steps(steps), capacity(capacity), pairs_(frequencies.numel()), cosine_(batch * steps * pairs_),
        sine_(cosine_.size()), slots_(batch * steps), seen_(batch * steps * capacity) {
    const auto* frequency = frequencies.const_data_ptr<float>();
    for (int64_t row = 0; row < batch * steps; ++row) {
      const int64_t position = lengths[row / steps] + row % steps, last = lengths[row / steps] + steps - 1;
      slots_[row] = position % capacity;
      for (int64_t pair = 0; pair < pairs_; ++pair) {
        const float angle = static_cast<float>(position) * frequency[pair];
        cosine_[row * pairs_ + pair] = std::cos(angle);
        sine_[row * pairs_ + pair] = std::sin(angle);
      }
      for (int64_t slot = 0; slot < capacity; ++slot) {
        const int64_t held = last - ((last - slot) % capacity + capacity) % capacity;
        seen_[row * capacity + slot] = held >= 0 && held <= position && held > position - window;
      }
    }
  }

  int64_t slot(int64_t row) const { return slots_[row]; }
  Seen seen(int64_t batch) const { return {seen_.data() + batch * steps * capacity, steps}; }
  void turn(const float* head, int64_t row, float* to) const {
    rotate(head, cosine_.data() + row * pairs_, sine_.data() + row * pairs_, 2 * pairs_, to);
  }

  const int64_t batch, steps, capacity;

 private:
  int64_t pairs_;
  std::vector<float> cosine_, sine_;
  std::vector<int64_t> slots_;
  std::vector<char> seen_;
};

// A layer as Mimi has it: LayerNorm, all heads with keys of their own, GELU, a scale for each branch. Matrices are
// [outputs, inputs], sizes multiples of 8.
struct Layer {
  Norm norm;
  at::Tensor query, key, value, output, scale;
  Norm mlp_norm;
  at::Tensor up, down, mlp_scale;
  at::Tensor keys, values;  // [B, H, capacity, D], a ring

  // `x` [B, T, N] to the same; what is new goes into the caches.
  at::Tensor operator()(const at::Tensor& x, const Places& places) const {
    const int64_t num_rows = places.batch * places.steps, dim = norm.size, wide = up.size(0);
    const int64_t num_heads = keys.size(1);
    std::vector<float> queries(num_rows * dim), own_keys(queries.size()), own_values(queries.size());
    std::vector<float> mixed(queries.size()), change(queries.size()), hidden(queries.size()), inner(num_rows * wide);
    const auto outputs = at::empty_like(x);
    const auto* from = x.const_data_ptr<float>();
    auto* to = outputs.mutable_data_ptr<float>();
#pragma omp parallel num_threads(at::get_num_threads()) if (!at::in_parallel_region())
    {
      const int64_t member = omp_get_thread_num(), team = omp_get_num_threads();
      const Share own(dim, member, team), own_wide(wide, member, team), heads(places.batch * num_heads, member, team);
      const auto normed = norm(from, num_rows);  // by each member for itself: it is little
      multiply(normed, query, own, queries.data());
      multiply(normed, key, own, own_keys.data());
      multiply(normed, value, own, own_values.data());
#pragma omp barrier
      for (int64_t index = heads.first; index < heads.last; ++index) {
        attend(queries, own_keys, own_values, places, index / num_heads, index % num_heads, mixed);
      }
#pragma omp barrier
      multiply(mixed, output, own, change.data());
      add(from, change, scale, own, hidden.data());
#pragma omp barrier
      multiply(mlp_norm(hidden.data(), num_rows), up, own_wide, inner.data());
      for (int64_t row = 0; row < num_rows; ++row) {
        widen(inner.data() + row * wide + own_wide.first, own_wide.last - own_wide.first);
      }
#pragma omp barrier
      multiply(inner, down, own, change.data());
      add(hidden.data(), change, mlp_scale, own, to);
    }
    return outputs;
  }

 private:
  // One head of one batch: its keys and values are put into the caches, then its queries look at them.
  void attend(
      const std::vector<float>& queries, const std::vector<float>& own_keys, const std::vector<float>& own_values,
      const Places& places, int64_t batch, int64_t head, std::vector<float>& mixed) const {
    const int64_t size = keys.size(3), dim = norm.size, steps = places.steps;
    float* held_keys = keys.mutable_data_ptr<float>() + batch * keys.stride(0) + head * keys.stride(1);
    float* held_values = values.mutable_data_ptr<float>() + batch * values.stride(0) + head * values.stride(1);
    std::vector<float> asking(steps * size), found(steps * size);
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t row = batch * steps + step, start = row * dim + head * size, slot = places.slot(row) * size;
      places.turn(queries.data() + start, row, asking.data() + step * size);
      places.turn(own_keys.data() + start, row, held_keys + slot);
      std::copy_n(own_values.data() + start, size, held_values + slot);
    }
    duologue::attend(
        asking.data(), steps, {held_keys, held_values, places.capacity, size}, places.seen(batch), found.data());
    for (int64_t step = 0; step < steps; ++step) {
      std::copy_n(found.data() + step * size, size, mixed.data() + (batch * steps + step) * dim + head * size);
    }
  }

  // `x` plus a scaled change, for the channels of a member.
  static void add(
      const float* x, const std::vector<float>& change, const at::Tensor& scale, const Share& own, float* to) {
    const auto* factors = scale.const_data_ptr<float>();
    const int64_t dim = scale.numel(), num_rows = change.size() / dim;
    for (int64_t row = 0; row < num_rows; ++row) {
      for (int64_t channel = own.first; channel < own.last; ++channel) {
        const int64_t index = row * dim + channel;
        to[index] = x[index] + change[index] * factors[channel];
      }
    }
  }
};

}  // namespace duologue

// Causal convolutions of a stream; see decoder.cpp.
//
// A window of steps is a row that overlaps the next one, so nothing is copied but the steps themselves, once. A
// transposed convolution is one over its inputs: with a kernel of n strides, what comes of a step is the product of the
// last n inputs with n matrices, one for each of them.

#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <omp.h>

#include "float_product.h"
#include "vectors.h"

namespace duologue {

// Rows from which panels are faster, for weights that are not in a cache as for those that are.
constexpr int64_t kManySteps = 12;

// Calls `use` with the row, step, channel and value of all that a state [B, C, steps] holds.
template <typename Use>
void each(const at::Tensor& state, const Use& use) {
  auto* values = state.mutable_data_ptr<float>();
  for (int64_t row = 0; row < state.size(0); ++row) {
    for (int64_t step = 0; step < state.size(2); ++step) {
      float* from = values + row * state.stride(0) + step * state.stride(2);
      for (int64_t channel = 0; channel < state.size(1); ++channel) {
        use(row, step, channel, from[channel * state.stride(1)]);
      }
    }
  }
}

struct Convolution {
  at::Tensor weights;  // `num_parts` matrices [M, K * C / num_parts], the first for the last inputs of a window of K
  at::Tensor bias;     // [size], over and over along M
  int64_t num_parts = 1;

  // `x` [B, T, C], or ELU of it, behind the steps [B, C, K - 1] that were `previous`, which are those that will be on
  // return, to [B, T, M]. `others` [B, T, M], where they are defined, are added.
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& previous, bool elu, const at::Tensor& others = {}) const {
    const int64_t batch = x.size(0), steps = x.size(1), channels = x.size(2), before = previous.size(2);
    const int64_t num_outputs = weights.size(0) / num_parts, held = before + steps;
    TORCH_CHECK(
        x.is_contiguous() && previous.size(0) == batch && previous.size(1) == channels &&
            weights.size(1) * num_parts == (before + 1) * channels,
        "inputs ", x.sizes(), " behind ", previous.sizes(), " are not for weights ", weights.sizes());
    const auto inputs = at::empty({batch, held, channels}, x.options());
    const auto outputs = at::empty({batch, steps, num_outputs}, x.options());
    const auto* from = x.const_data_ptr<float>();
    auto* seen = inputs.mutable_data_ptr<float>();
    const FloatProduct product(
        {seen, batch * steps, channels, steps, held * channels},
        {weights.const_data_ptr<float>(), num_outputs, weights.size(1), num_parts}, outputs.mutable_data_ptr<float>(),
        {bias.const_data_ptr<float>(), bias.numel(), others.defined() ? others.const_data_ptr<float>() : nullptr},
        kManySteps);
#pragma omp parallel num_threads(at::get_num_threads()) if (!at::in_parallel_region())
    {
      const int64_t member = omp_get_thread_num(), team = omp_get_num_threads();
      if (member == 0) {
        each(previous, [&](int64_t row, int64_t step, int64_t channel, float& value) {
          seen[(row * held + step) * channels + channel] = value;
        });
      }
      const Share own(steps, member, team);
      for (int64_t row = 0; row < batch; ++row) {
        const int64_t first = own.first * channels, count = (own.last - own.first) * channels;
        float* to = seen + (row * held + before) * channels + first;
        std::copy_n(from + row * steps * channels + first, count, to);
        if (elu) activate(to, count);
      }
#pragma omp barrier
      if (member == 0) {
        each(previous, [&](int64_t row, int64_t step, int64_t channel, float& value) {
          value = seen[(row * held + steps + step) * channels + channel];
        });
      }
      const Share parts(product.count(), member, team);
      product.compute(parts.first, parts.last);
    }
    return outputs;
  }

 private:
  // ELU in place.
  static void activate(float* values, int64_t count) {
    for (int64_t index = 0; index < count; index += Vector::size()) {
      const int64_t some = std::min<int64_t>(Vector::size(), count - index);
      const Vector given = Vector::loadu(values + index, some);
      Vector::blendv(given.exp_u20() - Vector(1), given, given > Vector(0)).store(values + index, some);
    }
  }
};

}  // namespace duologue

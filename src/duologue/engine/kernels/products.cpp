// The products that compiled graphs call.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "float_product.h"

namespace {

using duologue::Float;
using duologue::FloatProduct;
using duologue::Int8;
using duologue::Product;

// Rows [..., N] times weights [M, N]: [..., M]; N is a multiple of 8.
at::Tensor float_product(const at::Tensor& given, const at::Tensor& weights) {
  const auto rows = given.contiguous();
  TORCH_CHECK(
      rows.dim() >= 1 && weights.dim() == 2 && weights.is_contiguous() && rows.size(-1) == weights.size(1),
      "rows [..., N] and weights [M, N] that lie in order, not ", rows.sizes(), " and ", weights.sizes());
  const int64_t num_inputs = weights.size(1);
  TORCH_CHECK(num_inputs % Float::kWidth == 0, "inputs of a multiple of ", Float::kWidth, ", not ", num_inputs);
  auto shape = rows.sizes().vec();
  shape.back() = weights.size(0);
  auto outputs = at::empty(shape, rows.options());
  const FloatProduct product(
      {rows.const_data_ptr<float>(), rows.numel() / std::max<int64_t>(1, num_inputs), num_inputs},
      {weights.const_data_ptr<float>(), weights.size(0), num_inputs}, outputs.mutable_data_ptr<float>());
  at::parallel_for(0, product.count(), product.share(), [&](int64_t first, int64_t last) {
    product.compute(first, last);
  });
  return outputs;
}

// Weights [M, N] of eight bits, N a multiple of 32, a scale an output, and the sum of each output's weights.
struct Held {
  at::Tensor codes, scale, sums;
};

// Never destroyed: a graph may be called while the process ends.
auto& held = *new std::unordered_map<int64_t, Held>;
auto& guard = *new std::mutex;

void hold(int64_t number, const at::Tensor& codes, const at::Tensor& scale, const at::Tensor& sums) {
  TORCH_CHECK(codes.dim() == 2 && codes.is_contiguous() && codes.scalar_type() == at::kChar);
  TORCH_CHECK(codes.size(1) % Int8::kWidth == 0, "inputs of a multiple of ", Int8::kWidth, ", not ", codes.size(1));
  TORCH_CHECK(scale.is_contiguous() && scale.scalar_type() == at::kFloat && scale.numel() == codes.size(0));
  TORCH_CHECK(sums.is_contiguous() && sums.scalar_type() == at::kInt && sums.numel() == codes.size(0));
  std::lock_guard<std::mutex> locked(guard);
  held[number] = Held{codes, scale, sums};
}

void drop(int64_t number) {
  std::lock_guard<std::mutex> locked(guard);
  held.erase(number);
}

Held find(int64_t number) {
  std::lock_guard<std::mutex> locked(guard);
  const auto found = held.find(number);
  TORCH_CHECK(found != held.end(), "no weights have the number ", number);
  return found->second;
}

// Rows [R, N] in [-1, 1], rounded to `levels` either side of zero, times the weights of a number: [R, M] float32.
at::Tensor int8_product(const at::Tensor& given, int64_t levels, c10::SymInt number, int64_t num_outputs) {
#ifndef __AVX512VNNI__
  TORCH_CHECK(levels < 64, levels, " levels are too many for this processor");
#endif
  const auto weights = find(number.guard_int(__FILE__, __LINE__));
  const auto rows = given.contiguous();
  const int64_t num_rows = rows.size(0), num_inputs = rows.size(1), filled = weights.codes.size(1);
  TORCH_CHECK(
      num_inputs <= filled && filled < num_inputs + Int8::kWidth && num_outputs == weights.codes.size(0),
      "weights ", weights.codes.sizes(), " are not for ", num_inputs, " inputs and outputs of ", num_outputs);
  std::vector<uint8_t> rounded(num_rows * filled);
  std::vector<int32_t> sums(num_rows * num_outputs);
  const float zero = levels + 1;
  const auto* from = rows.const_data_ptr<float>();
  for (int64_t row = 0; row < num_rows; ++row) {
    for (int64_t input = 0; input < num_inputs; ++input) {
      rounded[row * filled + input] = std::nearbyintf(from[row * num_inputs + input] * levels + zero);
    }
  }
  auto outputs = at::empty({num_rows, num_outputs}, rows.options());
  const Product<Int8> product{
      {rounded.data(), num_rows, filled}, {weights.codes.const_data_ptr<int8_t>(), num_outputs, filled}, sums.data()};
  const auto* scale = weights.scale.const_data_ptr<float>();
  const auto* all = weights.sums.const_data_ptr<int32_t>();
  auto* to = outputs.mutable_data_ptr<float>();
  at::parallel_for(0, num_outputs, product.share(), [&](int64_t first, int64_t last) {
    product.compute(first, last);
    for (int64_t row = 0; row < num_rows; ++row) {
      for (int64_t output = first; output < last; ++output) {
        const int64_t at = row * num_outputs + output;
        to[at] = (sums[at] - static_cast<int32_t>(zero) * all[output]) * (scale[output] / levels);
      }
    }
  });
  return outputs;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(duologue_native, library) {
  library.def("float_product(Tensor rows, Tensor weights) -> Tensor");
  library.def("int8_product(Tensor rows, int levels, SymInt number, int num_outputs) -> Tensor");
  library.def("hold(int number, Tensor codes, Tensor scale, Tensor sums) -> ()", hold);
  library.def("drop(int number) -> ()", drop);
}

TORCH_LIBRARY_IMPL(duologue_native, CPU, library) {
  library.impl("float_product", float_product);
  library.impl("int8_product", int8_product);
}

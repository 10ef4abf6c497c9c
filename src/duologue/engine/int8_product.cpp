// The operator that compiled graphs call for a product in eight bits; see native.py and quantization.py.
//
// Packed weights are torch's own, found by number: a graph holds tensors and numbers only.

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <ATen/native/quantized/PackedParams.h>
#include <torch/library.h>

#include <mutex>
#include <unordered_map>

namespace {

using Packed = c10::intrusive_ptr<LinearPackedParamsBase>;

// Never destroyed: a graph may be called while the process ends.
auto& weights = *new std::unordered_map<int64_t, Packed>;
auto& guard = *new std::mutex;

void hold(int64_t number, const Packed& packed) {
  std::lock_guard<std::mutex> locked(guard);
  weights[number] = packed;
}

void drop(int64_t number) {
  std::lock_guard<std::mutex> locked(guard);
  weights.erase(number);
}

Packed find(int64_t number) {
  std::lock_guard<std::mutex> locked(guard);
  auto found = weights.find(number);
  TORCH_CHECK(found != weights.end(), "no packed weights have the number ", number);
  return found->second;
}

// Rows [R, N] in [-1, 1], rounded to `levels` either side of zero, times the weights of a number: [R, M] float32.
at::Tensor product(const at::Tensor& rows, int64_t levels, c10::SymInt number, int64_t num_outputs) {
  auto packed = find(number.guard_int(__FILE__, __LINE__));
  return packed->apply_with_input_q_dq_qweight_dq_output_fp32(rows, 1.0 / levels, levels + 1);
}

}  // namespace

TORCH_LIBRARY(duologue_native, library) {
  library.def("int8_product(Tensor rows, int levels, SymInt number, int num_outputs) -> Tensor");
  library.def("hold(int number, __torch__.torch.classes.quantized.LinearPackedParamsBase packed) -> ()", hold);
  library.def("drop(int number) -> ()", drop);
}

TORCH_LIBRARY_IMPL(duologue_native, CPU, library) {
  library.impl("int8_product", product);
}

// Mimi's decoder of a stream as one program: codes to sound, a frame or some at a time.
//
// In a graph or in Python a frame's hundred operations take a sixth of its time to be called. Here they are calls of
// functions, and all that a frame takes is memory for the weights and the convolutions' arithmetic.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <utility>
#include <vector>

#include "convolution.h"
#include "layer.h"

namespace {

using duologue::Convolution;
using duologue::Layer;
using duologue::Norm;

// Tensors in the order in which they are used.
class Given {
 public:
  Given(at::TensorList tensors, const char* what) : tensors_(tensors), what_(what) {}

  const at::Tensor& next() {
    TORCH_CHECK(at_ < tensors_.size(), "too few ", what_, ": ", tensors_.size());
    return tensors_[at_++];
  }

  const at::Tensor& weight() {
    const auto& tensor = next();
    TORCH_CHECK(
        tensor.is_contiguous() && tensor.scalar_type() == at::kFloat && tensor.size(-1) % 8 == 0,
        "weights have to lie in order, in float32, in rows of multiples of 8, not ", tensor.sizes());
    return tensor;
  }

  const at::Tensor& state() {
    const auto& tensor = next();
    TORCH_CHECK(tensor.scalar_type() == at::kFloat, "states have to be in float32");
    return tensor;
  }

  void finish() const { TORCH_CHECK(at_ == tensors_.size(), "too many ", what_, ": ", tensors_.size()); }

 private:
  at::TensorList tensors_;
  const char* what_;
  size_t at_ = 0;
};

// Of codes [B, K, T] the vectors from `first` to before `last` added up, [B, T, C]; the table [K * V, C] is of these.
at::Tensor look_up(const at::Tensor& codes, const at::Tensor& table, int64_t first, int64_t last, int64_t num_entries) {
  const int64_t batch = codes.size(0), steps = codes.size(2), size = table.size(1);
  const auto sums = at::empty({batch, steps, size}, table.options());
  const auto* vectors = table.const_data_ptr<float>();
  const auto* code = codes.const_data_ptr<int64_t>();
  auto* to = sums.mutable_data_ptr<float>();
  std::fill_n(to, sums.numel(), 0.0f);
  for (int64_t row = 0; row < batch; ++row) {
    for (int64_t index = first; index < last; ++index) {
      for (int64_t step = 0; step < steps; ++step) {
        const int64_t entry = code[(row * codes.size(1) + index) * steps + step];
        TORCH_CHECK_INDEX(0 <= entry && entry < num_entries, "code ", entry, " of ", num_entries);
        const float* from = vectors + ((index - first) * num_entries + entry) * size;
        float* sum = to + (row * steps + step) * size;
        for (int64_t channel = 0; channel < size; ++channel) sum[channel] += from[channel];
      }
    }
  }
  return sums;
}

// `to` [R, M] plus rows [R, N] times weights [M, N].
void add_product(const at::Tensor& rows, const at::Tensor& weights, const at::Tensor& to) {
  const int64_t num_inputs = rows.size(-1);
  auto* sums = to.mutable_data_ptr<float>();
  const duologue::FloatProduct product(
      {rows.const_data_ptr<float>(), rows.numel() / num_inputs, num_inputs},
      {weights.const_data_ptr<float>(), weights.size(0), num_inputs}, sums, {nullptr, 1, sums});
  at::parallel_for(0, product.count(), product.share(), [&](int64_t first, int64_t last) {
    product.compute(first, last);
  });
}

// A transposed convolution of each channel by itself, with a kernel [2 * S, C]: [B, T, C] to [B, T * S, C].
at::Tensor spread(const at::Tensor& x, const at::Tensor& kernel, const at::Tensor& previous) {
  TORCH_CHECK(
      previous.sizes().equals({x.size(0), x.size(2), 1}) && kernel.size(1) == x.size(2), "inputs ", x.sizes(), " behind ",
      previous.sizes());
  const int64_t batch = x.size(0), steps = x.size(1), channels = x.size(2), stride = kernel.size(0) / 2;
  const auto outputs = at::empty({batch, steps * stride, channels}, x.options());
  std::vector<float> before(batch * channels);
  duologue::each(previous, [&](int64_t row, int64_t, int64_t channel, float& value) {
    before[row * channels + channel] = value;
    value = x.const_data_ptr<float>()[((row + 1) * steps - 1) * channels + channel];
  });
  const auto* weights = kernel.const_data_ptr<float>();
  auto* to = outputs.mutable_data_ptr<float>();
  for (int64_t row = 0; row < batch; ++row) {
    for (int64_t step = 0; step < steps; ++step) {
      const float* own = x.const_data_ptr<float>() + (row * steps + step) * channels;
      const float* last = step > 0 ? own - channels : before.data() + row * channels;
      for (int64_t part = 0; part < stride; ++part) {
        const float *now = weights + part * channels, *then = weights + (part + stride) * channels;
        for (int64_t channel = 0; channel < channels; ++channel) {
          *to++ = own[channel] * now[channel] + last[channel] * then[channel];
        }
      }
    }
  }
  return outputs;
}

Norm read_norm(Given& weights, double eps) {
  const auto &weight = weights.weight(), &bias = weights.weight();
  return {weight.const_data_ptr<float>(), bias.const_data_ptr<float>(), weight.numel(), static_cast<float>(eps)};
}

Layer read_layer(Given& weights, Given& states, int64_t batch, double eps) {
  auto norm = read_norm(weights, eps);
  const auto &query = weights.weight(), &key = weights.weight(), &value = weights.weight(), &output = weights.weight();
  const auto& scale = weights.weight();
  auto mlp_norm = read_norm(weights, eps);
  const auto &up = weights.weight(), &down = weights.weight(), &mlp_scale = weights.weight();
  const auto &keys = states.state(), &values = states.state();
  for (const auto& cache : {keys, values}) {
    TORCH_CHECK(
        cache.size(0) == batch && cache.stride(3) == 1 && cache.stride(2) == cache.size(3) && cache.size(3) % 8 == 0,
        "caches have to hold ", batch, " rows of positions one after the other, not ", cache.sizes());
  }
  return {norm, query, key, value, output, scale, mlp_norm, up, down, mlp_scale, keys, values};
}

Convolution read_convolution(Given& weights, int64_t num_parts = 1) {
  const auto &matrix = weights.weight(), &bias = weights.next();
  TORCH_CHECK(bias.is_contiguous() && bias.scalar_type() == at::kFloat && matrix.size(0) % (num_parts * bias.numel()) == 0);
  return {matrix, bias, num_parts};
}

// A state of a convolution; that it has begun is noted.
const at::Tensor& begun(Given& states) {
  const auto& previous = states.state();
  states.next().fill_(true);
  return previous;
}

// Codes [B, K, T] to sound [B, 1, samples]. See engine/native_decoder.py for the order of weights and states.
at::Tensor decode(
    const at::Tensor& codes, at::TensorList all_weights, at::TensorList all_states, int64_t num_layers,
    int64_t num_stages, int64_t window, double eps) {
  Given weights(all_weights, "weights"), states(all_states, "states");
  TORCH_CHECK(codes.dim() == 3 && codes.is_contiguous() && codes.scalar_type() == at::kLong && codes.size(2) > 0);
  const auto &semantic = weights.weight(), &acoustic = weights.weight();
  const auto &semantic_proj = weights.weight(), &acoustic_proj = weights.weight();
  const int64_t num_entries = semantic.size(0), batch = codes.size(0);
  TORCH_CHECK(codes.size(1) - 1 <= acoustic.size(0) / num_entries, "too many codebooks: ", codes.size(1));
  auto x = at::zeros({batch, codes.size(2), semantic_proj.size(0)}, semantic.options());
  add_product(look_up(codes, semantic, 0, 1, num_entries), semantic_proj, x);
  if (codes.size(1) > 1) add_product(look_up(codes, acoustic, 1, codes.size(1), num_entries), acoustic_proj, x);

  const auto &kernel = weights.weight(), &before = states.state();
  const auto &lengths = states.next(), &frequencies = weights.next();
  std::vector<Layer> layers;
  for (int64_t index = 0; index < num_layers; ++index) layers.push_back(read_layer(weights, states, batch, eps));
  const auto come = lengths.contiguous();
  const int64_t steps = codes.size(2) * (kernel.size(0) / 2), capacity = layers.front().keys.size(2);
  TORCH_CHECK(
      come.numel() == batch && come.scalar_type() == at::kLong && steps <= capacity - window + 1, steps,
      " steps of ", batch, " rows are not for rings of ", capacity, " that have come to ", come.sizes());
  const duologue::Places places(
      come.const_data_ptr<int64_t>(), batch, steps, capacity, window, frequencies);
  x = spread(x, kernel, before);
  for (const auto& layer : layers) x = layer(x, places);
  lengths.add_(steps);

  x = read_convolution(weights)(x, begun(states), false);
  for (int64_t stage = 0; stage < num_stages; ++stage) {
    const auto raise = read_convolution(weights, 2);
    x = raise(x, states.state(), true).view({batch, -1, raise.bias.numel()});
    const auto narrow = read_convolution(weights), widen = read_convolution(weights);
    const auto inner = narrow(x, begun(states), true);
    x = widen(inner, begun(states), true, x);
  }
  x = read_convolution(weights)(x, begun(states), true);
  weights.finish();
  states.finish();
  return x.view({batch, 1, -1});
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(duologue_native, library) {
  library.def(
      "decode(Tensor codes, Tensor[] weights, Tensor(a!)[] states, int num_layers, int num_stages, int window, "
      "float eps) -> Tensor");
}

TORCH_LIBRARY_IMPL(duologue_native, CPU, library) {
  library.impl("decode", decode);
}

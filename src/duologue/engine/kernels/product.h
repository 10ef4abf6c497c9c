// A few rows times many weights, in float32 or in eight bits; see native.py.
//
// It takes as long as memory needs for the weights. A core fetches them fastest from several places at once, so each
// thread goes along kPlaces rows of weights side by side, far apart, with two rows of inputs at a time. Sums are those
// of a row and its weights alone, in one order: what a row gives does not depend on the rows beside it.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace duologue {

constexpr int kPlaces = 4;
// Fewer multiplications are not worth a second thread.
constexpr int64_t kFew = 1 << 15;

struct Float {
  using Input = float;
  using Weight = float;
  using Output = float;
  using Vector = __m256;
  static constexpr int64_t kWidth = 8;

  static Vector load(const float* from) { return _mm256_loadu_ps(from); }
  static Vector add(Vector sum, Vector input, Vector weight) { return _mm256_fmadd_ps(input, weight, sum); }
  static float total(Vector sum) {
    __m128 halves = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
    halves = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
    return _mm_cvtss_f32(_mm_add_ss(halves, _mm_movehdup_ps(halves)));
  }
};

struct Int8 {
  using Input = uint8_t;
  using Weight = int8_t;
  using Output = int32_t;
  using Vector = __m256i;
  static constexpr int64_t kWidth = 32;

  template <typename Byte>
  static Vector load(const Byte* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
  static Vector add(Vector sum, Vector input, Vector weight) {
#ifdef __AVX512VNNI__
    return _mm256_dpbusd_epi32(sum, input, weight);
#else
    // Pairs are added up in 16 bits: inputs of seven bits are the most that cannot overflow.
    const Vector pairs = _mm256_maddubs_epi16(input, weight);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
  }
  static int32_t total(Vector sum) {
    __m128i halves = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    halves = _mm_add_epi32(halves, _mm_shuffle_epi32(halves, 0b01'00'11'10));
    return _mm_cvtsi128_si32(_mm_add_epi32(halves, _mm_shuffle_epi32(halves, 0b10'11'00'01)));
  }
};

// Rows of inputs that begin `step` apart, less than there are inputs where they overlap, in batches of `per_batch`.
template <typename Kind>
struct Rows {
  const typename Kind::Input* values;
  int64_t count, step, per_batch, batch_step;

  Rows(const typename Kind::Input* values, int64_t count, int64_t step)
      : Rows(values, count, step, std::max<int64_t>(1, count), 0) {}
  Rows(const typename Kind::Input* values, int64_t count, int64_t step, int64_t per_batch, int64_t batch_step)
      : values(values), count(count), step(step), per_batch(per_batch), batch_step(batch_step) {}

  const typename Kind::Input* at(int64_t row) const {
    return values + row / per_batch * batch_step + row % per_batch * step;
  }
};

// `num_parts` matrices [M, N] one after the other. A row's last N inputs are for the first, those before for the next.
template <typename Kind>
struct Weights {
  const typename Kind::Weight* values;
  int64_t num_outputs, num_inputs, num_parts = 1;

  // Those of a part of the inputs, for an output and all that follow.
  const typename Kind::Weight* at(int64_t part, int64_t output) const {
    return values + ((num_parts - 1 - part) * num_outputs + output) * num_inputs;
  }
};

// What is added to outputs: a bias, over and over along [M], and others [R, M], either of which may be missing.
struct Added {
  const float* bias = nullptr;
  int64_t bias_size = 1;
  const float* others = nullptr;

  float at(int64_t row, int64_t output, int64_t num_outputs) const {
    return (bias == nullptr ? 0 : bias[output % bias_size]) + (others == nullptr ? 0 : others[row * num_outputs + output]);
  }
};

// Rows [R, num_parts * N] times weights to [R, M].
template <typename Kind>
struct Product {
  Rows<Kind> rows;
  Weights<Kind> weights;
  typename Kind::Output* outputs;
  Added added = {};  // to floats

  // Outputs `first` to `last` of all rows.
  void compute(int64_t first, int64_t last) const {
    const int64_t apart = (last - first) / kPlaces;
    for (int64_t output = first; output < first + apart; ++output) column<kPlaces>(output, apart);
    for (int64_t output = first + kPlaces * apart; output < last; ++output) column<1>(output, 0);
  }

  // All outputs of rows `first` to `last`.
  void compute_rows(int64_t first, int64_t last) const {
    for (int64_t output = 0; output < weights.num_outputs; ++output) {
      int64_t row = first;
      for (; row + 2 <= last; row += 2) tile<2, 1>(row, output, 0);
      if (row < last) tile<1, 1>(row, output, 0);
    }
  }

  // Outputs that are worth a thread.
  int64_t share() const {
    return std::max<int64_t>(1, kFew / std::max<int64_t>(1, rows.count * weights.num_inputs * weights.num_parts));
  }

 private:
  template <int places>
  void column(int64_t output, int64_t apart) const {
    int64_t row = 0;
    for (; row + 2 <= rows.count; row += 2) tile<2, places>(row, output, apart);
    if (row < rows.count) tile<1, places>(row, output, apart);
  }

  template <int num_rows, int places>
  void tile(int64_t row, int64_t output, int64_t apart) const {
    typename Kind::Vector sums[num_rows][places] = {}, weight[places];
    const typename Kind::Input* given[num_rows];
    for (int r = 0; r < num_rows; ++r) given[r] = rows.at(row + r);
    const int64_t num_inputs = weights.num_inputs;
    for (int64_t part = 0; part < weights.num_parts; ++part) {
      const auto* from = weights.at(part, output);
      for (int64_t input = 0; input < num_inputs; input += Kind::kWidth) {
        for (int place = 0; place < places; ++place) {
          weight[place] = Kind::load(from + place * apart * num_inputs + input);
        }
        for (int r = 0; r < num_rows; ++r) {
          const auto one = Kind::load(given[r] + part * num_inputs + input);
          for (int place = 0; place < places; ++place) sums[r][place] = Kind::add(sums[r][place], one, weight[place]);
        }
      }
    }
    for (int r = 0; r < num_rows; ++r) {
      for (int place = 0; place < places; ++place) {
        const int64_t to = output + place * apart;
        auto sum = Kind::total(sums[r][place]);
        if constexpr (std::is_same_v<Kind, Float>) sum += added.at(row + r, to, weights.num_outputs);
        outputs[(row + r) * weights.num_outputs + to] = sum;
      }
    }
  }
};

}  // namespace duologue

// A few rows times many weights, in float32 or in eight bits; see native.py.
//
// It takes as long as memory needs for the weights. A core fetches them fastest from several places at once, so each
// thread goes along kPlaces rows of weights side by side, far apart, with two rows of inputs at a time. Sums are those
// of a row and its weights alone, in one order: what a row gives does not depend on the rows beside it.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>

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

// [R, N] times [M, N] to [R, M], row-major all of them.
template <typename Kind>
struct Product {
  const typename Kind::Input* inputs;
  const typename Kind::Weight* weights;
  typename Kind::Output* outputs;
  int64_t num_rows, num_inputs, num_outputs;

  // Outputs `first` to `last` of all rows.
  void compute(int64_t first, int64_t last) const {
    const int64_t apart = (last - first) / kPlaces;
    for (int64_t output = first; output < first + apart; ++output) column<kPlaces>(output, apart);
    for (int64_t output = first + kPlaces * apart; output < last; ++output) column<1>(output, 0);
  }

  template <int places>
  void column(int64_t output, int64_t apart) const {
    int64_t row = 0;
    for (; row + 2 <= num_rows; row += 2) tile<2, places>(row, output, apart);
    if (row < num_rows) tile<1, places>(row, output, apart);
  }

  template <int rows, int places>
  void tile(int64_t row, int64_t output, int64_t apart) const {
    typename Kind::Vector sums[rows][places] = {}, weight[places];
    const auto* from = weights + output * num_inputs;
    for (int64_t input = 0; input < num_inputs; input += Kind::kWidth) {
      for (int place = 0; place < places; ++place) {
        weight[place] = Kind::load(from + place * apart * num_inputs + input);
      }
      for (int r = 0; r < rows; ++r) {
        const auto given = Kind::load(inputs + (row + r) * num_inputs + input);
        for (int place = 0; place < places; ++place) {
          sums[r][place] = Kind::add(sums[r][place], given, weight[place]);
        }
      }
    }
    for (int r = 0; r < rows; ++r) {
      for (int place = 0; place < places; ++place) {
        outputs[(row + r) * num_outputs + output + place * apart] = Kind::total(sums[r][place]);
      }
    }
  }

  int64_t share() const { return std::max<int64_t>(1, kFew / std::max<int64_t>(1, num_rows * num_inputs)); }
};

}  // namespace duologue

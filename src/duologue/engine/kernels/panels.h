// Many rows times weights, in float32; see native.py.
//
// It takes as long as the arithmetic. Weights are turned into panels, the sixteen outputs of an input side by side,
// which stay in a core's first cache while all rows go by, six at a time. Sums are in the order of the inputs, whatever
// the number of rows.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "product.h"

namespace duologue {

constexpr int64_t kPanel = 16;

// As `Product`, of many rows in float32; `num_inputs` is a multiple of 8.
struct Panels {
  Rows<Float> rows;
  Weights<Float> weights;
  float* outputs;
  Added added = {};

  // Panels `first` to `last` of all rows.
  void compute(int64_t first, int64_t last) const {
    std::vector<float> panel(weights.num_parts * weights.num_inputs * kPanel);
    for (int64_t output = first * kPanel; output < std::min(last * kPanel, weights.num_outputs); output += kPanel) {
      const int64_t count = std::min(kPanel, weights.num_outputs - output);
      for (int64_t part = 0; part < weights.num_parts; ++part) {
        turn(weights.at(part, output), count, panel.data() + part * weights.num_inputs * kPanel);
      }
      const bool is_last = output + kPanel >= std::min(last * kPanel, weights.num_outputs);
      int64_t row = 0;
      for (; row + 6 <= rows.count; row += 6) tile<6>(row, output, count, panel.data(), row == 0 && !is_last);
      for (; row + 4 <= rows.count; row += 4) tile<4>(row, output, count, panel.data(), false);
      for (; row + 2 <= rows.count; row += 2) tile<2>(row, output, count, panel.data(), false);
      if (row < rows.count) tile<1>(row, output, count, panel.data(), false);
    }
  }

  int64_t count() const { return (weights.num_outputs + kPanel - 1) / kPanel; }

 private:
  // The weights [16, N] of `count` outputs to [N, 16], eight inputs of eight outputs at a time.
  void turn(const float* from, int64_t count, float* panel) const {
    for (int64_t half = 0; half < kPanel; half += 8) {
      for (int64_t input = 0; input < weights.num_inputs; input += 8) {
        __m256 lines[8], pairs[8], fours[8];
        for (int64_t k = 0; k < 8; ++k) {
          const bool is_there = half + k < count;
          lines[k] = is_there ? _mm256_loadu_ps(from + (half + k) * weights.num_inputs + input) : _mm256_setzero_ps();
        }
        for (int k = 0; k < 8; k += 2) {
          pairs[k] = _mm256_unpacklo_ps(lines[k], lines[k + 1]);
          pairs[k + 1] = _mm256_unpackhi_ps(lines[k], lines[k + 1]);
        }
        for (int k = 0; k < 8; k += 4) {
          fours[k] = _mm256_shuffle_ps(pairs[k], pairs[k + 2], 0b01'00'01'00);
          fours[k + 1] = _mm256_shuffle_ps(pairs[k], pairs[k + 2], 0b11'10'11'10);
          fours[k + 2] = _mm256_shuffle_ps(pairs[k + 1], pairs[k + 3], 0b01'00'01'00);
          fours[k + 3] = _mm256_shuffle_ps(pairs[k + 1], pairs[k + 3], 0b11'10'11'10);
        }
        for (int k = 0; k < 4; ++k) {
          float* to = panel + (input + k) * kPanel + half;
          _mm256_storeu_ps(to, _mm256_permute2f128_ps(fours[k], fours[k + 4], 0x20));
          _mm256_storeu_ps(to + 4 * kPanel, _mm256_permute2f128_ps(fours[k], fours[k + 4], 0x31));
        }
      }
    }
  }

  // `fetches`: the next panel's weights meanwhile, of which there are as many lines of memory as inputs.
  template <int num_rows>
  void tile(int64_t row, int64_t output, int64_t count, const float* panel, bool fetches) const {
    __m256 sums[num_rows][2] = {};
    const float* given[num_rows];
    for (int r = 0; r < num_rows; ++r) given[r] = rows.at(row + r);
    for (int64_t part = 0; part < weights.num_parts; ++part) {
      const float* next = fetches ? weights.at(part, output + kPanel) : panel;
      for (int64_t input = 0; input < weights.num_inputs; ++input, panel += kPanel) {
        if (fetches) _mm_prefetch(reinterpret_cast<const char*>(next + input * kPanel), _MM_HINT_T1);
        const __m256 left = _mm256_loadu_ps(panel), right = _mm256_loadu_ps(panel + 8);
#pragma GCC unroll 6  // otherwise sums are kept in memory, at half the speed
        for (int r = 0; r < num_rows; ++r) {
          const __m256 one = _mm256_broadcast_ss(given[r] + input);
          sums[r][0] = _mm256_fmadd_ps(one, left, sums[r][0]);
          sums[r][1] = _mm256_fmadd_ps(one, right, sums[r][1]);
        }
      }
      for (int r = 0; r < num_rows; ++r) given[r] += weights.num_inputs;
    }
    const int64_t num_outputs = weights.num_outputs;
#pragma GCC unroll 6
    for (int r = 0; r < num_rows; ++r) {
      const int64_t start = (row + r) * num_outputs + output;
      if (count == kPanel && (added.bias == nullptr || added.bias_size % kPanel == 0)) {
        const float* bias = added.bias == nullptr ? nullptr : added.bias + output % added.bias_size;
        for (int half = 0; half < 2; ++half) {
          __m256 sum = sums[r][half];
          if (added.bias != nullptr) sum = _mm256_add_ps(sum, _mm256_loadu_ps(bias + 8 * half));
          if (added.others != nullptr) sum = _mm256_add_ps(sum, _mm256_loadu_ps(added.others + start + 8 * half));
          _mm256_storeu_ps(outputs + start + 8 * half, sum);
        }
      } else {
        float whole[kPanel];
        _mm256_storeu_ps(whole, sums[r][0]);
        _mm256_storeu_ps(whole + 8, sums[r][1]);
        for (int64_t k = 0; k < count; ++k) outputs[start + k] = whole[k] + added.at(row + r, output + k, num_outputs);
      }
    }
  }
};

}  // namespace duologue

// Attention of a few queries over many keys; see native.py.
//
// torch's takes one query at a time and reads the keys that heads share once for each of them. Here all queries of a
// head's keys are its rows (product.h), so that a step takes as long as memory needs for the keys and values.

#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "product.h"
#include "vectors.h"

namespace duologue {

// Keys and values [S, D] of one position after another, which some heads share; D is a multiple of 8.
struct Held {
  const float *keys, *values;
  int64_t count, size;
};

using Runs = std::vector<std::pair<int64_t, int64_t>>;

// Which keys [S] a query at a step sees, all of them without a mask [steps, S].
struct Seen {
  const char* mask;
  int64_t num_steps;

  const char* by(int64_t row, int64_t num_keys) const {
    return mask == nullptr ? nullptr : mask + row % num_steps * num_keys;
  }

  // Whether any step sees a key.
  bool at(int64_t key, int64_t num_keys) const {
    bool is_seen = mask == nullptr;
    for (int64_t step = 0; step < num_steps && !is_seen; ++step) is_seen = mask[step * num_keys + key];
    return is_seen;
  }

  // The keys that any step sees, from one to before another: what nobody sees is not read.
  Runs runs(int64_t num_keys) const {
    Runs runs;
    for (int64_t key = 0, first = 0; key <= num_keys; ++key) {
      if (key < num_keys && at(key, num_keys)) continue;
      if (first < key) runs.emplace_back(first, key);
      first = key + 1;
    }
    return runs;
  }
};

inline std::array<float, Vector::size()> lanes(const Vector& vector) {
  std::array<float, Vector::size()> values;
  vector.store(values.data());
  return values;
}

constexpr float kNever = -std::numeric_limits<float>::infinity();

// Scores [S], S a multiple of 8, to weights whose largest is 1, in place; their sum. `seen` says whether a key counts.
inline float weigh(std::span<float> scores, const char* seen, int64_t num_keys, float scale) {
  if (seen != nullptr) {
    for (int64_t key = 0; key < num_keys; ++key) scores[key] = seen[key] ? scores[key] : kNever;
  }
  Vector most(kNever), sums(0);
  for (auto from = scores.begin(); from < scores.end(); from += Vector::size()) {
    most = at::vec::maximum(most, Vector::loadu(&*from));
  }
  const Vector largest(std::ranges::max(lanes(most))), factor(scale);
  for (auto from = scores.begin(); from < scores.end(); from += Vector::size()) {
    const Vector weights = ((Vector::loadu(&*from) - largest) * factor).exp_u20();
    weights.store(&*from);
    sums = sums + weights;
  }
  const auto parts = lanes(sums);
  return std::accumulate(parts.begin(), parts.end(), 0.0f);
}

// Values from one channel on, weighted for `rows` queries at once, whose weights begin `apart` from one another.
template <int rows, int vectors>
void mix(
    const float* weights, int64_t apart, const Held& held, const Runs& runs, int64_t channel, const float* sums,
    float* mixed) {
  __m256 totals[rows][vectors] = {};
  for (const auto& [first, last] : runs) {
    for (int64_t key = first; key < last; ++key) {
      __m256 value[vectors];
      for (int v = 0; v < vectors; ++v) {
        value[v] = Float::load(held.values + key * held.size + channel + v * Float::kWidth);
      }
      for (int row = 0; row < rows; ++row) {
        const __m256 weight = _mm256_set1_ps(weights[row * apart + key]);
        for (int v = 0; v < vectors; ++v) totals[row][v] = Float::add(totals[row][v], weight, value[v]);
      }
    }
  }
  for (int row = 0; row < rows; ++row) {
    const __m256 share = _mm256_set1_ps(1 / sums[row]);
    for (int v = 0; v < vectors; ++v) {
      _mm256_storeu_ps(mixed + row * held.size + channel + v * Float::kWidth, _mm256_mul_ps(totals[row][v], share));
    }
  }
}

template <int rows>
void mix_all(
    const float* weights, int64_t apart, const Held& held, const Runs& runs, const float* sums, float* mixed) {
  int64_t channel = 0;
  for (; channel + 4 * Float::kWidth <= held.size; channel += 4 * Float::kWidth) {
    mix<rows, 4>(weights, apart, held, runs, channel, sums, mixed);
  }
  for (; channel < held.size; channel += Float::kWidth) {
    mix<rows, 1>(weights, apart, held, runs, channel, sums, mixed);
  }
}

// Queries [R, D], all steps of a head, then those of the next, over what these heads share: [R, D].
//
// Sums are in one order whatever the number of keys: those that nobody sees change no bit.
inline void attend(const float* queries, int64_t num_rows, const Held& held, const Seen& seen, float* mixed) {
  const int64_t apart = (held.count + Vector::size() - 1) / Vector::size() * Vector::size();
  std::vector<float> scores(num_rows * apart, kNever), sums(num_rows);
  const Product<Float> product{{queries, num_rows, held.size}, {held.keys, apart, held.size}, scores.data()};
  const Runs runs = seen.runs(held.count);
  for (const auto& [first, last] : runs) product.compute(first, last);
  const float scale = 1 / std::sqrt(static_cast<float>(held.size));
  for (int64_t row = 0; row < num_rows; ++row) {
    const std::span<float> own(scores.data() + row * apart, apart);
    sums[row] = weigh(own, seen.by(row, held.count), held.count, scale);
  }
  int64_t row = 0;
  for (; row + 2 <= num_rows; row += 2) {
    mix_all<2>(scores.data() + row * apart, apart, held, runs, sums.data() + row, mixed + row * held.size);
  }
  if (row < num_rows) {
    mix_all<1>(scores.data() + row * apart, apart, held, runs, sums.data() + row, mixed + row * held.size);
  }
}

}  // namespace duologue

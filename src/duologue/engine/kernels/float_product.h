// Rows times weights in float32, in the way that suits their number.

#pragma once

#include "panels.h"
#include "product.h"

namespace duologue {

class FloatProduct {
 public:
  // From `many` rows on they take as long as the arithmetic, not as memory needs for the weights.
  FloatProduct(
      const Rows<Float>& rows, const Weights<Float>& weights, float* outputs, const Added& added = {},
      int64_t many = kMany)
      : few_{rows, weights, outputs, added}, many_{rows, weights, outputs, added} {
    // Of few outputs a panel would be mostly empty.
    way_ = rows.count < many ? Way::kFewRows : weights.num_outputs < kPanel / 2 ? Way::kByRow : Way::kManyRows;
  }

  // Parts that threads may share.
  int64_t count() const {
    return way_ == Way::kFewRows ? few_.weights.num_outputs : way_ == Way::kByRow ? few_.rows.count : many_.count();
  }

  // Parts that are worth a thread.
  int64_t share() const { return way_ == Way::kFewRows ? few_.share() : way_ == Way::kByRow ? kMany : 1; }

  // Parts `first` to `last`.
  void compute(int64_t first, int64_t last) const {
    if (way_ == Way::kFewRows) few_.compute(first, last);
    if (way_ == Way::kByRow) few_.compute_rows(first, last);
    if (way_ == Way::kManyRows) many_.compute(first, last);
  }

 private:
  enum class Way { kFewRows, kByRow, kManyRows };
  // So many that up to sixteen streams get what one would get by itself, to the last bit.
  static constexpr int64_t kMany = 17;

  Product<Float> few_;
  Panels many_;
  Way way_;
};

}  // namespace duologue

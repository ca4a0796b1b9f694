// SPDX-License-Identifier: GPL-2.0-only
#include "bench/samples.h"

#include <algorithm>
#include <stdexcept>

namespace slotzap {

std::vector<uint64_t> Samples::Sorted() const {
  if (all_.empty()) throw std::logic_error("nothing was measured");
  std::vector<uint64_t> sorted = all_;
  std::sort(sorted.begin(), sorted.end());
  return sorted;
}

uint64_t Samples::median() const { return Sorted()[(count() - 1) / 2]; }
uint64_t Samples::min() const { return Sorted().front(); }
uint64_t Samples::max() const { return Sorted().back(); }

uint64_t Samples::last() const {
  if (all_.empty()) throw std::logic_error("nothing was measured");
  return all_.back();
}

}  // namespace slotzap

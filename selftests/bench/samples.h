// SPDX-License-Identifier: GPL-2.0-only
// The times that one thing took, each time that it was measured.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace slotzap {

class Samples {
 public:
  void Add(uint64_t ns) { all_.push_back(ns); }

  size_t count() const { return all_.size(); }
  // In ns.  Of an even number the median is the lower one of the two in the middle, so that it was
  // measured.  All throw std::logic_error if there are none.
  uint64_t median() const;
  uint64_t min() const;
  uint64_t max() const;
  uint64_t last() const;  // that was added

 private:
  std::vector<uint64_t> Sorted() const;
  std::vector<uint64_t> all_;
};

// How long `action` takes, in ns of CLOCK_MONOTONIC.
template <typename Action>
uint64_t TimeOf(Action action) {
  const auto begin = std::chrono::steady_clock::now();
  action();
  const auto end = std::chrono::steady_clock::now();
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(end - begin).count());
}

}  // namespace slotzap

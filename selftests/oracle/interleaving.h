// SPDX-License-Identifier: GPL-2.0-only
// The proof that a race was run as the test meant it: what was seen to happen, in the order in
// which it was seen.
#pragma once

#include <functional>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

namespace slotzap {

// A step that was waited for can't happen any more.
class StepMissed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Steps in words: "delete waits for readers of the memslots".  Thread-safe.
class Interleaving {
 public:
  // Records a step that the caller has seen happen, or is about to make happen.
  void Saw(const std::string& step);

  // Waits, without sleeping, until `happened` says so, and records the step.  Throws StepMissed,
  // with what was seen so far, as soon as `missed` gives a reason why it never will.
  void Await(const std::string& step, const std::function<bool()>& happened,
             const std::function<std::string()>& missed);

  std::vector<std::string> steps() const;
  // "vCPU 0 sleeps -> delete waits -> delete returned"
  std::string ToString() const;

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> steps_;
};

// What differs between the steps that were seen and those that had to be, or an empty string.
std::string InterleavingProblem(const std::vector<std::string>& seen,
                                const std::vector<std::string>& expected);

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "oracle/interleaving.h"

#include <algorithm>
#include <thread>

namespace slotzap {

void Interleaving::Saw(const std::string& step) {
  const std::lock_guard lock(mutex_);
  steps_.push_back(step);
}

void Interleaving::Await(const std::string& step, const std::function<bool()>& happened,
                         const std::function<std::string()>& missed) {
  for (;;) {
    // The reason is looked for first: if it comes up after that, the step may have happened just
    // before.
    const std::string reason = missed();
    if (happened()) break;
    if (!reason.empty()) {
      std::string text = ToString();
      text.append(", but not: ").append(step).append(" (").append(reason).append(")");
      throw StepMissed(text);
    }
    std::this_thread::yield();
  }
  Saw(step);
}

std::vector<std::string> Interleaving::steps() const {
  const std::lock_guard lock(mutex_);
  return steps_;
}

std::string Interleaving::ToString() const {
  std::string text;
  for (const std::string& step : steps()) text += (text.empty() ? "" : " -> ") + step;
  return text.empty() ? "nothing" : text;
}

std::string InterleavingProblem(const std::vector<std::string>& seen,
                                const std::vector<std::string>& expected) {
  const auto [s, e] = std::mismatch(seen.begin(), seen.end(), expected.begin(), expected.end());
  if (s == seen.end() && e == expected.end()) return "";
  const std::string place = "step " + std::to_string(e - expected.begin() + 1);
  if (e == expected.end()) return place + " is one too many: " + *s;
  if (s == seen.end()) return place + " is missing: " + *e;
  return place + " is: " + *s + "; expected: " + *e;
}

}  // namespace slotzap

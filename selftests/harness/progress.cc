// SPDX-License-Identifier: GPL-2.0-only
#include "harness/progress.h"

#include <cinttypes>
#include <utility>

namespace slotzap {

Progress::Progress(std::string what, uint64_t total, std::chrono::seconds interval, std::FILE* out)
    : what_(std::move(what)), total_(total), interval_(interval), out_(out) {}

void Progress::Reached(uint64_t done) {
  const Clock::time_point now = Clock::now();
  if (now - said_ < interval_) return;
  said_ = now;
  // A diagnostic, in KTAP.
  std::fprintf(out_, "# %" PRIu64 " of %" PRIu64 " %s\n", done, total_, what_.c_str());
  std::fflush(out_);
}

}  // namespace slotzap

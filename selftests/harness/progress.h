// SPDX-License-Identifier: GPL-2.0-only
// Shows that a long test gets on.  Whoever runs it can't tell one that says nothing but that it
// still runs (harness/session.h) from one that hangs.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

namespace slotzap {

class Progress {
 public:
  // Of `total` pieces of `what`.  Says where it is no more often than each `interval`, on `out`.
  Progress(std::string what, uint64_t total,
           std::chrono::seconds interval = std::chrono::seconds(10), std::FILE* out = stdout);

  // `done` pieces are done.
  void Reached(uint64_t done);

 private:
  using Clock = std::chrono::steady_clock;

  const std::string what_;
  const uint64_t total_;
  const std::chrono::seconds interval_;
  std::FILE* const out_;
  Clock::time_point said_ = Clock::now();
};

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
// A time limit for each test, and what to say about a process that hangs.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace slotzap {

// Calls `on_expiry` from a thread of its own when the time is over.  on_expiry must not return:
// there is no way to end the test that hangs but with the process.  Until then, calls `on_tick`
// each `tick` with the time that has gone.  Neither may call the watchdog.
class Watchdog {
 public:
  using OnExpiry = std::function<void(std::chrono::seconds limit)>;
  using OnTick = std::function<void(std::chrono::seconds elapsed)>;

  Watchdog(std::chrono::seconds limit, OnExpiry on_expiry, std::chrono::milliseconds tick,
           OnTick on_tick);
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  ~Watchdog();

  // Starts the time anew, with the constructor's limit.  Doesn't return once it has expired, so
  // that what comes after it can't race with on_expiry.
  void Restart();
  // Another limit until Restart(), which counts from the last Restart().
  void SetLimit(std::chrono::seconds limit);

 private:
  using Clock = std::chrono::steady_clock;
  void Run();

  const std::chrono::seconds default_limit_;
  const OnExpiry on_expiry_;
  const std::chrono::milliseconds tick_;
  const OnTick on_tick_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Clock::time_point start_ = Clock::now();
  Clock::time_point next_tick_ = start_ + tick_;
  std::chrono::seconds limit_;
  bool stop_ = false;
  std::thread thread_;
};

// What the threads of this process are doing: names, system calls and, where readable, kernel
// stacks.
std::string DescribeThreads();

// `reporter`'s text, or a remark that it has none to give within `limit` (what it looks at may
// hang too).
std::string AskReporter(const std::function<std::string()>& reporter, std::chrono::seconds limit);

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "harness/watchdog.h"

#include <signal.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <future>
#include <memory>
#include <system_error>
#include <utility>

#include "base/file_descriptor.h"

namespace slotzap {
namespace {

// Empty if the kernel won't tell.
std::string ReadIfAllowed(const std::string& path) {
  try {
    return ReadLine(path);
  } catch (const std::system_error&) {
    return {};
  }
}

}  // namespace

Watchdog::Watchdog(std::chrono::seconds limit, OnExpiry on_expiry, std::chrono::milliseconds tick,
                   OnTick on_tick)
    : default_limit_(limit),
      on_expiry_(std::move(on_expiry)),
      tick_(tick),
      on_tick_(std::move(on_tick)),
      limit_(limit) {
  // A signal that a test sends to its own process has to hit one of the test's threads.
  sigset_t all;
  sigset_t old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  thread_ = std::thread([this] { Run(); });
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void Watchdog::Restart() {
  const std::lock_guard lock(mutex_);
  start_ = Clock::now();
  next_tick_ = start_ + tick_;
  limit_ = default_limit_;
  changed_.notify_one();
}

void Watchdog::SetLimit(std::chrono::seconds limit) {
  const std::lock_guard lock(mutex_);
  limit_ = limit;
  changed_.notify_one();
}

void Watchdog::Run() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    const Clock::time_point now = Clock::now();
    if (now >= start_ + limit_) {
      on_expiry_(limit_);
      std::terminate();
    }
    if (now >= next_tick_) {
      on_tick_(std::chrono::duration_cast<std::chrono::seconds>(now - start_));
      next_tick_ = now + tick_;
    }
    changed_.wait_until(lock, std::min(start_ + limit_, next_tick_));
  }
}

std::string DescribeThreads() {
  std::string text = "threads:";
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    const std::string directory = task.path().string();
    text += "\n  " + task.path().filename().string() + " " + ReadIfAllowed(directory + "/comm") +
            ", syscall " + ReadIfAllowed(directory + "/syscall");
    std::string stack = ReadIfAllowed(directory + "/stack");
    for (size_t at = stack.find('\n'); at != std::string::npos; at = stack.find('\n', at + 1))
      stack.insert(at + 1, "    ");
    if (!stack.empty()) text += "\n    " + stack;
  }
  return text;
}

std::string AskReporter(const std::function<std::string()>& reporter, std::chrono::seconds limit) {
  auto promise = std::make_shared<std::promise<std::string>>();
  std::future<std::string> answer = promise->get_future();
  std::thread([promise, reporter] {
    try {
      promise->set_value(reporter());
    } catch (const std::exception& error) {
      promise->set_value(std::string("the hang reporter failed: ") + error.what());
    }
  }).detach();
  if (answer.wait_for(limit) != std::future_status::ready) return "the hang reporter hangs too";
  return answer.get();
}

}  // namespace slotzap

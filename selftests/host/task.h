// SPDX-License-Identifier: GPL-2.0-only
// Threads of this process, and where in the kernel they sleep (/proc/PID/task/TID/stack, proc(5)).
#pragma once

#include <sys/types.h>

#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace slotzap {

// Function names, the innermost first.
using KernelStack = std::vector<std::string>;

// The text of such a file: "[<0>] kvm_swap_active_memslots+0x15e/0x200 [kvm]" for each function,
// here without offset, module and what the compiler added (".constprop.0", ".part.1", ".isra.2").
KernelStack ParseKernelStack(std::string_view text);

// Whether the functions are on the stack in this order, the innermost first, others in between or
// not.
bool IsInside(const KernelStack& stack, const std::vector<std::string>& functions);

// "a < b < c": a was called by b.
std::string ToString(const KernelStack& stack);

// Where a thread is in the kernel.  Sound if it sleeps there; of one that runs, it may be anything,
// also empty.  Empty for a thread that is gone.
KernelStack KernelStackOf(pid_t thread, const std::string& tasks = "/proc/self/task");
// 'R' runs or is about to, 'S' and 'D' sleep, 'D' being those that only what they wait for can
// wake: the third field of /proc/PID/task/TID/stat.  0 for a thread that is gone.
char ThreadStateOf(pid_t thread, const std::string& tasks = "/proc/self/task");

// Whether a thread waits for a mutex in a function whose name begins so, by this function's own
// doing: neither lock nor scheduler are on the stack that the kernel shows (__sched), so the
// function that asked for the lock comes first.
bool WaitsForMutexIn(std::string_view prefix, pid_t thread,
                     const std::string& tasks = "/proc/self/task");
// Why stacks can't be had here, or an empty string.
std::string KernelStackUnavailable();

// The CPUs that the calling thread may run on, in ascending order.
std::vector<int> AllowedCpus();

// The calling thread runs on this CPU only, and so do threads that it makes, until destroyed by the
// same thread.  Throws std::system_error if it may not.
class CpuPin {
 public:
  explicit CpuPin(int cpu);
  CpuPin(const CpuPin&) = delete;
  CpuPin& operator=(const CpuPin&) = delete;
  ~CpuPin();

 private:
  std::vector<int> before_;
};

// A call on a thread of its own.
//   BackgroundCall<KvmStatus> deletion([&] { return slot.TryDelete(); });
//   while (!deletion.ended() && !IsInside(KernelStackOf(deletion.thread()), {"__mutex_lock"}))
//     std::this_thread::yield();
//   EXPECT_THAT(deletion.Join(), IsOk());
template <typename T>
class BackgroundCall {
 public:
  explicit BackgroundCall(std::function<T()> call)
      : thread_([this, call = std::move(call)] {
          __atomic_store_n(&id_, gettid(), __ATOMIC_RELEASE);
          try {
            result_.emplace(call());
          } catch (...) {
            error_ = std::current_exception();
          }
          __atomic_store_n(&ended_, true, __ATOMIC_RELEASE);
        }) {}
  BackgroundCall(const BackgroundCall&) = delete;
  BackgroundCall& operator=(const BackgroundCall&) = delete;
  ~BackgroundCall() {
    if (thread_.joinable()) thread_.join();
  }

  bool ended() const { return __atomic_load_n(&ended_, __ATOMIC_ACQUIRE); }
  // The kernel's name for the thread.
  pid_t thread() const {
    for (;;) {
      if (const pid_t id = __atomic_load_n(&id_, __ATOMIC_ACQUIRE); id != 0) return id;
      std::this_thread::yield();
    }
  }
  // What the call returned.  Throws what it threw.
  const T& Join() {
    if (thread_.joinable()) thread_.join();
    if (error_) std::rethrow_exception(error_);
    return *result_;
  }

 private:
  std::optional<T> result_;
  std::exception_ptr error_;
  pid_t id_ = 0;
  bool ended_ = false;
  std::thread thread_;  // the last one: it uses those above
};

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
// Another process, forked off this one, that does what it is told: a helper of a VMM that shares
// its memory, or its memory as it was when it forked.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>

#include "base/channel.h"

namespace slotzap {

// The child has this process's memory and file descriptors, but none of its other threads.
//   ForkedProcess child([&](uint64_t offset) { return memory.Load(offset); });
//   EXPECT_EQ(child.Do(8), 5u);
class ForkedProcess {
 public:
  // In the child, `serve` is called for each Do(), with its argument.  It should neither print nor
  // allocate much, as the child was made while other threads may have been about to.
  explicit ForkedProcess(const std::function<uint64_t(uint64_t)>& serve);
  ForkedProcess(const ForkedProcess&) = delete;
  ForkedProcess& operator=(const ForkedProcess&) = delete;
  ~ForkedProcess() { End(); }

  pid_t pid() const { return pid_; }
  // Returns what `serve` returned in the child.  Throws std::runtime_error if that threw there, or
  // the child is gone.
  uint64_t Do(uint64_t argument);
  // Lets the child exit, and waits until all of it is gone: its memory, its file descriptors.
  void End() noexcept;

 private:
  [[noreturn]] static void Serve(const std::function<uint64_t(uint64_t)>& serve, int fd);

  FileDescriptor end_;  // closing it ends the child
  pid_t pid_ = 0;
};

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
// Page faults that are held open: whoever touches the memory waits until it is told otherwise, in
// the kernel, with whatever it holds there.  KVM's page faults hold kvm->srcu.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/file_descriptor.h"

namespace slotzap {

class UserFaults {
 public:
  // Why there is no userfaultfd(2) that handles the kernel's faults here, or an empty string.
  static std::string Unavailable();

  // From now on, faults on the anonymous memory [data, data + size), none of which has been touched
  // yet, wait.  Both are multiples of a page.  Throws std::system_error.
  UserFaults(std::byte* data, uint64_t size);
  UserFaults(const UserFaults&) = delete;
  UserFaults& operator=(const UserFaults&) = delete;
  // Those that wait go on.
  ~UserFaults() { Resolve(); }

  // Returns when the next fault waits, with its address, rounded down to a page.
  uint64_t WaitForFault();
  // Fills all of the memory with zeroes, so that those who wait go on, and nobody waits any more.
  void Resolve() noexcept;

 private:
  FileDescriptor fd_;
  uint64_t address_;
  uint64_t size_;
};

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
// userfaultfd(2): the first access to a page of registered memory, by a thread of this process or
// by KVM on behalf of a vCPU, sleeps until somebody provides the page.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <system_error>

#include "base/file_descriptor.h"

namespace slotzap {

// An access that sleeps.
struct UserFault {
  uint64_t address = 0;  // of the page, in this process
  bool write = false;
  pid_t thread = 0;  // whose access it is
  bool operator==(const UserFault&) const = default;
};

// Takes care of missing pages.  Addresses and sizes are multiples of the page size of the memory.
// Wrappers come in pairs: TryFoo() returns the error, Foo() throws std::system_error.
class Userfaultfd {
 public:
  // Why faults of the kernel can't be waited for here, or an empty string.
  static std::string Unavailable();

  // Opens one that is not blocking, and says in each fault which thread it is of.
  Userfaultfd();

  // UFFDIO_REGISTER, for missing pages: from now on the first access to each page of the range
  // that is not mapped and has no contents sleeps.  EINVAL if the memory is no suitable mapping.
  void Register(uint64_t address, uint64_t size);
  std::error_code TryRegister(uint64_t address, uint64_t size);

  // The next access that began to sleep, if there is one; each is told once.
  std::optional<UserFault> TakeFault();

  // UFFDIO_COPY: provides pages with these contents and wakes whoever sleeps for them.  EEXIST if
  // the first of them is there already.
  void Copy(uint64_t address, std::span<const std::byte> contents);
  std::error_code TryCopy(uint64_t address, std::span<const std::byte> contents);

  // UFFDIO_ZEROPAGE: the same with zeroes.
  void Zero(uint64_t address, uint64_t size);
  std::error_code TryZero(uint64_t address, uint64_t size);

  // UFFDIO_WAKE: lets those that sleep try again.  If the page is still missing, they sleep anew,
  // and TakeFault() tells them once more.
  void Wake(uint64_t address, uint64_t size);
  std::error_code TryWake(uint64_t address, uint64_t size);

  // Nothing is registered any more, and all that sleep go on, as if nothing ever had been.
  void Close() { fd_.Close(); }

 private:
  FileDescriptor fd_;
};

}  // namespace slotzap

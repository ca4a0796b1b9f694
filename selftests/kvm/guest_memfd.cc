// SPDX-License-Identifier: GPL-2.0-only
#include "kvm/guest_memfd.h"

#include <fcntl.h>

#include <cerrno>
#include <string>

#include "base/range.h"

namespace slotzap {

KvmStatus GuestMemfd::TryPunchHole(uint64_t offset, uint64_t size) const {
  return Fallocate("punch hole", FALLOC_FL_PUNCH_HOLE, offset, size);
}

KvmStatus GuestMemfd::TryAllocate(uint64_t offset, uint64_t size) const {
  return Fallocate("allocate", 0, offset, size);
}

KvmStatus GuestMemfd::Fallocate(const char* what, int mode, uint64_t offset, uint64_t size) const {
  int value = -1;
  do {
    // KVM insists on FALLOC_FL_KEEP_SIZE: a guest_memfd's size is fixed.
    value = fallocate(fd_.get(), mode | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                      static_cast<off_t>(size));
  } while (value < 0 && errno == EINTR);
  const int error = value < 0 ? errno : 0;
  return {std::string("fallocate(guest_memfd, ") + what + ", offset " + Hex(offset) + ", size " +
              Hex(size) + ")",
          value, error};
}

}  // namespace slotzap

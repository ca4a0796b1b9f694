// SPDX-License-Identifier: GPL-2.0-only
#include "base/event_fd.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

namespace slotzap {

EventFd::EventFd() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!fd_.valid()) ThrowErrno("eventfd");
}

uint64_t EventFd::Take() const {
  uint64_t count = 0;
  if (read(fd_.get(), &count, sizeof(count)) < 0) {
    if (errno != EAGAIN) ThrowErrno("read an eventfd");
    return 0;
  }
  return count;
}

}  // namespace slotzap

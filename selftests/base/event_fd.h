// SPDX-License-Identifier: GPL-2.0-only
// eventfd(2): a counter that the kernel adds to and this process takes from.
#pragma once

#include <cstdint>

#include "base/file_descriptor.h"

namespace slotzap {

class EventFd {
 public:
  EventFd();

  int fd() const { return fd_.get(); }
  // What was added since the last call; 0 if nothing was.  Doesn't wait.
  uint64_t Take() const;

 private:
  FileDescriptor fd_;
};

}  // namespace slotzap

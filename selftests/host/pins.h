// SPDX-License-Identifier: GPL-2.0-only
// Pages that are pinned because the kernel, or a device, accesses them on its own.
#pragma once

#include <cstdint>
#include <string>

namespace slotzap {

// What is accounted to this process, in bytes: VmPin in /proc/PID/status.  io_uring's registered
// buffers are (io_account_mem()).
uint64_t PinnedBytes(const std::string& status = "/proc/self/status");

// This process's locked memory, in bytes, to which VFIO adds what it pins (vfio_lock_acct()):
// VmLck.
uint64_t LockedBytes(const std::string& status = "/proc/self/status");

// Pins of the whole machine that were not given back: nr_foll_pin_acquired - nr_foll_pin_released
// (Documentation/core-api/pin_user_pages.rst).  Exact as long as nobody else pins anything; for
// root.
int64_t OutstandingPins();

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
// What the kernel counts of pages that are pinned for DMA.
#pragma once

#include <cstdint>
#include <string>

namespace slotzap {

// This process's locked memory, to which VFIO adds what it pins (vfio_lock_acct()): "VmLck".
uint64_t LockedBytes(const std::string& status = "/proc/self/status");

// Pages that somebody has pinned now, anybody on the machine: those that were pinned, less those
// that were let go (nr_foll_pin_acquired and _released, Documentation/core-api/pin_user_pages.rst).
// Exact only where the CPUs' own counts have been added up, see RefreshVmStat().
uint64_t PinnedPages(const std::string& vmstat = "/proc/vmstat");

}  // namespace slotzap

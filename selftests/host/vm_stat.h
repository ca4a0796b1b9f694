// SPDX-License-Identifier: GPL-2.0-only
// /proc/vmstat: what the machine's memory is used for.
#pragma once

#include <cstdint>
#include <string>

namespace slotzap {

// The value of a line "NAME VALUE".  Throws std::runtime_error if there is none of that name.
uint64_t VmStat(const std::string& name, const std::string& path = "/proc/vmstat");

// Adds up what the CPUs counted on their own, which /proc/vmstat lacks otherwise, by some hundreds
// of pages (vm.stat_refresh, Documentation/admin-guide/sysctl/vm.rst).  For root.
void RefreshVmStat(const std::string& path = "/proc/sys/vm/stat_refresh");

// Bytes of memory that could be had now, caches that can be dropped included (MemAvailable).
uint64_t AvailableMemory(const std::string& path = "/proc/meminfo");

// Pages that page tables of KVM take now, of all VMs (NR_SECONDARY_PAGETABLE, since Linux 6.1).
uint64_t SecondaryPageTablePages();

}  // namespace slotzap

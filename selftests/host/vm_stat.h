// SPDX-License-Identifier: GPL-2.0-only
// /proc/vmstat: what the machine's memory is used for.
#pragma once

#include <cstdint>
#include <string>

namespace slotzap {

// The value of a line "NAME VALUE".  Throws std::runtime_error if there is none of that name.
uint64_t VmStat(const std::string& name, const std::string& path = "/proc/vmstat");

// Pages that page tables of KVM take, of all VMs (NR_SECONDARY_PAGETABLE, since Linux 6.1).
inline uint64_t SecondaryPageTablePages() { return VmStat("nr_sec_page_table_pages"); }

}  // namespace slotzap

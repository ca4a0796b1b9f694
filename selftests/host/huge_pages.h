// SPDX-License-Identifier: GPL-2.0-only
// The machine's pool of hugetlb pages.
#pragma once

#include <cstdint>
#include <string>

namespace slotzap {

// How many bytes of this process's memory in VMAs that overlap [address, address + size) are in
// transparent huge pages (AnonHugePages in /proc/self/smaps).
uint64_t TransparentHugeBytes(uint64_t address, uint64_t size,
                              const std::string& smaps = "/proc/self/smaps");

inline constexpr char kHugePagesRoot[] = "/sys/kernel/mm/hugepages";

// How many hugetlb pages of `page_size` bytes are free and promised to nobody; 0 if the machine
// has no pages of that size.
uint64_t FreeHugePages(uint64_t page_size, const std::string& root = kHugePagesRoot);

inline constexpr char kNodesRoot[] = "/sys/devices/system/node";

// How many of those are free on a NUMA node, promised or not; 0 if there is no such node.
uint64_t FreeHugePagesOn(int node, uint64_t page_size, const std::string& root = kNodesRoot);

// Sees to it that `count` pages are free, as far as memory allows, while the object lives; then
// restores the size of the pool.
class HugePageReservation {
 public:
  // Throws std::runtime_error if the machine has no pages of that size, std::system_error if the
  // pool can't be changed.
  HugePageReservation(uint64_t page_size, uint64_t count, const std::string& root = kHugePagesRoot);
  HugePageReservation(const HugePageReservation&) = delete;
  HugePageReservation& operator=(const HugePageReservation&) = delete;
  ~HugePageReservation();

  // How many were free once the pool was raised: fewer than `count` if memory is too fragmented.
  uint64_t free() const { return free_; }

 private:
  std::string pool_;  // the file that holds the size of the pool
  uint64_t old_size_ = 0;
  bool raised_ = false;
  uint64_t free_ = 0;
};

}  // namespace slotzap

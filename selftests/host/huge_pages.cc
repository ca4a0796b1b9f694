// SPDX-License-Identifier: GPL-2.0-only
#include "host/huge_pages.h"

#include <cstdio>
#include <sstream>
#include <stdexcept>
#include <system_error>

#include "base/file_descriptor.h"
#include "base/range.h"

namespace slotzap {
namespace {

std::string PoolDirectory(uint64_t page_size, const std::string& root) {
  return root + "/hugepages-" + std::to_string(page_size / 1024) + "kB";
}

}  // namespace

uint64_t TransparentHugeBytes(uint64_t address, uint64_t size, const std::string& smaps) {
  std::istringstream lines(ReadFile(smaps));
  std::string line;
  bool inside = false;
  uint64_t bytes = 0;
  while (std::getline(lines, line)) {
    unsigned long long start = 0;
    unsigned long long end = 0;
    unsigned long long kib = 0;
    // "7f0000000000-7f0000200000 rw-p ...", then a line for each property of that VMA.
    if (std::sscanf(line.c_str(), "%llx-%llx ", &start, &end) == 2)  // NOLINT(cert-err34-c)
      inside = start < address + size && address < end;
    else if (std::sscanf(line.c_str(), "AnonHugePages: %llu kB", &kib) ==
             1)  // NOLINT(cert-err34-c)
      bytes += inside ? kib << 10 : 0;
  }
  return bytes;
}

uint64_t FreeHugePages(uint64_t page_size, const std::string& root) {
  const std::string directory = PoolDirectory(page_size, root);
  if (!FileExists(directory)) return 0;
  const uint64_t free = std::stoull(ReadLine(directory + "/free_hugepages"));
  const uint64_t promised = std::stoull(ReadLine(directory + "/resv_hugepages"));
  return free > promised ? free - promised : 0;
}

uint64_t FreeHugePagesOn(int node, uint64_t page_size, const std::string& root) {
  const std::string directory =
      PoolDirectory(page_size, root + "/node" + std::to_string(node) + "/hugepages");
  if (!FileExists(directory)) return 0;
  return std::stoull(ReadLine(directory + "/free_hugepages"));
}

HugePageReservation::HugePageReservation(uint64_t page_size, uint64_t count,
                                         const std::string& root)
    : pool_(PoolDirectory(page_size, root) + "/nr_hugepages") {
  if (!FileExists(pool_))
    throw std::runtime_error("this machine has no hugetlb pages of " + SizeString(page_size) +
                             ": there is no " + pool_);
  free_ = FreeHugePages(page_size, root);
  if (free_ >= count) return;
  old_size_ = std::stoull(ReadLine(pool_));
  WriteFile(pool_, std::to_string(old_size_ + count - free_));
  raised_ = true;
  free_ = FreeHugePages(page_size, root);
}

HugePageReservation::~HugePageReservation() {
  if (!raised_) return;
  try {
    WriteFile(pool_, std::to_string(old_size_));
  } catch (const std::system_error&) {
    // The pool stays large: there is nobody left to tell.
  }
}

}  // namespace slotzap

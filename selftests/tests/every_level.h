// SPDX-License-Identifier: GPL-2.0-only
// A VM whose guest has page tables of each level in a memslot of their own.
#pragma once

#include <vector>

#include "guest/page_tables.h"
#include "tests/slot_test.h"

namespace slotzap {

// The tables map window() to data(), and what the vCPU's first tables map below 512 GiB.  Each is
// in its slot's last page.
class TablesOfEveryLevel : public TestVm {
 public:
  static constexpr uint64_t kVirt = (1ull << 39) + 2_GiB + 3 * 2_MiB + 4 * kPageSize;
  static constexpr uint64_t kDataPages = 16;

  // data() holds the pattern of `seed`.
  TablesOfEveryLevel(const GuestVmConfig& config, uint64_t seed)
      : TestVm(config), data_(AddFilledSlot(2_GiB, kDataPages * kPageSize, seed)) {
    for (int level = 1; level <= 4; level++)
      slots_.push_back(AddSlot(static_cast<Gpa>(4 + level) << 30, 4 * kPageSize));
    slot(4).Store(table(4), tables_slot().Load(tables().root()));
    for (int level = 4; level > 1; level--)
      slot(level).Store(entry(level), TableEntry(table(level - 1)));
    for (uint64_t page = 0; page < kDataPages; page++)
      slot(1).Store(entry(1) + page * 8, LeafEntry(data_.page(static_cast<int64_t>(page))));
  }

  MemorySlot& data() { return data_; }
  // Level 4 is the root, level 1 maps pages.
  MemorySlot& slot(int level) { return slots_.at(static_cast<size_t>(level - 1)); }
  Gpa table(int level) { return slot(level).page(-1); }
  // The address of the entry that translates kVirt.
  Gpa entry(int level) { return table(level) + TableIndex(kVirt, level) * 8; }
  static GpaRange window() { return {kVirt, kDataPages * kPageSize}; }

 private:
  MemorySlot data_;
  std::vector<MemorySlot> slots_;
};

}  // namespace slotzap

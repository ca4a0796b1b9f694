// SPDX-License-Identifier: GPL-2.0-only
// The guest's own page tables, written by the host into guest memory: most guests', with 4 levels
// and 64-bit entries (AMD APM volume 2, 5.3; Intel SDM volume 3, 4.5), and those of the processor's
// other paging modes.  Also those that a guest translates the physical addresses of its own guests
// with.
#pragma once

#include <cstdint>

#include "base/range.h"
#include "kvm/memory_slot.h"

namespace slotzap {

// What one guest page table entry maps.
enum class GuestPageSize : uint64_t { k4K = 1ull << 12, k2M = 1ull << 21, k1G = 1ull << 30 };

// How entries are written.  All grant every access; what the CPU would record in them, "accessed"
// and "dirty", is set in advance, so that its walks never write to the tables.
enum class TableFormat {
  kGuest,  // the guest's own; for supervisor mode
  kNpt,    // nested page tables: its walks count as user mode (AMD APM volume 2, 15.25.5)
  kEpt,    // extended page tables, memory type WB (Intel SDM volume 3, 29.3.2)
  // The guest's own in other modes (AMD APM volume 2, 5.2 and 5.3; Intel SDM volume 3, 4.3 to 4.5).
  // The first two translate 4 GiB.
  kGuest32Bit,   // 2 levels of 1024 entries of 4 bytes
  kGuestPae,     // 3 levels; the root has 4 entries, which grant nothing but are present
  kGuest5Level,  // as kGuest, with a level on top
};

// An entry, written to and accessed as the guest would leave it: one that points to the table at
// `table`, and one that maps a page.
uint64_t TableEntry(Gpa table, TableFormat format = TableFormat::kGuest);
uint64_t LeafEntry(Gpa page, GuestPageSize size = GuestPageSize::k4K,
                   TableFormat format = TableFormat::kGuest);
// Which entry of a table of `level` (4: root) translates a virtual address, where tables have 512
// entries.
uint64_t TableIndex(uint64_t virt, int level);

// A hierarchy of page tables that is built up by Map().  Tables are taken one after the other from
// a window of a memslot, the root first.
class PageTables {
 public:
  // The tables live in `window`, which has to lie in `slot`.  Clears the first page: the root.
  PageTables(const MemorySlot& slot, GpaRange window, TableFormat format = TableFormat::kGuest)
      : PageTables(slot.memory(), slot.range(), window, format) {}
  // As above, in memory that the guest has at `range`.
  PageTables(const GuestMemory& memory, GpaRange range, GpaRange window,
             TableFormat format = TableFormat::kGuest);

  TableFormat format() const { return format_; }
  // The address of the root, for CR3.
  Gpa root() const { return window_.start; }
  // The tables in use, as guest physical memory.
  GpaRange used() const { return {window_.start, next_ - window_.start}; }

  // Maps [virt, virt + size) to [phys, phys + size), writable and executable, in pages of
  // `page_size`, to which all three have to be aligned.  Throws if the window is full, a part of it
  // is mapped already with another page size, or the format can't express it: those of 32-bit
  // guests take pages of 4 KiB only here.
  void Map(uint64_t virt, Gpa phys, uint64_t size, GuestPageSize page_size);
  // Makes [range) reachable at its own address.
  void MapIdentity(GpaRange range, GuestPageSize page_size) {
    Map(range.start, range.start, range.size, page_size);
  }

 private:
  Gpa NewTable();
  void MapOne(uint64_t virt, Gpa phys, GuestPageSize size);

  bool IsPresent(uint64_t entry) const;
  uint64_t LoadEntry(Gpa table, uint64_t index) const;
  void StoreEntry(Gpa table, uint64_t index, uint64_t entry) const;

  const GuestMemory& memory_;
  Gpa base_;  // where the guest has memory_
  GpaRange window_;
  Gpa next_;
  TableFormat format_;
};

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
// Small memslots that come, are used, and go, all over a guest's physical memory.
#pragma once

#include <cstdint>
#include <memory>

#include "guest/guest_vm.h"

namespace slotzap {

class SparseSlots {
 public:
  static constexpr uint64_t kMaxSize = 2ull << 20;

  // Up to `end`, which is cut where physical addresses end, or what the guest can map, from where
  // the guest has 1 GiB pages on, if it has some: below, it has page tables of its own that KVM
  // shadows, and which belong to no slot of these.  Nothing else may be there.  Changes the guest's
  // page tables.
  SparseSlots(GuestVm& vm, Gpa end);

  // In each round, a slot of 4 KiB to kMaxSize is added, the guest writes to its first page, its
  // last one, and one in between, and the slot is deleted.  Which places and sizes come after each
  // other is always the same.  Throws std::runtime_error if the guest can't.
  void Rounds(uint64_t n);

  Gpa start() const { return start_; }
  Gpa end() const { return end_; }

 private:
  GuestVm& vm_;
  Gpa start_;
  Gpa end_;
  std::shared_ptr<GuestMemory> memory_;
  uint16_t slot_id_;
  uint64_t next_ = 0;  // round
};

}  // namespace slotzap

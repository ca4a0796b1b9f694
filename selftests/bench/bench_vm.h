// SPDX-License-Identifier: GPL-2.0-only
// The VM whose slots are deleted: what else its guest uses, and a guest of its guest.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "guest/guest_vm.h"
#include "guest/nested.h"

namespace slotzap {

struct BenchVmConfig {
  bool slot_zap_all = true;
  uint64_t elsewhere = 0;  // bytes of memory that the guest uses beside the slot that goes
  bool nested = false;     // the guest runs a guest, which uses the same memory
  unsigned vcpus = 1;
};

// Guest physical memory: what GuestVm has, the memory elsewhere from kElsewhere on, the tables of
// the nested guest, and from kVictim on whatever the benchmark adds and deletes.
class BenchVm : public GuestVm {
 public:
  static constexpr Gpa kElsewhere = 1ull << 30;
  static constexpr Gpa kNestedTables = 3ull << 30;
  static constexpr Gpa kVictim = 4ull << 30;

  // Throws std::runtime_error if `nested` is asked for and guests can't run guests.
  explicit BenchVm(const BenchVmConfig& config);

  // The guest, and its guest, use all memory elsewhere, and what they need themselves.
  void TouchElsewhere();
  // Adds and deletes a slot: what comes after it isn't KVM's first update any more.
  void WarmUp();
  // The first vCPU writes to every page.  Throws if one isn't there.
  void Touch(GpaRange range);

  // A slot at kVictim none of whose memory is allocated, or which the host has allocated all.  The
  // former is cut where the guest's physical addresses end.
  MemorySlot AddSparseVictim(uint64_t size);
  MemorySlot AddVictim(uint64_t size) { return AddSlot(kVictim, size); }

 private:
  static constexpr uint64_t kNestedTablesSize = 1ull << 20;

  std::optional<MemorySlot> elsewhere_;
  std::optional<MemorySlot> nested_memory_;
  std::optional<MemorySlot> nested_tables_slot_;
  std::optional<PageTables> nested_tables_;
  std::unique_ptr<NestedGuest> nested_;
};

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
// System Management Mode: a vCPU in it sees the memslots of address space 1, and only those.
#pragma once

#include <cstdint>

#include "base/range.h"
#include "guest/guest.h"
#include "kvm/memory_slot.h"
#include "kvm/vm.h"

namespace slotzap {

class Smm {
 public:
  static constexpr uint16_t kAddressSpace = 1;
  static constexpr Gpa kBase = 0x30000;  // SMBASE after reset
  static constexpr uint64_t kSize = 0x10000;

  // Gives `vm` SMRAM, with the handler in it.  Throws KvmError if KVM has no SMM.
  explicit Smm(Vm& vm);

  // Sends the vCPU an SMI, lets its handler read 8 bytes of every page of `range` (below 4 GiB),
  // and returns when the vCPU is back.  The outcome's value is the sum of what was read, with the
  // two 32-bit halves added up separately.
  Outcome TouchRead(Guest& guest, GpaRange range) { return Touch(guest, range, 0); }

  // The same, but before it reads a page, it stores `word`, which isn't 0, at its start.
  Outcome TouchWrite(Guest& guest, GpaRange range, uint32_t word) {
    return Touch(guest, range, word);
  }

 private:
  Outcome Touch(Guest& guest, GpaRange range, uint32_t word);

  MemorySlot smram_;
};

// What Smm::TouchRead() of memory returns that holds 8-byte words, one per page.
uint64_t AddHalves(uint64_t sum, uint64_t word);

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
// A vCPU that needs nothing but a page of code: for the paging modes that the agent, a 64-bit
// program, can't run in.
#pragma once

#include <cstdint>
#include <memory>

#include "base/range.h"
#include "guest/guest.h"
#include "guest/paging_mode.h"
#include "kvm/vm.h"

namespace slotzap {

// One for a VM: the code takes a memslot.
class BareVcpu {
 public:
  // Has to be executable at its own address in each mode.
  static constexpr GpaRange kCode = {0x10000, kPageSize};

  explicit BareVcpu(Vm& vm);

  Vcpu& vcpu() { return *vcpu_; }

  // Puts the vCPU into a mode; `root` is that of its page tables.  Before the first of the commands
  // below.
  void Enter(PagingMode mode, Gpa root = 0) { EnterPagingMode(*vcpu_, mode, root); }

  // Reads 4 bytes of every page of a range below 4 GiB; the outcome's value is their sum, modulo
  // 2^32.  TouchWrite() stores `word`, which isn't 0, before it reads.  An access to where no
  // memslot is is answered as by Guest.
  Outcome TouchRead(GpaRange range) { return Touch(range, 0); }
  Outcome TouchWrite(GpaRange range, uint32_t word) { return Touch(range, word); }

 private:
  Outcome Touch(GpaRange range, uint32_t word);

  MemorySlot code_;
  std::unique_ptr<Vcpu> vcpu_;
};

}  // namespace slotzap

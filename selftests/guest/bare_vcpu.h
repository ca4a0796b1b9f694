// SPDX-License-Identifier: GPL-2.0-only
// A vCPU that needs nothing but a page of code: for the paging modes that the agent, a 64-bit
// program, can't run in.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <memory>

#include "base/range.h"
#include "guest/guest.h"
#include "guest/page_tables.h"
#include "kvm/vm.h"

namespace slotzap {

// How a vCPU translates addresses (AMD APM volume 2, 5.1; Intel SDM volume 3, 4.1.1).
enum class PagingMode {
  kNone,  // protected mode, CR0.PG clear
  k32Bit,
  kPae,
  k4Level,
  k5Level,
};
std::ostream& operator<<(std::ostream& os, PagingMode mode);

// The page tables of a mode, which isn't kNone.
TableFormat FormatOf(PagingMode mode);

// Why there is no such mode in a guest here, or an empty string.
std::string PagingModeUnavailable(const Kvm& kvm, PagingMode mode);

// One for a VM: the code takes a memslot.
class BareVcpu {
 public:
  // Has to be executable at its own address in each mode.
  static constexpr GpaRange kCode = {0x10000, kPageSize};

  explicit BareVcpu(Vm& vm);

  Vcpu& vcpu() { return *vcpu_; }

  // Puts the vCPU into a mode; `root` is that of its page tables.  Before the first of the commands
  // below.
  void Enter(PagingMode mode, Gpa root = 0);

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

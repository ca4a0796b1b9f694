// SPDX-License-Identifier: GPL-2.0-only
// The paging modes of a vCPU.
#pragma once

#include <iosfwd>
#include <string>

#include "base/range.h"
#include "guest/page_tables.h"
#include "kvm/kvm.h"
#include "kvm/vcpu.h"

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

// Puts the vCPU into a mode, at privilege level 0 with flat segments; `root` is that of its page
// tables.
void EnterPagingMode(Vcpu& vcpu, PagingMode mode, Gpa root);

}  // namespace slotzap

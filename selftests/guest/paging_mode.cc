// SPDX-License-Identifier: GPL-2.0-only
#include "guest/paging_mode.h"

#include <algorithm>
#include <ostream>
#include <stdexcept>

namespace slotzap {
namespace {

constexpr uint64_t kCr0 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16;  // PE MP ET NE WP
constexpr uint64_t kCr0Paging = 1ull << 31;                        // PG
constexpr uint64_t kCr4Pae = 1 << 5;
constexpr uint64_t kCr4FiveLevels = 1 << 12;      // LA57
constexpr uint64_t kEferLong = 1 << 8 | 1 << 10;  // LME LMA

// A segment of the first 4 GiB, present, of a type as in a descriptor (AMD APM volume 2, 4.7).
kvm_segment FlatSegment(uint16_t selector, uint8_t type) {
  kvm_segment segment = {};
  segment.limit = 0xffffffff;
  segment.selector = selector;
  segment.type = type;
  segment.present = 1;
  segment.s = 1;
  segment.g = 1;
  return segment;
}

bool IsLong(PagingMode mode) { return mode == PagingMode::k4Level || mode == PagingMode::k5Level; }

}  // namespace

std::ostream& operator<<(std::ostream& os, PagingMode mode) {
  switch (mode) {
    case PagingMode::kNone:
      return os << "unpaged";
    case PagingMode::k32Bit:
      return os << "32-bit";
    case PagingMode::kPae:
      return os << "PAE";
    case PagingMode::k4Level:
      return os << "4-level";
    case PagingMode::k5Level:
      return os << "5-level";
  }
  return os;
}

TableFormat FormatOf(PagingMode mode) {
  switch (mode) {
    case PagingMode::kNone:
      throw std::invalid_argument("without paging there are no page tables");
    case PagingMode::k32Bit:
      return TableFormat::kGuest32Bit;
    case PagingMode::kPae:
      return TableFormat::kGuestPae;
    case PagingMode::k4Level:
      return TableFormat::kGuest;
    case PagingMode::k5Level:
      return TableFormat::kGuest5Level;
  }
  throw std::invalid_argument("no such paging mode");
}

std::string PagingModeUnavailable(const Kvm& kvm, PagingMode mode) {
  if (mode != PagingMode::k5Level) return "";
  // CPUID Fn7_0 ECX[16].
  const auto entries = kvm.SupportedCpuid();
  if (std::any_of(entries.begin(), entries.end(), [](const kvm_cpuid_entry2& e) {
        return e.function == 7 && e.index == 0 && (e.ecx & 1u << 16) != 0;
      }))
    return "";
  return "KVM has no 5-level page tables for guests here (CPUID LA57)";
}

void EnterPagingMode(Vcpu& vcpu, PagingMode mode, Gpa root) {
  const bool paging = mode != PagingMode::kNone;
  kvm_sregs sregs = vcpu.Sregs();
  sregs.cr0 = kCr0 | (paging ? kCr0Paging : 0);
  sregs.cr3 = root;
  sregs.cr4 = (IsLong(mode) || mode == PagingMode::kPae ? kCr4Pae : 0) |
              (mode == PagingMode::k5Level ? kCr4FiveLevels : 0);
  sregs.efer = IsLong(mode) ? kEferLong : 0;
  sregs.cs = FlatSegment(0x08, 0xb);
  sregs.cs.l = IsLong(mode) ? 1 : 0;
  sregs.cs.db = IsLong(mode) ? 0 : 1;
  sregs.ds = FlatSegment(0x10, 0x3);
  sregs.ds.db = 1;
  sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.ds;
  vcpu.SetSregs(sregs);
}

}  // namespace slotzap

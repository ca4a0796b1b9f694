// SPDX-License-Identifier: GPL-2.0-only
#include "guest/bare_vcpu.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <ostream>
#include <stdexcept>

extern "C" {
extern const std::byte slotzap_bare_vcpu_code[];
extern const std::byte slotzap_bare_vcpu_code_end[];
}

namespace slotzap {
namespace {

constexpr uint64_t kCr0 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16;  // PE MP ET NE WP
constexpr uint64_t kCr0Paging = 1ull << 31;                        // PG
constexpr uint64_t kCr4Pae = 1 << 5;
constexpr uint64_t kCr4FiveLevels = 1 << 12;      // LA57
constexpr uint64_t kEferLong = 1 << 8 | 1 << 10;  // LME LMA

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

BareVcpu::BareVcpu(Vm& vm) : code_(vm.AddSlot(kCode.start, kCode.size)), vcpu_(vm.AddVcpu()) {
  code_.memory().Write(0, {slotzap_bare_vcpu_code, slotzap_bare_vcpu_code_end});
}

void BareVcpu::Enter(PagingMode mode, Gpa root) {
  const bool paging = mode != PagingMode::kNone;
  kvm_sregs sregs = vcpu_->Sregs();
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
  vcpu_->SetSregs(sregs);
}

Outcome BareVcpu::Touch(GpaRange range, uint32_t word) {
  if (range.end() > 1ull << 32 || range.pages() == 0)
    throw std::invalid_argument("a bare vCPU reaches pages below 4 GiB, not " + ToString(range));
  kvm_regs regs = {};
  regs.rip = kCode.start;
  regs.rbx = range.start;
  regs.rcx = range.pages();
  regs.rbp = word;
  regs.rflags = kRflags;
  vcpu_->SetRegs(regs);
  Outcome outcome;
  for (;;) {
    const KvmStatus status = vcpu_->TryRun();
    if (status.error() == EINTR) continue;
    status.OrThrow();
    if (vcpu_->run().exit_reason != KVM_EXIT_MMIO) break;
    outcome.Add(AnswerMmio(vcpu_->run()));
  }
  outcome.exit_reason = vcpu_->run().exit_reason;
  outcome.exit_text = vcpu_->ExitText();
  outcome.done = outcome.exit_reason == KVM_EXIT_HLT;
  outcome.value = vcpu_->Regs().rdx & 0xffffffff;
  return outcome;
}

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "guest/bare_vcpu.h"

#include <cerrno>
#include <cstddef>
#include <stdexcept>

extern "C" {
extern const std::byte slotzap_bare_vcpu_code[];
extern const std::byte slotzap_bare_vcpu_code_end[];
}

namespace slotzap {
BareVcpu::BareVcpu(Vm& vm) : code_(vm.AddSlot(kCode.start, kCode.size)), vcpu_(vm.AddVcpu()) {
  code_.memory().Write(0, {slotzap_bare_vcpu_code, slotzap_bare_vcpu_code_end});
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

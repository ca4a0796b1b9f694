// SPDX-License-Identifier: GPL-2.0-only
// A virtual CPU.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <string>

#include "base/file_descriptor.h"
#include "base/mapping.h"
#include "kvm/kvm.h"
#include "kvm/stats.h"
#include "kvm/status.h"

namespace slotzap {

class Vcpu {
 public:
  // `fd` is what KVM_CREATE_VCPU returned.
  Vcpu(const Kvm& kvm, FileDescriptor fd, unsigned id);
  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;

  unsigned id() const { return id_; }
  const Stats& stats() const { return stats_; }

  // KVM_RUN, once.  The status is EINTR if Kick() or a signal ended it; otherwise run() tells why
  // the vCPU exited.  Only the thread that runs the vCPU may call this.
  KvmStatus TryRun();
  // The kvm_run page shared with KVM.
  kvm_run& run() const { return *run_.at<kvm_run>(0); }
  // Why the vCPU exited last, for messages: "KVM_EXIT_MMIO (read of 8 bytes at 0x1000)".
  std::string ExitText() const;

  // Makes a KVM_RUN that is under way, or the next one, return at once.  From any thread; the
  // thread that runs the vCPU has to have called PrepareKick() before.
  void PrepareKick();
  void Kick();

  kvm_regs Regs() const;
  void SetRegs(const kvm_regs& regs);
  kvm_sregs Sregs() const;
  void SetSregs(const kvm_sregs& sregs);

 private:
  void SetCpuid(const Kvm& kvm);

  FileDescriptor fd_;
  unsigned id_;
  Mapping run_;
  Stats stats_;
  pthread_t thread_ = {};
  bool kickable_ = false;
};

// The name of a KVM_EXIT_* constant.
std::string ExitReasonName(uint32_t reason);

}  // namespace slotzap

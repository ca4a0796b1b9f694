// SPDX-License-Identifier: GPL-2.0-only
// A virtual CPU.
#pragma once

#include <cstdint>
#include <string>
#include <thread>

#include "base/file_descriptor.h"
#include "base/mapping.h"
#include "base/range.h"
#include "kvm/coalesced_mmio.h"
#include "kvm/dirty_log.h"
#include "kvm/kvm.h"
#include "kvm/stats.h"
#include "kvm/status.h"
#include "kvm/uapi.h"

namespace slotzap {

// What KVM_EXIT_MEMORY_FAULT says: the guest accessed memory in a way that the memory attributes,
// or the memslot, don't allow.
struct MemoryFault {
  uint64_t flags;  // KVM_MEMORY_EXIT_FLAG_*
  Gpa gpa;
  uint64_t size;  // bytes
  // Whether it was an access to private memory; to shared memory otherwise.
  bool is_private() const { return (flags & KVM_MEMORY_EXIT_FLAG_PRIVATE) != 0; }
  bool operator==(const MemoryFault&) const = default;
};

// Of a kvm_run page: why the vCPU exited last, for messages, as "KVM_EXIT_MMIO (read of 8 bytes at
// 0x1000)"; and what is valid after KVM_EXIT_MEMORY_FAULT.
std::string ExitText(const kvm_run& run);
MemoryFault MemoryFaultIn(const kvm_run& run);
// The name of a KVM_EXIT_* constant.
std::string ExitReasonName(uint32_t reason);

class Vcpu {
 public:
  // `fd` is what KVM_CREATE_VCPU returned.
  Vcpu(const Kvm& kvm, FileDescriptor fd, unsigned id);
  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;

  unsigned id() const { return id_; }
  const Stats& stats() const { return stats_; }

  // KVM_RUN, once.  The status is EINTR if Kick() or a signal ended it; otherwise run() tells why
  // the vCPU exited.  KVM_EXIT_MEMORY_FAULT is such an exit, although the ioctl then fails with
  // EFAULT: when run again, the vCPU executes the same instruction again.  Only the thread that
  // runs the vCPU may call this.
  KvmStatus TryRun();
  // The kvm_run page shared with KVM.
  kvm_run& run() const { return *run_.at<kvm_run>(0); }
  std::string ExitText() const { return slotzap::ExitText(run()); }

  // Makes the KVM_RUN that `runner` is in, or is about to enter, return with EINTR.
  void Kick(std::thread& runner);
  // Whether a kick is due; clears it.
  bool TakeKick();

  // The VM's ring of coalesced MMIO, and the vCPU's dirty ring of `bytes`, see
  // Vm::EnableDirtyRings(): one of each at a time.
  CoalescedMmioRing CoalescedMmio() const;
  DirtyRing OpenDirtyRing(uint64_t bytes) const;

  // KVM_PRE_FAULT_MEMORY, once: maps `range` as if the guest had read it, without the guest's
  // doing, and takes from its front what was mapped.  If that is nothing, the status is ENOENT
  // where no memslot is, EAGAIN (with the series) where one is being deleted or moved.
  KvmStatus TryPreFault(GpaRange& range);

  // KVM_SMI: the vCPU enters System Management Mode when it runs next.
  void SendSmi();

  kvm_regs Regs() const;
  void SetRegs(const kvm_regs& regs);
  kvm_sregs Sregs() const;
  void SetSregs(const kvm_sregs& sregs);

  // KVM_SET_MSRS, of one MSR, as a VMM does: EINVAL if the vCPU has none of that number, or KVM
  // doesn't take the value.
  KvmStatus TrySetMsr(uint32_t index, uint64_t value);
  void SetMsr(uint32_t index, uint64_t value) { TrySetMsr(index, value).OrThrow(); }

  // Registers and pending events, to put a vCPU back to where it was, e.g. after a triple fault.
  struct State {
    kvm_regs regs;
    kvm_sregs sregs;
    kvm_vcpu_events events;
  };
  State Save() const;
  void Restore(const State& state);

 private:
  void SetCpuid(const Kvm& kvm);

  FileDescriptor fd_;
  unsigned id_;
  Mapping run_;
  Stats stats_;
};

}  // namespace slotzap

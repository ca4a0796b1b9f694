// SPDX-License-Identifier: GPL-2.0-only
#include "kvm/vcpu.h"

#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <vector>

namespace slotzap {

Vcpu::Vcpu(const Kvm& kvm, FileDescriptor fd, unsigned id)
    : fd_(std::move(fd)),
      id_(id),
      run_(Mapping::Shared(fd_.get(), kvm.VcpuMmapSize())),
      stats_(FileDescriptor(SLOTZAP_IOCTL(fd_.get(), KVM_GET_STATS_FD, 0).OrThrow())) {
  SetCpuid(kvm);
}

void Vcpu::SetCpuid(const Kvm& kvm) {
  const std::vector<kvm_cpuid_entry2> entries = kvm.SupportedCpuid();
  // A kvm_cpuid2 is followed by its entries.
  std::vector<std::byte> buffer(sizeof(kvm_cpuid2) + entries.size() * sizeof(entries[0]));
  auto* cpuid = reinterpret_cast<kvm_cpuid2*>(buffer.data());
  cpuid->nent = static_cast<uint32_t>(entries.size());
  std::memcpy(cpuid + 1, entries.data(), entries.size() * sizeof(entries[0]));
  SLOTZAP_IOCTL(fd_.get(), KVM_SET_CPUID2, cpuid, std::to_string(entries.size()) + " entries")
      .OrThrow();
}

KvmStatus Vcpu::TrySetMsr(uint32_t index, uint64_t value) {
  // A kvm_msrs is followed by its entries.
  struct {
    uint32_t nmsrs;
    uint32_t pad;
    kvm_msr_entry entry;
  } msrs = {1, 0, {.index = index, .reserved = 0, .data = value}};
  static_assert(sizeof(msrs) == sizeof(kvm_msrs) + sizeof(kvm_msr_entry));
  const std::string what =
      "vCPU " + std::to_string(id_) + ", MSR " + Hex(index) + ", " + Hex(value);
  KvmStatus status = SLOTZAP_IOCTL(fd_.get(), KVM_SET_MSRS, &msrs, what);
  // How many were set.
  if (status.error() == 0 && status.value() == 0)
    return {"KVM_SET_MSRS(" + what + "): refused", -1, EINVAL};
  return status;
}

KvmStatus Vcpu::TryRun() {
  // Not through Ioctl(): being interrupted is a result here, not a reason to go on.
  const int value = ioctl(fd_.get(), KVM_RUN, 0);
  int error = value < 0 ? errno : 0;
  if (error == EFAULT && run().exit_reason == KVM_EXIT_MEMORY_FAULT) error = 0;
  return {"KVM_RUN(vCPU " + std::to_string(id_) + ")", value, error};
}

void Vcpu::Kick(std::thread& runner) {
  // A handler that does nothing: the signal is there to interrupt KVM_RUN.
  struct sigaction action = {};
  action.sa_handler = [](int) {};
  sigaction(SIGUSR1, &action, nullptr);
  // The flag covers a thread that is about to enter KVM_RUN, the signal one that is in it.
  __atomic_store_n(&run().immediate_exit, uint8_t{1}, __ATOMIC_SEQ_CST);
  pthread_kill(runner.native_handle(), SIGUSR1);
}

bool Vcpu::TakeKick() {
  return __atomic_exchange_n(&run().immediate_exit, uint8_t{0}, __ATOMIC_SEQ_CST) != 0;
}

CoalescedMmioRing Vcpu::CoalescedMmio() const {
  return CoalescedMmioRing(
      Mapping::Shared(fd_.get(), kPageSize, KVM_COALESCED_MMIO_PAGE_OFFSET * kPageSize));
}

DirtyRing Vcpu::OpenDirtyRing(uint64_t bytes) const {
  return DirtyRing(Mapping::Shared(fd_.get(), bytes, KVM_DIRTY_LOG_PAGE_OFFSET * kPageSize));
}

Vcpu::State Vcpu::Save() const {
  State state = {Regs(), Sregs(), {}};
  SLOTZAP_IOCTL(fd_.get(), KVM_GET_VCPU_EVENTS, &state.events, "").OrThrow();
  return state;
}

void Vcpu::Restore(const State& state) {
  SetSregs(state.sregs);
  SetRegs(state.regs);
  SLOTZAP_IOCTL(fd_.get(), KVM_SET_VCPU_EVENTS, &state.events, "as saved").OrThrow();
}

KvmStatus Vcpu::TryPreFault(GpaRange& range) {
  kvm_pre_fault_memory memory = {.gpa = range.start, .size = range.size, .flags = 0, .padding = {}};
  KvmStatus status = SLOTZAP_IOCTL(fd_.get(), KVM_PRE_FAULT_MEMORY, &memory,
                                   "vCPU " + std::to_string(id_) + ", " + slotzap::ToString(range));
  range = {memory.gpa, memory.size};
  return status;
}

void Vcpu::SendSmi() { SLOTZAP_IOCTL(fd_.get(), KVM_SMI, 0).OrThrow(); }

kvm_regs Vcpu::Regs() const {
  kvm_regs regs = {};
  SLOTZAP_IOCTL(fd_.get(), KVM_GET_REGS, &regs, "").OrThrow();
  return regs;
}

void Vcpu::SetRegs(const kvm_regs& regs) {
  SLOTZAP_IOCTL(fd_.get(), KVM_SET_REGS, &regs, "rip " + Hex(regs.rip)).OrThrow();
}

kvm_sregs Vcpu::Sregs() const {
  kvm_sregs sregs = {};
  SLOTZAP_IOCTL(fd_.get(), KVM_GET_SREGS, &sregs, "").OrThrow();
  return sregs;
}

void Vcpu::SetSregs(const kvm_sregs& sregs) {
  SLOTZAP_IOCTL(fd_.get(), KVM_SET_SREGS, &sregs,
                "cr0 " + Hex(sregs.cr0) + ", cr3 " + Hex(sregs.cr3) + ", cr4 " + Hex(sregs.cr4) +
                    ", efer " + Hex(sregs.efer))
      .OrThrow();
}

std::string ExitReasonName(uint32_t reason) {
  static const std::map<uint32_t, std::string> kNames = {
      {KVM_EXIT_UNKNOWN, "KVM_EXIT_UNKNOWN"},
      {KVM_EXIT_IO, "KVM_EXIT_IO"},
      {KVM_EXIT_HLT, "KVM_EXIT_HLT"},
      {KVM_EXIT_MMIO, "KVM_EXIT_MMIO"},
      {KVM_EXIT_SHUTDOWN, "KVM_EXIT_SHUTDOWN"},
      {KVM_EXIT_FAIL_ENTRY, "KVM_EXIT_FAIL_ENTRY"},
      {KVM_EXIT_INTR, "KVM_EXIT_INTR"},
      {KVM_EXIT_INTERNAL_ERROR, "KVM_EXIT_INTERNAL_ERROR"},
      {KVM_EXIT_MEMORY_FAULT, "KVM_EXIT_MEMORY_FAULT"},
  };
  const auto it = kNames.find(reason);
  return it != kNames.end() ? it->second : "exit reason " + std::to_string(reason);
}

std::string ExitText(const kvm_run& run) {
  std::string text = ExitReasonName(run.exit_reason);
  if (run.exit_reason == KVM_EXIT_MMIO) {
    text += std::string(" (") + (run.mmio.is_write != 0 ? "write" : "read") + " of " +
            std::to_string(run.mmio.len) + " bytes at " + Hex(run.mmio.phys_addr) + ")";
  } else if (run.exit_reason == KVM_EXIT_IO) {
    text += " (port " + Hex(run.io.port) + ")";
  } else if (run.exit_reason == KVM_EXIT_INTERNAL_ERROR) {
    text += " (suberror " + std::to_string(run.internal.suberror) + ")";
  } else if (run.exit_reason == KVM_EXIT_MEMORY_FAULT) {
    const MemoryFault fault = MemoryFaultIn(run);
    text += std::string(" (") + (fault.is_private() ? "private" : "shared") + " access of " +
            Hex(fault.size) + " bytes at " + Hex(fault.gpa) + ")";
  }
  return text;
}

MemoryFault MemoryFaultIn(const kvm_run& run) {
  // kvm_run::memory_fault, by way of another member of its union: older headers don't have it.
  struct {
    uint64_t flags, gpa, size;
  } raw = {};
  std::memcpy(&raw, run.padding, sizeof(raw));
  return {raw.flags, raw.gpa, raw.size};
}

}  // namespace slotzap

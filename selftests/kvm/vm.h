// SPDX-License-Identifier: GPL-2.0-only
// A virtual machine.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/file_descriptor.h"
#include "base/range.h"
#include "kvm/guest_memfd.h"
#include "kvm/kvm.h"
#include "kvm/memory_slot.h"
#include "kvm/quirks.h"
#include "kvm/stats.h"
#include "kvm/status.h"
#include "kvm/vcpu.h"

namespace slotzap {

// Owns a VM.  Not movable: memslots, quirks and vCPUs refer to it.
class Vm {
 public:
  explicit Vm(const Kvm& kvm, VmType type = VmType::kDefault);
  Vm(const Vm&) = delete;
  Vm& operator=(const Vm&) = delete;

  int fd() const { return fd_.get(); }
  const Kvm& kvm() const { return kvm_; }
  VmType type() const { return type_; }

  // KVM_CHECK_EXTENSION on the VM.
  int CheckExtension(int capability) const;
  // KVM_ENABLE_CAP on the VM.
  void EnableCap(uint32_t capability, uint64_t arg0) { TryEnableCap(capability, arg0).OrThrow(); }
  KvmStatus TryEnableCap(uint32_t capability, uint64_t arg0);

  // A memslot with the next free id, created in KVM.
  MemorySlot AddSlot(SlotConfig config);
  // As above, with memory of its own.
  MemorySlot AddSlot(Gpa gpa, uint64_t size, Backing backing = Backing::k4K);

  // KVM_CREATE_GUEST_MEMFD, of `size` bytes.  EINVAL if the VM's type has no private memory.
  std::shared_ptr<GuestMemfd> CreateGuestMemfd(uint64_t size);

  // KVM_SET_MEMORY_ATTRIBUTES, to KVM_MEMORY_ATTRIBUTE_* or 0.  They belong to guest physical
  // addresses, not to memslots, and stay when those go.  What was mapped in the range is zapped.
  void SetMemoryAttributes(GpaRange range, uint64_t attributes) {
    TrySetMemoryAttributes(range, attributes).OrThrow();
  }
  KvmStatus TrySetMemoryAttributes(GpaRange range, uint64_t attributes);
  // All memory is shared at first.
  void MakePrivate(GpaRange range) { TryMakePrivate(range).OrThrow(); }
  KvmStatus TryMakePrivate(GpaRange range);
  void MakeShared(GpaRange range) { TryMakeShared(range).OrThrow(); }
  KvmStatus TryMakeShared(GpaRange range);

  // KVM_CREATE_VCPU with the next free id, offering the guest all CPUID features KVM supports.
  std::unique_ptr<Vcpu> AddVcpu();

  // KVM_SET_NR_MMU_PAGES: lifts the limit on shadow pages that otherwise follows the size of
  // the memslots, and shrinks when one is deleted (kvm_arch_commit_memory_region()).
  void SetMmuPageLimit(uint32_t pages);

  // KVM_IOEVENTFD: a write of `size` bytes (1, 2, 4, 8; 0: of any size) to `gpa` where no memory is
  // adds 1 to an eventfd and is no exit.  Undone with the same arguments.
  void AssignIoEventFd(Gpa gpa, uint32_t size, int event_fd);
  void DeassignIoEventFd(Gpa gpa, uint32_t size, int event_fd);

  // KVM_REGISTER_COALESCED_MMIO: writes to where no memory is in `range` go to the ring of
  // Vcpu::CoalescedMmio().
  void RegisterCoalescedMmio(GpaRange range);
  void UnregisterCoalescedMmio(GpaRange range);

  // KVM_CAP_DIRTY_LOG_RING: dirty rings of `bytes` per vCPU, in place of the memslots' bitmaps.
  // Before the first vCPU.
  void EnableDirtyRings(uint64_t bytes) { EnableCap(KVM_CAP_DIRTY_LOG_RING, bytes); }
  // KVM_RESET_DIRTY_RINGS: takes back all entries that were collected, and write-protects their
  // pages.  Returns how many.
  unsigned ResetDirtyRings();

  Quirks& quirks() { return quirks_; }
  const Stats& stats() const { return stats_; }

 private:
  Stats OpenStats() const;
  void SetIoEventFd(Gpa gpa, uint32_t size, int event_fd, uint32_t flags);

  const Kvm& kvm_;
  VmType type_;
  FileDescriptor fd_;
  Quirks quirks_{*this};
  Stats stats_;
  uint16_t next_slot_ = 0;
  unsigned next_vcpu_ = 0;
};

}  // namespace slotzap

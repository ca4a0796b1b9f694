// SPDX-License-Identifier: GPL-2.0-only
// A VM with the agent in it, ready for commands.
#pragma once

#include <memory>
#include <vector>

#include "guest/guest.h"
#include "guest/page_tables.h"
#include "kvm/kvm.h"
#include "kvm/vm.h"

namespace slotzap {

struct GuestVmConfig {
  bool slot_zap_all = true;  // KVM_X86_QUIRK_SLOT_ZAP_ALL
  unsigned vcpus = 1;
  VmType type = VmType::kDefault;
  uint64_t dirty_ring_bytes = 0;  // if not 0: dirty rings, see Vm::EnableDirtyRings()
};

// Guest physical memory of such a VM: the agent and its page tables (guest/protocol.h) in the first
// 16 MiB, whatever the test adds above.  The guest's virtual addresses are its physical
// ones: below k2MMappedEnd through 2 MiB pages, above through 1 GiB pages if the CPU has them.
// In a VM with private memory the agent and its page tables are in shared memory.
class GuestVm {
 public:
  static constexpr Gpa k2MMappedEnd = 16ull << 30;

  explicit GuestVm(const GuestVmConfig& config = {});

  Vm& vm() { return *vm_; }
  Guest& guest(unsigned i = 0) { return *guests_.at(i); }
  // Another vCPU, with the agent started on it.
  Guest& AddGuest();
  unsigned vcpus() const { return static_cast<unsigned>(guests_.size()); }

  MemorySlot& agent_slot() { return *agent_slot_; }
  MemorySlot& tables_slot() { return *tables_slot_; }
  // Page tables of the guest in `tables_slot()` that all vCPUs start with.
  PageTables& tables() { return *tables_; }

  MemorySlot AddSlot(Gpa gpa, uint64_t size, Backing backing = Backing::k4K) {
    return vm().AddSlot(gpa, size, backing);
  }

  // A memslot with shared memory and a guest_memfd, for a VM whose type has private memory.  All of
  // it is shared until Vm::MakePrivate() says otherwise.  Private memory is zero at first.
  MemorySlot AddPrivateSlot(Gpa gpa, uint64_t size);

  // Where the guest's identity mapping ends: guest::kMappedEnd, or k2MMappedEnd.
  Gpa mapped_end() const;

  // Page faults that installed an SPTE, over all vCPUs.
  uint64_t FixedFaults() const;

 private:
  void MapAll();

  Kvm kvm_;
  std::unique_ptr<Vm> vm_;
  std::unique_ptr<MemorySlot> agent_slot_;
  std::unique_ptr<MemorySlot> tables_slot_;
  std::unique_ptr<PageTables> tables_;
  std::vector<std::unique_ptr<Guest>> guests_;
};

}  // namespace slotzap

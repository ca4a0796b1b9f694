// SPDX-License-Identifier: GPL-2.0-only
#include "guest/guest_vm.h"

#include <algorithm>

namespace slotzap {
namespace {

// CPUID Fn8000_0001 EDX[26]: 1 GiB pages.
bool HasGigabytePages(const Kvm& kvm) {
  const auto entries = kvm.SupportedCpuid();
  return std::any_of(entries.begin(), entries.end(), [](const kvm_cpuid_entry2& e) {
    return e.function == 0x80000001 && (e.edx & 1u << 26) != 0;
  });
}

// More shadow pages than any test makes KVM use: what a test counts must not be blurred by KVM
// reclaiming page tables because the default limit shrinks with the memslots.
constexpr uint32_t kMmuPageLimit = 1u << 20;

}  // namespace

GuestVm::GuestVm(const GuestVmConfig& config) : vm_(std::make_unique<Vm>(kvm_, config.type)) {
  vm_->SetMmuPageLimit(kMmuPageLimit);
  if (config.dirty_ring_bytes != 0) vm_->EnableDirtyRings(config.dirty_ring_bytes);
  if (!config.slot_zap_all) vm_->quirks().Disable(kQuirkSlotZapAll);

  agent_slot_ = std::make_unique<MemorySlot>(vm_->AddSlot(guest::kAgentGpa, guest::kAgentSize));
  agent_slot_->memory().Write(0, AgentImage());
  tables_slot_ = std::make_unique<MemorySlot>(vm_->AddSlot(guest::kTablesGpa, guest::kTablesSize));
  tables_ = std::make_unique<PageTables>(*tables_slot_, tables_slot_->range());
  MapAll();

  for (unsigned i = 0; i < config.vcpus; i++) AddGuest();
}

Guest& GuestVm::AddGuest() {
  guests_.push_back(std::make_unique<Guest>(vm_->AddVcpu(), *agent_slot_, tables_->root()));
  return *guests_.back();
}

void GuestVm::MapAll() {
  tables_->MapIdentity({0, k2MMappedEnd}, GuestPageSize::k2M);
  if (mapped_end() > k2MMappedEnd)
    tables_->MapIdentity({k2MMappedEnd, mapped_end() - k2MMappedEnd}, GuestPageSize::k1G);
}

Gpa GuestVm::mapped_end() const {
  return HasGigabytePages(kvm_) ? guest::kMappedEnd : k2MMappedEnd;
}

MemorySlot GuestVm::AddPrivateSlot(Gpa gpa, uint64_t size) {
  return vm().AddSlot({.gpa = gpa,
                       .memory = std::make_shared<GuestMemory>(size),
                       .memfd = vm().CreateGuestMemfd(size)});
}

uint64_t GuestVm::FixedFaults() const {
  uint64_t total = 0;
  for (const auto& guest : guests_) total += guest->vcpu().stats().Read("pf_fixed");
  return total;
}

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "cli/run_probe.h"

#include <stdexcept>

#include "guest/guest_vm.h"
#include "oracle/zap_watch.h"

namespace slotzap {
namespace {

enum class Setting { kDefault, kQuirkDisabled, kMemslotFlag };

std::string ToString(Setting setting) {
  switch (setting) {
    case Setting::kDefault:
      return "default";
    case Setting::kQuirkDisabled:
      return "quirk disabled";
    case Setting::kMemslotFlag:
      break;
  }
  return "memslot flag";
}

// In the agent's own GiB, so that reaching them takes no guest page table that the agent doesn't
// use itself.
constexpr Gpa kVictim = 32ull << 20;
constexpr Gpa kBystander = 64ull << 20;
constexpr uint64_t kVictimSize = 64 * kPageSize;

// All but the TDP MMU map up to 8 pages at a fault: one page of each 8 is touched, so that in any
// MMU a page costs a fault.  The first is for the warm-up.
constexpr uint64_t kStride = 8 * kPageSize;
constexpr uint64_t kPages = 64;
constexpr uint64_t kBystanderSize = (kPages + 1) * kStride;

void Check(const Outcome& outcome) {
  if (!outcome.done || outcome.mmio_count != 0)
    throw std::runtime_error("the guest could not touch its memory: " + outcome.exit_text);
}

// A VM of one type and setting, with a victim and a bystander in one kind of memory.
class ProbedVm {
 public:
  ProbedVm(VmType type, bool private_memory, Setting setting)
      : vm_({.slot_zap_all = setting != Setting::kQuirkDisabled, .type = type}),
        victim_(AddSlot(kVictim, kVictimSize, private_memory,
                        setting == Setting::kMemslotFlag ? kMemZapLeafsOnly : 0)),
        bystander_(AddSlot(kBystander, kBystanderSize, private_memory, 0)) {}

  // What the kernel says about deleting the victim.
  std::optional<Zapping> Says() {
    const std::optional<uint64_t> quirks = vm_.vm().quirks().InEffect();
    if (!quirks) return std::nullopt;
    const bool zap_all =
        (*quirks & kQuirkSlotZapAll) != 0 && (victim_.config().flags & kMemZapLeafsOnly) == 0;
    return zap_all ? Zapping::kZapAll : Zapping::kLeafOnly;
  }

  void DeleteVictim(ProbeRow& row) {
    WarmUp();
    TouchBystander();
    const int64_t without_victim = PresentLeaves();
    Check(vm_.guest().TouchWrite({victim_.range()}));
    row.leaves_before = PresentLeaves();
    row.leaves_victim = row.leaves_before - without_victim;
    victim_.Delete();
    row.leaves_after = PresentLeaves();
    WarmUp();
    const uint64_t faults = vm_.FixedFaults();
    TouchBystander();
    row.pages = kPages;
    row.refaults = vm_.FixedFaults() - faults;
  }

 private:
  MemorySlot AddSlot(Gpa gpa, uint64_t size, bool private_memory, uint32_t flags) {
    SlotConfig config = {.gpa = gpa, .memory = std::make_shared<GuestMemory>(size), .flags = flags};
    if (private_memory) {
      config.memfd = vm_.vm().CreateGuestMemfd(size);
      vm_.vm().MakePrivate({gpa, size});
    }
    return vm_.vm().AddSlot(std::move(config));
  }

  // Maps all that the agent itself needs to touch the bystander.
  void WarmUp() { Check(vm_.guest().Write(kBystander, 1)); }

  void TouchBystander() {
    for (uint64_t i = 1; i <= kPages; i++) Check(vm_.guest().Write(kBystander + i * kStride, i));
  }

  int64_t PresentLeaves() { return slotzap::PresentLeaves(vm_.vm().stats().Read()).total(); }

  GuestVm vm_;
  MemorySlot victim_;
  MemorySlot bystander_;
};

ProbeRow Probe(VmType type, bool private_memory, Setting setting) {
  ProbeRow row;
  row.type = ToString(type);
  row.memory = private_memory ? "private" : "shared";
  row.setting = ToString(setting);
  try {
    ProbedVm vm(type, private_memory, setting);
    row.says = vm.Says();
    vm.DeleteVictim(row);
  } catch (const std::exception& e) {
    row.error = e.what();
  }
  return row;
}

}  // namespace

ProbeReport RunProbe() {
  const Kvm kvm;
  ProbeReport report;
  report.machine = DescribeMachine();
  report.quirks = static_cast<uint64_t>(kvm.CheckExtension(KVM_CAP_DISABLE_QUIRKS2));
  if (const int quirks = kvm.CheckExtension(KVM_CAP_X86_QUIRKS_IN_EFFECT); quirks != 0)
    report.quirks_in_effect = static_cast<uint64_t>(quirks);
  report.memslot_flag = kvm.CheckExtension(KVM_CAP_X86_MEMSLOT_ZAP_LEAFS_ONLY) != 0;
  for (unsigned type = 0; type < 32; type++)
    if ((kvm.SupportedVmTypes() >> type & 1) != 0) report.vm_types.push_back(type);

  std::vector<Setting> settings = {Setting::kDefault};
  if (report.slot_zap_all()) settings.push_back(Setting::kQuirkDisabled);
  if (report.memslot_flag) settings.push_back(Setting::kMemslotFlag);
  for (const VmType type : {VmType::kDefault, VmType::kSwProtected}) {
    if (!kvm.Supports(type)) continue;
    for (const bool private_memory : {false, true}) {
      if (private_memory && type == VmType::kDefault) continue;
      for (const Setting setting : settings)
        report.rows.push_back(Probe(type, private_memory, setting));
    }
  }
  return report;
}

}  // namespace slotzap

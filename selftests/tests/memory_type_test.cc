// SPDX-License-Identifier: GPL-2.0-only
// Theme: memory types.  With non-coherent DMA, what KVM puts into an SPTE depends on the guest's
// CR0.CD (vmx_get_mt_mask()), so SPTEs have to go when that changes: zapping everything on memslot
// updates used to cover up that they did not.
//
// Whether a VM has non-coherent DMA is up to assigned devices; here, a test module says so.
#include <cerrno>
#include <map>
#include <string>

#include "guest/smm.h"
#include "host/tracefs.h"
#include "tests/test_device.h"

namespace slotzap {
namespace {

class MemoryType : public DeviceTest {
 protected:
  // How many faults it costs to touch `slot` once more.
  static uint64_t Refaults(TestVm& vm, const MemorySlot& slot) {
    const uint64_t faults = vm.FixedFaults();
    EXPECT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
    return vm.FixedFaults() - faults;
  }
  // Shadow paging does not use memory types.  Later kernels zap only where a change can make a
  // difference, i.e. for EPT (kvm_noncoherent_dma_assignment_start_or_stop()).
  static bool DmaMatters() {
    if (CurrentMmuMode() == MmuMode::kShadow) return false;
    return !TypesIgnoreCacheDisable() || DetectKvmModule().vendor == "vmx";
  }
  static void ExpectZappedIfItMatters(TestVm& vm, const MemorySlot& slot, const char* when) {
    const uint64_t refaults = Refaults(vm, slot);
    if (DmaMatters()) {
      EXPECT_GE(refaults, AtLeast(slot)) << when;
    } else if (CurrentMmuMode() != MmuMode::kShadow || !TypesIgnoreCacheDisable()) {
      EXPECT_EQ(refaults, 0u) << kPrecision << when;
    }
    // Else it is zapped for nothing, as KVM_X86_QUIRK_IGNORE_GUEST_PAT isn't supported there, which
    // the check takes for enabled.
  }
  // Whether CR0.CD has no influence on what KVM puts into an SPTE: since Linux 6.11 memory types
  // are the guest's PAT or nothing.
  static bool TypesIgnoreCacheDisable() { return KernelIsAtLeast("6.11"); }
  // The MTRRs as firmware leaves them: memory is WB, but for `bar`, which is WC.  `bar` is of a
  // size that is a power of two, and aligned to it.  SDM volume 3, 12.11.2.
  static void SetMtrrs(TestVm& vm, const GpaRange& bar) {
    constexpr uint32_t kPhysBase0 = 0x200, kPhysMask0 = 0x201, kDefType = 0x2ff;
    constexpr uint64_t kWriteCombining = 1, kWriteBack = 6, kValid = 1 << 11, kEnable = 1 << 11;
    const uint64_t all = (uint64_t{1} << vm.vm().kvm().PhysicalAddressBits()) - 1;
    Vcpu& vcpu = vm.guest().vcpu();
    vcpu.SetMsr(kDefType, 0);
    vcpu.SetMsr(kPhysBase0, bar.start | kWriteCombining);
    vcpu.SetMsr(kPhysMask0, (all & ~(bar.size - 1)) | kValid);
    vcpu.SetMsr(kDefType, kEnable | kWriteBack);
  }
  // The memory types in the SPTEs that were installed last, from construction on.
  class InstalledTypes {
   public:
    InstalledTypes() : trace_("slotzap-types") {
      trace_.Enable("kvmmmu:kvm_mmu_set_spte");
      trace_.Clear();
      trace_.Start();
    }
    // Why there are none to be seen here, or an empty string.
    static std::string Unavailable() {
      if (DetectKvmModule().vendor != "vmx") return "KVM sets memory types in EPT entries only";
      if (CurrentMmuMode() == MmuMode::kShadow) return "shadow paging doesn't use memory types";
      return TraceInstance::Available();
    }
    // Which those of `range` have: "WB", "WB, ignoring PAT"; or how many have which.  EPT entries
    // have the type in bits 5:3 and "ignore PAT" in bit 6 (SDM volume 3, 29.3.2).
    std::string Of(const GpaRange& range) {
      for (const TraceEvent& event : trace_.Read())
        if (const auto spte = DecodeInstalledSpte(event); spte && spte->level == 1)
          sptes_[spte->gfn] = spte->spte;
      EXPECT_EQ(trace_.lost(), 0u);
      trace_.Clear();
      std::map<std::string, size_t> types;
      for (Gfn gfn = range.first_gfn(); gfn < range.first_gfn() + range.pages(); gfn++) {
        const auto spte = sptes_.find(gfn);
        types[spte == sptes_.end() ? "none" : TypeOf(spte->second)]++;
      }
      if (types.size() == 1) return types.begin()->first;
      std::string text;
      for (const auto& [type, count] : types) text += std::to_string(count) + " " + type + "; ";
      return text;
    }

   private:
    static std::string TypeOf(uint64_t spte) {
      constexpr const char* kNames[] = {"UC", "WC", "2?", "3?", "WT", "WP", "WB", "7?"};
      return std::string(kNames[spte >> 3 & 7]) + ((spte >> 6 & 1) != 0 ? ", ignoring PAT" : "");
    }
    TraceInstance trace_;
    std::map<Gfn, uint64_t> sptes_;
  };
  // A fault may map neighbours, too.
  static uint64_t AtLeast(const MemorySlot& slot) { return slot.range().pages() / 8; }
};

// The quirk makes no difference: it says what the type is while CD is set, not that it stays.
TEST_P(MemoryType, TogglingCacheDisableZapsWithNoncoherentDma) {
  if (TypesIgnoreCacheDisable()) GTEST_SKIP() << "memory types don't depend on CR0.CD here";
  for (const bool cd_quirk : {true, false}) {
    SCOPED_TRACE(cd_quirk ? "CD_NW_CLEARED enabled" : "CD_NW_CLEARED disabled");
    TestVm vm(Config());
    vm.vm().quirks().Disable((slot_zap_all() ? 0 : kQuirkSlotZapAll) |
                             (cd_quirk ? 0 : kQuirkCdNwCleared));
    MemorySlot slot = vm.AddSlot(1_GiB, 256_KiB);
    TestDevice device(vm.vm());
    device.SetNoncoherentDma(true);
    ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
    ASSERT_EQ(Refaults(vm, slot), 0u) << kPrecision;
    ASSERT_THAT(vm.guest().SetCacheDisable(true), Succeeds());
    EXPECT_GE(Refaults(vm, slot), AtLeast(slot)) << "SPTEs outlived CR0.CD being set";
    ASSERT_THAT(vm.guest().SetCacheDisable(false), Succeeds());
    EXPECT_GE(Refaults(vm, slot), AtLeast(slot)) << "SPTEs outlived CR0.CD being cleared";
    ASSERT_THAT(vm.guest().SetCacheDisable(false), Succeeds());
    EXPECT_EQ(Refaults(vm, slot), 0u) << kPrecision << "CR0.CD did not change";
  }
}

// What happened in 2019, see Documentation/2019.md.  Firmware programs the MTRRs with caches
// disabled and uses memory meanwhile; the operating system, with caches enabled, expects the types
// that it has asked for.  KVM did not zap in between, unless somebody deleted or moved a slot and
// with it zapped everything: so with the quirk enabled this passes, however broken KVM is.
TEST_P(MemoryType, Replay2019) {
  if (const std::string reason = InstalledTypes::Unavailable(); !reason.empty())
    GTEST_SKIP() << reason;
  TestVm vm(Config());
  MemorySlot ram = vm.AddSlot(1_GiB, 256_KiB);
  MemorySlot bar = vm.AddSlot(3_GiB, 256_KiB);
  MemorySlot rom = vm.AddSlot(2_GiB, 4_KiB);
  TestDevice device(vm.vm());
  device.SetNoncoherentDma(true);
  InstalledTypes types;

  // Firmware.
  ASSERT_THAT(vm.guest().SetCacheDisable(true), Succeeds());
  SetMtrrs(vm, bar.range());
  for (const MemorySlot* slot : {&ram, &bar, &rom}) {
    ASSERT_THAT(vm.guest().TouchWrite({slot->range()}), Succeeds());
    // CD_NW_CLEARED: as if caches were enabled; and PAT doesn't count.
    EXPECT_EQ(types.Of(slot->range()), TypesIgnoreCacheDisable() ? "WB" : "WB, ignoring PAT");
  }

  // The operating system.
  ASSERT_THAT(vm.guest().SetCacheDisable(false), Succeeds());
  const GpaRange window = rom.range();
  rom.Delete();
  const uint64_t faults = vm.FixedFaults();
  ASSERT_THAT(vm.guest().TouchWrite({ram.range(), bar.range()}), Succeeds());
  RecordProperty("refaults", std::to_string(vm.FixedFaults() - faults));
  EXPECT_EQ(types.Of(ram.range()), "WB") << "SPTEs of RAM outlived CR0.CD";
  EXPECT_EQ(types.Of(bar.range()), TypesIgnoreCacheDisable() ? "WB" : "WC")
      << "SPTEs of the device's memory outlived CR0.CD";

  // What goes from now on is the slot alone, and nothing else has to.
  MemorySlot again = vm.AddSlot(window.start, window.size);
  ASSERT_THAT(vm.guest().TouchWrite({window, ram.range(), bar.range()}), Succeeds());
  again.Delete();
  EXPECT_EQ(Refaults(vm, ram) == 0, !slot_zap_all()) << kPrecision;
  EXPECT_EQ(types.Of(ram.range()), "WB");
}

// As a VMM does to reset a vCPU.  The zap lets others have mmu_lock in between, if they wait.
TEST_P(MemoryType, UserspaceTogglingCacheDisableZapsWithNoncoherentDma) {
  if (TypesIgnoreCacheDisable()) GTEST_SKIP() << "memory types don't depend on CR0.CD here";
  constexpr uint64_t kCacheDisable = 1ull << 30;
  TestVm vm(Config());
  MemorySlot slot = vm.AddSlot(1_GiB, 1_MiB);
  TestDevice device(vm.vm());
  device.SetNoncoherentDma(true);
  ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  kvm_sregs sregs = vm.guest().vcpu().Sregs();
  for (int i = 0; i < 2; i++) {
    sregs.cr0 ^= kCacheDisable;
    device.TryWatchLock().OrThrow();
    vm.guest().vcpu().SetSregs(sregs);
    const slotzap_test_lock_stretches stretches = device.StopWatchingLock();
    if (CurrentMmuMode() != MmuMode::kTdp) {
      EXPECT_GE(stretches.count, slot.range().pages() / 128) << kPrecision;
    }
    EXPECT_GE(Refaults(vm, slot), AtLeast(slot)) << "SPTEs outlived a change of CR0.CD";
  }
  vm.guest().vcpu().SetSregs(sregs);
  EXPECT_EQ(Refaults(vm, slot), 0u) << kPrecision << "CR0.CD did not change";
}

// Which type it is while CD is set depends on CD_NW_CLEARED, which userspace may change at any
// time; it does if it disables another quirk, and forgets that this replaces what it disabled
// before.
TEST_P(MemoryType, TogglingTheCacheDisableQuirkZapsWithNoncoherentDma) {
  if (TypesIgnoreCacheDisable()) GTEST_SKIP() << "memory types don't depend on CR0.CD here";
  TestVm vm(Config());
  MemorySlot slot = vm.AddSlot(1_GiB, 256_KiB);
  const auto disable = [&](uint64_t quirks) {
    vm.vm().quirks().Disable((slot_zap_all() ? 0 : kQuirkSlotZapAll) | quirks);
  };
  ASSERT_THAT(vm.guest().SetCacheDisable(true), Succeeds());
  ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  disable(kQuirkCdNwCleared);
  disable(0);
  EXPECT_EQ(Refaults(vm, slot), 0u) << kPrecision << "there is no non-coherent DMA";
  TestDevice device(vm.vm());
  device.SetNoncoherentDma(true);
  ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  disable(kQuirkCdNwCleared);
  EXPECT_GE(Refaults(vm, slot), AtLeast(slot)) << "SPTEs outlived the quirk";
  disable(kQuirkCdNwCleared);
  EXPECT_EQ(Refaults(vm, slot), 0u) << kPrecision << "the quirk did not change";
  disable(0);
  EXPECT_GE(Refaults(vm, slot), AtLeast(slot)) << "SPTEs outlived the quirk's being disabled";
}

TEST_P(MemoryType, TogglingCacheDisableKeepsSptesWithoutNoncoherentDma) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddSlot(1_GiB, 256_KiB);
  ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  for (const bool on : {true, false}) {
    ASSERT_THAT(vm.guest().SetCacheDisable(on), Succeeds());
    EXPECT_EQ(Refaults(vm, slot), 0u) << kPrecision;
  }
}

// By the types in the SPTEs: without, the guest's PAT doesn't count, with it, it does.
TEST_P(MemoryType, GainingAndLosingNoncoherentDmaChangesTypes) {
  if (const std::string reason = InstalledTypes::Unavailable(); !reason.empty())
    GTEST_SKIP() << reason;
  TestVm vm(Config());
  MemorySlot ram = vm.AddSlot(1_GiB, 256_KiB);
  MemorySlot bar = vm.AddSlot(3_GiB, 256_KiB);
  SetMtrrs(vm, bar.range());
  TestDevice first(vm.vm());
  TestDevice second(vm.vm());
  InstalledTypes types;
  const auto expect = [&](const std::string& of_ram, const std::string& of_bar, const char* when) {
    ASSERT_THAT(vm.guest().TouchWrite({ram.range(), bar.range()}), Succeeds());
    EXPECT_EQ(types.Of(ram.range()), of_ram) << when;
    EXPECT_EQ(types.Of(bar.range()), of_bar) << when;
  };
  const std::string device_memory = TypesIgnoreCacheDisable() ? "WB" : "WC";
  expect("WB, ignoring PAT", "WB, ignoring PAT", "at first");
  first.SetNoncoherentDma(true);
  expect("WB", device_memory, "gained non-coherent DMA");
  second.SetNoncoherentDma(true);
  first.SetNoncoherentDma(false);
  expect("WB", device_memory, "the second source is still there");
  second.SetNoncoherentDma(false);
  expect("WB, ignoring PAT", "WB, ignoring PAT", "lost non-coherent DMA");
}

TEST_P(MemoryType, GainingAndLosingNoncoherentDmaZaps) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddSlot(1_GiB, 256_KiB);
  ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  TestDevice first(vm.vm());
  TestDevice second(vm.vm());
  first.SetNoncoherentDma(true);
  ExpectZappedIfItMatters(vm, slot, "gained non-coherent DMA");
  second.SetNoncoherentDma(true);
  EXPECT_EQ(Refaults(vm, slot), 0u) << kPrecision << "a second source changes nothing";
  second.SetNoncoherentDma(false);
  EXPECT_EQ(Refaults(vm, slot), 0u) << kPrecision << "the first source is still there";
  first.SetNoncoherentDma(false);
  ExpectZappedIfItMatters(vm, slot, "lost non-coherent DMA");
}

// SMM's slots as well.
TEST_P(MemoryType, GainingAndLosingNoncoherentDmaZapsWhatSmmMaps) {
  if (Kvm().CheckExtension(KVM_CAP_X86_SMM) == 0)
    GTEST_SKIP() << "this KVM has no System Management Mode";
  if (!DmaMatters()) GTEST_SKIP() << "non-coherent DMA makes no difference here";
  TestVm vm(Config());
  Smm smm(vm.vm());
  MemorySlot slot = vm.vm().AddSlot({.gpa = 1_GiB,
                                     .memory = std::make_shared<GuestMemory>(256_KiB),
                                     .address_space = Smm::kAddressSpace});
  const auto refaults = [&] {
    const uint64_t faults = vm.FixedFaults();
    EXPECT_THAT(smm.TouchRead(vm.guest(), slot.range()), Succeeds());
    return vm.FixedFaults() - faults;
  };
  refaults();
  refaults();
  ASSERT_EQ(refaults(), 0u) << kPrecision;
  TestDevice device(vm.vm());
  for (const bool on : {true, false}) {
    device.SetNoncoherentDma(on);
    EXPECT_GE(refaults(), AtLeast(slot)) << (on ? "gained" : "lost") << " non-coherent DMA";
  }
}

// What is zapped for that is flushed, whatever of the VM comes last and has nothing mapped.
TEST_P(MemoryType, GainingAndLosingNoncoherentDmaFlushes) {
  if (!DmaMatters()) GTEST_SKIP() << "non-coherent DMA makes no difference here";
  TestVm vm(Config());
  MemorySlot slot = vm.AddSlot(1_GiB, 256_KiB);
  MemorySlot untouched = vm.AddSlot(3_GiB, 256_KiB);
  TestDevice device(vm.vm());
  for (const bool on : {true, false}) {
    ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
    const uint64_t before = vm.vm().stats().Read("remote_tlb_flush_requests");
    device.SetNoncoherentDma(on);
    EXPECT_GE(vm.vm().stats().Read("remote_tlb_flush_requests") - before, 1u);
  }
}

// What such a change zaps with, on a part of a slot.
TEST_P(MemoryType, ZappingARangeZapsOnlyThat) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddSlot(1_GiB, 256_KiB);
  ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  TestDevice device(vm.vm());
  const Gfn start = slot.range().first_gfn() + 8;
  const Leaves before = PresentLeaves(vm.vm().stats().Read());
  const KvmStatus zapped = device.TryZapSharedGfnRange(start, start + 8);
  if (zapped.error() == EOPNOTSUPP) GTEST_SKIP() << "this KVM has no kvm_zap_shared_gfn_range()";
  ASSERT_THAT(zapped, IsOk());
  EXPECT_EQ((before - PresentLeaves(vm.vm().stats().Read())).total(), 8) << kPrecision;
  EXPECT_GE(Refaults(vm, slot), 1u);
  EXPECT_EQ(Refaults(vm, slot), 0u) << kPrecision;
}

SLOTZAP_INSTANTIATE(MemoryType);

}  // namespace
}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
// Theme: memory types.  With non-coherent DMA, what KVM puts into an SPTE depends on the guest's
// CR0.CD (vmx_get_mt_mask()), so SPTEs have to go when that changes: zapping everything on memslot
// updates used to cover up that they did not.
//
// Whether a VM has non-coherent DMA is up to assigned devices; here, a test module says so.
#include <cerrno>

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

// As a VMM does to reset a vCPU.
TEST_P(MemoryType, UserspaceTogglingCacheDisableZapsWithNoncoherentDma) {
  if (TypesIgnoreCacheDisable()) GTEST_SKIP() << "memory types don't depend on CR0.CD here";
  constexpr uint64_t kCacheDisable = 1ull << 30;
  TestVm vm(Config());
  MemorySlot slot = vm.AddSlot(1_GiB, 256_KiB);
  TestDevice device(vm.vm());
  device.SetNoncoherentDma(true);
  ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  kvm_sregs sregs = vm.guest().vcpu().Sregs();
  for (int i = 0; i < 2; i++) {
    sregs.cr0 ^= kCacheDisable;
    vm.guest().vcpu().SetSregs(sregs);
    EXPECT_GE(Refaults(vm, slot), AtLeast(slot)) << "SPTEs outlived a change of CR0.CD";
  }
  vm.guest().vcpu().SetSregs(sregs);
  EXPECT_EQ(Refaults(vm, slot), 0u) << kPrecision << "CR0.CD did not change";
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

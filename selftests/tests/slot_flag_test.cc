// SPDX-License-Identifier: GPL-2.0-only
// Theme: the memslot flag.  KVM_MEM_ZAP_LEAFS_ONLY asks for leaf-only zapping of one slot, on a VM
// that has KVM_X86_QUIRK_SLOT_ZAP_ALL enabled.
#include <cerrno>

#include "tests/slot_test.h"

namespace slotzap {
namespace {

constexpr Gpa kFlagged = 1_GiB;
constexpr Gpa kOrdinary = 2_GiB;
constexpr Gpa kBystander = 3_GiB;

class SlotFlag : public SlotTest {
 protected:
  void SetUp() override {
    SlotTest::SetUp();
    if (IsSkipped()) return;
    if (Kvm().CheckExtension(KVM_CAP_X86_MEMSLOT_ZAP_LEAFS_ONLY) == 0)
      GTEST_SKIP() << "this kernel has no KVM_MEM_ZAP_LEAFS_ONLY";
  }

  static MemorySlot AddFlagged(TestVm& vm, uint32_t more_flags = 0) {
    return vm.vm().AddSlot({.gpa = kFlagged,
                            .memory = std::make_shared<GuestMemory>(256_KiB),
                            .flags = kMemZapLeafsOnly | more_flags});
  }
};

// Touches everything, lets `update` delete or move the slot, and tells what went.
template <typename Update>
ZapReport Watch(TestVm& vm, const std::vector<const MemorySlot*>& slots, Update update) {
  for (const MemorySlot* slot : slots)
    EXPECT_THAT(vm.guest().TouchRead({slot->range()}), Succeeds());
  ZapWatch watch(vm.vm());
  update();
  return watch.Stop();
}

TEST_P(SlotFlag, TheFlaggedSlotIsZappedLeafOnly) {
  TestVm vm(Config());
  MemorySlot flagged = AddFlagged(vm);
  MemorySlot bystander = vm.AddSlot(kBystander, 1_MiB);
  const GpaRange range = flagged.range();
  EXPECT_THAT(Watch(vm, {&flagged, &bystander}, [&] { flagged.Delete(); }),
              ZappedOnly({{range}}, CurrentMmuMode()));
  const uint64_t faults = vm.FixedFaults();
  EXPECT_THAT(vm.guest().TouchRead({bystander.range()}), Succeeds());
  EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision;
  EXPECT_THAT(vm.guest().Read(kFlagged), IsMmioReadAt(kFlagged));
}

TEST_P(SlotFlag, OtherSlotsFollowTheQuirk) {
  TestVm vm(Config());
  MemorySlot flagged = AddFlagged(vm);
  MemorySlot ordinary = vm.AddSlot(kOrdinary, 256_KiB);
  const GpaRange range = ordinary.range();
  const ZapReport report = Watch(vm, {&flagged, &ordinary}, [&] { ordinary.Delete(); });
  if (slot_zap_all())
    EXPECT_THAT(report, ZappedEverything());
  else
    EXPECT_THAT(report, ZappedOnly({{range}}, CurrentMmuMode()));
}

TEST_P(SlotFlag, CountsWhenASlotMoves) {
  TestVm vm(Config());
  MemorySlot flagged = AddFlagged(vm);
  MemorySlot bystander = vm.AddSlot(kBystander, 256_KiB);
  const GpaRange range = flagged.range();
  EXPECT_THAT(Watch(vm, {&flagged, &bystander}, [&] { flagged.MoveTo(kFlagged + 1_MiB); }),
              ZappedOnly({{range}}, CurrentMmuMode()));
  EXPECT_THAT(vm.guest().Read(kFlagged), IsMmioReadAt(kFlagged));
}

TEST_P(SlotFlag, IsSetAndClearedOnAnExistingSlot) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddSlot(kFlagged, 256_KiB);
  MemorySlot bystander = vm.AddSlot(kBystander, 256_KiB);
  const GpaRange range = slot.range();
  ASSERT_THAT(vm.guest().TouchWrite({slot.range(), bystander.range()}), Succeeds());
  const Leaves before = PresentLeaves(vm.vm().stats().Read());
  EXPECT_THAT(slot.TrySetFlags(kMemZapLeafsOnly), IsOk());
  EXPECT_EQ(PresentLeaves(vm.vm().stats().Read()), before)
      << kPrecision << "setting the flag zaps nothing";
  EXPECT_THAT(Watch(vm, {&slot, &bystander}, [&] { slot.Delete(); }),
              ZappedOnly({{range}}, CurrentMmuMode()));

  slot.Add();  // with the flag
  EXPECT_THAT(slot.TrySetFlags(0), IsOk());
  const ZapReport report = Watch(vm, {&slot, &bystander}, [&] { slot.Delete(); });
  if (slot_zap_all())
    EXPECT_THAT(report, ZappedEverything());
  else
    EXPECT_THAT(report, ZappedOnly({{range}}, CurrentMmuMode()));
}

// What is passed along with the deletion, or is to hold after the move, is not what counts.
TEST_P(SlotFlag, TheFlagOfTheSlotThatGoesCounts) {
  TestVm vm(Config());
  MemorySlot slot = AddFlagged(vm);
  MemorySlot bystander = vm.AddSlot(kBystander, 256_KiB);
  const GpaRange range = slot.range();
  const auto set = [&](uint64_t size, Gpa gpa, uint32_t flags) {
    kvm_userspace_memory_region region = {};
    region.slot = slot.id();
    region.flags = flags;
    region.guest_phys_addr = gpa;
    region.memory_size = size;
    region.userspace_addr = slot.memory().address();
    return SLOTZAP_IOCTL(vm.vm().fd(), KVM_SET_USER_MEMORY_REGION, &region, "");
  };
  EXPECT_THAT(Watch(vm, {&slot, &bystander}, [&] { set(range.size, 5_GiB, 0).OrThrow(); }),
              ZappedOnly({{range}}, CurrentMmuMode()));
  // It lost the flag on the way.
  EXPECT_THAT(vm.guest().TouchRead({{5_GiB, range.size}}), Succeeds());
  const ZapReport report =
      Watch(vm, {&bystander}, [&] { set(0, 5_GiB, kMemZapLeafsOnly).OrThrow(); });
  if (slot_zap_all())
    EXPECT_THAT(report, ZappedEverything());
  else
    EXPECT_THAT(report, ZappedOnly({{{5_GiB, range.size}}}, CurrentMmuMode()));
}

TEST_P(SlotFlag, GoesTogetherWithOthers) {
  TestVm vm(Config());
  MemorySlot slot = AddFlagged(vm, KVM_MEM_LOG_DIRTY_PAGES);
  MemorySlot bystander = vm.AddSlot(kBystander, 256_KiB);
  const GpaRange range = slot.range();
  EXPECT_THAT(slot.TrySetFlags(kMemZapLeafsOnly), IsOk());
  EXPECT_THAT(slot.TrySetFlags(KVM_MEM_LOG_DIRTY_PAGES), IsOk());
  EXPECT_THAT(slot.TrySetFlags(kMemZapLeafsOnly | KVM_MEM_LOG_DIRTY_PAGES), IsOk());
  EXPECT_THAT(slot.TrySetFlags(kMemZapLeafsOnly | KVM_MEM_READONLY), FailsWith(EINVAL));
  EXPECT_THAT(Watch(vm, {&slot, &bystander}, [&] { slot.Delete(); }),
              ZappedOnly({{range}}, CurrentMmuMode()));

  MemorySlot rom = vm.vm().AddSlot({.gpa = kOrdinary,
                                    .memory = std::make_shared<GuestMemory>(64_KiB),
                                    .flags = kMemZapLeafsOnly | KVM_MEM_READONLY});
  const GpaRange rom_range = rom.range();
  EXPECT_THAT(rom.TrySetFlags(KVM_MEM_READONLY), IsOk());
  EXPECT_THAT(rom.TrySetFlags(kMemZapLeafsOnly | KVM_MEM_READONLY), IsOk());
  EXPECT_THAT(Watch(vm, {&rom, &bystander}, [&] { rom.Delete(); }),
              ZappedOnly({{rom_range}}, CurrentMmuMode()));
}

// Nor do other flags stand in for it.
TEST_P(SlotFlag, OtherFlagsDoNotAskForIt) {
  for (const uint32_t flags : {uint32_t{KVM_MEM_LOG_DIRTY_PAGES}, uint32_t{KVM_MEM_READONLY}}) {
    SCOPED_TRACE("flags " + Hex(flags));
    TestVm vm(Config());
    MemorySlot slot = vm.vm().AddSlot(
        {.gpa = kOrdinary, .memory = std::make_shared<GuestMemory>(64_KiB), .flags = flags});
    MemorySlot bystander = vm.AddSlot(kBystander, 256_KiB);
    const GpaRange range = slot.range();
    const ZapReport report = Watch(vm, {&slot, &bystander}, [&] { slot.Delete(); });
    if (slot_zap_all())
      EXPECT_THAT(report, ZappedEverything());
    else
      EXPECT_THAT(report, ZappedOnly({{range}}, CurrentMmuMode()));
  }
}

TEST_P(SlotFlag, OtherBitsAreStillRefused) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddSlot(kFlagged, 64_KiB);
  for (unsigned bit = 3; bit < 32; bit++) {
    if (1u << bit == kMemZapLeafsOnly) continue;
    EXPECT_THAT(slot.TrySetFlags(1u << bit), FailsWith(EINVAL)) << "bit " << bit;
    EXPECT_THAT(slot.TrySetFlags(1u << bit | kMemZapLeafsOnly), FailsWith(EINVAL)) << "bit " << bit;
  }
}

// The quirk is a matter of the VM, whatever its slots say.
TEST_P(SlotFlag, DoesNotChangeTheQuirk) {
  TestVm vm(Config());
  MemorySlot slot = AddFlagged(vm);
  const auto in_effect = vm.vm().quirks().InEffect();
  ASSERT_TRUE(in_effect.has_value());
  EXPECT_EQ((*in_effect & kQuirkSlotZapAll) != 0, slot_zap_all()) << Hex(*in_effect);
}

SLOTZAP_INSTANTIATE(SlotFlag);

}  // namespace
}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
// Theme: the memslot flag.  KVM_MEM_ZAP_LEAFS_ONLY asks for leaf-only zapping of one slot, on a VM
// that has KVM_X86_QUIRK_SLOT_ZAP_ALL enabled.
#include <cerrno>

#include "guest/page_tables.h"
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

// One update that sets, or clears, the flag and turns the log on, or off.
TEST_P(SlotFlag, ChangesTogetherWithTheDirtyLog) {
  constexpr uint32_t kLog = KVM_MEM_LOG_DIRTY_PAGES;
  const Backing backing = BackingUnavailable(Backing::k2M, 2).empty() ? Backing::k2M : Backing::k4K;
  TestVm vm(Config());
  MemorySlot slot = vm.AddSlot(32_GiB, 4_MiB, backing);
  const uint32_t kUpdates[][2] = {
      {0, kMemZapLeafsOnly | kLog}, {kMemZapLeafsOnly, kLog},
      {kLog | kMemZapLeafsOnly, 0}, {0, kLog},
      {kLog, kMemZapLeafsOnly},     {kMemZapLeafsOnly, kMemZapLeafsOnly | kLog}};
  for (const auto& [from, to] : kUpdates) {
    SCOPED_TRACE("flags " + Hex(from) + ", then " + Hex(to));
    if (slot.config().flags != from) slot.SetFlags(from);
    ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
    slot.SetFlags(to);
    if ((to & kLog) == 0) {
      // Large pages again, as for a slot that never had a log.
      ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
      continue;
    }
    if ((from & kLog) == 0) {
      EXPECT_THAT(slot.GetDirtyLog().Set(), testing::IsEmpty()) << "a fresh log is clean";
    }
    for (const int64_t page : {1, 600, 1023})
      ASSERT_THAT(vm.guest().Write(slot.page(page), 1), Succeeds());
    EXPECT_THAT(slot.GetDirtyLog().Set(), testing::ElementsAre(1, 600, 1023));
  }
}

// What KVM derived from guest page tables in a slot with the flag goes along.
TEST_P(SlotFlag, GuestPageTablesInTheFlaggedSlot) {
  constexpr uint64_t kSeed = 0xf1a6;
  TestVm vm(Config());
  MemorySlot data = vm.AddFilledSlot(kOrdinary, 64_KiB, kSeed);
  MemorySlot other = vm.AddFilledSlot(kBystander, 64_KiB, kSeed + 1);
  MemorySlot tables_slot = AddFlagged(vm);
  const auto map_data_to = [&](const MemorySlot& target) {
    PageTables tables(tables_slot, tables_slot.range());
    tables.MapIdentity({0, 4_MiB}, GuestPageSize::k2M);
    tables.Map(data.range().start, target.range().start, 64_KiB, GuestPageSize::k4K);
    return tables.root();
  };
  ASSERT_THAT(vm.guest().SetCr3(map_data_to(data)), Succeeds());
  ASSERT_THAT(vm.guest().Verify({PatternOf(data, kSeed)}), SeesPattern());
  ASSERT_THAT(vm.guest().SetCr3(vm.tables().root()), Succeeds());
  ZapWatch watch(vm.vm());
  tables_slot.Delete();
  const ZapReport report = watch.Stop();
  EXPECT_EQ(report.zap_all, 0u) << kPrecision << report;
  if (CurrentMmuMode() == MmuMode::kShadow) {
    EXPECT_GE(report.shadow_zapped, 4u) << kPrecision << report;
  }
  tables_slot.AddWith(std::make_shared<GuestMemory>(256_KiB));
  ASSERT_THAT(vm.guest().SetCr3(map_data_to(other)), Succeeds());
  EXPECT_THAT(vm.guest().Verify({{.range = data.range(), .seed = kSeed + 1}}), SeesPattern());
  ASSERT_THAT(vm.guest().SetCr3(vm.tables().root()), Succeeds());
}

SLOTZAP_INSTANTIATE(SlotFlag);

}  // namespace
}  // namespace slotzap

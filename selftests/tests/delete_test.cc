// SPDX-License-Identifier: GPL-2.0-only
// Theme: delete.  Memory that is no slot's any more is out of the guest's reach, and a slot created
// in its place shows what is behind the new one.  Contract tests: they hold on any kernel, with the
// quirk enabled and disabled.
#include <cerrno>
#include <vector>

#include "tests/slot_test.h"

namespace slotzap {
namespace {

constexpr uint64_t kSeed = 0x5107;
constexpr uint64_t kOtherSeed = 0xb10c;

class SlotDelete : public SlotTest {
 protected:
  static constexpr Gpa kVictim = 1_GiB;

  void DeleteLargePages(Backing backing, uint64_t pages);
};

TEST_P(SlotDelete, FirstMiddleAndLastPageBecomeMmio) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddFilledSlot(kVictim, 64_KiB, kSeed);
  ASSERT_THAT(vm.guest().Verify({PatternOf(victim, kSeed)}), SeesPattern());
  victim.Delete();
  for (const Gpa gpa : {victim.page(0), victim.page(8), victim.page(-1)}) {
    EXPECT_THAT(vm.guest().Read(gpa), IsMmioReadAt(gpa));
    EXPECT_THAT(vm.guest().Write(gpa, 0xbad), IsMmioWriteAt(gpa, 0xbad));
    EXPECT_NE(victim.Load(gpa), 0xbadu) << "the write reached the memory of the deleted slot";
  }
}

TEST_P(SlotDelete, EveryPageBecomesMmio) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddSlot(kVictim, 4_MiB);
  ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
  victim.Delete();
  EXPECT_THAT(vm.guest().TouchRead({victim.range()}), FindsNothingIn(victim.range()));
}

TEST_P(SlotDelete, NeighboursStay) {
  TestVm vm(Config());
  MemorySlot below = vm.AddFilledSlot(kVictim - 64_KiB, 64_KiB, kSeed);
  MemorySlot victim = vm.AddFilledSlot(kVictim, 64_KiB, kSeed + 1);
  MemorySlot above = vm.AddFilledSlot(victim.range().end(), 64_KiB, kSeed + 2);
  const std::initializer_list<Pattern> neighbours = {PatternOf(below, kSeed),
                                                     PatternOf(above, kSeed + 2)};
  ASSERT_THAT(vm.guest().Verify({PatternOf(victim, kSeed + 1)}), SeesPattern());
  ASSERT_THAT(vm.guest().Verify(neighbours), SeesPattern());
  victim.Delete();
  EXPECT_THAT(vm.guest().TouchRead({victim.range()}), FindsNothingIn(victim.range()));
  EXPECT_THAT(vm.guest().Verify(neighbours), SeesPattern());
}

TEST_P(SlotDelete, RecreatedSlotShowsTheNewBacking) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddFilledSlot(kVictim, 256_KiB, kSeed);
  const auto old_memory = slot.config().memory;
  ASSERT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern());

  slot.Delete();
  // Makes KVM cache that there is no memory, which it has to forget.
  ASSERT_THAT(vm.guest().TouchRead({slot.range()}), FindsNothingIn(slot.range()));
  slot.AddWith(std::make_shared<GuestMemory>(256_KiB));
  FillMemory(slot.memory(), {.pages = slot.range().pages(), .seed = kOtherSeed});
  EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kOtherSeed)}), SeesPattern());

  ASSERT_THAT(vm.guest().Write(slot.page(3), 0x600d), Succeeds());
  EXPECT_EQ(slot.Load(slot.page(3)), 0x600du);
  EXPECT_EQ(old_memory->Load(3 * kPageSize), guest::PatternWord(kSeed, 3 * kPageSize / 8))
      << "the write went to the memory of the slot that was deleted";
}

TEST_P(SlotDelete, RecreatedSlotWithoutAnAccessInBetween) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddFilledSlot(kVictim, 256_KiB, kSeed);
  ASSERT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern());
  slot.Delete();
  slot.AddWith(std::make_shared<GuestMemory>(256_KiB));
  FillMemory(slot.memory(), {.pages = slot.range().pages(), .seed = kOtherSeed});
  EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kOtherSeed)}), SeesPattern());
}

TEST_P(SlotDelete, RecreatedSlotWithTheSameMemoryKeepsItsContents) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddSlot(kVictim, 256_KiB);
  ASSERT_THAT(vm.guest().Fill({PatternOf(slot, kSeed)}), Succeeds());
  for (int i = 0; i < 5; i++) {
    slot.Delete();
    EXPECT_THAT(vm.guest().Read(slot.page(i)), IsMmioReadAt(slot.page(i)));
    slot.Add();
    EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern());
  }
}

TEST_P(SlotDelete, SmallerSlotInPlaceOfALargerOne) {
  TestVm vm(Config());
  MemorySlot large = vm.AddFilledSlot(kVictim, 4_MiB, kSeed);
  ASSERT_THAT(vm.guest().Verify({PatternOf(large, kSeed)}), SeesPattern());
  large.Delete();
  MemorySlot small = vm.AddFilledSlot(kVictim + 1_MiB, 64_KiB, kOtherSeed);
  EXPECT_THAT(vm.guest().Verify({PatternOf(small, kOtherSeed)}), SeesPattern());
  for (const Gpa gpa : {small.range().start - kPageSize, small.range().end(), large.page(-1)})
    EXPECT_THAT(vm.guest().Read(gpa), IsMmioReadAt(gpa));
}

TEST_P(SlotDelete, TwiceFails) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddSlot(kVictim, 64_KiB);
  EXPECT_THAT(slot.TryDelete(), IsOk());
  EXPECT_THAT(slot.TryDelete(), FailsWith(EINVAL));
}

TEST_P(SlotDelete, WithTheDirtyLogOnAndReadOnly) {
  TestVm vm(Config());
  MemorySlot logged = vm.AddFilledSlot(kVictim, 256_KiB, kSeed);
  logged.SetFlags(KVM_MEM_LOG_DIRTY_PAGES);
  MemorySlot rom = [&] {
    auto memory = std::make_shared<GuestMemory>(256_KiB);
    FillMemory(*memory, {.pages = 64, .seed = kOtherSeed});
    return vm.vm().AddSlot({.gpa = kVictim + 1_MiB, .memory = memory, .flags = KVM_MEM_READONLY});
  }();
  ASSERT_THAT(vm.guest().TouchWrite({logged.range()}), Succeeds());
  ASSERT_THAT(vm.guest().Verify({PatternOf(rom, kOtherSeed)}), SeesPattern());
  for (MemorySlot* slot : {&logged, &rom}) {
    slot->Delete();
    EXPECT_THAT(vm.guest().TouchRead({slot->range()}), FindsNothingIn(slot->range()));
    slot->Add();
  }
  EXPECT_THAT(vm.guest().Verify({PatternOf(logged, kSeed), PatternOf(rom, kOtherSeed)}),
              SeesPattern());
}

void SlotDelete::DeleteLargePages(Backing backing, uint64_t pages) {
  if (const std::string reason = BackingUnavailable(backing, pages); !reason.empty())
    GTEST_SKIP() << reason;
  TestVm vm(Config());
  const uint64_t size = pages * BackingPageSize(backing);
  MemorySlot victim = vm.AddSlot(4_GiB, size, backing);
  for (const Gpa gpa : {victim.page(0), victim.range().start + size / 2, victim.page(-1)})
    ASSERT_THAT(vm.guest().Write(gpa, gpa + 1), Succeeds());
  victim.Delete();
  for (const Gpa gpa : {victim.page(0), victim.range().start + size / 2, victim.page(-1)})
    EXPECT_THAT(vm.guest().Read(gpa), IsMmioReadAt(gpa));
  victim.Add();
  for (const Gpa gpa : {victim.page(0), victim.range().start + size / 2, victim.page(-1)})
    EXPECT_THAT(vm.guest().Read(gpa), Returns(gpa + 1));
}

TEST_P(SlotDelete, LargePages) { DeleteLargePages(Backing::k2M, 4); }
TEST_P(SlotDelete, LargePagesOf1G) { DeleteLargePages(Backing::k1G, 1); }

// int (*)(void): mov $0x600d, %eax; ret
constexpr std::byte kFunction[] = {std::byte{0xb8}, std::byte{0x0d}, std::byte{0x60},
                                   std::byte{0x00}, std::byte{0x00}, std::byte{0xc3}};
constexpr uint64_t kFunctionResult = 0x600d;

// VM exits after which a vCPU that should be stuck is taken to be.
constexpr uint64_t kPatience = 1000;

TEST_P(SlotDelete, TheSlotTheGuestCallsInto) {
  TestVm vm(Config());
  MemorySlot code = vm.AddSlot(kVictim, 16_KiB);
  code.memory().Write(0, kFunction);
  ASSERT_THAT(vm.guest().Call(code.page(0)), Returns(kFunctionResult));
  const Vcpu::State before = vm.guest().vcpu().Save();

  code.Delete();
  EXPECT_THAT(vm.guest().Call(code.page(0)), IsStuck()) << "the guest runs code that is gone";

  code.Add();
  vm.guest().RestoreTo(before);
  EXPECT_THAT(vm.guest().Call(code.page(0)), Returns(kFunctionResult));
}

TEST_P(SlotDelete, TheSlotTheGuestRunsFrom) {
  TestVm vm(Config());
  const Vcpu::State before = vm.guest().vcpu().Save();
  vm.agent_slot().Delete();
  EXPECT_THAT(vm.guest().NopWithin(kPatience), IsStuck()) << "the guest runs code that is gone";

  vm.agent_slot().Add();
  vm.guest().RestoreTo(before);
  EXPECT_THAT(vm.guest().Nop(), Succeeds());
}

TEST_P(SlotDelete, TheSlotThatHoldsItsPageTables) {
  TestVm vm(Config());
  MemorySlot data = vm.AddFilledSlot(kVictim, 64_KiB, kSeed);
  ASSERT_THAT(vm.guest().Verify({PatternOf(data, kSeed)}), SeesPattern());
  const Vcpu::State before = vm.guest().vcpu().Save();

  vm.tables_slot().Delete();
  EXPECT_THAT(vm.guest().NopWithin(kPatience), IsStuck())
      << "the guest runs on page tables that are gone";

  vm.tables_slot().Add();
  vm.guest().RestoreTo(before);
  EXPECT_THAT(vm.guest().Verify({PatternOf(data, kSeed)}), SeesPattern());
}

// KVM may have shadowed these tables; what it derived from them must go as well.
TEST_P(SlotDelete, PageTablesThatAreNotInUseAtTheMoment) {
  TestVm vm(Config());
  MemorySlot data = vm.AddFilledSlot(kVictim, 64_KiB, kSeed);
  MemorySlot tables_slot = vm.AddSlot(2_GiB, 64_KiB);
  PageTables tables(tables_slot, tables_slot.range());
  tables.MapIdentity({0, 4_MiB}, GuestPageSize::k2M);
  tables.MapIdentity(data.range(), GuestPageSize::k4K);
  ASSERT_THAT(vm.guest().SetCr3(tables.root()), Succeeds());
  ASSERT_THAT(vm.guest().Verify({PatternOf(data, kSeed)}), SeesPattern());
  ASSERT_THAT(vm.guest().SetCr3(vm.tables().root()), Succeeds());
  tables_slot.Delete();

  // New tables in the same place, which map the data's address to other memory.
  MemorySlot other = vm.AddFilledSlot(3_GiB, 64_KiB, kOtherSeed);
  tables_slot.AddWith(std::make_shared<GuestMemory>(64_KiB));
  PageTables other_tables(tables_slot, tables_slot.range());
  other_tables.MapIdentity({0, 4_MiB}, GuestPageSize::k2M);
  other_tables.Map(data.range().start, other.range().start, 64_KiB, GuestPageSize::k4K);
  ASSERT_THAT(vm.guest().SetCr3(other_tables.root()), Succeeds());
  EXPECT_THAT(vm.guest().Verify({PatternOf(data, kOtherSeed)}), SeesPattern());
  ASSERT_THAT(vm.guest().SetCr3(vm.tables().root()), Succeeds());
}

TEST_P(SlotDelete, NoReadSucceedsOnceTheIoctlHasReturned) {
  TestVm vm(Config(2));
  MemorySlot victim = vm.AddFilledSlot(kVictim, 256_KiB, kSeed);
  VerifyLoop reader(vm.guest(1), {PatternOf(victim, kSeed)});
  for (int round = 0; round < 10; round++) {
    const uint64_t matches_before = reader.verdict().matches;
    reader.WaitForPasses(1);
    ASSERT_GT(reader.verdict().matches, matches_before) << "round " << round;
    victim.Delete();
    // The load that was under way may be counted late; what a whole pass later has not been
    // counted was made after the ioctl returned.
    reader.WaitForPasses(1);
    const guest::Verdict then = reader.verdict();
    reader.WaitForPasses(2);
    const guest::Verdict now = reader.verdict();
    ASSERT_EQ(now.matches, then.matches) << "round " << round;
    ASSERT_GT(now.absent, then.absent) << "round " << round;
    victim.Add();
  }
  const Outcome& outcome = reader.Stop();
  EXPECT_TRUE(outcome.done) << outcome.exit_text;
  EXPECT_EQ(outcome.verdict.wrong, 0u) << outcome;
}

SLOTZAP_INSTANTIATE(SlotDelete);

}  // namespace
}  // namespace slotzap

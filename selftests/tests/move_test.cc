// SPDX-License-Identifier: GPL-2.0-only
// Theme: move.  The memory follows the slot to its new address, and is gone from the old one.
#include <cerrno>

#include "tests/slot_test.h"

namespace slotzap {
namespace {

constexpr uint64_t kSeed = 0x3073;

class SlotMove : public SlotTest {
 protected:
  static constexpr Gpa kFrom = 1_GiB;
  static constexpr Gpa kTo = 3_GiB;
};

TEST_P(SlotMove, DataFollowsTheSlotAndTheOldRangeIsGone) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddFilledSlot(kFrom, 256_KiB, kSeed);
  const Pattern old_place = PatternOf(slot, kSeed);
  ASSERT_THAT(vm.guest().Verify({old_place}), SeesPattern());
  slot.MoveTo(kTo);
  EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern());
  EXPECT_THAT(vm.guest().TouchRead({old_place.range}), FindsNothingIn(old_place.range));
  slot.MoveTo(kFrom);
  EXPECT_THAT(vm.guest().Verify({old_place}), SeesPattern());
  for (const Gpa gpa : {kTo, kTo + 256_KiB - kPageSize})
    EXPECT_THAT(vm.guest().Read(gpa), IsMmioReadAt(gpa));
}

TEST_P(SlotMove, WritesReachTheMemoryAtTheNewAddress) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddFilledSlot(kFrom, 256_KiB, kSeed);
  ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  slot.MoveTo(kTo);
  ASSERT_THAT(vm.guest().Fill({PatternOf(slot, kSeed + 1)}), Succeeds());
  for (const int64_t page : {0, 31, -1})
    EXPECT_EQ(slot.Load(slot.page(page)),
              guest::PatternWord(kSeed + 1, (slot.page(page) - kTo) / 8));
  EXPECT_THAT(vm.guest().Write(kFrom, 0xbad), IsMmioWriteAt(kFrom, 0xbad));
}

// The old and the new range have all but one page in common: each address but the outermost is
// another page's after the move.
TEST_P(SlotMove, ByOnePageOverItself) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddFilledSlot(kFrom, 256_KiB, kSeed);
  ASSERT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern());
  for (const int64_t step : {1, 1, 1, -1, -1, -1, -1, 1}) {
    const GpaRange old = slot.range();
    slot.MoveTo(old.start + static_cast<uint64_t>(step) * kPageSize);
    ASSERT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern())
        << "moved from " << old << " to " << slot.range();
    const Gpa left = step > 0 ? old.start : old.end() - kPageSize;
    ASSERT_THAT(vm.guest().Read(left), IsMmioReadAt(left));
  }
}

TEST_P(SlotMove, ByOnePageOverItselfWhileTheGuestReads) {
  TestVm vm(Config(2));
  constexpr uint64_t kPages = 32;
  constexpr uint64_t kWordsPerPage = kPageSize / 8;
  MemorySlot slot = vm.AddSlot(kFrom, kPages * kPageSize);
  // All pages alike, so that the reader can tell the slot's memory from anything else without
  // knowing where the slot is at the moment.
  const guest::Range alike = {.pages = kPages, .seed = kSeed, .period = kWordsPerPage};
  FillMemory(slot.memory(), alike);
  VerifyLoop reader(
      vm.guest(1),
      {{.range = {kFrom, (kPages + 1) * kPageSize}, .seed = kSeed, .period = kWordsPerPage}});
  for (int round = 0; round < 20; round++) {
    slot.MoveTo(kFrom + (round % 2 == 0 ? kPageSize : 0));
    reader.WaitForPasses(1);
  }
  const Outcome& outcome = reader.Stop();
  EXPECT_TRUE(outcome.done) << outcome.exit_text;
  EXPECT_EQ(outcome.verdict.wrong, 0u) << outcome;
  EXPECT_GT(outcome.verdict.matches, 0u) << outcome;
  EXPECT_GT(outcome.verdict.absent, 0u) << outcome;
  EXPECT_THAT(vm.guest().Verify({{.range = slot.range(), .seed = kSeed, .period = kWordsPerPage}}),
              SeesPattern());
}

TEST_P(SlotMove, BackAndForthWhileTheGuestReadsBothPlaces) {
  TestVm vm(Config(2));
  MemorySlot slot = vm.AddFilledSlot(kFrom, 128_KiB, kSeed);
  VerifyLoop reader(vm.guest(1), {{.range = {kFrom, 128_KiB}, .seed = kSeed},
                                  {.range = {kTo, 128_KiB}, .seed = kSeed}});
  for (int round = 0; round < 20; round++) {
    slot.MoveTo(round % 2 == 0 ? kTo : kFrom);
    reader.WaitForPasses(1);
    const guest::Verdict then = reader.verdict();
    reader.WaitForPasses(1);
    const guest::Verdict now = reader.verdict();
    // Half of what a pass reads is the slot, the other half is nothing.
    ASSERT_GT(now.matches, then.matches) << "round " << round;
    ASSERT_GT(now.absent, then.absent) << "round " << round;
  }
  const Outcome& outcome = reader.Stop();
  EXPECT_TRUE(outcome.done) << outcome.exit_text;
  EXPECT_EQ(outcome.verdict.wrong, 0u) << outcome;
}

TEST_P(SlotMove, OntoAnotherSlotFailsAndChangesNothing) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddFilledSlot(kFrom, 256_KiB, kSeed);
  MemorySlot other = vm.AddFilledSlot(kTo, 256_KiB, kSeed + 1);
  const std::initializer_list<Pattern> both = {PatternOf(slot, kSeed), PatternOf(other, kSeed + 1)};
  ASSERT_THAT(vm.guest().Verify(both), SeesPattern());
  const uint64_t faults = vm.FixedFaults();
  ZapWatch watch(vm.vm());
  EXPECT_THAT(slot.TryMoveTo(kTo + 128_KiB), FailsWith(EEXIST));
  EXPECT_THAT(watch.Stop(), ZappedOnly({}, CurrentMmuMode()));
  EXPECT_THAT(vm.guest().Verify(both), SeesPattern());
  EXPECT_EQ(vm.FixedFaults(), faults)
      << kPrecision << "a move that failed made the guest fault again";
}

TEST_P(SlotMove, OntoWhereAnotherSlotWas) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddFilledSlot(kFrom, 256_KiB, kSeed);
  MemorySlot other = vm.AddFilledSlot(kTo, 256_KiB, kSeed + 1);
  ASSERT_THAT(vm.guest().Verify({PatternOf(slot, kSeed), PatternOf(other, kSeed + 1)}),
              SeesPattern());
  other.Delete();
  slot.MoveTo(kTo);
  EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern());
}

SLOTZAP_INSTANTIATE(SlotMove);

}  // namespace
}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
// Theme: stress.  vCPUs verify memory all along while slots come, go and move.  What is always
// there must always be right; what comes and goes must be either right or absent.
#include <vector>

#include "harness/main.h"
#include "tests/slot_test.h"

namespace slotzap {
namespace {

constexpr uint64_t kSeed = 0x57e5;

class SlotStress : public SlotTest {
 protected:
  void SetUp() override {
    SlotTest::SetUp();
    SetTestTimeout(std::chrono::seconds(180));
  }

  static void ExpectAlwaysRight(const Outcome& outcome) {
    EXPECT_TRUE(outcome.done) << outcome.exit_text;
    EXPECT_GT(outcome.verdict.words, 0u);
    EXPECT_EQ(outcome.verdict.matches, outcome.verdict.words) << outcome;
  }
  static void ExpectRightOrAbsent(const Outcome& outcome) {
    EXPECT_TRUE(outcome.done) << outcome.exit_text;
    EXPECT_EQ(outcome.verdict.wrong, 0u) << outcome;
    EXPECT_GT(outcome.verdict.matches, 0u) << outcome;
    EXPECT_GT(outcome.verdict.absent, 0u) << outcome;
  }
};

TEST_P(SlotStress, SmallSlotsComeAndGo) {
  TestVm vm(Config(3));
  std::vector<Pattern> resident_patterns;
  std::vector<MemorySlot> residents;
  for (uint64_t i = 0; i < 4; i++) {
    // Next to where the small ones will be, so that they share page tables.
    residents.push_back(vm.AddFilledSlot(1_GiB + i * 4_MiB, 1_MiB, kSeed + i));
    resident_patterns.push_back(PatternOf(residents.back(), kSeed + i));
  }
  std::vector<Pattern> small_patterns;
  std::vector<MemorySlot> small;
  for (uint64_t i = 0; i < 4; i++) {
    small.push_back(vm.AddFilledSlot(1_GiB + i * 4_MiB + 1_MiB, 16_KiB, kSeed + 100 + i));
    small_patterns.push_back(PatternOf(small.back(), kSeed + 100 + i));
  }
  const Gpa away = 3_GiB;

  VerifyLoop first(vm.guest(0), resident_patterns);
  VerifyLoop second(vm.guest(1), resident_patterns);
  VerifyLoop third(vm.guest(2), small_patterns);
  for (int round = 0; round < 120; round++) {
    MemorySlot& slot = small[static_cast<size_t>(round) % small.size()];
    const Gpa home = slot.range().start;
    if (round % 3 == 0) {
      slot.MoveTo(away);
      slot.MoveTo(home);
    } else {
      slot.Delete();
      if (round % 8 == 1) third.WaitForPasses(1);
      slot.Add();
    }
    if (round % 8 == 0) third.WaitForPasses(1);
  }
  first.WaitForPasses(2);
  second.WaitForPasses(2);
  third.WaitForPasses(2);
  ExpectAlwaysRight(first.Stop());
  ExpectAlwaysRight(second.Stop());
  ExpectRightOrAbsent(third.Stop());
  for (uint64_t i = 0; i < 4; i++)
    EXPECT_THAT(vm.guest().Verify({resident_patterns[i], small_patterns[i]}), SeesPattern());
}

// Each time with other memory behind it: a stale mapping shows as a wrong word.
TEST_P(SlotStress, TheMemoryBehindASlotChanges) {
  TestVm vm(Config(2));
  constexpr uint64_t kSize = 128_KiB;
  MemorySlot resident = vm.AddFilledSlot(1_GiB, 1_MiB, kSeed);
  MemorySlot slot = vm.AddSlot(2_GiB, kSize);
  std::vector<std::shared_ptr<GuestMemory>> memories;
  for (uint64_t i = 0; i < 4; i++) {
    memories.push_back(std::make_shared<GuestMemory>(kSize));
    FillMemory(*memories.back(), {.pages = kSize / kPageSize, .seed = kSeed + 1 + i});
  }
  VerifyLoop always(vm.guest(1), {PatternOf(resident, kSeed)});
  for (uint64_t round = 0; round < 40; round++) {
    slot.Delete();
    slot.AddWith(memories[round % memories.size()]);
    ASSERT_THAT(vm.guest().Verify({PatternOf(slot, kSeed + 1 + round % memories.size())}),
                SeesPattern())
        << "round " << round;
  }
  ExpectAlwaysRight(always.Stop());
}

// All vCPUs fault on the very slot that goes.
TEST_P(SlotStress, EveryoneReadsTheSlotThatGoes) {
  TestVm vm(Config(3));
  MemorySlot slot = vm.AddFilledSlot(1_GiB, 512_KiB, kSeed);
  const std::vector<Pattern> patterns = {PatternOf(slot, kSeed)};
  VerifyLoop first(vm.guest(0), patterns);
  VerifyLoop second(vm.guest(1), patterns);
  VerifyLoop third(vm.guest(2), patterns);
  for (int round = 0; round < 30; round++) {
    slot.Delete();
    if (round % 4 == 0) {
      first.WaitForPasses(1);
      second.WaitForPasses(1);
      third.WaitForPasses(1);
    }
    slot.Add();
    first.WaitForPasses(1);
  }
  second.WaitForPasses(1);
  third.WaitForPasses(1);
  ExpectRightOrAbsent(first.Stop());
  ExpectRightOrAbsent(second.Stop());
  ExpectRightOrAbsent(third.Stop());
  EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern());
}

// The quirk changes while slots go and vCPUs run.
TEST_P(SlotStress, TheQuirkChangesMeanwhile) {
  if (const std::string reason = QuirkUnavailable(); !reason.empty()) GTEST_SKIP() << reason;
  TestVm vm(Config(2));
  MemorySlot resident = vm.AddFilledSlot(1_GiB, 1_MiB, kSeed);
  MemorySlot slot = vm.AddFilledSlot(1_GiB + 1_MiB, 64_KiB, kSeed + 1);
  VerifyLoop always(vm.guest(0), {PatternOf(resident, kSeed)});
  VerifyLoop sometimes(vm.guest(1), {PatternOf(slot, kSeed + 1)});
  for (int round = 0; round < 40; round++) {
    const bool enabled = (round % 2 == 0) == slot_zap_all();
    vm.vm().quirks().Disable(enabled ? 0 : kQuirkSlotZapAll);
    slot.Delete();
    if (round % 8 == 0) sometimes.WaitForPasses(1);
    slot.Add();
    if (round % 8 == 1) sometimes.WaitForPasses(1);
  }
  always.WaitForPasses(1);
  ExpectAlwaysRight(always.Stop());
  ExpectRightOrAbsent(sometimes.Stop());
}

// VMs come and go while another one's slots do: generations, roots and caches are per VM.
TEST_P(SlotStress, OtherVmsComeAndGo) {
  TestVm vm(Config(2));
  MemorySlot resident = vm.AddFilledSlot(1_GiB, 1_MiB, kSeed);
  MemorySlot slot = vm.AddSlot(2_GiB, 64_KiB);
  VerifyLoop always(vm.guest(1), {PatternOf(resident, kSeed)});
  for (int round = 0; round < 6; round++) {
    TestVm other(Config());
    MemorySlot theirs = other.AddFilledSlot(1_GiB, 128_KiB, kSeed + 7);
    ASSERT_THAT(other.guest().Verify({PatternOf(theirs, kSeed + 7)}), SeesPattern());
    slot.Delete();
    theirs.Delete();
    slot.Add();
    ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  }
  ExpectAlwaysRight(always.Stop());
}

SLOTZAP_INSTANTIATE(SlotStress);

}  // namespace
}  // namespace slotzap

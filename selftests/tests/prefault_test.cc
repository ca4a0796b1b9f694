// SPDX-License-Identifier: GPL-2.0-only
// Theme: prefault.  KVM_PRE_FAULT_MEMORY maps memory that no guest asked for yet, and tries again
// for as long as the page fault it makes says so.  When a memslot goes, that may be forever: the
// memslots, and the root, are those from before for as long as the ioctl goes on.
#include <cerrno>
#include <string>

#include "tests/nx_huge_pages.h"
#include "tests/protected_vm.h"
#include "tests/race.h"

namespace slotzap {
namespace {

using testing::AnyOf;

constexpr uint64_t kSize = 64_KiB;
constexpr int64_t kPages = kSize / kPageSize;  // as leaves are counted

std::string PreFaultUnavailable() {
  if (Kvm().CheckExtension(KVM_CAP_PRE_FAULT_MEMORY) != 0) return "";
  return CurrentMmuMode() == MmuMode::kShadow ? "only memory behind nested paging can be prefaulted"
                                              : "this kernel has no KVM_PRE_FAULT_MEMORY";
}

Leaves LeavesOf(TestVm& vm) { return PresentLeaves(vm.vm().stats().Read()); }

GpaRange PagesOf(const MemorySlot& slot, uint64_t first, uint64_t count) {
  return {slot.range().start + first * kPageSize, count * kPageSize};
}

KvmStatus Populate(TestVm& vm, GpaRange& range, unsigned vcpu = 0) {
  return vm.guest(vcpu).vcpu().TryPreFault(range);
}

class PreFault : public SlotTest {
 protected:
  void SetUp() override {
    SlotTest::SetUp();
    if (IsSkipped()) return;
    if (const std::string reason = PreFaultUnavailable(); !reason.empty()) GTEST_SKIP() << reason;
  }

  static constexpr Gpa kVictim = 1_GiB;
  static constexpr Gpa kOther = 2_GiB;
  static constexpr uint64_t kSeed = 0x9fa7;
};

// What was mapped without the guest is zapped like what the guest touched.
TEST_P(PreFault, WhatItMappedGoesWithTheSlot) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddFilledSlot(kVictim, kSize, kSeed);
  vm.MapOwnMemory();
  const Leaves before = LeavesOf(vm);
  GpaRange range = victim.range();
  ASSERT_THAT(Populate(vm, range), IsOk());
  EXPECT_EQ(range.size, 0u) << "not all of it was mapped";
  EXPECT_EQ(LeavesOf(vm).total() - before.total(), kPages);
  const uint64_t faults = vm.FixedFaults();
  EXPECT_THAT(vm.guest().Verify({PatternOf(victim, kSeed)}), SeesPattern());
  EXPECT_EQ(vm.FixedFaults(), faults) << "the guest faulted on what is mapped";

  victim.Delete();
  if (!slot_zap_all()) {
    EXPECT_EQ(LeavesOf(vm), before) << kPrecision;
  }
  EXPECT_THAT(vm.guest().TouchRead({victim.range()}), FindsNothingIn(victim.range()));
  range = victim.range();
  EXPECT_THAT(Populate(vm, range), FailsWith(ENOENT));
  EXPECT_EQ(range, victim.range());
}

// The vCPU's root is the one from before another memslot went, as it hasn't run since.
TEST_P(PreFault, GoesOnAfterAnotherSlotWent) {
  if (slot_zap_all())
    if (const std::string reason =
            KnownBug("KVM_PRE_FAULT_MEMORY tries forever if the vCPU's root is obsolete");
        !reason.empty())
      GTEST_SKIP() << reason;
  TestVm vm(Config());
  MemorySlot other = vm.AddFilledSlot(kOther, kSize, kSeed);
  MemorySlot slot = vm.AddFilledSlot(kVictim, kSize, kSeed + 1);
  ASSERT_THAT(vm.guest().Verify({PatternOf(other, kSeed)}), SeesPattern());
  other.Delete();
  const Leaves before = LeavesOf(vm);
  GpaRange range = slot.range();
  EXPECT_THAT(Populate(vm, range), IsOk());
  EXPECT_EQ(range.size, 0u) << "not all of it was mapped";
  EXPECT_EQ(LeavesOf(vm).total() - before.total(), kPages);
  EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kSeed + 1)}), SeesPattern());
  EXPECT_THAT(vm.guest().TouchRead({other.range()}), FindsNothingIn(other.range()));
}

SLOTZAP_INSTANTIATE(PreFault);

class ProtectedPreFault : public ProtectedTest {
 protected:
  void SetUp() override {
    ProtectedTest::SetUp();
    if (IsSkipped()) return;
    if (const std::string reason = PreFaultUnavailable(); !reason.empty()) GTEST_SKIP() << reason;
  }
};

// What is private is taken from the guest_memfd, what is shared from the host's mapping.
TEST_P(ProtectedPreFault, PrivateAndShared) {
  constexpr Gpa kGpa = 1_GiB;
  constexpr uint64_t kShared = 0x5ba2;
  TestVm vm(Config());
  vm.MapOwnMemory();
  MemorySlot slot = AddFilledPrivateSlot(vm, kGpa, kSize, kShared);
  const GpaRange private_part = {kGpa, kSize / 2};
  vm.vm().MakePrivate(private_part);
  const Leaves before = LeavesOf(vm);
  GpaRange range = slot.range();
  EXPECT_THAT(Populate(vm, range), IsOk());
  EXPECT_EQ(range.size, 0u) << "not all of it was mapped";
  EXPECT_EQ(LeavesOf(vm).total() - before.total(), kPages);
  const uint64_t faults = vm.FixedFaults();
  for (Gpa gpa = kGpa; gpa < private_part.end(); gpa += kPageSize)
    EXPECT_THAT(vm.guest().Read(gpa), Returns(0)) << "private memory begins as zero";
  EXPECT_THAT(
      vm.guest().Verify({PartOf(PatternOf(slot, kShared), {private_part.end(), kSize / 2})}),
      SeesPattern());
  EXPECT_EQ(vm.FixedFaults(), faults) << "the guest faulted on what is mapped";

  slot.Delete();
  EXPECT_EQ(LeavesOf(vm), before) << kPrecision;
  range = slot.range();
  EXPECT_THAT(Populate(vm, range), FailsWith(EFAULT)) << "what is private needs a slot";
  range = {private_part.end(), kSize / 2};
  EXPECT_THAT(Populate(vm, range), FailsWith(ENOENT));
}

SLOTZAP_INSTANTIATE(ProtectedPreFault);

// Made to happen as the races of race_test.cc are: a page that is prefaulted isn't there, so the
// ioctl sleeps for it, in the middle of its range, until the test provides it.
class PreFaultRace : public RaceTest {
 protected:
  void SetUp() override {
    RaceTest::SetUp();
    if (IsSkipped()) return;
    for (const std::string& reason :
         {PreFaultUnavailable(),
          KnownBug("KVM_PRE_FAULT_MEMORY and what changes memslots wait for each other")})
      if (!reason.empty()) GTEST_SKIP() << reason;
  }

  static constexpr uint64_t kPage = 3;  // the one that is missing
  static constexpr uint64_t kMapped = kPage + 1;

  // A memslot all of which is there but that page.
  static MemorySlot AddSlot(TestVm& vm, GatedMemory& memory) {
    for (uint64_t page = 0; page < kSize / kPageSize; page++)
      if (page != kPage) memory.Provide(page);
    return vm.vm().AddSlot({.gpa = kVictim, .memory = memory.memory()});
  }
  static Race::Call& StartPreFault(Race& race, TestVm& vm, GpaRange& range) {
    // Of it and the ioctl that waits for it, either may be seen to return first.
    return race.Start(
        "prefault", [&vm, &range] { return Populate(vm, range); }, Race::Return::kUnordered);
  }

  // The memslot goes while it is prefaulted: the ioctl stops where it is.
  void SlotGoes(const std::string& update, const std::function<KvmStatus(MemorySlot&)>& apply);
};

void PreFaultRace::SlotGoes(const std::string& update,
                            const std::function<KvmStatus(MemorySlot&)>& apply) {
  TestVm vm(Config());
  GatedMemory memory("victim", kSize, kSeed);
  MemorySlot victim = AddSlot(vm, memory);
  const GpaRange old = victim.range();
  vm.MapOwnMemory();
  const Leaves before = LeavesOf(vm);
  GpaRange range = old;
  Race race;
  Race::Call& prefault = StartPreFault(race, vm, range);
  race.AwaitSleeping(prefault, memory, kPage);
  Race::Call& call = race.Start(update, [&] { return apply(victim); });
  race.AwaitWaiting(call, Waits::kForReaders);
  race.Provide(memory, kPage);
  EXPECT_THAT(prefault.run.Join(), IsOk());
  EXPECT_THAT(call.run.Join(), IsOk());
  race.ExpectOrder({"prefault sleeps for page 3 of the victim", update + " waits for readers",
                    "page 3 of the victim comes", update + " returned"});

  EXPECT_EQ(range.start, old.start + kMapped * kPageSize);
  EXPECT_EQ(range.end(), old.end());
  if (!slot_zap_all()) {
    EXPECT_EQ(LeavesOf(vm), before) << kPrecision;
  }
  EXPECT_THAT(vm.guest().TouchRead({old}), FindsNothingIn(old));
  EXPECT_THAT(Populate(vm, range), FailsWith(ENOENT));
}

TEST_P(PreFaultRace, ItsSlotIsDeleted) {
  SlotGoes("delete", [](MemorySlot& slot) { return slot.TryDelete(); });
}

TEST_P(PreFaultRace, ItsSlotMoves) {
  SlotGoes("move", [](MemorySlot& slot) { return slot.TryMoveTo(kAway); });
}

// It begins when the memslot is invalid already: nothing can be mapped.  Other memslots don't mind.
TEST_P(PreFaultRace, ItsSlotIsBeingDeleted) {
  TestVm vm(Config(2));
  GatedMemory memory("victim", kSize, kSeed);
  MemorySlot victim = AddSlot(vm, memory);
  MemorySlot other = vm.AddFilledSlot(kOther, kSize, kSeed);
  Race race;
  Race::Command& reader =
      race.Start(vm.guest(), [&](Guest& guest) { return guest.Read(victim.page(kPage)); });
  race.AwaitSleeping(reader, memory, kPage);
  Race::Call& deletion = race.Start("delete", [&] { return victim.TryDelete(); });
  race.AwaitWaiting(deletion, Waits::kForReaders);
  race.Do("the victim is prefaulted", [&] {
    GpaRange range = PagesOf(victim, kMapped, 4);
    EXPECT_THAT(Populate(vm, range, 1), FailsWith(EAGAIN));
    EXPECT_EQ(range, PagesOf(victim, kMapped, 4));
  });
  race.Do("another memslot is prefaulted", [&] {
    GpaRange range = other.range();
    EXPECT_THAT(Populate(vm, range, 1), IsOk());
    EXPECT_EQ(range.size, 0u);
  });
  EXPECT_FALSE(deletion.run.ended());
  race.Provide(memory, kPage);
  EXPECT_THAT(deletion.run.Join(), IsOk());
  EXPECT_THAT(reader.run.Join(),
              AnyOf(Returns(memory.word(kPage)), IsMmioReadAt(victim.page(kPage))));
  race.ExpectOrder({"vCPU 0 sleeps for page 3 of the victim", "delete waits for readers",
                    "the victim is prefaulted", "another memslot is prefaulted",
                    "page 3 of the victim comes", "delete returned"});

  GpaRange range = PagesOf(victim, kMapped, 4);
  EXPECT_THAT(Populate(vm, range, 1), FailsWith(ENOENT));
  EXPECT_THAT(vm.guest(1).Verify({PatternOf(other, kSeed)}), SeesPattern());
}

// All roots become obsolete in the middle of a fault, without anybody having waited for it.
TEST_P(PreFaultRace, TheRootGoes) {
  if (!NxHugePages::Available()) GTEST_SKIP() << "kvm has no nx_huge_pages parameter";
  TestVm vm(Config());
  GatedMemory memory("victim", kSize, kSeed);
  MemorySlot slot = AddSlot(vm, memory);
  vm.MapOwnMemory();
  GpaRange range = slot.range();
  Race race;
  Race::Call& prefault = StartPreFault(race, vm, range);
  race.AwaitSleeping(prefault, memory, kPage);
  const NxHugePages nx_huge_pages;
  race.Do("nx_huge_pages changes", [&] { nx_huge_pages.Toggle(); });
  race.Provide(memory, kPage);
  EXPECT_THAT(prefault.run.Join(), IsOk());
  race.ExpectOrder({"prefault sleeps for page 3 of the victim", "nx_huge_pages changes",
                    "page 3 of the victim comes"});

  EXPECT_EQ(range.size, 0u) << "not all of it was mapped";
  // What was mapped before went with the root.  The legacy MMU maps neighbours along, again.
  if (CurrentMmuMode() == MmuMode::kTdp) {
    EXPECT_EQ(LeavesOf(vm).total(), kPages - static_cast<int64_t>(kPage));
  }
  EXPECT_THAT(vm.guest().Read(slot.page(kPage)), Returns(memory.word(kPage)));
}

SLOTZAP_INSTANTIATE(PreFaultRace);

}  // namespace
}  // namespace slotzap

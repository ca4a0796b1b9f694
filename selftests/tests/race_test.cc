// SPDX-License-Identifier: GPL-2.0-only
// Theme: races, made to happen.  A vCPU is stopped in the middle of a page fault: the page isn't
// there, and userfaultfd(2) lets it sleep until the test provides it.  Meanwhile another thread
// changes memslots.  Each test states the order of things that it made, and fails if that was not
// what happened.
#include <atomic>
#include <cerrno>
#include <optional>
#include <thread>

#include "tests/race.h"
#include "tests/test_device.h"

namespace slotzap {
namespace {

using testing::AnyOf;
using testing::ElementsAre;

constexpr uint64_t kSize = 64_KiB;
constexpr uint64_t kPage = 3;  // the one that is missing
constexpr Gpa kOffset = kPage * kPageSize;

// How often a vCPU has to run into the same fault for it to be taken as one that is retried.
constexpr uint64_t kRetries = 20;

class FaultRace : public RaceTest {
 protected:
  static MemorySlot AddSlot(TestVm& vm, Gpa gpa, const GatedMemory& memory, uint32_t flags = 0) {
    return vm.vm().AddSlot({.gpa = gpa, .memory = memory.memory(), .flags = flags});
  }
  static std::function<Outcome(Guest&)> Reads(Gpa gpa) {
    return [gpa](Guest& guest) { return guest.Read(gpa); };
  }
  // Everything that a vCPU needs for itself is mapped, so that what it maps from now on is what it
  // is told to access.
  static Leaves WarmUp(TestVm& vm) {
    for (unsigned i = 0; i < vm.vcpus(); i++)
      for (const Gpa gpa : {kVictim + 1_MiB, kOther + 1_MiB, kAway + 1_MiB})
        EXPECT_THAT(vm.guest(i).Read(gpa), IsMmioReadAt(gpa)) << "its page tables lead there now";
    return LeavesOf(vm);
  }
  static Leaves LeavesOf(TestVm& vm) { return PresentLeaves(vm.vm().stats().Read()); }
  static Gpa PageOf(const GpaRange& range, uint64_t page) { return range.start + page * kPageSize; }

  // What a memslot is marked invalid for.
  struct Update {
    std::string name;
    std::function<KvmStatus(MemorySlot&)> apply;
  };
  static Update Delete() {
    return {"delete", [](MemorySlot& slot) { return slot.TryDelete(); }};
  }
  static Update Move() {
    return {"move", [](MemorySlot& slot) { return slot.TryMoveTo(kAway); }};
  }
  void FaultOnAnInvalidSlot(Update update);

  // A vCPU that sleeps for a page of a memslot, and a thread that deletes the memslot and waits for
  // that.
  struct Scene {
    explicit Scene(TestVm& v)
        : vm(v), memory("victim", kSize, kSeed), victim(AddSlot(v, kVictim, memory)) {
      for (uint64_t page = 0; page < kMapped; page++) memory.Provide(page);
      WarmUp(vm);
      EXPECT_THAT(vm.guest().TouchRead({{kVictim, kMapped * kPageSize}}), Succeeds());
      before = LeavesOf(vm);
    }
    void Begin(std::function<Outcome(Guest&)> access = Reads(kVictim + kOffset)) {
      sleeper = &race.Start(vm.guest(), std::move(access));
      race.AwaitSleeping(*sleeper, memory, kPage);
      deletion = &race.Start("delete", [this] { return victim.TryDelete(); });
      race.AwaitWaiting(*deletion, Waits::kForReaders);
    }
    // The delete goes on, and does what it should.
    void End() {
      EXPECT_FALSE(deletion->run.ended());
      race.Provide(memory, kPage);
      EXPECT_THAT(deletion->run.Join(), IsOk());
      EXPECT_TRUE(sleeper->run.Join().done);
      EXPECT_THAT(vm.guest().TouchRead({{kVictim, kSize}}), FindsNothingIn({kVictim, kSize}));
    }
    // What happened was this, while the delete waited.
    void ExpectOrder(std::vector<std::string> meanwhile) {
      meanwhile.insert(meanwhile.begin(),
                       {"vCPU 0 sleeps for page 3 of the victim", "delete waits for readers"});
      meanwhile.insert(meanwhile.end(), {"page 3 of the victim comes", "delete returned"});
      race.ExpectOrder(meanwhile);
    }

    static constexpr uint64_t kMapped = 3;  // pages, from the first on

    TestVm& vm;
    GatedMemory memory;
    MemorySlot victim;
    Leaves before;  // with those pages mapped
    Race::Command* sleeper = nullptr;
    Race::Call* deletion = nullptr;
    Race race;  // the last one: what it runs uses the others
  };
  static void ChangeFlagsDuringAWrite(Scene& scene, uint32_t flags);
};

// A write to the page that is missing is under way when the memslot gets these flags, which waits
// for it as a delete does.
void FaultRace::ChangeFlagsDuringAWrite(Scene& scene, uint32_t flags) {
  Race& race = scene.race;
  Race::Command& writer =
      race.Start(scene.vm.guest(), [](Guest& guest) { return guest.Write(kVictim + kOffset, 1); });
  race.AwaitSleeping(writer, scene.memory, kPage);
  Race::Call& call = race.Start("flag change", [&] { return scene.victim.TrySetFlags(flags); });
  race.AwaitWaiting(call, Waits::kForReaders);
  race.Provide(scene.memory, kPage);
  EXPECT_THAT(call.run.Join(), IsOk());
  EXPECT_THAT(writer.run.Join(), Succeeds());
  race.ExpectOrder({"vCPU 0 sleeps for page 3 of the victim", "flag change waits for readers",
                    "page 3 of the victim comes", "flag change returned"});
}

// A fault that began before the memslot was deleted ends by mapping the page, and what it mapped
// goes with the rest.
TEST_P(FaultRace, ItsSlotIsDeleted) {
  TestVm vm(Config());
  GatedMemory memory("victim", kSize, kSeed);
  MemorySlot victim = AddSlot(vm, kVictim, memory);
  const Leaves before = WarmUp(vm);

  ZapWatch watch(vm.vm());
  Race race;
  Race::Command& reader = race.Start(vm.guest(), Reads(kVictim + kOffset));
  race.AwaitSleeping(reader, memory, kPage);
  Race::Call& deletion = race.Start("delete", [&] { return victim.TryDelete(); });
  race.AwaitWaiting(deletion, Waits::kForReaders);
  EXPECT_EQ(LeavesOf(vm), before) << "something was zapped although a fault is under way";
  race.Provide(memory, kPage);
  EXPECT_THAT(deletion.run.Join(), IsOk());
  EXPECT_THAT(reader.run.Join(),
              AnyOf(Returns(memory.word(kPage)), IsMmioReadAt(kVictim + kOffset)));
  const ZapReport report = watch.Stop();
  race.ExpectOrder({"vCPU 0 sleeps for page 3 of the victim", "delete waits for readers",
                    "page 3 of the victim comes", "delete returned"});

  EXPECT_THAT(vm.guest().TouchRead({victim.range()}), FindsNothingIn(victim.range()));
  if (slot_zap_all()) {
    EXPECT_TRUE(!report.untraced.empty() || report.zap_all == 1) << report;
  } else {
    EXPECT_EQ(LeavesOf(vm), before) << kPrecision;
    if (CurrentMmuMode() == MmuMode::kTdp) {
      EXPECT_THAT(report, TracedLeavesAre({{{kVictim + kOffset, kPageSize}}}));
    }
  }
}

// The same, in a memslot that moves: the page is not where it was, and is where it went.
TEST_P(FaultRace, ItsSlotIsMoved) {
  TestVm vm(Config());
  GatedMemory memory("victim", kSize, kSeed);
  MemorySlot victim = AddSlot(vm, kVictim, memory);
  const Leaves before = WarmUp(vm);

  Race race;
  Race::Command& reader = race.Start(vm.guest(), Reads(kVictim + kOffset));
  race.AwaitSleeping(reader, memory, kPage);
  Race::Call& move = race.Start("move", [&] { return victim.TryMoveTo(kAway); });
  race.AwaitWaiting(move, Waits::kForReaders);
  race.Provide(memory, kPage);
  EXPECT_THAT(move.run.Join(), IsOk());
  EXPECT_THAT(reader.run.Join(),
              AnyOf(Returns(memory.word(kPage)), IsMmioReadAt(kVictim + kOffset)));
  race.ExpectOrder({"vCPU 0 sleeps for page 3 of the victim", "move waits for readers",
                    "page 3 of the victim comes", "move returned"});

  if (!slot_zap_all()) {
    EXPECT_EQ(LeavesOf(vm), before) << kPrecision;
  }
  const GpaRange old = {kVictim, kSize};
  EXPECT_THAT(vm.guest().TouchRead({old}), FindsNothingIn(old));
  EXPECT_THAT(vm.guest().Read(kAway + kOffset), Returns(memory.word(kPage)));
}

// Every vCPU that began a fault is waited for, not just one.
TEST_P(FaultRace, SeveralAreWaitedFor) {
  TestVm vm(Config(3));
  GatedMemory memory("victim", kSize, kSeed);
  MemorySlot victim = AddSlot(vm, kVictim, memory);
  const Leaves before = WarmUp(vm);

  Race race;
  std::vector<Race::Command*> readers;
  for (unsigned i = 0; i < vm.vcpus(); i++) {
    readers.push_back(&race.Start(vm.guest(i), Reads(victim.page(i))));
    race.AwaitSleeping(*readers.back(), memory, i);
  }
  Race::Call& deletion = race.Start("delete", [&] { return victim.TryDelete(); });
  race.AwaitWaiting(deletion, Waits::kForReaders);
  for (unsigned i = 0; i < vm.vcpus(); i++) {
    // It may have retried its wait in between, so it is looked for anew.
    if (i > 0) race.AwaitWaiting(deletion, Waits::kForReaders);
    race.Provide(memory, i);
    if (i + 1 == vm.vcpus()) break;
    // The slot is not zapped before the last one is done, so the others can still read what they
    // waited for.
    readers[i]->run.WaitForExits(kRetries);
    ASSERT_TRUE(readers[i]->run.ended()) << "vCPU " << i << " retries its fault";
    EXPECT_THAT(readers[i]->run.Join(), Returns(memory.word(i)));
  }
  EXPECT_THAT(deletion.run.Join(), IsOk());
  EXPECT_THAT(readers[2]->run.Join(), AnyOf(Returns(memory.word(2)), IsMmioReadAt(victim.page(2))));
  race.ExpectOrder(
      {"vCPU 0 sleeps for page 0 of the victim", "vCPU 1 sleeps for page 1 of the victim",
       "vCPU 2 sleeps for page 2 of the victim", "delete waits for readers",
       "page 0 of the victim comes", "delete waits for readers", "page 1 of the victim comes",
       "delete waits for readers", "page 2 of the victim comes", "delete returned"});

  EXPECT_THAT(vm.guest().TouchRead({victim.range()}), FindsNothingIn(victim.range()));
  if (!slot_zap_all()) {
    EXPECT_EQ(LeavesOf(vm), before) << kPrecision;
  }
}

// Readers of the memslots are waited for, whichever memslot they are about.  The one whose fault is
// in another memslot gets its page, and with the quirk disabled keeps it.
TEST_P(FaultRace, AnotherSlotIsDeleted) {
  TestVm vm(Config());
  GatedMemory memory("bystander", kSize, kSeed);
  MemorySlot bystander = AddSlot(vm, kOther, memory);
  MemorySlot victim = vm.AddFilledSlot(kVictim, kSize, kSeed);
  WarmUp(vm);
  ASSERT_THAT(vm.guest().Verify({PatternOf(victim, kSeed)}), SeesPattern());
  const Leaves before = LeavesOf(vm);
  const uint64_t faults = vm.FixedFaults();

  Race race;
  Race::Command& reader = race.Start(vm.guest(), Reads(kOther + kOffset));
  race.AwaitSleeping(reader, memory, kPage);
  Race::Call& deletion = race.Start("delete", [&] { return victim.TryDelete(); });
  race.AwaitWaiting(deletion, Waits::kForReaders);
  EXPECT_EQ(LeavesOf(vm), before) << "something was zapped although a fault is under way";
  race.Provide(memory, kPage);
  EXPECT_THAT(deletion.run.Join(), IsOk());
  EXPECT_THAT(reader.run.Join(), Returns(memory.word(kPage)));
  race.ExpectOrder({"vCPU 0 sleeps for page 3 of the bystander", "delete waits for readers",
                    "page 3 of the bystander comes", "delete returned"});

  EXPECT_THAT(vm.guest().TouchRead({victim.range()}), FindsNothingIn(victim.range()));
  EXPECT_THAT(vm.guest().Read(kOther + kOffset), Returns(memory.word(kPage)));
  if (!slot_zap_all() && CurrentMmuMode() == MmuMode::kTdp) {
    EXPECT_EQ(LeavesOf(vm), (Leaves{before.k4K - 16 + 1, before.k2M, before.k1G})) << kPrecision;
    EXPECT_EQ(vm.FixedFaults() - faults, 1u) << kPrecision << "the fault was dealt with twice";
  }
}

// While the memslot is marked invalid and not zapped yet, what is mapped stays, and who faults on
// the rest retries, in vain until the memslot is gone.
void FaultRace::FaultOnAnInvalidSlot(Update update) {
  TestVm vm(Config(2));
  GatedMemory memory("victim", kSize, kSeed);
  MemorySlot victim = AddSlot(vm, kVictim, memory);
  // Away from each other, so that no MMU maps the other one along.
  constexpr uint64_t kMapped = 0;
  constexpr uint64_t kUnmapped = 15;
  memory.Provide(kMapped);
  WarmUp(vm);
  ASSERT_THAT(vm.guest(1).Read(victim.page(kMapped)), Returns(memory.word(kMapped)));
  memory.Provide(kUnmapped);

  Race race;
  const GpaRange old = victim.range();
  Race::Command& sleeper = race.Start(vm.guest(0), Reads(kVictim + kOffset));
  race.AwaitSleeping(sleeper, memory, kPage);
  Race::Call& call = race.Start(update.name, [&] { return update.apply(victim); });
  race.AwaitWaiting(call, Waits::kForReaders);
  const Leaves before = LeavesOf(vm);
  EXPECT_THAT(vm.guest(1).Read(PageOf(old, kMapped)), Returns(memory.word(kMapped)));
  Race::Command& reader = race.Start(vm.guest(1), Reads(PageOf(old, kUnmapped)));
  reader.run.WaitForExits(kRetries);
  EXPECT_FALSE(reader.run.ended()) << "a fault on an invalid memslot did not wait";
  EXPECT_EQ(LeavesOf(vm), before) << "a fault on an invalid memslot was answered";
  race.order().Saw("vCPU 1 retries its fault");
  race.Provide(memory, kPage);
  EXPECT_THAT(call.run.Join(), IsOk());
  EXPECT_THAT(reader.run.Join(), IsMmioReadAt(PageOf(old, kUnmapped)));
  sleeper.run.Join();
  race.ExpectOrder({"vCPU 0 sleeps for page 3 of the victim", update.name + " waits for readers",
                    "vCPU 1 retries its fault", "page 3 of the victim comes",
                    update.name + " returned"});

  EXPECT_THAT(vm.guest(1).TouchRead({old}), FindsNothingIn(old));
  if (victim.range().start != old.start) {
    for (const uint64_t page : {kMapped, kPage, kUnmapped})
      EXPECT_THAT(vm.guest(1).Read(PageOf(victim.range(), page)), Returns(memory.word(page)));
  }
}

TEST_P(FaultRace, AFaultOnAnInvalidSlotIsRetried) { FaultOnAnInvalidSlot(Delete()); }
TEST_P(FaultRace, AFaultOnASlotThatMovesIsRetried) { FaultOnAnInvalidSlot(Move()); }

// A fault elsewhere that began after the delete: the zap doesn't wait for it, and happens in the
// middle of it.  Zapping everything makes the page table obsolete that the fault is about to write
// to, so it has to look again; zapping leaves doesn't concern it.  The delete then waits for it
// before it frees the memslot.
TEST_P(FaultRace, TheZapHappensDuringAFaultElsewhere) {
  if (const std::string reason = TraceInstance::Available(); !reason.empty())
    GTEST_SKIP() << reason;
  TestVm vm(Config(3));
  GatedMemory memory("victim", kSize, kSeed);
  GatedMemory other_memory("bystander", kSize, kSeed + 1);
  MemorySlot victim = AddSlot(vm, kVictim, memory);
  MemorySlot bystander = AddSlot(vm, kOther, other_memory);
  memory.Provide(0);
  other_memory.Provide(0);
  WarmUp(vm);
  ASSERT_THAT(vm.guest(2).Read(victim.page(0)), Returns(memory.word(0)));
  ASSERT_THAT(vm.guest(2).Read(bystander.page(0)), Returns(other_memory.word(0)));
  const Leaves before = LeavesOf(vm);
  constexpr uint64_t kUnmapped = 15;

  Race race;
  Race::Command& first = race.Start(vm.guest(0), Reads(kVictim + kOffset));
  race.AwaitSleeping(first, memory, kPage);
  Race::Call& deletion = race.Start("delete", [&] { return victim.TryDelete(); });
  race.AwaitWaiting(deletion, Waits::kForReaders);
  race.AwaitNewReaders(deletion);
  const uint64_t faults = vm.guest(1).vcpu().stats().Read("pf_fixed");
  Race::Command& second = race.Start(vm.guest(1), Reads(kOther + kOffset));
  race.AwaitSleeping(second, other_memory, kPage);
  race.Provide(memory, kPage);
  // A fault on the memslot is retried as long as it is invalid.
  Race::Command& third = race.Start(vm.guest(2), Reads(victim.page(kUnmapped)));
  race.order().Await(
      "the memslot is gone", [&] { return third.run.ended(); }, [] { return std::string(); });
  EXPECT_THAT(third.run.Join(), IsMmioReadAt(victim.page(kUnmapped)));
  race.AwaitWaiting(deletion, Waits::kForReaders);
  first.run.Join();
  if (!slot_zap_all()) {
    EXPECT_EQ(LeavesOf(vm).total(), before.total() - 1) << kPrecision;
  }
  EXPECT_THAT(vm.guest(2).Read(victim.page(0)), IsMmioReadAt(victim.page(0)));
  EXPECT_THAT(vm.guest(2).Read(bystander.page(0)), Returns(other_memory.word(0)));
  race.Provide(other_memory, kPage);
  EXPECT_THAT(deletion.run.Join(), IsOk());
  EXPECT_THAT(second.run.Join(), Returns(other_memory.word(kPage)));
  race.ExpectOrder({"vCPU 0 sleeps for page 3 of the victim", "delete waits for readers",
                    "newer readers don't matter", "vCPU 1 sleeps for page 3 of the bystander",
                    "page 3 of the victim comes", "the memslot is gone", "delete waits for readers",
                    "page 3 of the bystander comes", "delete returned"});

  if (!slot_zap_all() && CurrentMmuMode() == MmuMode::kTdp) {
    EXPECT_EQ(vm.guest(1).vcpu().stats().Read("pf_fixed") - faults, 1u)
        << kPrecision << "a fault in another memslot was dealt with twice";
  }
  EXPECT_THAT(vm.guest(2).TouchRead({victim.range()}), FindsNothingIn(victim.range()));
  // That there is no memory was learned while the memslots were changing; it must not last.
  victim.Add();
  for (unsigned i = 0; i < vm.vcpus(); i++) {
    EXPECT_THAT(vm.guest(i).Read(victim.page(0)), Returns(memory.word(0)));
    EXPECT_THAT(vm.guest(i).Read(kOther + kOffset), Returns(other_memory.word(kPage)));
  }
  // What was mapped where nobody looks any more would be found as an SPTE that never goes.
  const Leaves with = LeavesOf(vm);
  ZapWatch watch(vm.vm());
  bystander.Delete();
  const ZapReport report = watch.Stop();
  if (slot_zap_all()) {
    EXPECT_THAT(report, ZappedEverything());
  } else {
    EXPECT_THAT(report,
                ZappedOnly({{{bystander.page(0), kPageSize}}, {{bystander.page(kPage), kPageSize}}},
                           CurrentMmuMode()));
    EXPECT_EQ(LeavesOf(vm).total(), with.total() - 2) << kPrecision;
  }
}

// A vCPU that is called out of KVM_RUN lets the delete go on; the page never comes.  Before Linux
// 6.2 (FOLL_INTERRUPTIBLE) nothing but the page gets a vCPU out of its fault.
TEST_P(FaultRace, ASignalEndsTheFault) {
  const bool interruptible = KernelIsAtLeast("6.2");
  TestVm vm(Config());
  GatedMemory memory("victim", kSize, kSeed);
  MemorySlot victim = AddSlot(vm, kVictim, memory);
  WarmUp(vm);

  Race race;
  Race::Command& reader = race.Start(vm.guest(), Reads(kVictim + kOffset));
  race.AwaitSleeping(reader, memory, kPage);
  Race::Call& deletion = race.Start("delete", [&] { return victim.TryDelete(); });
  race.AwaitWaiting(deletion, Waits::kForReaders);
  race.Do("vCPU 0 is kicked", [&] { reader.run.Kick(); });
  if (!interruptible) race.Provide(memory, kPage);
  EXPECT_THAT(deletion.run.Join(), IsOk());
  const Outcome kicked = reader.run.Join();
  EXPECT_EQ(kicked.exit_reason, static_cast<uint32_t>(KVM_EXIT_INTR)) << kicked;
  std::vector<std::string> order = {"vCPU 0 sleeps for page 3 of the victim",
                                    "delete waits for readers", "vCPU 0 is kicked"};
  if (!interruptible) order.emplace_back("page 3 of the victim comes");
  order.emplace_back("delete returned");
  race.ExpectOrder(order);

  EXPECT_THAT(vm.guest().Resume(), IsMmioReadAt(kVictim + kOffset));
  EXPECT_THAT(vm.guest().TouchRead({victim.range()}), FindsNothingIn(victim.range()));
}

// The page comes when the memory is a memslot elsewhere.
TEST_P(FaultRace, ThePageComesWhenTheSlotIsElsewhere) {
  if (!KernelIsAtLeast("6.2"))
    GTEST_SKIP() << "before Linux 6.2 a fault ends only when its page comes";
  TestVm vm(Config(2));
  GatedMemory memory("victim", kSize, kSeed);
  MemorySlot victim = AddSlot(vm, kVictim, memory);
  WarmUp(vm);

  Race race;
  Race::Command& reader = race.Start(vm.guest(0), Reads(kVictim + kOffset));
  race.AwaitSleeping(reader, memory, kPage);
  Race::Call& deletion = race.Start("delete", [&] { return victim.TryDelete(); });
  race.AwaitWaiting(deletion, Waits::kForReaders);
  race.Do("vCPU 0 is kicked", [&] { reader.run.Kick(); });
  EXPECT_THAT(deletion.run.Join(), IsOk());
  EXPECT_FALSE(reader.run.Join().done);
  MemorySlot elsewhere = AddSlot(vm, kAway, memory);
  Race::Command& other = race.Start(vm.guest(1), Reads(kAway + kOffset));
  race.AwaitSleeping(other, memory, kPage);
  race.Provide(memory, kPage);
  EXPECT_THAT(other.run.Join(), Returns(memory.word(kPage)));
  race.ExpectOrder({"vCPU 0 sleeps for page 3 of the victim", "delete waits for readers",
                    "vCPU 0 is kicked", "delete returned", "vCPU 1 sleeps for page 3 of the victim",
                    "page 3 of the victim comes"});

  EXPECT_THAT(vm.guest(0).Resume(), IsMmioReadAt(kVictim + kOffset));
  EXPECT_THAT(vm.guest(0).Read(kAway + kOffset), Returns(memory.word(kPage)));
}

// Turning the dirty log on waits as a delete does.  A page that a write fault mapped writable
// before must not stay so: the next write has to be logged.
TEST_P(FaultRace, TheDirtyLogIsTurnedOn) {
  TestVm vm(Config());
  Scene scene(vm);
  ChangeFlagsDuringAWrite(scene, KVM_MEM_LOG_DIRTY_PAGES);
  scene.victim.GetDirtyLog();
  EXPECT_THAT(vm.guest().Write(kVictim + kOffset, 2), Succeeds());
  EXPECT_THAT(scene.victim.GetDirtyLog().Set(), ElementsAre(kPage));
  EXPECT_THAT(vm.guest().Write(kVictim, 2), Succeeds());
  EXPECT_THAT(scene.victim.GetDirtyLog().Set(), ElementsAre(0));
}

// The log is turned off, and what is written from then on isn't logged: neither by the fault that
// began before, whichever flags it saw, once the log is read anew, nor by one that comes later.
TEST_P(FaultRace, TheDirtyLogIsTurnedOff) {
  TestVm vm(Config());
  Scene scene(vm);
  scene.victim.SetFlags(KVM_MEM_LOG_DIRTY_PAGES);
  ChangeFlagsDuringAWrite(scene, 0);
  DirtyBitmap none(scene.victim.range().pages());
  EXPECT_THAT(scene.victim.TryGetDirtyLog(none), FailsWith(ENOENT));
  EXPECT_THAT(vm.guest().Write(kVictim, 2), Succeeds());
  scene.victim.SetFlags(KVM_MEM_LOG_DIRTY_PAGES);
  EXPECT_THAT(scene.victim.GetDirtyLog().Set(), ElementsAre());
  // Mapped writable by either of them, it would not be logged now.
  EXPECT_THAT(vm.guest().Write(kVictim + kOffset, 3), Succeeds());
  EXPECT_THAT(vm.guest().Write(kVictim, 3), Succeeds());
  EXPECT_THAT(scene.victim.GetDirtyLog().Set(), ElementsAre(0, kPage));
}

// The log of another memslot is cleared while a write to it is under way: the fault waits for the
// page, not for the clearing, and what it writes then is logged.
TEST_P(FaultRace, TheDirtyLogIsCleared) {
  TestVm vm(Config());
  vm.vm().EnableCap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
  Scene scene(vm);
  Race& race = scene.race;
  scene.victim.SetFlags(KVM_MEM_LOG_DIRTY_PAGES);
  EXPECT_THAT(vm.guest().Write(kVictim, 1), Succeeds());
  const DirtyBitmap read = scene.victim.GetDirtyLog();
  EXPECT_THAT(read.Set(), ElementsAre(0));
  Race::Command& writer =
      race.Start(vm.guest(), [](Guest& guest) { return guest.Write(kVictim + kOffset, 1); });
  race.AwaitSleeping(writer, scene.memory, kPage);
  race.Do("the dirty log is cleared", [&] { scene.victim.ClearDirtyLog(read); });
  race.Provide(scene.memory, kPage);
  EXPECT_THAT(writer.run.Join(), Succeeds());
  race.ExpectOrder({"vCPU 0 sleeps for page 3 of the victim", "the dirty log is cleared",
                    "page 3 of the victim comes"});
  EXPECT_THAT(scene.victim.GetDirtyLog().Set(), ElementsAre(kPage));
  EXPECT_THAT(vm.guest().Write(kVictim, 2), Succeeds());
  EXPECT_THAT(scene.victim.GetDirtyLog().Set(), ElementsAre(0, kPage));
}

// The host unmaps the page that a fault is about to map: the fault has to look for it again.
TEST_P(FaultRace, TheHostUnmapsItsPage) {
  TestVm vm(Config());
  Scene scene(vm);
  Race& race = scene.race;
  Race::Command& reader = race.Start(vm.guest(), Reads(kVictim + kOffset));
  race.AwaitSleeping(reader, scene.memory, kPage);
  const uint64_t taken = vm.guest().vcpu().stats().Read("pf_taken");
  race.Do("the host unmaps page 3", [&] { scene.memory.memory()->Unmap(kOffset, kPageSize); });
  race.Provide(scene.memory, kPage);
  EXPECT_THAT(reader.run.Join(), Returns(scene.memory.word(kPage)));
  race.ExpectOrder({"vCPU 0 sleeps for page 3 of the victim", "the host unmaps page 3",
                    "page 3 of the victim comes"});
  EXPECT_EQ(vm.guest().vcpu().stats().Read("pf_taken") - taken, 1u)
      << "the fault was not taken again";
  EXPECT_EQ(LeavesOf(vm).total(), scene.before.total() + 1);
}

// --- other ioctls, while a delete waits ----------------------------------------------------------

class DeleteWaits : public FaultRace {};

// Which way to zap is decided when the zap begins, not when the ioctl does.  Linux 6.1 can enable a
// quirk again, later kernels can't.
TEST_P(DeleteWaits, TheQuirkChanges) {
  if (const std::string reason = QuirkUnavailable(); !reason.empty()) GTEST_SKIP() << reason;
  TestVm vm(Config());
  MemorySlot bystander = vm.AddFilledSlot(kOther, kSize, kSeed + 1);
  Scene scene(vm);
  ASSERT_THAT(vm.guest().Verify({PatternOf(bystander, kSeed + 1)}), SeesPattern());
  ZapWatch watch(vm.vm());
  scene.Begin();
  const bool changes = slot_zap_all() || !KernelIsAtLeast("6.12");
  const std::string step = changes ? "the quirk changes" : "the quirk is asked for, in vain";
  scene.race.Do(step, [&] {
    EXPECT_THAT(vm.vm().quirks().TryDisable(slot_zap_all() ? kQuirkSlotZapAll : 0), IsOk());
  });
  scene.End();
  const ZapReport report = watch.Stop();
  scene.ExpectOrder({step});
  if (report.untraced.empty()) {
    EXPECT_EQ(report.zap_all, slot_zap_all() != changes ? 1u : 0u) << kPrecision << report;
  }
  EXPECT_THAT(vm.guest().Verify({PatternOf(bystander, kSeed + 1)}), SeesPattern());
}

TEST_P(DeleteWaits, ASecondDeleteWaitsForTheFirst) {
  TestVm vm(Config());
  MemorySlot other = vm.AddFilledSlot(kOther, kSize, kSeed + 1);
  MemorySlot bystander = vm.AddFilledSlot(kAway, kSize, kSeed + 2);
  Scene scene(vm);
  ASSERT_THAT(vm.guest().Verify({PatternOf(other, kSeed + 1), PatternOf(bystander, kSeed + 2)}),
              SeesPattern());
  const Leaves before = LeavesOf(vm);
  scene.Begin();
  Race::Call& second = scene.race.Start(
      "another delete", [&] { return other.TryDelete(); }, Race::Return::kUnordered);
  scene.race.AwaitWaiting(second, Waits::kForSlotsLock);
  EXPECT_EQ(LeavesOf(vm), before) << "something was zapped by a delete that waits";
  scene.End();
  EXPECT_THAT(second.run.Join(), IsOk());
  scene.ExpectOrder({"another delete waits for slots_lock"});
  EXPECT_THAT(vm.guest().TouchRead({other.range()}), FindsNothingIn(other.range()));
  EXPECT_THAT(vm.guest().Verify({PatternOf(bystander, kSeed + 2)}), SeesPattern());
  if (!slot_zap_all() && CurrentMmuMode() == MmuMode::kTdp) {
    EXPECT_EQ(LeavesOf(vm).k4K, before.k4K - 16 - static_cast<int64_t>(Scene::kMapped))
        << kPrecision;
  }
}

TEST_P(DeleteWaits, OnlyOneDeletesASlot) {
  TestVm vm(Config());
  Scene scene(vm);
  scene.Begin();
  MemorySlot same = scene.victim;
  Race::Call& second = scene.race.Start(
      "another delete", [&] { return same.TryDelete(); }, Race::Return::kUnordered);
  scene.race.AwaitWaiting(second, Waits::kForSlotsLock);
  scene.End();
  EXPECT_THAT(second.run.Join(), FailsWith(EINVAL));
  scene.ExpectOrder({"another delete waits for slots_lock"});
}

// It comes too late to be a move: the memslot is gone, and this creates it.
TEST_P(DeleteWaits, TheSlotIsMoved) {
  TestVm vm(Config());
  Scene scene(vm);
  scene.Begin();
  MemorySlot same = scene.victim;
  Race::Call& move = scene.race.Start(
      "move", [&] { return same.TryMoveTo(kAway); }, Race::Return::kUnordered);
  scene.race.AwaitWaiting(move, Waits::kForSlotsLock);
  scene.End();
  EXPECT_THAT(move.run.Join(), IsOk());
  scene.ExpectOrder({"move waits for slots_lock"});
  EXPECT_THAT(vm.guest().Read(kAway + kOffset), Returns(scene.memory.word(kPage)));
}

// The log of a memslot that is on its way out can't be read any more once it is gone.
TEST_P(DeleteWaits, TheDirtyLogIsRead) {
  TestVm vm(Config());
  MemorySlot other = vm.AddFilledSlot(kOther, kSize, kSeed + 1);
  other.SetFlags(KVM_MEM_LOG_DIRTY_PAGES);
  ASSERT_THAT(vm.guest().Write(other.page(5), 1), Succeeds());
  Scene scene(vm);
  scene.victim.SetFlags(KVM_MEM_LOG_DIRTY_PAGES);
  scene.Begin();
  DirtyBitmap dirty(other.range().pages());
  DirtyBitmap none(scene.victim.range().pages());
  Race::Call& of_other = scene.race.Start(
      "dirty log of another", [&] { return other.TryGetDirtyLog(dirty); },
      Race::Return::kUnordered);
  scene.race.AwaitWaiting(of_other, Waits::kForSlotsLock);
  Race::Call& of_victim = scene.race.Start(
      "dirty log", [&] { return scene.victim.TryGetDirtyLog(none); }, Race::Return::kUnordered);
  scene.race.AwaitWaiting(of_victim, Waits::kForSlotsLock);
  scene.End();
  scene.ExpectOrder(
      {"dirty log of another waits for slots_lock", "dirty log waits for slots_lock"});
  EXPECT_THAT(of_other.run.Join(), IsOk());
  EXPECT_THAT(of_victim.run.Join(), FailsWith(ENOENT));
  EXPECT_THAT(dirty.Set(), ElementsAre(5));
  EXPECT_THAT(none.Set(), ElementsAre());
  EXPECT_THAT(vm.guest().Write(other.page(6), 1), Succeeds());
  EXPECT_THAT(other.GetDirtyLog().Set(), ElementsAre(6));
}

// The host unmaps pages of a memslot that is marked invalid: they go at once, nobody is waited for.
TEST_P(DeleteWaits, TheHostUnmapsPages) {
  TestVm vm(Config());
  Scene scene(vm);
  scene.Begin();
  ZapWatch watch(vm.vm());
  scene.race.Do("the host unmaps page 0", [&] { scene.memory.memory()->Unmap(0, kPageSize); });
  EXPECT_FALSE(scene.deletion->run.ended());
  const ZapReport report = watch.Stop();
  EXPECT_EQ(report.dropped(), (Leaves{1, 0, 0})) << report;
  scene.End();
  scene.ExpectOrder({"the host unmaps page 0"});
}

TEST_P(DeleteWaits, AVcpuIsCreated) {
  TestVm vm(Config());
  MemorySlot bystander = vm.AddFilledSlot(kOther, kSize, kSeed + 1);
  Scene scene(vm);
  scene.Begin();
  Guest& created = vm.AddGuest();
  EXPECT_THAT(created.Verify({PatternOf(bystander, kSeed + 1)}), SeesPattern());
  // The memslot is invalid, but for this vCPU as well what is mapped still is.
  if (CurrentMmuMode() == MmuMode::kTdp) {
    EXPECT_THAT(created.Read(kVictim), Returns(scene.memory.word(0)));
  }
  scene.race.order().Saw("vCPU 1 is created and runs");
  scene.End();
  scene.ExpectOrder({"vCPU 1 is created and runs"});
  EXPECT_THAT(created.TouchRead({{kVictim, kSize}}), FindsNothingIn({kVictim, kSize}));
  EXPECT_THAT(created.Verify({PatternOf(bystander, kSeed + 1)}), SeesPattern());
}

// A VM that has the very same memory goes meanwhile, and another vCPU of this one, which has begun
// a fault on that memory, too, maps it afterwards.
TEST_P(DeleteWaits, AnotherVmGoes) {
  auto other = std::make_unique<TestVm>(Config());
  TestVm vm(Config(2));
  GatedMemory shared("bystander", kSize, kSeed + 1);
  MemorySlot bystander = AddSlot(vm, kOther, shared);
  Scene scene(vm);
  MemorySlot theirs = AddSlot(*other, kVictim, scene.memory);
  MemorySlot theirs_too = AddSlot(*other, kOther, shared);
  shared.Provide(0);
  EXPECT_THAT(other->guest().Read(kVictim), Returns(scene.memory.word(0)));
  EXPECT_THAT(other->guest().Read(kOther), Returns(shared.word(0)));
  scene.Begin();
  scene.race.Do("another VM's slot is deleted", [&] { theirs.Delete(); });
  theirs.Add();
  EXPECT_THAT(other->guest().Read(kVictim), Returns(scene.memory.word(0)));
  Race::Command& faulting = scene.race.Start(vm.guest(1), Reads(kOther + kOffset));
  scene.race.AwaitSleeping(faulting, shared, kPage);
  scene.race.Do("another VM goes", [&] { other.reset(); });
  EXPECT_EQ(LeavesOf(vm), scene.before);
  scene.race.Provide(shared, kPage);
  EXPECT_THAT(faulting.run.Join(), Returns(shared.word(kPage)));
  EXPECT_GT(LeavesOf(vm).total(), scene.before.total());
  scene.End();
  scene.ExpectOrder({"another VM's slot is deleted", "vCPU 1 sleeps for page 3 of the bystander",
                     "another VM goes", "page 3 of the bystander comes"});
  EXPECT_THAT(vm.guest(1).Read(kOther), Returns(shared.word(0)));
  EXPECT_THAT(vm.guest(1).Read(kOther + kOffset), Returns(shared.word(kPage)));
}

// --- a thread that is held in KVM ----------------------------------------------------------------

// The test module holds a thread, which spins on a CPU of its own; everybody else is on another.
class HeldRace : public FaultRace {
 protected:
  void SetUp() override {
    FaultRace::SetUp();
    if (IsSkipped()) return;
    if (const std::string reason = TestDevice::Unavailable(); !reason.empty())
      GTEST_SKIP() << reason;
    const std::vector<int> cpus = AllowedCpus();
    if (cpus.size() < 2) GTEST_SKIP() << "needs a CPU for the thread that is held, and another one";
    held_cpu_ = cpus[0];
    others_.emplace(cpus[1]);
  }

  template <typename Function>
  auto OnHeldCpu(Function function) const {
    return [function, cpu = held_cpu_](auto&&... args) {
      const CpuPin pin(cpu);
      return function(args...);
    };
  }

  // Threads whose commands begin when the test says so.  The first KVM_RUN of another thread waits
  // for an RCU grace period (kvm_vcpu_ioctl()), which a thread that is held would delay, so they
  // have run their vCPU before.
  class Starters {
   public:
    ~Starters() { Go(); }
    Race::Command& Add(Race& race, Guest& guest, std::function<Outcome(Guest&)> command) {
      const int goal = state_->ready + 1;
      Race::Command& added =
          race.Start(guest, [state = state_, command = std::move(command)](Guest& g) {
            EXPECT_THAT(g.Nop(), Succeeds());
            state->ready++;
            while (!state->go) std::this_thread::yield();
            return command(g);
          });
      while (state_->ready < goal) std::this_thread::yield();
      return added;
    }
    void Go() { state_->go = true; }

   private:
    struct State {
      std::atomic<int> ready = 0;
      std::atomic<bool> go = false;
    };
    std::shared_ptr<State> state_ = std::make_shared<State>();
  };

  // The update is held between two of its steps: the memslot is marked invalid.
  void HoldAnUpdate(Update update, slotzap_test_place place);

 private:
  int held_cpu_ = 0;
  std::optional<CpuPin> others_;
};

// A fault has found its page, and the host takes the page away, and puts another one in its place.
// What the fault found must not be mapped.
TEST_P(HeldRace, TheHostReplacesThePageThatWasFound) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddFilledSlot(kVictim, kSize, kSeed);
  WarmUp(vm);
  Race race;
  Hold hold(vm, SLOTZAP_TEST_PAGE_FOUND);
  if (!hold.Unavailable().empty()) GTEST_SKIP() << hold.Unavailable();
  Race::Command& reader = race.Start(vm.guest(), OnHeldCpu(Reads(kVictim + kOffset)));
  hold.Await(race, "vCPU 0 found its page");
  race.Do("the host replaces the page", [&] {
    slot.memory().Free(kOffset, kPageSize);
    slot.memory().Store(kOffset, 0x600d);
  });
  hold.Release(race, "vCPU 0 goes on");
  EXPECT_THAT(reader.run.Join(), Returns(0x600d));
  race.ExpectOrder({"vCPU 0 found its page", "the host replaces the page", "vCPU 0 goes on"});
  slot.Store(kVictim + kOffset, 0x900d);
  EXPECT_THAT(vm.guest().Read(kVictim + kOffset), Returns(0x900d));
}

// A fault has found its page, and its memslot is deleted.
TEST_P(HeldRace, TheSlotOfThePageThatWasFoundIsDeleted) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddFilledSlot(kVictim, kSize, kSeed);
  const Leaves before = WarmUp(vm);
  Race race;
  Hold hold(vm, SLOTZAP_TEST_PAGE_FOUND);
  if (!hold.Unavailable().empty()) GTEST_SKIP() << hold.Unavailable();
  Race::Command& reader = race.Start(vm.guest(), OnHeldCpu(Reads(kVictim + kOffset)));
  hold.Await(race, "vCPU 0 found its page");
  Race::Call& deletion = race.Start("delete", [&] { return victim.TryDelete(); });
  race.AwaitWaiting(deletion, Waits::kForReaders);
  hold.Release(race, "vCPU 0 goes on");
  EXPECT_THAT(deletion.run.Join(), IsOk());
  EXPECT_THAT(reader.run.Join(), AnyOf(Returns(guest::PatternWord(kSeed, kOffset / 8)),
                                       IsMmioReadAt(kVictim + kOffset)));
  race.ExpectOrder(
      {"vCPU 0 found its page", "delete waits for readers", "vCPU 0 goes on", "delete returned"});
  EXPECT_THAT(vm.guest().TouchRead({victim.range()}), FindsNothingIn(victim.range()));
  if (!slot_zap_all()) {
    EXPECT_EQ(LeavesOf(vm), before) << kPrecision;
  }
}

// Two vCPUs put a page table in the same place: the one that comes second has to try again, and to
// tell nobody.  Of a vCPU that runs nobody would know, as it tries again whatever it is told.
TEST_P(HeldRace, APrefaultThatCameSecondTriesAgain) {
  if (Kvm().CheckExtension(KVM_CAP_PRE_FAULT_MEMORY) == 0)
    GTEST_SKIP() << "there is no KVM_PRE_FAULT_MEMORY here";
  if (CurrentMmuMode() != MmuMode::kTdp)
    GTEST_SKIP() << "only the TDP MMU lets two vCPUs map at a time";
  TestVm vm(Config(2));
  MemorySlot slot = vm.AddFilledSlot(kVictim, kSize, kSeed);
  Race race;
  Hold hold(vm, SLOTZAP_TEST_TABLE_ALLOCATED);
  if (!hold.Unavailable().empty()) GTEST_SKIP() << hold.Unavailable();
  GpaRange range = slot.range();
  Race::Call& prefault =
      race.Start("prefault", OnHeldCpu([&] { return vm.guest(0).vcpu().TryPreFault(range); }));
  hold.Await(race, "prefault has a page table");
  race.Do("another one is there", [&] {
    GpaRange first = {kVictim, kPageSize};
    EXPECT_THAT(vm.guest(1).vcpu().TryPreFault(first), IsOk());
  });
  hold.Release(race, "prefault goes on");
  EXPECT_THAT(prefault.run.Join(), IsOk());
  race.ExpectOrder({"prefault has a page table", "another one is there", "prefault goes on",
                    "prefault returned"});
  EXPECT_EQ(range.size, 0u) << "not all of it was mapped";
  EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern());
}

void HeldRace::HoldAnUpdate(Update update, slotzap_test_place place) {
  const bool zapped = place == SLOTZAP_TEST_AFTER_ZAP;
  const std::string stands = update.name + " stands " + (zapped ? "after" : "before") + " the zap";
  TestVm vm(Config(3));
  MemorySlot victim = vm.AddFilledSlot(kVictim, kSize, kSeed);
  MemorySlot bystander = vm.AddFilledSlot(kOther, kSize, kSeed + 1);
  const Leaves without = WarmUp(vm);
  ASSERT_THAT(vm.guest(2).Read(victim.page(0)), Returns(guest::PatternWord(kSeed, 0)));
  const Leaves with = LeavesOf(vm);
  Race race;
  Hold hold(vm, place);
  if (!hold.Unavailable().empty()) GTEST_SKIP() << hold.Unavailable();
  const GpaRange old = victim.range();
  const Gpa first = old.start;
  const Gpa last = old.end() - kPageSize;
  Starters starters;
  Race::Command& mapped = starters.Add(race, vm.guest(2), Reads(first));
  Race::Command& unmapped = starters.Add(race, vm.guest(1), Reads(last));
  Race::Call& call = race.Start(update.name, OnHeldCpu([&] { return update.apply(victim); }));
  hold.Await(race, stands);
  EXPECT_EQ(LeavesOf(vm).total() < with.total(), zapped);

  starters.Go();
  // What was not mapped: nothing may appear behind the zap, and nothing that it need not find.
  unmapped.run.WaitForExits(kRetries);
  EXPECT_FALSE(unmapped.run.ended()) << "a fault on an invalid memslot did not wait";
  // What was mapped still is before the zap; after it, it is the same as what wasn't.
  if (zapped) {
    mapped.run.WaitForExits(kRetries);
    EXPECT_FALSE(mapped.run.ended()) << "a fault on an invalid memslot did not wait";
  } else {
    EXPECT_THAT(mapped.run.Join(), Returns(guest::PatternWord(kSeed, 0)));
  }
  if (!slot_zap_all() || !zapped) {
    EXPECT_EQ(LeavesOf(vm), zapped ? without : with) << kPrecision;
  }
  race.order().Saw("others retry their faults");
  // Other memslots don't wait.
  EXPECT_THAT(vm.guest(0).Verify({PatternOf(bystander, kSeed + 1)}), SeesPattern());
  hold.Release(race, update.name + " goes on");
  EXPECT_THAT(call.run.Join(), IsOk());
  if (zapped) {
    EXPECT_THAT(mapped.run.Join(), IsMmioReadAt(first));
  }
  EXPECT_THAT(unmapped.run.Join(), IsMmioReadAt(last));
  race.ExpectOrder(
      {stands, "others retry their faults", update.name + " goes on", update.name + " returned"});
  for (unsigned i = 0; i < vm.vcpus(); i++)
    EXPECT_THAT(vm.guest(i).TouchRead({old}), FindsNothingIn(old));
  if (victim.range().start != old.start) {
    for (unsigned i = 0; i < vm.vcpus(); i++)
      EXPECT_THAT(vm.guest(i).Verify({PatternOf(victim, kSeed)}), SeesPattern());
  }
}

TEST_P(HeldRace, FaultsBetweenTheMarkAndTheZap) { HoldAnUpdate(Delete(), SLOTZAP_TEST_BEFORE_ZAP); }
TEST_P(HeldRace, FaultsBehindTheZap) { HoldAnUpdate(Delete(), SLOTZAP_TEST_AFTER_ZAP); }
TEST_P(HeldRace, FaultsBetweenTheMarkAndTheZapOfAMove) {
  HoldAnUpdate(Move(), SLOTZAP_TEST_BEFORE_ZAP);
}
TEST_P(HeldRace, FaultsBehindTheZapOfAMove) { HoldAnUpdate(Move(), SLOTZAP_TEST_AFTER_ZAP); }

// --- a vCPU that is out of KVM_RUN ---------------------------------------------------------------

class PausedVcpu : public RaceTest {};

// It stands at an instruction that reads where no memory is; the answer is due.
TEST_P(PausedVcpu, ASlotIsDeleted) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddFilledSlot(kVictim, kSize, kSeed);
  ASSERT_THAT(vm.guest().Verify({PatternOf(victim, kSeed)}), SeesPattern());
  Race race;
  const GpaRange hole = {kVictim - kPageSize, kPageSize};
  vm.guest().OnMmio([&](const MmioAccess& access) {
    if (access.gpa != hole.start) return;
    race.order().Saw("vCPU 0 exits");
    EXPECT_THAT(victim.TryDelete(), IsOk());
    race.order().Saw("delete returned");
  });
  const GpaRange both = {hole.start, hole.size + kSize};
  EXPECT_THAT(vm.guest().TouchRead({both}), FindsNothingIn(both));
  race.ExpectOrder({"vCPU 0 exits", "delete returned"});
}

// What comes where the access was doesn't change the answer to it, and is there for the next one.
TEST_P(PausedVcpu, ASlotComesWhereItReads) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddFilledSlot(kVictim, kSize, kSeed);
  slot.Delete();
  Race race;
  vm.guest().OnMmio([&](const MmioAccess&) {
    race.order().Saw("vCPU 0 exits");
    EXPECT_THAT(slot.TryAdd(), IsOk());
    race.order().Saw("add returned");
  });
  EXPECT_THAT(vm.guest().Read(kVictim), IsMmioReadAt(kVictim));
  race.ExpectOrder({"vCPU 0 exits", "add returned"});
  EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern());
}

// Between an access and the next one, everything is replaced.
TEST_P(PausedVcpu, ASlotIsReplaced) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddFilledSlot(kVictim, kSize, kSeed);
  ASSERT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern());
  auto memory = std::make_shared<GuestMemory>(kSize);
  FillMemory(*memory, {.pages = kSize / kPageSize, .seed = kSeed + 1});
  Race race;
  vm.guest().OnMmio([&](const MmioAccess&) {
    race.order().Saw("vCPU 0 exits");
    slot.Delete();
    slot.AddWith(memory);
    race.order().Saw("the slot is replaced");
  });
  EXPECT_THAT(vm.guest().Read(kVictim - kPageSize), IsMmioReadAt(kVictim - kPageSize));
  race.ExpectOrder({"vCPU 0 exits", "the slot is replaced"});
  EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kSeed + 1)}), SeesPattern());
}

SLOTZAP_INSTANTIATE(FaultRace);
SLOTZAP_INSTANTIATE(DeleteWaits);
SLOTZAP_INSTANTIATE(HeldRace);
SLOTZAP_INSTANTIATE(PausedVcpu);

}  // namespace
}  // namespace slotzap

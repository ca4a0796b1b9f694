// SPDX-License-Identifier: GPL-2.0-only
// Theme: guest memory on the nodes of a NUMA host.  It is bound to a node, interleaved between
// nodes, and migrated while its slot is there, gone, or about to go; somebody may have pinned it.
// A page that migrates gets another frame, so that an SPTE that is left over shows at once: the
// guest would read, and write, a page that is no longer its own.
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <string>
#include <thread>
#include <vector>

#include "base/channel.h"
#include "guest/page_contents.h"
#include "host/huge_pages.h"
#include "host/io_ring.h"
#include "host/numa.h"
#include "host/page_flags.h"
#include "tests/race.h"
#include "tests/slot_test.h"

namespace slotzap {
namespace {

using testing::Each;

constexpr uint64_t kSeed = 0x404e;
constexpr Gpa kGpa = 1_GiB;
constexpr Gpa kAway = 3_GiB;
constexpr uint64_t kPages = 64;
constexpr uint64_t kSize = kPages * kPageSize;

// Two nodes: where memory is, and where it goes.
struct Nodes {
  int home = 0;
  int other = 0;
};

Nodes TwoNodes() {
  const std::vector<int> nodes = MemoryNodes();
  return {nodes.at(0), nodes.at(1)};
}

std::vector<int> PlacementOf(const GuestMemory& memory) {
  return NodesOf(memory.address(), memory.size());
}

// Moves all of it; everything is expected to go.
void Migrate(const GuestMemory& memory, int node) {
  EXPECT_EQ(MovePages(memory.address(), memory.size(), node), 0u) << "pages that did not move";
  EXPECT_THAT(PlacementOf(memory), Each(node));
}

// A slot whose memory comes from one node, all of which the guest has written to, next to one that
// stays where it is.
struct Scene {
  Scene(TestVm& v, int node)
      : vm(v),
        slot(v.vm().AddSlot({.gpa = kGpa, .memory = GuestMemory::Unpopulated(kSize)})),
        other(v.AddFilledSlot(kGpa + kSize, kSize, kSeed + 1)) {
    BindMemory(slot.memory().address(), kSize, node);
    EXPECT_THAT(vm.guest().Fill({PatternOf(slot, kSeed)}), Succeeds());
    // What the guest had was populated on the right node, and is mapped here, too.
    EXPECT_EQ(contents.ProblemIn(slot.memory()), "");
    EXPECT_THAT(PlacementOf(slot.memory()), Each(node));
    EXPECT_THAT(vm.guest().TouchWrite({slot.range(), other.range()}), Succeeds());
  }

  void ExpectContents(Gpa gpa = kGpa) {
    EXPECT_EQ(contents.ProblemIn(slot.memory()), "") << "as the host sees it";
    EXPECT_THAT(contents.VerifyBy(vm.guest(), gpa), SeesPattern());
    EXPECT_THAT(vm.guest().Verify({PatternOf(other, kSeed + 1)}), SeesPattern());
  }

  TestVm& vm;
  MemorySlot slot;
  MemorySlot other;
  PageContents contents{kPages, kSeed};
};

class Numa : public SlotTest {
 protected:
  void SetUp() override {
    SlotTest::SetUp();
    if (IsSkipped()) return;
    if (const std::string reason = NumaUnavailable(); !reason.empty()) GTEST_SKIP() << reason;
    nodes_ = TwoNodes();
  }

  Nodes nodes_;
};

// What came from a node stays there, in the same frames, whatever happens to the slot.
TEST_P(Numa, BoundMemoryStaysWhereItIs) {
  if (const std::string reason = PageFlags::Unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  for (const int node : {nodes_.home, nodes_.other}) {
    SCOPED_TRACE("node " + std::to_string(node));
    TestVm vm(Config());
    Scene scene(vm, node);
    const std::vector<uint64_t> frames = PageFlags().FramesOf(scene.slot.memory().bytes());
    const auto expect_there = [&](const char* when) {
      EXPECT_THAT(PlacementOf(scene.slot.memory()), Each(node)) << when;
      EXPECT_EQ(PageFlags().FramesOf(scene.slot.memory().bytes()), frames) << when;
    };
    scene.slot.Delete();
    expect_there("deleted");
    EXPECT_THAT(vm.guest().TouchRead({{kGpa, kSize}}), FindsNothingIn({kGpa, kSize}));
    scene.slot.Add();
    scene.ExpectContents();
    expect_there("added again");
    scene.slot.MoveTo(kAway);
    scene.ExpectContents(kAway);
    expect_there("moved");
  }
}

// Pages that come only when the guest faults on them, before the delete and after it, come from
// the nodes in turn.
TEST_P(Numa, InterleavedMemory) {
  TestVm vm(Config());
  MemorySlot slot = vm.vm().AddSlot({.gpa = kGpa, .memory = GuestMemory::Unpopulated(kSize)});
  const GuestMemory& memory = slot.memory();
  InterleaveMemory(memory.address(), kSize, std::vector<int>{nodes_.home, nodes_.other});
  constexpr uint64_t kHalf = kSize / 2;
  ASSERT_THAT(vm.guest().Fill({{.range = {kGpa, kHalf}, .seed = kSeed}}), Succeeds());
  slot.Delete();
  slot.Add();
  ASSERT_THAT(
      vm.guest().Fill({{.range = {kGpa + kHalf, kHalf}, .seed = kSeed, .first_word = kHalf / 8}}),
      Succeeds());
  EXPECT_EQ(PageContents(kPages, kSeed).ProblemIn(memory), "");
  const auto expect_interleaved = [&] {
    const std::vector<int> placement = PlacementOf(memory);
    for (const int node : {nodes_.home, nodes_.other})
      EXPECT_EQ(std::count(placement.begin(), placement.end(), node), std::ptrdiff_t{kPages / 2});
    for (size_t i = 0; i + 1 < placement.size(); i++)
      EXPECT_NE(placement[i], placement[i + 1]) << "pages " << i << " and " << i + 1;
  };
  expect_interleaved();
  slot.MoveTo(kAway);
  EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern());
  slot.Delete();
  slot.Add();
  EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern());
  expect_interleaved();
}

// While the slot is there: its SPTEs go, for the frames are others, and nothing else does.  What
// the guest writes from then on is in the new ones.
TEST_P(Numa, MigrationOfALiveSlot) {
  TestVm vm(Config());
  Scene scene(vm, nodes_.home);
  const uint64_t faults = vm.FixedFaults();
  ZapWatch watch(vm.vm());
  Migrate(scene.slot.memory(), nodes_.other);
  EXPECT_THAT(watch.Stop(), ZappedOnly({{scene.slot.range()}}, CurrentMmuMode()));
  ASSERT_THAT(vm.guest().TouchWrite({scene.other.range()}), Succeeds());
  EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision << "another slot was faulted in again";
  scene.ExpectContents();
  scene.contents.Fill(0, kPages, kSeed + 2);
  ASSERT_THAT(vm.guest().Fill({PatternOf(scene.slot, kSeed + 2)}), Succeeds());
  scene.ExpectContents();
  scene.slot.Delete();
  scene.slot.Add();
  scene.ExpectContents();
  EXPECT_THAT(PlacementOf(scene.slot.memory()), Each(nodes_.other));
}

// Every other page moves.  The pages in between keep frames, and SPTEs.
TEST_P(Numa, MigrationOfEveryOtherPage) {
  if (const std::string reason = PageFlags::Unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  const PageFlags flags;
  TestVm vm(Config());
  Scene scene(vm, nodes_.home);
  const GuestMemory& memory = scene.slot.memory();
  std::vector<uint64_t> moved;
  std::vector<LeafRange> leaves;
  std::vector<uint64_t> frames;
  for (uint64_t page = 0; page < kPages; page++) {
    frames.push_back(flags.FrameAt(memory.address() + page * kPageSize));
    if (page % 2 == 0) continue;
    moved.push_back(memory.address() + page * kPageSize);
    leaves.push_back({{kGpa + page * kPageSize, kPageSize}});
  }
  ZapWatch watch(vm.vm());
  EXPECT_EQ(MovePages(moved, nodes_.other), 0u);
  EXPECT_THAT(watch.Stop(), ZappedOnly(leaves, CurrentMmuMode()));
  scene.ExpectContents();
  scene.slot.Delete();
  scene.slot.Add();
  scene.ExpectContents();
  const std::vector<int> placement = PlacementOf(memory);
  for (uint64_t page = 0; page < kPages; page++) {
    EXPECT_EQ(placement[page], page % 2 == 0 ? nodes_.home : nodes_.other) << "page " << page;
    EXPECT_EQ(flags.FrameAt(memory.address() + page * kPageSize) == frames[page], page % 2 == 0)
        << "page " << page;
  }
}

// Between the delete and the return of the slot nobody has to be told, and nothing is zapped.  What
// the guest then finds are the new frames.
TEST_P(Numa, MigrationWhileTheSlotIsGone) {
  TestVm vm(Config());
  Scene scene(vm, nodes_.home);
  scene.slot.Delete();
  ZapWatch watch(vm.vm());
  Migrate(scene.slot.memory(), nodes_.other);
  EXPECT_THAT(watch.Stop(), ZappedOnly({}, CurrentMmuMode()));
  EXPECT_THAT(vm.guest().TouchRead({{kGpa, kSize}}), FindsNothingIn({kGpa, kSize}));
  scene.slot.Add();
  scene.ExpectContents();
  scene.slot.Delete();
  Migrate(scene.slot.memory(), nodes_.home);
  scene.slot.Add();
  const uint64_t faults = vm.FixedFaults();
  ASSERT_THAT(vm.guest().TouchWrite({scene.other.range()}), Succeeds());
  if (!slot_zap_all()) {
    EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision << "another slot was faulted in again";
  }
  scene.ExpectContents();
}

// mbind() in place of move_pages(), as a VMM does when its user changes the policy.
TEST_P(Numa, NewPolicyForALiveSlot) {
  TestVm vm(Config());
  Scene scene(vm, nodes_.home);
  ZapWatch watch(vm.vm());
  EXPECT_FALSE(TryMoveMemory(scene.slot.memory().address(), kSize, nodes_.other));
  EXPECT_THAT(watch.Stop(), ZappedOnly({{scene.slot.range()}}, CurrentMmuMode()));
  EXPECT_THAT(PlacementOf(scene.slot.memory()), Each(nodes_.other));
  scene.ExpectContents();
  // New pages follow the new policy, also when they come while the slot is gone.
  scene.slot.Delete();
  scene.slot.memory().Free(0, kSize);
  scene.contents.Fill(0, kPages, kSeed + 3);
  scene.contents.Store(scene.slot.memory());
  EXPECT_THAT(PlacementOf(scene.slot.memory()), Each(nodes_.other));
  scene.slot.Add();
  scene.ExpectContents();
}

// Large pages migrate as well, if the other node has some to spare.
TEST_P(Numa, MigrationOfLargePages) {
  constexpr uint64_t kLarge = 2_MiB;
  for (const int node : {nodes_.home, nodes_.other}) {
    const uint64_t free = FreeHugePagesOn(node, kLarge);
    if (free < 2)
      GTEST_SKIP() << "needs 2 free huge pages of 2 MiB on node " << node << ", has " << free;
  }
  TestVm vm(Config());
  const auto memory = GuestMemory::Unpopulated(2 * kLarge, Backing::k2M);
  BindMemory(memory->address(), 2 * kLarge, nodes_.home);
  PageContents contents(2 * kLarge / kPageSize, kSeed);
  contents.Store(*memory);
  MemorySlot slot = vm.vm().AddSlot({.gpa = kGpa, .memory = memory});
  ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  const auto migrate = [&](int node) {
    EXPECT_EQ(MovePages(memory->address(), 2 * kLarge, node, kLarge), 0u);
    EXPECT_THAT(NodesOf(memory->address(), 2 * kLarge, kLarge), Each(node));
  };
  migrate(nodes_.other);
  EXPECT_THAT(contents.VerifyBy(vm.guest(), kGpa), SeesPattern());
  slot.Delete();
  migrate(nodes_.home);
  slot.Add();
  EXPECT_THAT(contents.VerifyBy(vm.guest(), kGpa), SeesPattern());
}

// Pages that are pinned refuse to move, with the slot there or gone; those around them move.  Data
// that was in flight all along is where it belongs.  Once unpinned, they move as well: neither a
// delete nor anything else left a reference behind.
TEST_P(Numa, PinnedPagesRefuseToMove) {
  for (const std::string& reason : {IoRing::Unavailable(), PageFlags::Unavailable()})
    if (!reason.empty()) GTEST_SKIP() << reason;
  constexpr uint64_t kFirst = 5;
  constexpr uint64_t kPinned = 8;
  for (const bool gone : {false, true}) {
    SCOPED_TRACE(gone ? "the slot is gone" : "the slot is there");
    TestVm vm(Config());
    Scene scene(vm, nodes_.home);
    const GuestMemory& memory = scene.slot.memory();
    const IoBuffer pinned = {memory.address() + kFirst * kPageSize, kPinned * kPageSize};
    const PageFlags flags;
    std::vector<uint64_t> frames;
    const auto frame = [&](uint64_t i) { return flags.FrameAt(pinned.address + i * kPageSize); };
    for (uint64_t i = 0; i < kPinned; i++) frames.push_back(frame(i));
    IoRing ring;
    ring.RegisterBuffers({pinned});
    Channel pipe = Channel::Pipe();
    ring.ReadFixed(1, pipe.reader.get(), pinned, 0, IoRing::kNoOffset);
    ring.Submit();

    if (gone) scene.slot.Delete();
    for (const int node : {nodes_.other, nodes_.home, nodes_.other}) {
      EXPECT_EQ(MovePages(memory.address(), kSize, node), node == nodes_.home ? 0u : kPinned);
      const std::vector<int> placement = PlacementOf(memory);
      for (uint64_t page = 0; page < kPages; page++)
        EXPECT_EQ(placement[page], page >= kFirst && page < kFirst + kPinned ? nodes_.home : node)
            << "page " << page;
    }
    EXPECT_EQ(TryMoveMemory(memory.address(), kSize, nodes_.other), std::errc::io_error);
    ASSERT_EQ(ring.Take(), std::nullopt);
    scene.contents.Fill(kFirst, kPinned, kSeed + 4);
    WriteAll(pipe.writer.get(), scene.contents.Bytes(kFirst, kPinned));
    EXPECT_EQ(ring.Wait().result, static_cast<int>(pinned.size));
    for (uint64_t i = 0; i < kPinned; i++) EXPECT_EQ(frame(i), frames[i]) << "pinned page " << i;
    if (gone) scene.slot.Add();
    scene.ExpectContents();
    ring.UnregisterBuffers();
    if (gone) scene.slot.Delete();
    Migrate(memory, nodes_.other);
    if (gone) scene.slot.Add();
    scene.ExpectContents();
  }
}

// Slots come and go while a thread migrates their memory, back and forth, and that of one that
// stays; a vCPU writes to them all, and another one reads.  In each round something migrates while
// the slot is where it belongs, and something while it is gone, or elsewhere.
TEST_P(Numa, MigrationWhileSlotsComeAndGo) {
  TestVm vm(Config(2));
  Scene scene(vm, nodes_.home);
  MemorySlot always = vm.vm().AddSlot({.gpa = 2_GiB, .memory = GuestMemory::Unpopulated(kSize)});
  BindMemory(always.memory().address(), kSize, nodes_.home);
  FillMemory(always.memory(), {.pages = kPages, .seed = kSeed + 5});

  std::atomic<bool> stop = false;
  std::atomic<uint64_t> passes = 0;
  BackgroundCall<uint64_t> migrator([&] {
    uint64_t moved = 0;
    for (; !stop; passes++) {
      const int node = passes % 2 == 0 ? nodes_.other : nodes_.home;
      for (const GuestMemory* memory : {&scene.slot.memory(), &always.memory()}) {
        // One that a vCPU is just faulting on may stay.
        moved += kPages - MovePages(memory->address(), kSize, node);
        // For move_pages() to find them, also what the slot's absence left unmapped here.
        for (uint64_t page = 0; page < kPages; page++) memory->Load(page * kPageSize);
      }
    }
    return moved;
  });
  const auto wait_for_a_pass = [&] {
    // The one that is under way began before.
    const uint64_t goal = passes + 2;
    while (passes < goal && !migrator.ended()) std::this_thread::yield();
  };
  VerifyLoop reader(vm.guest(1), {PatternOf(always, kSeed + 5)});
  for (uint64_t round = 0; round < 4; round++) {
    const bool moved = round % 2 == 1;
    moved ? scene.slot.MoveTo(kAway) : scene.slot.Delete();
    wait_for_a_pass();
    EXPECT_THAT(vm.guest().TouchRead({{kGpa, kSize}}), FindsNothingIn({kGpa, kSize}));
    if (moved) {
      EXPECT_THAT(scene.contents.VerifyBy(vm.guest(), kAway), SeesPattern()) << "round " << round;
    }
    moved ? scene.slot.MoveTo(kGpa) : scene.slot.Add();
    wait_for_a_pass();
    EXPECT_THAT(scene.contents.VerifyBy(vm.guest(), kGpa), SeesPattern()) << "round " << round;
    scene.contents.Fill(0, kPages, kSeed + 10 + round);
    ASSERT_THAT(vm.guest().Fill({PatternOf(scene.slot, kSeed + 10 + round)}), Succeeds());
    // Not one after the other, either.
    for (int i = 0; i < 3; i++) {
      scene.slot.Delete();
      scene.slot.Add();
      scene.slot.MoveTo(kAway);
      scene.slot.MoveTo(kGpa);
    }
    EXPECT_THAT(scene.contents.VerifyBy(vm.guest(), kGpa), SeesPattern()) << "round " << round;
  }
  reader.WaitForPasses(1);
  stop = true;
  EXPECT_GT(migrator.Join(), passes * kPages) << "most pages move most of the time";
  const Outcome& outcome = reader.Stop();
  EXPECT_TRUE(outcome.done) << outcome.exit_text;
  EXPECT_EQ(outcome.verdict.matches, outcome.verdict.words) << outcome;
  scene.ExpectContents();
  Migrate(scene.slot.memory(), nodes_.other);
  scene.ExpectContents();
}

SLOTZAP_INSTANTIATE(Numa);

// A delete that is stopped in the middle, while the memory migrates.
class NumaRace : public RaceTest {
 protected:
  void SetUp() override {
    RaceTest::SetUp();
    if (IsSkipped()) return;
    if (const std::string reason = NumaUnavailable(); !reason.empty()) GTEST_SKIP() << reason;
  }
};

// The memslot is invalid, its SPTEs are still there, and the delete waits for a vCPU that sleeps.
// The migration is what zaps them then: an invalid memslot is no reason to leave SPTEs to frames
// that somebody else gets.
TEST_P(NumaRace, MigrationWhileADeleteWaits) {
  const Nodes nodes = TwoNodes();
  TestVm vm(Config(2));
  GatedMemory gate("bystander", 64_KiB, kSeed);
  vm.vm().AddSlot({.gpa = kOther, .memory = gate.memory()});
  Scene scene(vm, nodes.home);
  for (unsigned i = 0; i < vm.vcpus(); i++)
    EXPECT_THAT(vm.guest(i).TouchRead({scene.slot.range()}), Succeeds());

  Race race;
  Race::Command& sleeper =
      race.Start(vm.guest(), [](Guest& guest) { return guest.Read(kOther + 3 * kPageSize); });
  race.AwaitSleeping(sleeper, gate, 3);
  Race::Call& deletion = race.Start("delete", [&] { return scene.slot.TryDelete(); });
  race.AwaitWaiting(deletion, Waits::kForReaders);
  // It is still mapped, so the guest can still write.
  const uint64_t word = scene.slot.memory().Load(8);
  EXPECT_THAT(vm.guest(1).Write(kGpa + 8, 1), Succeeds());
  EXPECT_EQ(scene.slot.memory().Load(8), 1u);
  scene.slot.memory().Store(8, word);
  const Leaves before = PresentLeaves(vm.vm().stats().Read());
  race.Do("the memory migrates", [&] { Migrate(scene.slot.memory(), nodes.other); });
  EXPECT_EQ((before - PresentLeaves(vm.vm().stats().Read())).k4K, int64_t{kPages})
      << "the leaves of the invalid slot, and no other";
  race.AwaitWaiting(deletion, Waits::kForReaders);
  race.Provide(gate, 3);
  EXPECT_THAT(deletion.run.Join(), IsOk());
  EXPECT_THAT(sleeper.run.Join(), Returns(gate.word(3)));
  race.ExpectOrder({"vCPU 0 sleeps for page 3 of the bystander", "delete waits for readers",
                    "the memory migrates", "delete waits for readers",
                    "page 3 of the bystander comes", "delete returned"});
  EXPECT_THAT(vm.guest().TouchRead({{kGpa, kSize}}), FindsNothingIn({kGpa, kSize}));
  EXPECT_THAT(PlacementOf(scene.slot.memory()), Each(nodes.other));
  scene.slot.Add();
  scene.ExpectContents();
}

SLOTZAP_INSTANTIATE(NumaRace);

}  // namespace
}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
// Theme: memory that comes and goes as VMMs do it.  Memory devices that plug and unplug blocks
// (virtio-mem), backends in other processes that share the guest's memory (vhost-user), holes that
// they punch, balloons, and a VMM that forks.
#include <fcntl.h>

#include <cstdint>
#include <iostream>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "guest/page_contents.h"
#include "host/forked_process.h"
#include "tests/slot_test.h"

namespace slotzap {
namespace {

constexpr uint64_t kSeed = 0x3e3;
constexpr Gpa kGpa = 1_GiB;
constexpr Gpa kAway = 3_GiB;

class VmmMemory : public SlotTest {
 protected:
  // Lets the guest touch what should still be mapped, and was before.
  void ExpectStillMapped(TestVm& vm, const MemorySlot& other) const {
    const uint64_t faults = vm.FixedFaults();
    ASSERT_THAT(vm.guest().TouchWrite({other.range()}), Succeeds());
    if (!slot_zap_all()) {
      EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision << "another slot was faulted in again";
    }
  }
};

// --- memory devices
// --------------------------------------------------------------------------------

// Hundreds of blocks of one memory file, each a memslot; fewer where the guest has no pages of
// 1 GiB.  The guest uses a few pages of each.
class Blocks {
 public:
  static constexpr uint64_t kBlock = 128_MiB;
  static constexpr uint64_t kMost = 256;

  explicit Blocks(TestVm& vm)
      : vm_(vm),
        // 1 GiB pages of the guest, if it has them; what its own page tables take is out of it.
        start_(vm.mapped_end() >= GuestVm::k2MMappedEnd + kMost * kBlock ? GuestVm::k2MMappedEnd
                                                                         : 4_GiB),
        count_(std::min(kMost, (vm.mapped_end() - start_) / kBlock)),
        memory_(GuestMemory::Unpopulated(count_ * kBlock)),
        blocks_(count_) {}

  uint64_t count() const { return count_; }
  bool plugged(uint64_t i) const { return blocks_[i].plugged; }
  GpaRange RangeOf(uint64_t i) const { return {start_ + i * kBlock, kBlock}; }

  void Plug(uint64_t i) {
    Block& block = blocks_[i];
    if (!block.slot)
      block.slot.emplace(vm_.vm().AddSlot(
          {.gpa = RangeOf(i).start, .memory = memory_, .offset = i * kBlock, .size = kBlock}));
    else
      block.slot->Add();
    block.plugged = true;
  }
  // With its memory, or only the memslot.
  void Unplug(uint64_t i, bool discard) {
    Block& block = blocks_[i];
    block.slot->Delete();
    block.plugged = false;
    if (!discard) return;
    memory_->Free(i * kBlock, kBlock);
    for (uint64_t& word : block.words) word = 0;
  }
  // The guest writes new words.
  void Use(uint64_t i, uint64_t seed) {
    for (uint64_t n = 0; n < kPages; n++) {
      blocks_[i].words[n] = guest::PatternWord(seed, i * kPages + n);
      EXPECT_THAT(vm_.guest().Write(Address(i, n), blocks_[i].words[n]), Succeeds());
    }
  }
  // The guest reads what it wrote, or zeroes, or finds nothing.
  void Expect(uint64_t i) {
    for (uint64_t n = 0; n < kPages; n++) {
      if (plugged(i))
        EXPECT_THAT(vm_.guest().Read(Address(i, n)), Returns(blocks_[i].words[n])) << "block " << i;
      else
        EXPECT_THAT(vm_.guest().Read(Address(i, n)), IsMmioReadAt(Address(i, n))) << "block " << i;
    }
  }

 private:
  static constexpr uint64_t kPages = 3;
  struct Block {
    std::optional<MemorySlot> slot;
    bool plugged = false;
    uint64_t words[kPages] = {};
  };
  // In the first page, the last one, and one that is elsewhere in each block.
  Gpa Address(uint64_t i, uint64_t n) const {
    const uint64_t pages = kBlock / kPageSize;
    const uint64_t page = n == 0 ? 0 : n == 1 ? pages - 1 : 1 + i * 4801 % (pages - 2);
    return RangeOf(i).start + page * kPageSize + n * 8;
  }

  TestVm& vm_;
  Gpa start_;
  uint64_t count_;
  std::shared_ptr<GuestMemory> memory_;
  std::vector<Block> blocks_;
};

TEST_P(VmmMemory, BlocksArePluggedAndUnplugged) {
  constexpr int kSteps = 100;
  TestVm vm(Config());
  Blocks blocks(vm);
  RecordProperty("blocks", std::to_string(blocks.count()));
  std::cout << "# blocks: " << blocks.count() << "\n";
  for (uint64_t i = 0; i < blocks.count(); i++) {
    blocks.Plug(i);
    blocks.Use(i, kSeed);
  }
  std::mt19937_64 random(kSeed);
  for (int step = 0; step < kSteps && !HasFailure(); step++) {
    SCOPED_TRACE("step " + std::to_string(step));
    const uint64_t block = random() % blocks.count();
    const uint64_t kind = random();
    // One that has been used all along is still mapped afterwards.
    const uint64_t other = (block + 1 + random() % (blocks.count() - 1)) % blocks.count();
    blocks.Expect(other);
    if (blocks.plugged(block)) {
      blocks.Expect(block);
      blocks.Unplug(block, kind % 2 == 0);
    } else {
      blocks.Plug(block);
      if (kind % 4 != 0) blocks.Use(block, kSeed + kind);
    }
    const uint64_t faults = vm.FixedFaults();
    if (blocks.plugged(other)) {
      blocks.Expect(other);
      if (!slot_zap_all()) {
        EXPECT_EQ(vm.FixedFaults(), faults)
            << kPrecision << "block " << other << " was faulted in again";
      }
    }
    blocks.Expect(block);
  }
  for (uint64_t i = 0; i < blocks.count(); i++) blocks.Expect(i);
}

// --- other processes
// -------------------------------------------------------------------------------

// A backend that has the guest's memory file, and maps it on its own.
class Backend {
 public:
  Backend(const GuestMemory& memory, Backing backing)
      : child_([fd = memory.file(), size = memory.size(), backing,
                mapping = std::make_shared<Mapping>()](uint64_t request) -> uint64_t {
          const auto command = static_cast<Command>(request >> 56);
          const uint64_t page = request >> 32 & 0xffffff;
          const uint64_t seed = request & 0xffffffff;
          if (command == kLeave) {
            *mapping = Mapping();
            return 1;
          }
          if (command == kPunch) {
            PunchHole(fd, page * kPageSize, seed * kPageSize);
            return 1;
          }
          if (!mapping->valid()) *mapping = Mapping::Shared(fd, size, 0, BackingPageSize(backing));
          for (uint64_t i = 0; i < kPageSize / 8; i++) {
            uint64_t& word = *mapping->at<uint64_t>(page * kPageSize + i * 8);
            if (command == kWrite)
              __atomic_store_n(&word, guest::PatternWord(seed, i), __ATOMIC_RELEASE);
            else if (__atomic_load_n(&word, __ATOMIC_ACQUIRE) != guest::PatternWord(seed, i))
              return 0;
          }
          return 1;
        }) {}

  // Fills a page with the pattern of `seed`, or sees it there.
  void Write(uint64_t page, uint32_t seed) { child_.Do(Request(kWrite, page, seed)); }
  bool Sees(uint64_t page, uint32_t seed) { return child_.Do(Request(kSee, page, seed)) == 1; }
  void Punch(uint64_t page, uint32_t pages) { child_.Do(Request(kPunch, page, pages)); }
  // Unmaps its mapping; the next request maps it again.
  void Leave() { child_.Do(Request(kLeave, 0, 0)); }
  void End() { child_.End(); }

 private:
  enum Command : uint64_t { kWrite = 1, kSee, kPunch, kLeave };
  static uint64_t Request(Command command, uint64_t page, uint32_t argument) {
    return command << 56 | page << 32 | argument;
  }

  ForkedProcess child_;
};

struct Shared {
  Shared(TestVm& v, Backing b)
      : vm(v),
        backing(b),
        page_size(BackingPageSize(b)),
        slot(v.AddSlot(kGpa, b == Backing::k4K ? 256_KiB : 2 * BackingPageSize(b), b)),
        other(v.AddFilledSlot(kGpa + slot.range().size, 256_KiB, kSeed + 1)),
        contents(slot.range().pages(), kSeed),
        backend(slot.memory(), b) {
    contents.Store(slot.memory());
    EXPECT_THAT(contents.VerifyBy(vm.guest(), kGpa), SeesPattern());
    EXPECT_THAT(vm.guest().TouchWrite({slot.range(), other.range()}), Succeeds());
  }
  void ExpectContents(Gpa gpa = kGpa) {
    EXPECT_EQ(contents.ProblemIn(slot.memory()), "") << "as the host sees it";
    EXPECT_THAT(contents.VerifyBy(vm.guest(), gpa), SeesPattern());
    EXPECT_THAT(vm.guest().Verify({PatternOf(other, kSeed + 1)}), SeesPattern());
  }
  void WriteByBackend(uint64_t page, uint32_t seed) {
    backend.Write(page, seed);
    contents.Fill(page, 1, seed);
  }
  void WriteByGuest(uint64_t page, uint32_t seed) {
    EXPECT_THAT(vm.guest().Fill(
                    {{.range = {slot.page(static_cast<int64_t>(page)), kPageSize}, .seed = seed}}),
                Succeeds());
    contents.Fill(page, 1, seed);
  }

  TestVm& vm;
  Backing backing;
  uint64_t page_size;
  MemorySlot slot;
  MemorySlot other;
  PageContents contents;
  Backend backend;
};

class SharedMemory : public VmmMemory {
 protected:
  static constexpr Backing kBackings[] = {Backing::k4K, Backing::k2M};
  static std::string Missing(Backing backing) { return BackingUnavailable(backing, 2); }
};

// Backend and guest see what the other one wrote, before the slot goes, after it came back, and
// what the backend wrote in between.
TEST_P(SharedMemory, WithAnotherProcess) {
  for (const Backing backing : kBackings) {
    SCOPED_TRACE("pages of " + SizeString(BackingPageSize(backing)));
    if (const std::string reason = Missing(backing); !reason.empty()) GTEST_SKIP() << reason;
    TestVm vm(Config());
    Shared shared(vm, backing);
    for (uint32_t round = 0; round < 4; round++) {
      const uint64_t page = uint64_t{round} * 7;
      shared.WriteByBackend(page, 100 + round);
      shared.WriteByGuest(page + 1, 200 + round);
      EXPECT_TRUE(shared.backend.Sees(page + 1, 200 + round));
      if (round % 2 == 0)
        shared.slot.Delete();
      else
        shared.slot.MoveTo(kAway);
      EXPECT_THAT(vm.guest().TouchRead({{kGpa, 256_KiB}}), FindsNothingIn({kGpa, 256_KiB}));
      EXPECT_TRUE(shared.backend.Sees(page + 1, 200 + round)) << "the memory is still there";
      shared.WriteByBackend(page + 2, 300 + round);
      shared.WriteByBackend(page + 1, 400 + round);
      ExpectStillMapped(vm, shared.other);
      if (round % 2 == 0)
        shared.slot.Add();
      else
        shared.slot.MoveTo(kGpa);
      shared.ExpectContents();
    }
  }
}

// What another process does to its own mapping, and its end, are nothing to this VM.
TEST_P(SharedMemory, TheOtherProcessLeaves) {
  for (const Backing backing : kBackings) {
    SCOPED_TRACE("pages of " + SizeString(BackingPageSize(backing)));
    if (const std::string reason = Missing(backing); !reason.empty()) GTEST_SKIP() << reason;
    TestVm vm(Config());
    Shared shared(vm, backing);
    shared.WriteByBackend(2, 7);
    {
      ZapWatch watch(vm.vm());
      shared.backend.Leave();
      EXPECT_THAT(watch.Stop(), ZappedOnly({}, CurrentMmuMode()));
    }
    shared.slot.Delete();
    shared.WriteByBackend(3, 8);
    shared.slot.Add();
    shared.ExpectContents();
    {
      ZapWatch watch(vm.vm());
      shared.backend.End();
      EXPECT_THAT(watch.Stop(), ZappedOnly({}, CurrentMmuMode()));
    }
    shared.ExpectContents();
    shared.slot.Delete();
    shared.slot.Add();
    shared.ExpectContents();
  }
}

// The other process punches a hole: under the slot, which zaps just that; while it is gone; and
// right before it goes.  The guest finds zeroes there, and the rest as it was.
TEST_P(SharedMemory, HolesArePunched) {
  for (const Backing backing : kBackings) {
    SCOPED_TRACE("pages of " + SizeString(BackingPageSize(backing)));
    if (const std::string reason = Missing(backing); !reason.empty()) GTEST_SKIP() << reason;
    TestVm vm(Config());
    Shared shared(vm, backing);
    // A hole of whole pages of the file: one of two large ones, or 8 of 64 small ones.
    const uint64_t pages = backing == Backing::k4K ? 8 : shared.page_size / kPageSize;
    const uint64_t first = backing == Backing::k4K ? 16 : pages;
    const GpaRange hole = {kGpa + first * kPageSize, pages * kPageSize};
    const auto punch = [&] {
      shared.backend.Punch(first, static_cast<uint32_t>(pages));
      shared.contents.Zero(first, pages);
    };
    const auto refill = [&](uint64_t seed) {
      ASSERT_THAT(vm.guest().Fill({{.range = hole, .seed = seed}}), Succeeds());
      shared.contents.Fill(first, pages, seed);
      shared.ExpectContents();
    };

    ZapWatch watch(vm.vm());
    punch();
    const ZapReport report = watch.Stop();
    if (backing == Backing::k4K) {
      EXPECT_THAT(report, ZappedOnly({{hole}}, CurrentMmuMode()));
    }
    ExpectStillMapped(vm, shared.other);
    shared.ExpectContents();
    refill(kSeed + 10);

    shared.slot.Delete();
    ZapWatch gone(vm.vm());
    punch();
    EXPECT_THAT(gone.Stop(), ZappedOnly({}, CurrentMmuMode())) << "no slot has that memory";
    shared.slot.Add();
    shared.ExpectContents();
    refill(kSeed + 11);

    punch();
    shared.slot.Delete();
    shared.WriteByBackend(first + 1, 12);
    shared.slot.Add();
    shared.ExpectContents();
    refill(kSeed + 13);
    shared.slot.MoveTo(kAway);
    punch();
    shared.ExpectContents(kAway);
    EXPECT_THAT(vm.guest().TouchRead({hole}), FindsNothingIn(hole));
  }
}

// The file gets shorter under the slot, and long again while it is gone.
TEST_P(SharedMemory, TheFileShrinks) {
  TestVm vm(Config());
  Shared shared(vm, Backing::k4K);
  const uint64_t pages = shared.contents.pages();
  ResizeFile(shared.slot.memory().file(), pages / 2 * kPageSize);
  EXPECT_THAT(vm.guest().Read(shared.slot.page(0)), Returns(guest::PatternWord(kSeed, 0)));
  EXPECT_THROW(vm.guest().Read(shared.slot.page(-1)), KvmError) << "EFAULT: there is no page";
  shared.slot.Delete();
  EXPECT_THAT(vm.guest().Resume(), IsMmioReadAt(kGpa + (pages - 1) * kPageSize));
  ResizeFile(shared.slot.memory().file(), pages * kPageSize);
  shared.contents.Zero(pages / 2, pages / 2);
  shared.slot.Add();
  shared.ExpectContents();
  ExpectStillMapped(vm, shared.other);
}

// --- balloons
// --------------------------------------------------------------------------------------

// The host takes pages back, the guest gets zeroes when it uses them again, and slots go and come
// before, between and after.
class Balloon : public VmmMemory {
 protected:
  // How the host takes pages is up to the kind of memory.
  using Take = void (*)(const GuestMemory& memory, uint64_t offset, uint64_t size);
  void InflateAndDeflate(const std::shared_ptr<GuestMemory>& memory, Take take) const;
};

void Balloon::InflateAndDeflate(const std::shared_ptr<GuestMemory>& memory, Take take) const {
  const uint64_t all = memory->size() / kPageSize;
  TestVm vm(Config());
  MemorySlot slot = vm.vm().AddSlot({.gpa = kGpa, .memory = memory});
  MemorySlot other = vm.AddFilledSlot(kGpa + slot.range().size, 256_KiB, kSeed + 1);
  PageContents contents(all, kSeed);
  contents.Store(slot.memory());
  ASSERT_THAT(vm.guest().TouchWrite({slot.range(), other.range()}), Succeeds());
  std::mt19937_64 random(kSeed);
  for (uint64_t round = 0; round < 8; round++) {
    SCOPED_TRACE("round " + std::to_string(round));
    // Inflated while the slot is there, or gone.
    const bool gone = round % 2 == 1;
    if (gone) slot.Delete();
    std::vector<std::pair<uint64_t, uint64_t>> taken;  // page, pages
    for (int i = 0; i < 6; i++) {
      const uint64_t pages = 1 + random() % 12;
      const uint64_t page = random() % (all - pages);
      take(*memory, page * kPageSize, pages * kPageSize);
      contents.Zero(page, pages);
      taken.emplace_back(page, pages);
    }
    if (gone) {
      EXPECT_THAT(vm.guest().TouchRead({slot.range()}), FindsNothingIn(slot.range()));
      slot.Add();
    } else if (round % 4 == 2) {
      slot.Delete();
      slot.Add();
    }
    ExpectStillMapped(vm, other);
    // Deflated: the guest uses some of them again.
    for (size_t i = 0; i < taken.size(); i += 2) {
      const auto [page, pages] = taken[i];
      ASSERT_THAT(
          vm.guest().Fill({{.range = {slot.page(static_cast<int64_t>(page)), pages * kPageSize},
                            .seed = kSeed + 2 + round}}),
          Succeeds());
      contents.Fill(page, pages, kSeed + 2 + round);
    }
    EXPECT_THAT(contents.VerifyBy(vm.guest(), kGpa), SeesPattern());
    EXPECT_EQ(contents.ProblemIn(slot.memory()), "");
  }
  EXPECT_THAT(vm.guest().Verify({PatternOf(other, kSeed + 1)}), SeesPattern());
}

// MADV_DONTNEED.
TEST_P(Balloon, OfPrivateMemory) {
  InflateAndDeflate(GuestMemory::Anonymous(1_MiB),
                    [](const GuestMemory& memory, uint64_t offset, uint64_t size) {
                      memory.mapping().Discard(offset, size);
                    });
}

// MADV_REMOVE: MADV_DONTNEED would leave what is in the file.
TEST_P(Balloon, OfAFile) {
  InflateAndDeflate(
      std::make_shared<GuestMemory>(1_MiB),
      [](const GuestMemory& memory, uint64_t offset, uint64_t size) { memory.Free(offset, size); });
}

// --- a VMM that forks
// ------------------------------------------------------------------------------

struct Private {
  explicit Private(TestVm& v)
      : vm(v),
        slot(v.vm().AddSlot({.gpa = kGpa, .memory = GuestMemory::Anonymous(kSize)})),
        other(v.AddFilledSlot(kGpa + kSize, kSize, kSeed + 1)) {
    contents.Store(slot.memory());
    EXPECT_THAT(vm.guest().TouchWrite({slot.range(), other.range()}), Succeeds());
  }
  void ExpectContents() {
    EXPECT_EQ(contents.ProblemIn(slot.memory()), "") << "as the host sees it";
    EXPECT_THAT(contents.VerifyBy(vm.guest(), kGpa), SeesPattern());
    EXPECT_THAT(vm.guest().Verify({PatternOf(other, kSeed + 1)}), SeesPattern());
  }

  static constexpr uint64_t kPages = 64;
  static constexpr uint64_t kSize = kPages * kPageSize;
  TestVm& vm;
  MemorySlot slot;
  MemorySlot other;
  PageContents contents{kPages, kSeed};
};

// A child that has a copy of the memory: Do(0) writes to all of it, Do(1) says whether it is as the
// child knows it.
class Copy {
 public:
  explicit Copy(Private& original)
      : child_([&memory = original.slot.memory(),
                contents = original.contents](uint64_t check) mutable -> uint64_t {
          if (check != 0) return contents.ProblemIn(memory).empty() ? 1 : 0;
          contents.Fill(0, Private::kPages, kSeed + 100);
          contents.Store(memory);
          return 1;
        }) {}
  void WriteAll() { child_.Do(0); }
  bool IsRight() { return child_.Do(1) == 1; }
  void End() { child_.End(); }

 private:
  ForkedProcess child_;
};

// Private memory is shared with a child until one of them writes.  Whoever does, before the slot
// goes or after it is back: the guest has the parent's pages, and the child its own.
TEST_P(VmmMemory, TheVmmForks) {
  for (const bool child_first : {false, true}) {
    SCOPED_TRACE(child_first ? "the child writes first" : "the guest writes first");
    TestVm vm(Config());
    Private memory(vm);
    ZapWatch watch(vm.vm());
    Copy child(memory);
    EXPECT_THAT(watch.Stop(), ZappedOnly({{memory.slot.range()}}, CurrentMmuMode()))
        << "all that is private is shared now, and so it is read-only";
    ExpectStillMapped(vm, memory.other);
    const auto write = [&](uint64_t page, uint64_t seed) {
      ASSERT_THAT(
          vm.guest().Fill({{.range = {memory.slot.page(static_cast<int64_t>(page)), 8 * kPageSize},
                            .seed = seed}}),
          Succeeds());
      memory.contents.Fill(page, 8, seed);
    };
    // A page that the guest only reads is the one that both have.
    memory.ExpectContents();
    if (child_first) child.WriteAll();
    memory.ExpectContents();
    write(0, kSeed + 2);
    memory.slot.Delete();
    EXPECT_TRUE(child.IsRight());
    memory.slot.Add();
    memory.ExpectContents();
    write(16, kSeed + 3);
    if (!child_first) child.WriteAll();
    EXPECT_TRUE(child.IsRight());
    memory.ExpectContents();
    memory.slot.MoveTo(kAway);
    memory.slot.MoveTo(kGpa);
    write(32, kSeed + 4);
    child.End();
    memory.ExpectContents();
    memory.slot.Delete();
    memory.slot.Add();
    memory.ExpectContents();
  }
}

// Forked off while the slot is gone.
TEST_P(VmmMemory, TheVmmForksWhileTheSlotIsGone) {
  TestVm vm(Config());
  Private memory(vm);
  memory.slot.Delete();
  ZapWatch watch(vm.vm());
  Copy child(memory);
  EXPECT_THAT(watch.Stop(), ZappedOnly({}, CurrentMmuMode()));
  memory.contents.Fill(8, 8, kSeed + 2);
  memory.contents.Store(memory.slot.memory());
  EXPECT_TRUE(child.IsRight());
  child.WriteAll();
  memory.slot.Add();
  memory.ExpectContents();
  EXPECT_TRUE(child.IsRight());
}

// As QEMU does: children have nothing there, so that a fork leaves the memory, and all SPTEs,
// alone.
TEST_P(VmmMemory, MemoryThatIsKeptFromChildren) {
  TestVm vm(Config());
  Private memory(vm);
  memory.slot.memory().mapping().KeepFromChildren(0, Private::kSize);
  const uint64_t faults = vm.FixedFaults();
  ZapWatch watch(vm.vm());
  ForkedProcess child([](uint64_t value) { return value; });
  EXPECT_EQ(child.Do(1), 1u);
  EXPECT_THAT(watch.Stop(), ZappedOnly({}, CurrentMmuMode()));
  EXPECT_THAT(vm.guest().TouchWrite({memory.slot.range(), memory.other.range()}), Succeeds());
  EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision;
  memory.slot.Delete();
  memory.slot.Add();
  memory.ExpectContents();
}

// A vCPU runs all along, on private memory, while children come and go and a slot next to it does.
TEST_P(VmmMemory, TheVmmForksWhileAVcpuRuns) {
  TestVm vm(Config(2));
  Private memory(vm);
  MemorySlot victim = vm.AddFilledSlot(2_GiB, 64_KiB, kSeed + 5);
  VerifyLoop always(vm.guest(1), {PatternOf(memory.slot, kSeed)});
  for (int round = 0; round < 5; round++) {
    Copy child(memory);
    victim.Delete();
    always.WaitForPasses(1);
    child.WriteAll();
    always.WaitForPasses(1);
    EXPECT_THAT(vm.guest().TouchWrite({memory.slot.range()}), Succeeds());
    victim.Add();
    EXPECT_THAT(vm.guest().Verify({PatternOf(victim, kSeed + 5)}), SeesPattern());
    EXPECT_TRUE(child.IsRight());
  }
  const Outcome& outcome = always.Stop();
  EXPECT_TRUE(outcome.done) << outcome.exit_text;
  EXPECT_EQ(outcome.verdict.matches, outcome.verdict.words) << outcome;
  memory.ExpectContents();
}

// A child inherits the VM's file descriptors, and so the VM outlives the process that could use it,
// with and without the slot.
TEST_P(VmmMemory, AChildOutlivesTheVm) {
  for (const bool gone : {false, true}) {
    std::optional<TestVm> vm(std::in_place, Config());
    auto memory = std::make_unique<Private>(*vm);
    Copy child(*memory);
    if (gone) memory->slot.Delete();
    const PageContents expected = memory->contents;
    const std::shared_ptr<GuestMemory> kept = memory->slot.config().memory;
    memory.reset();
    vm.reset();
    child.WriteAll();
    EXPECT_EQ(expected.ProblemIn(*kept), "");
    EXPECT_TRUE(child.IsRight());
    child.End();
    EXPECT_EQ(expected.ProblemIn(*kept), "");
    // The memory can be another VM's.
    TestVm next(Config());
    next.vm().AddSlot({.gpa = kGpa, .memory = kept});
    EXPECT_THAT(expected.VerifyBy(next.guest(), kGpa), SeesPattern());
  }
}

SLOTZAP_INSTANTIATE(VmmMemory);
SLOTZAP_INSTANTIATE(Balloon);
SLOTZAP_INSTANTIATE(SharedMemory);

}  // namespace
}  // namespace slotzap

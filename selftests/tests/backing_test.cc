// SPDX-License-Identifier: GPL-2.0-only
// Theme: the memory behind a slot.  What the host knows of its pages, and what it does to them,
// before and after the slot is deleted.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/file_descriptor.h"
#include "host/page_flags.h"
#include "host/scratch_file.h"
#include "tests/slot_test.h"

namespace slotzap {
namespace {

constexpr uint64_t kSeed = 0xbac;
constexpr Gpa kGpa = 1_GiB;
constexpr uint64_t kSize = 256_KiB;

class HostMemory : public SlotTest {
 protected:
  static std::shared_ptr<GuestMemory> Filled(std::shared_ptr<GuestMemory> memory) {
    FillMemory(*memory, {.pages = memory->size() / kPageSize, .seed = kSeed});
    return memory;
  }
};

// A page that the guest wrote to is dirty: the host must write it back before it drops it.  Where
// only KVM's SPTE knows, zapping it has to tell (kvm_set_pfn_dirty()).  Anonymous memory shows
// that: its PTEs are dirty from the start, its pages (PG_dirty) are not.
TEST_P(HostMemory, DirtyStateOutlivesTheSlot) {
  if (const std::string reason = PageFlags::Unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  const PageFlags flags;
  for (const bool move : {false, true}) {
    SCOPED_TRACE(move ? "moved" : "deleted");
    TestVm vm(Config());
    MemorySlot slot = vm.vm().AddSlot({.gpa = kGpa, .memory = GuestMemory::Anonymous(kSize)});
    MemorySlot rom = vm.vm().AddSlot(
        {.gpa = kGpa + kSize, .memory = GuestMemory::Anonymous(kSize), .flags = KVM_MEM_READONLY});
    const auto dirty_pages = [&flags](const MemorySlot& of) {
      uint64_t dirty = 0;
      for (uint64_t offset = 0; offset < kSize; offset += kPageSize)
        dirty += flags.IsDirty(of.memory().data() + offset) ? 1 : 0;
      return dirty;
    };
    ASSERT_THAT(vm.guest().TouchWrite({{kGpa, 64_KiB}}), Succeeds());
    ASSERT_THAT(vm.guest().TouchRead({rom.range()}), Succeeds());
    if (dirty_pages(slot) != 0)
      GTEST_SKIP() << "this kernel marks pages as dirty before their SPTEs are zapped";
    if (move) {
      slot.MoveTo(2_GiB);
      rom.MoveTo(3_GiB);
    } else {
      slot.Delete();
      rom.Delete();
    }
    EXPECT_EQ(dirty_pages(slot), 16u) << "16 pages were mapped for the guest to write to";
    EXPECT_EQ(dirty_pages(rom), 0u) << "pages of a read-only slot can't be dirty";
  }
}

// Large pages: what KVM knows of one SPTE is true of all of the page.
TEST_P(HostMemory, DirtyStateOfLargePagesOutlivesTheSlot) {
  if (const std::string reason = PageFlags::Unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  constexpr uint64_t kLargeSize = 4_MiB;
  const PageFlags flags;
  for (const bool move : {false, true}) {
    SCOPED_TRACE(move ? "moved" : "deleted");
    TestVm vm(Config());
    MemorySlot slot =
        vm.vm().AddSlot({.gpa = 32_GiB, .memory = GuestMemory::TransparentHuge(kLargeSize)});
    ASSERT_THAT(vm.guest().Write(slot.page(7), 1), Succeeds());
    ASSERT_THAT(vm.guest().Write(slot.page(600), 1), Succeeds());
    if (PresentLeaves(vm.vm().stats().Read()).k2M != 2)
      GTEST_SKIP() << "no transparent huge pages, or the guest has none of 1 GiB";
    const auto is_dirty = [&](uint64_t offset) {
      return flags.IsDirty(slot.memory().data() + offset);
    };
    if (is_dirty(0) || is_dirty(2_MiB))
      GTEST_SKIP() << "this kernel marks pages as dirty before their SPTEs are zapped";
    if (move)
      slot.MoveTo(40_GiB);
    else
      slot.Delete();
    EXPECT_TRUE(is_dirty(0));
    EXPECT_TRUE(is_dirty(2_MiB));
  }
}

// That the guest used a page, too: else the host takes it for one that nobody needs.
TEST_P(HostMemory, AccessedStateOutlivesTheSlot) {
  if (const std::string reason = PageFlags::Unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  const PageFlags flags;
  for (const bool move : {false, true}) {
    SCOPED_TRACE(move ? "moved" : "deleted");
    TestVm vm(Config());
    MemorySlot slot =
        vm.vm().AddSlot({.gpa = kGpa, .memory = Filled(GuestMemory::Anonymous(kSize))});
    const auto referenced = [&] {
      uint64_t pages = 0;
      for (uint64_t offset = 0; offset < kSize; offset += kPageSize)
        pages += flags.IsReferenced(slot.memory().data() + offset) ? 1 : 0;
      return pages;
    };
    ASSERT_THAT(vm.guest().TouchRead({slot.range()}), Succeeds());
    const Leaves before = PresentLeaves(vm.vm().stats().Read());
    // Of what this process's own page tables know, and the pages' flags; KVM isn't asked.
    WriteFile("/proc/self/clear_refs", "1");
    ASSERT_EQ(PresentLeaves(vm.vm().stats().Read()), before);
    ASSERT_EQ(referenced(), 0u);
    if (move)
      slot.MoveTo(2_GiB);
    else
      slot.Delete();
    EXPECT_EQ(referenced(), kSize / kPageSize) << "64 pages were mapped for the guest to read";
  }
}

// The same for a file on a disk: what the guest wrote is there after its page cache was written
// back once, and dirtied again.  O_DIRECT reads what is on the disk, and makes the kernel write to
// it before no more than what it takes for dirty.
// The host's own PTEs are dirty as well, so this is about the whole of it: KVM's part alone is in
// DirtyStateOutlivesTheSlot.
TEST_P(HostMemory, WritesToAFileReachTheDisk) {
  if (const std::string reason = DirectIoUnavailable(); !reason.empty()) GTEST_SKIP() << reason;
  for (const bool move : {false, true}) {
    SCOPED_TRACE(move ? "moved" : "deleted");
    TestVm vm(Config());
    MemorySlot slot =
        vm.vm().AddSlot({.gpa = kGpa, .memory = GuestMemory::OfFile(DirectFile(kSize), kSize)});
    MemorySlot other = vm.AddSlot(kGpa + 1_MiB, kSize);
    const int file = slot.memory().file();
    const auto write = [&](int64_t page, uint64_t value) {
      ASSERT_THAT(vm.guest().Write(slot.page(page), value), Succeeds());
    };
    for (int64_t page = 0; page < 16; page++) write(page, 0xf11e + static_cast<uint64_t>(page));
    ASSERT_EQ(fsync(file), 0);
    for (int64_t page = 8; page < 24; page++) write(page, 0xf22e + static_cast<uint64_t>(page));
    if (move) {
      slot.MoveTo(2_GiB);
      write(30, 0xf33e);
    }
    slot.Delete();
    other.Delete();
    slot.memory().mapping().UnmapPart(0, kSize);

    const Mapping disk = Mapping::Anonymous(kSize);
    ASSERT_EQ(pread(file, disk.data(), kSize, 0), static_cast<ssize_t>(kSize));
    for (uint64_t page = 0; page < kSize / kPageSize; page++) {
      uint64_t expected = page < 8 ? 0xf11e + page : page < 24 ? 0xf22e + page : 0;
      if (move && page == 30) expected = 0xf33e;
      uint64_t word = 0;
      std::memcpy(&word, disk.data() + page * kPageSize, sizeof(word));
      EXPECT_EQ(word, expected) << "page " << page;
    }
  }
}

// To zap what maps a slot, KVM may let others have mmu_lock in between, and who has it next takes
// what isn't mapped for what isn't in a TLB: what was zapped for another slot before is flushed by
// then.
TEST_P(HostMemory, OneSlotIsFlushedBeforeTheNextIsZapped) {
  if (const std::string reason =
          KnownBug("KVM flushes but once for all memslots of an mmu notifier's range");
      !reason.empty())
    GTEST_SKIP() << reason;
  TestVm vm(Config());
  const auto memory = GuestMemory::Anonymous(2 * kSize);
  MemorySlot first = vm.vm().AddSlot({.gpa = kGpa, .memory = memory, .size = kSize});
  MemorySlot second =
      vm.vm().AddSlot({.gpa = kGpa + 1_MiB, .memory = memory, .offset = kSize, .size = kSize});
  EXPECT_EQ(FewestFlushes(
                vm,
                [&] {
                  ASSERT_THAT(vm.guest().TouchWrite({first.range(), second.range()}), Succeeds());
                },
                [&] { memory->Unmap(0, 2 * kSize); }),
            2u);
}

// What the host can do to memory: the name, and how to do it to [offset, offset + size).
struct HostEvent {
  std::string name;
  bool file = false;  // needs a memory file; anonymous memory otherwise
  std::function<void(const GuestMemory&, uint64_t offset, uint64_t size)> apply;
  // What the guest reads then: the old contents, or zeros.  Nothing can be read if not `readable`.
  bool readable = true;
  bool keeps_contents = false;
};

const std::vector<HostEvent>& HostEvents() {
  using Memory = const GuestMemory&;
  static const std::vector<HostEvent> events = {
      {.name = "munmap",
       .apply = [](Memory m, uint64_t offset,
                   uint64_t size) { m.mapping().UnmapPart(offset, size); },
       .readable = false},
      {.name = "MADV_DONTNEED",
       .apply = [](Memory m, uint64_t offset,
                   uint64_t size) { m.mapping().Discard(offset, size); }},
      {.name = "mprotect",
       .apply = [](Memory m, uint64_t offset,
                   uint64_t size) { m.mapping().Protect(offset, size, PROT_READ); },
       .keeps_contents = true},
      {.name = "mremap",
       .apply = [](Memory m, uint64_t offset,
                   uint64_t size) { const Mapping gone = m.mapping().MoveAway(offset, size); }},
      {.name = "hole punched",
       .file = true,
       .apply = [](Memory m, uint64_t offset, uint64_t size) { m.Free(offset, size); }},
  };
  return events;
}

std::shared_ptr<GuestMemory> MemoryFor(const HostEvent& event) {
  return event.file ? std::make_shared<GuestMemory>(kSize) : GuestMemory::Anonymous(kSize);
}

// After the delete KVM has nothing to do with the memory any more, be it zapped leaf by leaf or all
// at once: what happens to it concerns no SPTE.
TEST_P(HostMemory, EventsAfterTheDelete) {
  for (const HostEvent& event : HostEvents()) {
    SCOPED_TRACE(event.name);
    TestVm vm(Config());
    MemorySlot slot = vm.vm().AddSlot({.gpa = kGpa, .memory = Filled(MemoryFor(event))});
    MemorySlot other = vm.AddSlot(kGpa + kSize, kSize);
    ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
    slot.Delete();
    ASSERT_THAT(vm.guest().TouchWrite({other.range()}), Succeeds());
    const uint64_t faults = vm.FixedFaults();
    ZapWatch watch(vm.vm());
    event.apply(slot.memory(), 0, kSize);
    const ZapReport report = watch.Stop();
    EXPECT_THAT(report, ZappedOnly({}, CurrentMmuMode()));
    if (report.untraced.empty()) {
      EXPECT_FALSE(report.host_unmaps.empty()) << "KVM was not told, so this tests nothing";
    }
    ASSERT_THAT(vm.guest().TouchWrite({other.range()}), Succeeds());
    EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision << "another slot was faulted in again";
    EXPECT_THAT(vm.guest().Read(kGpa), IsMmioReadAt(kGpa));
  }
}

// The same memory is also in a slot that stays: it loses its SPTEs, and only it.
TEST_P(HostMemory, EventsReachTheOtherSlotWithTheSameMemory) {
  for (const HostEvent& event : HostEvents()) {
    SCOPED_TRACE(event.name);
    TestVm vm(Config());
    MemorySlot slot = vm.vm().AddSlot({.gpa = kGpa, .memory = Filled(MemoryFor(event))});
    MemorySlot alias = vm.vm().AddSlot({.gpa = 2_GiB, .memory = slot.config().memory});
    MemorySlot other = vm.AddSlot(kGpa + kSize, kSize);
    ASSERT_THAT(vm.guest().TouchWrite({slot.range(), alias.range()}), Succeeds());
    slot.Delete();
    ASSERT_THAT(vm.guest().TouchWrite({alias.range(), other.range()}), Succeeds());
    ZapWatch watch(vm.vm());
    event.apply(slot.memory(), 0, kSize);
    EXPECT_THAT(watch.Stop(), ZappedOnly({{alias.range()}}, CurrentMmuMode()));
    const uint64_t faults = vm.FixedFaults();
    ASSERT_THAT(vm.guest().TouchWrite({other.range()}), Succeeds());
    EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision;
    if (event.readable) {
      EXPECT_THAT(vm.guest().Read(alias.page(3)),
                  Returns(event.keeps_contents ? guest::PatternWord(kSeed, 3 * kPageSize / 8) : 0));
    }
  }
}

// A part of a live slot: it alone is zapped, and the delete that follows finds the rest.
TEST_P(HostMemory, EventsInALiveSlot) {
  constexpr uint64_t kOffset = 64_KiB;
  constexpr uint64_t kPart = 32_KiB;  // what KVM maps at most when one page faults (pte prefetch)
  for (const HostEvent& event : HostEvents()) {
    SCOPED_TRACE(event.name);
    TestVm vm(Config());
    MemorySlot victim = vm.AddSlot(kGpa - kSize, kSize);
    MemorySlot slot = vm.vm().AddSlot({.gpa = kGpa, .memory = Filled(MemoryFor(event))});
    ASSERT_THAT(vm.guest().TouchWrite({victim.range(), slot.range()}), Succeeds());
    victim.Delete();
    ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());

    const GpaRange part = {kGpa + kOffset, kPart};
    const GpaRange before = {kGpa, kOffset};
    const GpaRange after = {part.end(), slot.range().end() - part.end()};
    ZapWatch watch(vm.vm());
    event.apply(slot.memory(), kOffset, kPart);
    EXPECT_THAT(watch.Stop(), ZappedOnly({{part}}, CurrentMmuMode()));
    const uint64_t faults = vm.FixedFaults();
    ASSERT_THAT(vm.guest().TouchWrite({before, after}), Succeeds());
    EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision << "the slot's other pages were lost";
    if (event.readable) {
      for (Gpa gpa = part.start; gpa < part.end(); gpa += kPageSize)
        EXPECT_THAT(
            vm.guest().Read(gpa),
            Returns(event.keeps_contents ? guest::PatternWord(kSeed, (gpa - kGpa) / 8) : 0));
    }

    ZapWatch deletion(vm.vm());
    slot.Delete();
    const ZapReport report = deletion.Stop();
    if (slot_zap_all())
      EXPECT_THAT(report, ZappedEverything());
    else if (event.readable)
      EXPECT_THAT(report, ZappedOnly({{slot.range()}}, CurrentMmuMode()));
    else
      EXPECT_THAT(report, ZappedOnly({{before}, {after}}, CurrentMmuMode()));
    EXPECT_THAT(vm.guest().TouchRead({part}), FindsNothingIn(part));
  }
}

// Of what the host takes away only the end is mapped.  KVM skips what isn't, in steps of 2 MiB from
// the slot's start on, and finds it.
TEST_P(HostMemory, EventThatBeginsWhereNothingIsMapped) {
  TestVm vm(Config());
  MemorySlot slot = vm.vm().AddSlot({.gpa = kGpa, .memory = GuestMemory::Anonymous(6_MiB)});
  const GpaRange mapped = {kGpa + 2_MiB, 2_MiB};
  ASSERT_THAT(vm.guest().TouchWrite({mapped}), Succeeds());
  for (const int64_t page : {512, 767, 1023})
    ASSERT_THAT(vm.guest().Write(slot.page(page), 1), Succeeds());
  ZapWatch watch(vm.vm());
  slot.memory().mapping().Discard(1_MiB, 4_MiB);
  EXPECT_THAT(watch.Stop(), ZappedOnly({{mapped}}, CurrentMmuMode()));
  for (const int64_t page : {512, 767, 1023})
    EXPECT_THAT(vm.guest().Read(slot.page(page)), Returns(0)) << "memory that the host took away";
}

// The host takes the memory away first, the slot goes afterwards: nothing is left to zap.
TEST_P(HostMemory, DeleteWithoutMemory) {
  TestVm vm(Config());
  MemorySlot other = vm.AddSlot(kGpa + kSize, kSize);
  MemorySlot slot = vm.vm().AddSlot({.gpa = kGpa, .memory = GuestMemory::Anonymous(kSize)});
  ASSERT_THAT(vm.guest().TouchWrite({slot.range(), other.range()}), Succeeds());
  slot.memory().mapping().UnmapPart(0, kSize);
  ZapWatch watch(vm.vm());
  slot.Delete();
  const ZapReport report = watch.Stop();
  if (slot_zap_all())
    EXPECT_THAT(report, ZappedEverything());
  else
    EXPECT_THAT(report, ZappedOnly({}, CurrentMmuMode()));
  EXPECT_THAT(vm.guest().Read(kGpa), IsMmioReadAt(kGpa));
  EXPECT_THAT(vm.guest().TouchWrite({other.range()}), Succeeds());
}

// After mprotect() the guest's memory is writable again only when the host says so.
TEST_P(HostMemory, WritableAgain) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddSlot(kGpa - kSize, kSize);
  MemorySlot slot = vm.vm().AddSlot({.gpa = kGpa, .memory = GuestMemory::Anonymous(kSize)});
  ASSERT_THAT(vm.guest().TouchWrite({victim.range(), slot.range()}), Succeeds());
  slot.memory().mapping().Protect(0, kSize, PROT_READ);
  victim.Delete();
  EXPECT_THAT(vm.guest().TouchRead({slot.range()}), Succeeds());
  EXPECT_THROW(vm.guest().Write(kGpa, 1), KvmError) << "EFAULT: the host doesn't allow it";
  slot.memory().mapping().Protect(0, kSize, PROT_READ | PROT_WRITE);
  EXPECT_THAT(vm.guest().Resume(), Succeeds());
  EXPECT_EQ(slot.Load(kGpa), 1u);
}

SLOTZAP_INSTANTIATE(HostMemory);

}  // namespace
}  // namespace slotzap

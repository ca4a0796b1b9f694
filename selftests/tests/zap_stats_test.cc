// SPDX-License-Identifier: GPL-2.0-only
// Theme: what KVM itself says about the zaps of memslots, by statistics of the VM and by the
// tracepoint kvm_mmu_zap_memslot, which this project's series add.
#include <optional>
#include <vector>

#include "host/tracefs.h"
#include "tests/slot_test.h"

namespace slotzap {
namespace {

constexpr Gpa kVictim = 1_GiB;
constexpr char kEvent[] = "kvmmmu:kvm_mmu_zap_memslot";

// The statistics slot_zap*.
struct SlotZaps {
  uint64_t all = 0;  // memslots whose going zapped everything
  uint64_t zaps = 0;
  uint64_t leafs = 0;
  uint64_t pages = 0;
  uint64_t flushes = 0;

  static SlotZaps Of(const Vm& vm) {
    const StatsSnapshot stats = vm.stats().Read();
    return {stats["slot_zaps_all"], stats["slot_zaps"], stats["slot_zap_leafs"],
            stats["slot_zap_pages"], stats["slot_zap_flushes"]};
  }
  SlotZaps operator-(const SlotZaps& o) const {
    return {all - o.all, zaps - o.zaps, leafs - o.leafs, pages - o.pages, flushes - o.flushes};
  }
};

class ZapStats : public SlotTest {
 protected:
  void SetUp() override {
    SlotTest::SetUp();
    if (IsSkipped()) return;
    TestVm vm(Config());
    const bool there = vm.vm().stats().Read().has("slot_zaps");
    if (!there && !HasSeries()) GTEST_SKIP() << "this kernel has no statistics of slot zaps";
    ASSERT_TRUE(there) << kPrecision << "no statistic slot_zaps";
  }

  // Deletes (or moves) the victim by `update` and checks that the statistics say what they should:
  // `leafs` SPTEs if only it was zapped.
  template <typename Update>
  SlotZaps ExpectCounted(TestVm& vm, uint64_t leafs, Update update) {
    const SlotZaps before = SlotZaps::Of(vm.vm());
    const uint64_t requests = vm.vm().stats().Read("remote_tlb_flush_requests");
    update();
    const SlotZaps zaps = SlotZaps::Of(vm.vm()) - before;
    const uint64_t flushes = vm.vm().stats().Read("remote_tlb_flush_requests") - requests;
    EXPECT_EQ(zaps.all, slot_zap_all() ? 1u : 0u) << kPrecision;
    EXPECT_EQ(zaps.zaps, slot_zap_all() ? 0u : 1u) << kPrecision;
    if (slot_zap_all()) {
      EXPECT_EQ(zaps.leafs, 0u) << kPrecision;
      EXPECT_EQ(zaps.pages, 0u) << kPrecision;
      EXPECT_EQ(zaps.flushes, 0u) << kPrecision;
      return zaps;
    }
    EXPECT_EQ(zaps.leafs, leafs) << kPrecision;
    // What is freed without its SPTEs having been zapped is flushed, too.
    if (leafs > 0 || zaps.pages > 0) {
      EXPECT_GE(zaps.flushes, 1u) << kPrecision;
    } else {
      EXPECT_EQ(zaps.flushes, 0u) << kPrecision;
    }
    EXPECT_EQ(zaps.flushes, flushes) << kPrecision << "flushes that were asked for";
    return zaps;
  }
};

TEST_P(ZapStats, Delete) {
  TestVm vm(Config());
  MemorySlot other = vm.AddSlot(2_GiB, 1_MiB);
  for (const unsigned pages : {1u, 7u, 512u, 513u, 1024u}) {
    SCOPED_TRACE(std::to_string(pages) + " pages");
    MemorySlot victim = vm.AddSlot(kVictim, pages * kPageSize);
    ASSERT_THAT(vm.guest().TouchWrite({victim.range(), other.range()}), Succeeds());
    ExpectCounted(vm, pages, [&] { victim.Delete(); });
  }
}

TEST_P(ZapStats, DeleteUntouched) {
  TestVm vm(Config());
  MemorySlot other = vm.AddSlot(2_GiB, 1_MiB);
  ASSERT_THAT(vm.guest().TouchWrite({other.range()}), Succeeds());
  for (const uint64_t size : {4_KiB, 64_MiB}) {
    MemorySlot victim = vm.AddSlot(kVictim, size);
    const SlotZaps zaps = ExpectCounted(vm, 0, [&] { victim.Delete(); });
    EXPECT_EQ(zaps.pages, 0u) << kPrecision;
  }
}

TEST_P(ZapStats, Move) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddSlot(kVictim, 256_KiB);
  ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
  ExpectCounted(vm, victim.range().pages(), [&] { victim.MoveTo(3_GiB); });
  ExpectCounted(vm, 0, [&] { victim.MoveTo(kVictim); });
}

// Adding a slot, and changing flags, is no zap of a memslot.
TEST_P(ZapStats, OtherUpdatesDoNotCount) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddSlot(kVictim, 64_KiB);
  ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  const SlotZaps before = SlotZaps::Of(vm.vm());
  slot.SetFlags(KVM_MEM_LOG_DIRTY_PAGES);
  slot.SetFlags(0);
  MemorySlot other = vm.AddSlot(2_GiB, 64_KiB);
  const SlotZaps zaps = SlotZaps::Of(vm.vm()) - before;
  EXPECT_EQ(zaps.all, 0u) << kPrecision;
  EXPECT_EQ(zaps.zaps, 0u) << kPrecision;
  EXPECT_EQ(zaps.leafs, 0u) << kPrecision;
}

// By the page tables that the slot had for itself: they are gone, and counted.
TEST_P(ZapStats, PageTables) {
  if (slot_zap_all()) GTEST_SKIP() << "not counted if everything goes";
  TestVm vm(Config());
  vm.MapOwnMemory();
  // Where the guest has 1 GiB pages: in shadow mode its own tables have no part in it.
  MemorySlot victim = vm.AddSlot(40_GiB, 4_MiB);
  ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
  const SlotZaps zaps = ExpectCounted(vm, victim.range().pages(), [&] { victim.Delete(); });
  // Two of level 1, one of level 2, and, but for the TDP MMU's root above, that of level 3.
  EXPECT_GE(zaps.pages, 3u) << kPrecision;
  EXPECT_LE(zaps.pages, 4u) << kPrecision;
  victim.Add();
  EXPECT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
}

// Slots that begin and end at a page table's bounds and within, with and without a neighbour there:
// which page tables go is known exactly.
TEST_P(ZapStats, PageTablesAtTheEdges) {
  if (slot_zap_all()) GTEST_SKIP() << "not counted if everything goes";
  // Where the guest has 1 GiB pages.
  constexpr Gpa kBase = 40_GiB;
  const struct {
    Gpa start;
    uint64_t size;
    bool neighbours;  // of 1 MiB each
    uint64_t pages;
    // An access to where no memory is, in the same page tables, which KVM remembers there.
    bool mmio = false;
  } kShapes[] = {
      {kBase, 2_MiB, false, 1 + 1},
      {kBase, 8_MiB, false, 4 + 1},
      {kBase + 1_MiB, 4_MiB, false, 3 + 1},
      {kBase + 1_MiB, 6_MiB, false, 4 + 1},
      {kBase + 1_GiB - 1_MiB, 2_MiB, false, 2 + 2},
      {kBase + 1_MiB, 6_MiB, true, 2},
      {kBase + 2_MiB, 6_MiB, true, 3},
      {kBase + 1_MiB, 512_KiB, false, 1 + 1, true},
      {kBase + 1_MiB, 4_MiB, false, 3 + 1, true},
  };
  for (const auto& shape : kShapes) {
    SCOPED_TRACE(SizeString(shape.size) + " at " + Hex(shape.start) +
                 (shape.neighbours ? ", with neighbours" : "") +
                 (shape.mmio ? ", with MMIO around it" : ""));
    TestVm vm(Config());
    vm.MapOwnMemory();
    MemorySlot victim = vm.AddSlot(shape.start, shape.size);
    std::vector<MemorySlot> neighbours;
    if (shape.neighbours) {
      neighbours.push_back(vm.AddSlot(victim.range().start - 1_MiB, 1_MiB));
      neighbours.push_back(vm.AddSlot(victim.range().end(), 1_MiB));
    }
    ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
    for (const MemorySlot& slot : neighbours)
      ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
    if (shape.mmio) {
      for (const Gpa gpa : {victim.range().start - kPageSize, victim.range().end()})
        ASSERT_THAT(vm.guest().Read(gpa), IsMmioReadAt(gpa));
    }
    const SlotZaps zaps = ExpectCounted(vm, victim.range().pages(), [&] { victim.Delete(); });
    EXPECT_EQ(zaps.pages, shape.pages) << kPrecision;
    const uint64_t faults = vm.FixedFaults();
    for (const MemorySlot& slot : neighbours)
      ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
    EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision << "neighbours were faulted in again";
  }
}

// The event names the slot, and agrees with the statistics.
TEST_P(ZapStats, TheEventAgrees) {
  if (const std::string reason = TraceInstance::Available(); !reason.empty())
    GTEST_SKIP() << reason;
  TraceInstance trace("slotzap-stats");
  ASSERT_TRUE(trace.HasEvent(kEvent)) << kPrecision;
  trace.Enable(kEvent);
  TestVm vm(Config());
  MemorySlot touched = vm.AddSlot(kVictim, 2_MiB + 3 * kPageSize);
  MemorySlot untouched = vm.AddSlot(2_GiB, 64_KiB);
  ASSERT_THAT(vm.guest().TouchWrite({touched.range()}), Succeeds());
  for (MemorySlot* slot : {&untouched, &touched}) {
    SCOPED_TRACE("slot " + std::to_string(slot->id()));
    trace.Clear();
    const SlotZaps before = SlotZaps::Of(vm.vm());
    trace.Start();
    slot->Delete();
    trace.Stop();
    const SlotZaps zaps = SlotZaps::Of(vm.vm()) - before;
    ASSERT_EQ(trace.lost(), 0u);
    const std::vector<TraceEvent> events = trace.Read();
    ASSERT_EQ(events.size(), 1u) << kPrecision;
    const std::optional<ZapMemslot> zap = DecodeZapMemslot(events[0]);
    ASSERT_TRUE(zap.has_value()) << events[0].name;
    EXPECT_EQ(zap->slot, slot->id()) << kPrecision;
    EXPECT_EQ(zap->as_id, 0) << kPrecision;
    EXPECT_EQ(zap->base_gfn, slot->range().first_gfn()) << kPrecision;
    EXPECT_EQ(zap->npages, slot->range().pages()) << kPrecision;
    EXPECT_EQ(zap->all, slot_zap_all()) << kPrecision;
    EXPECT_EQ(zap->leafs, zaps.leafs) << kPrecision;
    EXPECT_EQ(zap->pages, zaps.pages) << kPrecision;
    EXPECT_EQ(zap->flushes, zaps.flushes) << kPrecision;
    EXPECT_GT(zap->ns, 0u) << kPrecision;
    EXPECT_EQ(zaps.all + zaps.zaps, 1u) << kPrecision;
    if (!slot_zap_all()) {
      EXPECT_EQ(zaps.leafs, slot == &touched ? slot->range().pages() : 0) << kPrecision;
    }
  }
}

// A large page is one leaf.
TEST_P(ZapStats, LargePages) {
  for (const auto& [backing, pages] : {std::pair{Backing::k2M, 4u}, std::pair{Backing::k1G, 1u}}) {
    SCOPED_TRACE(SizeString(BackingPageSize(backing)));
    if (const std::string reason = BackingUnavailable(backing, pages); !reason.empty())
      GTEST_SKIP() << reason;
    TestVm vm(Config());
    vm.MapOwnMemory();
    // Where the guest has 1 GiB pages.
    MemorySlot victim = vm.AddSlot(40_GiB, pages * BackingPageSize(backing), backing);
    const Leaves before = PresentLeaves(vm.vm().stats().Read());
    for (uint64_t page = 0; page < pages; page++)
      ASSERT_THAT(vm.guest().Write(40_GiB + page * BackingPageSize(backing), 1), Succeeds());
    const Leaves leaves = PresentLeaves(vm.vm().stats().Read()) - before;
    ExpectCounted(vm, static_cast<uint64_t>(leaves.total()), [&] { victim.Delete(); });
    if (leaves.total() != pages) {
      EXPECT_NE(backing, Backing::k2M) << "this KVM used " << leaves;
    }
  }
}

// The host took the memory away before: no leaf is left, but the page tables are, and a TLB may
// remember where they are.
TEST_P(ZapStats, PageTablesWithoutLeaves) {
  if (slot_zap_all()) GTEST_SKIP() << "not counted if everything goes";
  for (const uint64_t size : {64_KiB, 4_MiB}) {
    SCOPED_TRACE(SizeString(size));
    TestVm vm(Config());
    vm.MapOwnMemory();
    MemorySlot victim = vm.vm().AddSlot({.gpa = 40_GiB, .memory = GuestMemory::Anonymous(size)});
    ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
    victim.memory().Unmap(0, size);
    const SlotZaps zaps = ExpectCounted(vm, 0, [&] { victim.Delete(); });
    EXPECT_GE(zaps.pages, 2u) << kPrecision << "one of level 1, one of level 2";
    EXPECT_GE(zaps.flushes, 1u) << kPrecision;
  }
}

SLOTZAP_INSTANTIATE(ZapStats);

}  // namespace
}  // namespace slotzap

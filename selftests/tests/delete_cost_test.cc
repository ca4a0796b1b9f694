// SPDX-License-Identifier: GPL-2.0-only
// Theme: the cost of deleting a slot, as far as it can be counted; "make bench" has the times.
#include <algorithm>

#include "guest/page_tables.h"
#include "guest/sparse_slots.h"
#include "harness/main.h"
#include "host/vm_stat.h"
#include "tests/slot_test.h"
#include "tests/test_device.h"

namespace slotzap {
namespace {

constexpr Gpa kVictim = 4_GiB;
constexpr Gpa kResident = 1_GiB;

// A slot far larger than what the host could map, none of which is touched.  Except in the TDP MMU,
// KVM allocates 8 bytes or more for each of its pages.
MemorySlot AddHugeSlot(TestVm& vm) {
  const Gpa top = Gpa{1} << std::min(vm.vm().kvm().PhysicalAddressBits(), 40u);
  const uint64_t size = CurrentMmuMode() == MmuMode::kTdp ? top - kVictim : 64_GiB;
  return vm.vm().AddSlot({.gpa = kVictim, .memory = GuestMemory::Sparse(size)});
}

class DeleteCost : public SlotTest {};

TEST_P(DeleteCost, AHugeSlotCostsOthersNoFault) {
  TestVm vm(Config());
  MemorySlot resident = vm.AddSlot(kResident, 4_MiB);
  MemorySlot victim = AddHugeSlot(vm);
  // All of its first and last tables, and a page in between.
  ASSERT_THAT(vm.guest().TouchWrite({{kVictim, 2_MiB},
                                     {kVictim + 3_GiB, kPageSize},
                                     {kVictim + 4_GiB, 2_MiB},
                                     resident.range()}),
              Succeeds());
  victim.Delete();
  const uint64_t faults = vm.FixedFaults();
  ASSERT_THAT(vm.guest().TouchWrite({resident.range()}), Succeeds());
  if (slot_zap_all()) {
    EXPECT_GT(vm.FixedFaults(), faults) << kPrecision;
  } else {
    EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision << "other slots were faulted in again";
  }
  EXPECT_THAT(vm.guest().Read(kVictim), IsMmioReadAt(kVictim));
  EXPECT_THAT(vm.guest().Read(kVictim + 3_GiB), IsMmioReadAt(kVictim + 3_GiB));
}

// Nothing was mapped, so there is nothing to flush.
TEST_P(DeleteCost, AnUntouchedSlotNeedsNoFlush) {
  TestVm vm(Config(2));
  MemorySlot resident = vm.AddSlot(kResident, 1_MiB);
  for (const uint64_t size : {4_KiB, 64_MiB, 8_GiB}) {
    SCOPED_TRACE(SizeString(size));
    MemorySlot victim = vm.vm().AddSlot({.gpa = kVictim, .memory = GuestMemory::Sparse(size)});
    ASSERT_THAT(vm.guest(0).TouchWrite({resident.range()}), Succeeds());
    ASSERT_THAT(vm.guest(1).TouchWrite({resident.range()}), Succeeds());
    const uint64_t before = vm.vm().stats().Read("remote_tlb_flush_requests");
    victim.Delete();
    const uint64_t flushes = vm.vm().stats().Read("remote_tlb_flush_requests") - before;
    // With the quirk on, the TDP MMU leaves it to the requests to drop obsolete roots.
    if (!slot_zap_all()) {
      EXPECT_EQ(flushes, 0u) << kPrecision;
    }
  }
}

// A flush is for many leaves.  How many there are depends on how often KVM yields.
TEST_P(DeleteCost, FlushesAreFewerThanPageTables) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddSlot(kVictim, 64_MiB);
  ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
  const uint64_t before = vm.vm().stats().Read("remote_tlb_flush_requests");
  victim.Delete();
  const uint64_t flushes = vm.vm().stats().Read("remote_tlb_flush_requests") - before;
  if (!slot_zap_all()) {
    EXPECT_GE(flushes, 1u);
  }
  EXPECT_LE(flushes, victim.range().size / 2_MiB) << kPrecision;
}

// Slots come, are used, and go, each somewhere else: no page table is left behind.
TEST_P(DeleteCost, PageTablesDoNotPileUp) {
  if (CpuEmulator() == "bochs") GTEST_SKIP() << "takes too long under Bochs";
  SetTestTimeout(std::chrono::seconds(180));
  TestVm vm(Config());
  SparseSlots slots(vm, 1024_GiB);
  vm.MapOwnMemory();
  slots.Rounds(100);
  vm.MapOwnMemory();
  const uint64_t few = SecondaryPageTablePages();
  slots.Rounds(900);
  vm.MapOwnMemory();
  EXPECT_LE(SecondaryPageTablePages(), few)
      << kPrecision << "page tables after 100 and 1000 rounds";
}

// A slot that moves has other metadata afterwards; the old one's is given back.  Here it is some
// MiB each time.
TEST_P(DeleteCost, MovesLeakNothing) {
  const bool tdp = CurrentMmuMode() == MmuMode::kTdp;
  const uint64_t size = tdp ? 256_GiB : 4_GiB;
  // 4 bytes for each 2 MiB, and, where there are rmaps, 8 bytes for each page.
  const uint64_t metadata = tdp ? size / 2_MiB * 4 : size / kPageSize * 8;
  const uint64_t moves = 128_MiB / metadata;
  TestVm vm(Config());
  if (Gpa{1} << vm.vm().kvm().PhysicalAddressBits() < kVictim + size + 1_GiB)
    GTEST_SKIP() << "the processor has too few physical address bits";
  MemorySlot slot = vm.vm().AddSlot({.gpa = kVictim, .memory = GuestMemory::Sparse(size)});
  const auto move = [&](uint64_t times) {
    for (uint64_t i = 0; i < times; i++) slot.MoveTo(kVictim + (i % 2 == 0 ? 1_GiB : 0));
  };
  move(4);
  const uint64_t before = AvailableMemory();
  move(moves);
  const uint64_t after = AvailableMemory();
  EXPECT_LE(before - std::min(before, after), 64_MiB)
      << moves << " moves of " << SizeString(size) << " took "
      << SizeString(before - std::min(before, after)) << " of memory";
}

class DeleteCostLock : public DeviceTest {
 protected:
  static slotzap_test_lock_stretches DeleteWatched(TestVm& vm, MemorySlot& victim) {
    TestDevice device(vm.vm());
    device.TryWatchLock().OrThrow();
    victim.Delete();
    return device.StopWatchingLock();
  }
};

// However large it is, KVM looks at no more than a page table's worth of it at a time, and,
// wherever it has a hash table to go through, at a bucket.
TEST_P(DeleteCostLock, StepsAreNotPages) {
  TestVm vm(Config());
  MemorySlot resident = vm.AddSlot(kResident, 1_MiB);
  MemorySlot victim = AddHugeSlot(vm);
  ASSERT_THAT(vm.guest().TouchWrite({resident.range()}), Succeeds());
  const slotzap_test_lock_stretches stretches = DeleteWatched(vm, victim);
  EXPECT_GE(stretches.count, 1u);
  EXPECT_LE(stretches.count, victim.range().pages() / 256) << kPrecision;
}

// KVM yields, if it should, as it zaps: no one waits for all of a slot to be zapped.  (The TDP
// MMU's SPTEs may be zapped with mmu_lock held for read, which keeps no fault waiting.)
TEST_P(DeleteCostLock, ItYields) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddSlot(kVictim, 8_MiB);
  ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
  const Leaves before = PresentLeaves(vm.vm().stats().Read());
  const slotzap_test_lock_stretches stretches = DeleteWatched(vm, victim);
  if (!slot_zap_all()) {
    EXPECT_EQ((before - PresentLeaves(vm.vm().stats().Read())).total(),
              static_cast<int64_t>(victim.range().pages()))
        << kPrecision << "something was left out where it yielded";
  }
  EXPECT_THAT(vm.guest().TouchRead({victim.range()}), FindsNothingIn(victim.range()));
  if (slot_zap_all() || CurrentMmuMode() == MmuMode::kTdp) {
    EXPECT_GE(stretches.count, 1u);
  } else {
    EXPECT_GE(stretches.count, victim.range().size / 2_MiB) << kPrecision;
  }
  EXPECT_LE(stretches.longest_ns, stretches.total_ns);
  EXPECT_LE(stretches.count, 4 * victim.range().pages()) << kPrecision;
}

// Whoever has mmu_lock next finds no SPTE of what was zapped, and sees no need to flush the TLBs.
TEST_P(DeleteCostLock, ItFlushesBeforeItYields) {
  if (slot_zap_all()) GTEST_SKIP() << "what is zapped then is not in use any more";
  TestVm vm(Config());
  MemorySlot victim = vm.AddSlot(kVictim, 8_MiB);
  ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
  const uint64_t before = vm.vm().stats().Read("remote_tlb_flush_requests");
  DeleteWatched(vm, victim);
  const uint64_t flushes = vm.vm().stats().Read("remote_tlb_flush_requests") - before;
  EXPECT_GE(flushes, victim.range().size / 2_MiB) << kPrecision;
}

// To zap a shadow page, for the slot leaves nothing in it, takes longer than any other step: no
// more than a few of them are zapped until whoever waits gets mmu_lock.
TEST_P(DeleteCostLock, AShadowPageIsManySteps) {
  if (slot_zap_all()) GTEST_SKIP() << "zapping everything counts on its own terms";
  if (CurrentMmuMode() != MmuMode::kLegacy) {
    GTEST_SKIP() << "only the legacy MMU has shadow pages that are empty without the slot, and "
                    "zaps them with mmu_lock held for write";
  }
  constexpr uint64_t kShadowPages = 128;
  TestVm vm(Config());
  const auto stretches = [&vm](uint64_t touched) {
    MemorySlot victim = vm.vm().AddSlot({.gpa = kVictim, .memory = GuestMemory::Sparse(1_GiB)});
    for (uint64_t i = 0; i < touched; ++i) {
      EXPECT_THAT(vm.guest().TouchWrite({{kVictim + i * 2_MiB, kPageSize}}), Succeeds());
    }
    return DeleteWatched(vm, victim).count;
  };
  const uint64_t untouched = stretches(0);
  const uint64_t touched = stretches(kShadowPages);
  EXPECT_GE(touched, untouched + kShadowPages / 8)
      << kPrecision << kShadowPages << " shadow pages more to zap";
}

// KVM finds shadow pages by a hash of their gfn, so it is up to the guest how many are in a bucket:
// they are as many steps there as elsewhere.
TEST_P(DeleteCostLock, AFullBucketIsManySteps) {
  if (slot_zap_all()) GTEST_SKIP() << "zapping everything counts on its own terms";
  if (CurrentMmuMode() != MmuMode::kShadow)
    GTEST_SKIP() << "the guest's page tables are shadowed in shadow mode only";
  constexpr uint64_t kTables = 48;
  // kvm_page_table_hashfn(), with 2^12 buckets.
  const auto bucket = [](Gpa table) {
    return (table >> kPageShift) * 0x61c8864680b583eb >> (64 - 12);
  };
  constexpr uint64_t kVirt = 1ull << 39;
  TestVm vm(Config());
  MemorySlot data = vm.AddFilledSlot(kResident, 4_KiB, /*seed=*/1);
  // All tables but those of level 1, first of all the root.
  MemorySlot upper = vm.AddSlot(kResident + 1_GiB, 16_KiB);
  // So large that KVM goes through all buckets, rather than look up each gfn.
  const auto add_victim = [&vm] {
    return vm.vm().AddSlot({.gpa = kVictim, .memory = GuestMemory::Sparse(1_GiB)});
  };
  MemorySlot victim = add_victim();
  upper.Store(upper.page(0), vm.tables_slot().Load(vm.tables().root()));
  upper.Store(upper.page(0) + TableIndex(kVirt, 4) * 8, TableEntry(upper.page(1)));
  upper.Store(upper.page(1), TableEntry(upper.page(2)));
  ASSERT_THAT(vm.guest().SetCr3(upper.page(0)), Succeeds());
  const uint64_t without = DeleteWatched(vm, victim).count;

  victim.Add();
  uint64_t tables = 0;
  for (Gpa table = kVictim; table < victim.range().end() && tables < kTables; table += kPageSize) {
    if (bucket(table) != bucket(kVictim)) continue;
    victim.Store(table, LeafEntry(data.page(0)));
    upper.Store(upper.page(2) + tables * 8, TableEntry(table));
    ASSERT_THAT(vm.guest().Read(kVirt + tables * 2_MiB), Returns(data.Load(data.page(0))));
    tables++;
  }
  ASSERT_EQ(tables, kTables);
  EXPECT_GE(DeleteWatched(vm, victim).count, without + kTables / 8)
      << kPrecision << kTables << " shadow pages more to zap";
}

// What the host unmaps may be that of many memslots, with so little in each of them that zapping it
// is but a few steps: they add up.
TEST_P(DeleteCostLock, ManySlotsAreManySteps) {
  if (!KernelIsAtLeast("6.12")) GTEST_SKIP() << "mmu notifiers don't yield on this kernel";
  if (CurrentMmuMode() == MmuMode::kTdp) GTEST_SKIP() << "the TDP MMU counts no steps there";
  constexpr uint64_t kSlots = 64;
  TestVm vm(Config());
  const auto memory = GuestMemory::Anonymous(kSlots * kPageSize);
  std::vector<MemorySlot> slots;
  for (uint64_t i = 0; i < kSlots; i++) {
    slots.push_back(vm.vm().AddSlot({.gpa = kVictim + 2 * i * kPageSize,
                                     .memory = memory,
                                     .offset = i * kPageSize,
                                     .size = kPageSize}));
    ASSERT_THAT(vm.guest().TouchWrite({slots.back().range()}), Succeeds());
  }
  TestDevice device(vm.vm());
  device.TryWatchLock().OrThrow();
  memory->Unmap(0, kSlots * kPageSize);
  EXPECT_GE(device.StopWatchingLock().count, kSlots) << kPrecision;
}

SLOTZAP_INSTANTIATE(DeleteCost);
SLOTZAP_INSTANTIATE(DeleteCostLock);

}  // namespace
}  // namespace slotzap

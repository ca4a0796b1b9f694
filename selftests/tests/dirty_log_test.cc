// SPDX-License-Identifier: GPL-2.0-only
// Theme: dirty log.  Which pages the guest wrote to, by bitmap and by ring, while this slot and
// others are deleted, moved and created again.  Contract tests but for what says otherwise.
#include <cerrno>
#include <vector>

#include "tests/slot_test.h"

namespace slotzap {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAreArray;

constexpr Gpa kLogged = 1_GiB;
constexpr Gpa kVictim = 1_GiB + 1_MiB;
constexpr uint64_t kSize = 512_KiB;  // 128 pages
constexpr uint64_t kPages = kSize / kPageSize;

class DirtyLog : public SlotTest {
 protected:
  static MemorySlot AddLogged(TestVm& vm, Gpa gpa = kLogged) {
    return vm.vm().AddSlot({.gpa = gpa,
                            .memory = std::make_shared<GuestMemory>(kSize),
                            .flags = KVM_MEM_LOG_DIRTY_PAGES});
  }

  // Lets the guest write to these pages of `slot`.
  static void Write(TestVm& vm, const MemorySlot& slot, const std::vector<uint64_t>& pages) {
    for (const uint64_t page : pages)
      ASSERT_THAT(vm.guest().Write(slot.page(static_cast<int64_t>(page)), page + 1), Succeeds());
  }

  // Deletes, re-creates and moves `slot`.  Calls `check` after each.
  template <typename Check>
  static void DeleteAddMove(MemorySlot& slot, Check check) {
    const Gpa home = slot.range().start;
    slot.Delete();
    check("deleted");
    slot.Add();
    check("created again");
    slot.MoveTo(home + 2_MiB);
    check("moved");
    slot.MoveTo(home);
    check("moved back");
  }
};

TEST_P(DirtyLog, BitmapOutlivesOtherSlots) {
  TestVm vm(Config());
  MemorySlot logged = AddLogged(vm);
  MemorySlot victim = vm.AddSlot(kVictim, kSize);
  std::vector<uint64_t> pages = {0, 1, 63, 64, 127};
  DeleteAddMove(victim, [&](const char* what) {
    SCOPED_TRACE(what);
    // Not read in between: what was logged before has to be there still.
    Write(vm, logged, pages);
    ASSERT_THAT(vm.guest().TouchRead({victim.range()}), testing::Field(&Outcome::done, true));
  });
  EXPECT_EQ(logged.GetDirtyLog().Set(), pages);
  EXPECT_THAT(logged.GetDirtyLog().Set(), IsEmpty());
}

// Each time the log is read, the pages are write-protected; that has to hold, too.
TEST_P(DirtyLog, WritesShowAgainAfterEachRead) {
  TestVm vm(Config());
  MemorySlot logged = AddLogged(vm);
  MemorySlot victim = vm.AddSlot(kVictim, kSize);
  ASSERT_THAT(vm.guest().TouchWrite({logged.range(), victim.range()}), Succeeds());
  EXPECT_EQ(logged.GetDirtyLog().Set().size(), kPages);
  uint64_t page = 0;
  DeleteAddMove(victim, [&](const char* what) {
    SCOPED_TRACE(what);
    EXPECT_THAT(logged.GetDirtyLog().Set(), IsEmpty());
    Write(vm, logged, {page, kPages - 1});
    EXPECT_THAT(logged.GetDirtyLog().Set(), ElementsAre(page, kPages - 1));
    page++;
  });
}

// With the log read before the update and written to after, KVM has nothing to fault in again but
// the write protection.
TEST_P(DirtyLog, OtherSlotsStayMapped) {
  TestVm vm(Config());
  MemorySlot logged = AddLogged(vm);
  MemorySlot victim = vm.AddSlot(kVictim, kSize);
  ASSERT_THAT(vm.guest().TouchWrite({logged.range(), victim.range()}), Succeeds());
  ZapWatch watch(vm.vm());
  victim.Delete();
  const ZapReport report = watch.Stop();
  const uint64_t faults = vm.FixedFaults();
  ASSERT_THAT(vm.guest().TouchWrite({logged.range()}), Succeeds());
  if (slot_zap_all()) {
    EXPECT_THAT(report, ZappedEverything());
  } else {
    EXPECT_THAT(report, ZappedOnly({{victim.range()}}, CurrentMmuMode()));
    EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision;
  }
  EXPECT_EQ(logged.GetDirtyLog().Set().size(), kPages);
}

TEST_P(DirtyLog, FreshSlotIsClean) {
  TestVm vm(Config());
  MemorySlot logged = AddLogged(vm);
  ASSERT_THAT(vm.guest().TouchWrite({logged.range()}), Succeeds());
  logged.Delete();
  DirtyBitmap gone(kPages);
  EXPECT_THAT(logged.TryGetDirtyLog(gone), FailsWith(ENOENT));
  logged.Add();
  EXPECT_THAT(logged.GetDirtyLog().Set(), IsEmpty());
  // What was mapped writable before would miss these.
  Write(vm, logged, {5, 6, 100});
  EXPECT_THAT(logged.GetDirtyLog().Set(), ElementsAre(5, 6, 100));
}

// A moved slot keeps its bitmap, by page of the slot (kvm_prepare_memory_region()).
TEST_P(DirtyLog, BitmapMovesWithTheSlot) {
  TestVm vm(Config());
  MemorySlot logged = AddLogged(vm);
  ASSERT_THAT(vm.guest().TouchWrite({logged.range()}), Succeeds());
  EXPECT_EQ(logged.GetDirtyLog().Set().size(), kPages);
  Write(vm, logged, {3, 64});
  logged.MoveTo(kLogged + kPageSize);
  Write(vm, logged, {4, 127});
  EXPECT_THAT(logged.GetDirtyLog().Set(), ElementsAre(3, 4, 64, 127));
  logged.MoveTo(kLogged + 4_MiB);
  EXPECT_THAT(logged.GetDirtyLog().Set(), IsEmpty());
  Write(vm, logged, {3});
  EXPECT_THAT(logged.GetDirtyLog().Set(), ElementsAre(3));
}

// The slot is deleted without the log, created with it: its SPTEs of before were writable.
TEST_P(DirtyLog, TurnedOnByCreatingTheSlotAgain) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddSlot(kLogged, kSize);
  ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  slot.Delete();
  MemorySlot logged = vm.vm().AddSlot(
      {.gpa = kLogged, .memory = slot.config().memory, .flags = KVM_MEM_LOG_DIRTY_PAGES});
  EXPECT_THAT(logged.GetDirtyLog().Set(), IsEmpty());
  Write(vm, logged, {0, 77});
  EXPECT_THAT(logged.GetDirtyLog().Set(), ElementsAre(0, 77));
}

// Reading the log leaves it, clearing it is done by parts.
TEST_P(DirtyLog, ManualProtect) {
  TestVm vm(Config());
  vm.vm().EnableCap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
  MemorySlot logged = AddLogged(vm);
  MemorySlot victim = vm.AddSlot(kVictim, kSize);
  Write(vm, logged, {1, 2, 70});
  const DirtyBitmap read = logged.GetDirtyLog();
  EXPECT_THAT(read.Set(), ElementsAre(1, 2, 70));
  victim.Delete();
  // Written to since the log was read, but not yet cleared: no fault, so not lost either.
  Write(vm, logged, {2, 71});
  EXPECT_THAT(logged.GetDirtyLog().Set(), ElementsAre(1, 2, 70, 71));
  DirtyBitmap first_part(64);
  first_part.set(1);
  logged.ClearDirtyLog(first_part);
  victim.Add();
  EXPECT_THAT(logged.GetDirtyLog().Set(), ElementsAre(2, 70, 71));
  DirtyBitmap second_part(64);
  second_part.set(70 - 64);
  second_part.set(71 - 64);
  logged.ClearDirtyLog(second_part, 64);
  victim.Delete();
  Write(vm, logged, {1, 71});
  EXPECT_THAT(logged.GetDirtyLog().Set(), ElementsAre(1, 2, 71));
  logged.Delete();
  EXPECT_THAT(logged.TryClearDirtyLog(first_part), FailsWith(ENOENT));
}

// All pages count as dirty at first, and lose their write access when that is cleared: large pages
// are split then.
TEST_P(DirtyLog, InitiallySet) {
  TestVm vm(Config());
  vm.vm().EnableCap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
                    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
  MemorySlot logged = AddLogged(vm);
  MemorySlot victim = vm.AddSlot(kVictim, kSize);
  ASSERT_THAT(vm.guest().TouchWrite({logged.range(), victim.range()}), Succeeds());
  EXPECT_EQ(logged.GetDirtyLog().Set().size(), kPages);
  logged.ClearDirtyLog(logged.GetDirtyLog());
  victim.Delete();
  EXPECT_THAT(logged.GetDirtyLog().Set(), IsEmpty());
  Write(vm, logged, {9});
  EXPECT_THAT(logged.GetDirtyLog().Set(), ElementsAre(9));
  logged.Delete();
  logged.Add();
  EXPECT_EQ(logged.GetDirtyLog().Set().size(), kPages) << "a fresh slot counts as dirty";
}

// The log makes KVM use small pages in a slot with large ones, its neighbour keeps them.
TEST_P(DirtyLog, LargePagesNextToALoggedSlot) {
  if (const std::string reason = BackingUnavailable(Backing::k2M, 4); !reason.empty())
    GTEST_SKIP() << reason;
  TestVm vm(Config());
  constexpr Gpa kLarge = 32_GiB;
  const auto memory = std::make_shared<GuestMemory>(8_MiB, Backing::k2M);
  MemorySlot logged = vm.vm().AddSlot(
      {.gpa = kLarge, .memory = memory, .size = 4_MiB, .flags = KVM_MEM_LOG_DIRTY_PAGES});
  MemorySlot victim =
      vm.vm().AddSlot({.gpa = kLarge + 4_MiB, .memory = memory, .offset = 4_MiB, .size = 4_MiB});
  Write(vm, logged, {0, 511, 512, 1023});
  ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
  ZapWatch watch(vm.vm());
  victim.Delete();
  const ZapReport report = watch.Stop();
  if (slot_zap_all())
    EXPECT_THAT(report, ZappedEverything());
  else
    EXPECT_THAT(report, ZappedOnly({{victim.range(), Backing::k2M}}, CurrentMmuMode()));
  EXPECT_THAT(logged.GetDirtyLog().Set(), ElementsAre(0, 511, 512, 1023));
  Write(vm, logged, {512, 700});
  EXPECT_THAT(logged.GetDirtyLog().Set(), ElementsAre(512, 700));
}

class DirtyRings : public DirtyLog {
 protected:
  static constexpr uint64_t kRingBytes = 64_KiB;  // 4096 entries

  void SetUp() override {
    DirtyLog::SetUp();
    if (IsSkipped()) return;
    const auto largest = static_cast<uint64_t>(Kvm().CheckExtension(KVM_CAP_DIRTY_LOG_RING));
    if (largest < kRingBytes)
      GTEST_SKIP() << "this KVM has no dirty rings of " << SizeString(kRingBytes)
                   << " (KVM_CAP_DIRTY_LOG_RING)";
  }
  GuestVmConfig RingConfig() const {
    GuestVmConfig config = Config();
    config.dirty_ring_bytes = kRingBytes;
    return config;
  }
  static std::vector<DirtyPage> PagesOf(const MemorySlot& slot,
                                        const std::vector<uint64_t>& pages) {
    std::vector<DirtyPage> expected;
    expected.reserve(pages.size());
    for (const uint64_t page : pages)
      expected.push_back({slot.config().address_space, slot.id(), page});
    return expected;
  }
};

TEST_P(DirtyRings, EntriesOutliveOtherSlots) {
  TestVm vm(RingConfig());
  DirtyRing ring = vm.guest().vcpu().OpenDirtyRing(kRingBytes);
  MemorySlot logged = AddLogged(vm);
  MemorySlot victim = vm.AddSlot(kVictim, kSize);
  Write(vm, logged, {0, 1, 127});
  DeleteAddMove(victim, [&](const char* what) {
    SCOPED_TRACE(what);
    // Of before the update.
    EXPECT_THAT(ring.Collect(), UnorderedElementsAreArray(PagesOf(logged, {0, 1, 127})));
    EXPECT_EQ(vm.vm().ResetDirtyRings(), 3u);
    Write(vm, logged, {0, 1, 127});
  });
  EXPECT_THAT(ring.Collect(), UnorderedElementsAreArray(PagesOf(logged, {0, 1, 127})));
  DirtyBitmap bitmap(kPages);
  EXPECT_THAT(logged.TryGetDirtyLog(bitmap), FailsWith(ENXIO));
}

// A page that is in the ring isn't put there again before the ring is reset, whatever happens to
// other slots.  (With the quirk enabled it may be: the SPTE is faulted in again.)
TEST_P(DirtyRings, NoEntryTwice) {
  TestVm vm(RingConfig());
  DirtyRing ring = vm.guest().vcpu().OpenDirtyRing(kRingBytes);
  MemorySlot logged = AddLogged(vm);
  MemorySlot victim = vm.AddSlot(kVictim, kSize);
  ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
  Write(vm, logged, {7, 8});
  victim.Delete();
  Write(vm, logged, {7, 8});
  const std::vector<DirtyPage> pages = ring.Collect();
  EXPECT_THAT(pages, testing::IsSupersetOf(PagesOf(logged, {7, 8})));
  if (!slot_zap_all()) {
    EXPECT_EQ(pages.size(), 2u) << kPrecision;
  }
}

// An entry says which page of the slot, wherever the slot is by now.  Giving it back protects the
// page from unlogged writes where it is, not where it was.
TEST_P(DirtyRings, EntriesOfASlotThatMoves) {
  TestVm vm(RingConfig());
  DirtyRing ring = vm.guest().vcpu().OpenDirtyRing(kRingBytes);
  MemorySlot logged = AddLogged(vm);
  Write(vm, logged, {3, 64});
  logged.MoveTo(kLogged + kPageSize);
  EXPECT_THAT(ring.Collect(), UnorderedElementsAreArray(PagesOf(logged, {3, 64})));
  Write(vm, logged, {3, 4, 127});
  EXPECT_THAT(ring.Collect(), UnorderedElementsAreArray(PagesOf(logged, {3, 4, 127})));
  EXPECT_EQ(vm.vm().ResetDirtyRings(), 5u);
  EXPECT_THAT(ring.Collect(), IsEmpty());
  Write(vm, logged, {3, 64});
  EXPECT_THAT(ring.Collect(), UnorderedElementsAreArray(PagesOf(logged, {3, 64})));
  logged.MoveTo(kLogged + 4_MiB);
  EXPECT_EQ(vm.vm().ResetDirtyRings(), 2u);
  Write(vm, logged, {64});
  EXPECT_THAT(ring.Collect(), UnorderedElementsAreArray(PagesOf(logged, {64})));
}

// Entries of a slot that is gone when they are given back.
TEST_P(DirtyRings, StaleEntries) {
  TestVm vm(RingConfig());
  DirtyRing ring = vm.guest().vcpu().OpenDirtyRing(kRingBytes);
  MemorySlot logged = AddLogged(vm);
  MemorySlot victim = AddLogged(vm, kVictim);
  Write(vm, victim, {0, 64, 127});
  Write(vm, logged, {10});
  victim.Delete();
  std::vector<DirtyPage> expected = PagesOf(victim, {0, 64, 127});
  expected.push_back(PagesOf(logged, {10})[0]);
  EXPECT_THAT(ring.Collect(), UnorderedElementsAreArray(expected));
  ZapWatch watch(vm.vm());
  EXPECT_EQ(vm.vm().ResetDirtyRings(), 4u);
  EXPECT_EQ(watch.Stop().dropped(), Leaves());
  Write(vm, logged, {10});
  EXPECT_THAT(ring.Collect(), UnorderedElementsAreArray(PagesOf(logged, {10})));
  EXPECT_EQ(vm.vm().ResetDirtyRings(), 1u);
}

// The slot is there again when its entries of before are given back, but smaller; and a fresh slot
// logs its own writes only.
TEST_P(DirtyRings, StaleEntriesOfASlotThatIsSmallerNow) {
  TestVm vm(RingConfig());
  DirtyRing ring = vm.guest().vcpu().OpenDirtyRing(kRingBytes);
  MemorySlot slot = AddLogged(vm);
  Write(vm, slot, {1, 127});
  slot.Delete();
  SlotConfig config = slot.config();
  config.size = 4 * kPageSize;
  MemorySlot smaller(vm.vm(), slot.id(), config);
  smaller.Add();
  EXPECT_THAT(ring.Collect(), UnorderedElementsAreArray(PagesOf(slot, {1, 127})));
  EXPECT_EQ(vm.vm().ResetDirtyRings(), 2u);
  EXPECT_THAT(ring.Collect(), IsEmpty());
  Write(vm, smaller, {1, 3});
  EXPECT_THAT(ring.Collect(), UnorderedElementsAreArray(PagesOf(smaller, {1, 3})));
}

SLOTZAP_INSTANTIATE(DirtyLog);
SLOTZAP_INSTANTIATE(DirtyRings);

}  // namespace
}  // namespace slotzap

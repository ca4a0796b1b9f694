// SPDX-License-Identifier: GPL-2.0-only
// Theme: page tables that the guest changes itself.  Shadow paging lets it write to a level 1 table
// without looking, until the guest flushes its TLB: meanwhile the shadow page is "unsync", and maps
// something else than the table says.
#include "tests/every_level.h"

namespace slotzap {
namespace {

constexpr uint64_t kSeed = 0xa11ce;
constexpr uint64_t kOtherSeed = 0xb0b;

class Unsync : public SlotTest {
 protected:
  // The vCPU runs on the tables of every level, and has just made the window's first page map the
  // first page of other() in place of data()'s.  It has not flushed its TLB.
  struct ChangedTable : TablesOfEveryLevel {
    explicit ChangedTable(const GuestVmConfig& config)
        : TablesOfEveryLevel(config, kSeed),
          other(AddFilledSlot(3_GiB, 64_KiB, kOtherSeed)),
          bystander(AddSlot(1_GiB, 64_KiB)) {
      EXPECT_THAT(guest().SetCr3(table(4)), Succeeds());
      EXPECT_THAT(guest().Verify({{.range = window(), .seed = kSeed}}), SeesPattern());
      EXPECT_THAT(guest().TouchWrite({bystander.range()}), Succeeds());
      EXPECT_THAT(guest().Write(entry(1), LeafEntry(other.page(0))), Succeeds());
    }
    uint64_t Word(const MemorySlot& slot, int64_t page) const { return slot.Load(slot.page(page)); }

    MemorySlot other;
    MemorySlot bystander;
  };

  // Of what shadows guest page tables, only the page of the table at `gfn`, which is out of sync.
  void ExpectUnsyncPageZapped(const ZapReport& report, uint64_t gfn) const {
    if (slot_zap_all()) {
      EXPECT_THAT(report, ZappedEverything());
    } else if (CurrentMmuMode() == MmuMode::kShadow && report.untraced.empty()) {
      ASSERT_EQ(report.shadow_pages.size(), 1u) << kPrecision << report;
      EXPECT_EQ(report.shadow_pages[0].gfn, gfn) << kPrecision;
      EXPECT_TRUE(report.shadow_pages[0].unsync) << "the test is about a page that is out of sync";
    }
  }

  // The bystander, which the same tables map, took no part.
  void ExpectBystanderMapped(ChangedTable& vm) const {
    const uint64_t faults = vm.FixedFaults();
    ASSERT_THAT(vm.guest().TouchWrite({vm.bystander.range()}), Succeeds());
    if (slot_zap_all())
      EXPECT_GT(vm.FixedFaults(), faults) << kPrecision;
    else
      EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision << "another slot was faulted in again";
  }
};

TEST_P(Unsync, TheGuestChangesItsTable) {
  ChangedTable vm(Config());
  ASSERT_THAT(vm.guest().InvalidatePage(vm.kVirt), Succeeds());
  EXPECT_THAT(vm.guest().Read(vm.kVirt), Returns(vm.Word(vm.other, 0)));
  EXPECT_THAT(vm.guest().Read(vm.kVirt + kPageSize), Returns(vm.Word(vm.data(), 1)));
}

TEST_P(Unsync, TheTablesSlotIsDeleted) {
  ChangedTable vm(Config());
  const Vcpu::State before = vm.guest().vcpu().Save();
  ZapWatch watch(vm.vm());
  vm.slot(1).Delete();
  ExpectUnsyncPageZapped(watch.Stop(), vm.table(1) >> kPageShift);
  ExpectBystanderMapped(vm);
  EXPECT_THAT(vm.guest().NopWithin(1000), Succeeds());
  EXPECT_THAT(vm.guest().Read(vm.bystander.page(0)), Succeeds());

  vm.slot(1).Add();
  vm.guest().RestoreTo(before);
  // What the guest wrote is there, nothing of what was derived from the table before.
  EXPECT_THAT(vm.guest().Read(vm.kVirt), Returns(vm.Word(vm.other, 0)));
  EXPECT_THAT(vm.guest().Read(vm.kVirt + kPageSize), Returns(vm.Word(vm.data(), 1)));
}

// Without a flush the guest may reach either page; once the slots are gone, neither.
TEST_P(Unsync, TheSlotsThatTheTableMapsAreDeleted) {
  ChangedTable vm(Config());
  ZapWatch watch(vm.vm());
  vm.data().Delete();
  const ZapReport report = watch.Stop();
  ExpectBystanderMapped(vm);
  if (slot_zap_all()) {
    EXPECT_THAT(report, ZappedEverything());
  } else {
    EXPECT_THAT(report, ZappedOnly({{vm.data().range()}}, CurrentMmuMode()));
  }
  for (const int64_t page : {1, 15})
    EXPECT_THAT(vm.guest().Read(vm.kVirt + static_cast<uint64_t>(page) * kPageSize),
                IsMmioReadAt(vm.data().page(page)));
  // No stale page to be found without memory: it is the new one, flushed or not.
  EXPECT_THAT(vm.guest().Read(vm.kVirt), Returns(vm.Word(vm.other, 0)));
  ASSERT_THAT(vm.guest().InvalidatePage(vm.kVirt), Succeeds());
  EXPECT_THAT(vm.guest().Read(vm.kVirt), Returns(vm.Word(vm.other, 0)));

  vm.other.Delete();
  EXPECT_THAT(vm.guest().Read(vm.kVirt), IsMmioReadAt(vm.other.page(0)));
  vm.data().Add();
  // Now back, and not flushed: there was nothing that the processor could have kept.
  ASSERT_THAT(vm.guest().Write(vm.entry(1), LeafEntry(vm.data().page(0))), Succeeds());
  ASSERT_THAT(vm.guest().InvalidatePage(vm.kVirt), Succeeds());
  EXPECT_THAT(vm.guest().Verify({{.range = vm.window(), .seed = kSeed}}), SeesPattern());
}

// The table's slot is moved: the entries that lead to it lead nowhere, those at the new place work.
TEST_P(Unsync, TheTablesSlotIsMoved) {
  ChangedTable vm(Config());
  const Gpa old = vm.slot(1).range().start;
  const uint64_t gfn = vm.table(1) >> kPageShift;
  ZapWatch watch(vm.vm());
  vm.slot(1).MoveTo(old + 16_MiB);
  ExpectUnsyncPageZapped(watch.Stop(), gfn);
  ExpectBystanderMapped(vm);
  ASSERT_THAT(vm.guest().Write(vm.entry(2), TableEntry(vm.table(1))), Succeeds());
  ASSERT_THAT(vm.guest().InvalidatePage(vm.kVirt), Succeeds());
  EXPECT_THAT(vm.guest().Read(vm.kVirt), Returns(vm.Word(vm.other, 0)));
  ASSERT_THAT(vm.guest().Write(vm.entry(1), LeafEntry(vm.data().page(0))), Succeeds());
  ASSERT_THAT(vm.guest().InvalidatePage(vm.kVirt), Succeeds());
  EXPECT_THAT(vm.guest().Verify({{.range = vm.window(), .seed = kSeed}}), SeesPattern());
}

SLOTZAP_INSTANTIATE(Unsync);

}  // namespace
}  // namespace slotzap

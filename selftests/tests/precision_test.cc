// SPDX-License-Identifier: GPL-2.0-only
// Theme: precision.  What exactly is zapped when a slot is deleted or moved, and what is not.
//
// Quirk disabled: this project's promise (Documentation/zap.md), which the kernels hold that its
// series were applied to.  Quirk enabled: what KVM has always done.
#include <algorithm>
#include <set>

#include "harness/main.h"
#include "harness/progress.h"
#include "tests/nx_huge_pages.h"
#include "tests/slot_test.h"

namespace slotzap {
namespace {

constexpr Gpa kVictim = 1_GiB;

// Bystanders right below and right above the victim, and one far away.
struct Bystanders {
  Bystanders(TestVm& vm, const GpaRange& victim)
      : below(vm.AddSlot(victim.start - 1_MiB, 1_MiB)),
        above(vm.AddSlot(victim.end(), 1_MiB)),
        far_away(vm.AddSlot(12_GiB, 4_MiB)) {}

  Outcome Touch(Guest& guest) {
    return guest.TouchWrite({below.range(), above.range(), far_away.range()});
  }
  uint64_t pages() const {
    return below.range().pages() + above.range().pages() + far_away.range().pages();
  }

  MemorySlot below, above, far_away;
};

class Precision : public SlotTest {
 protected:
  void DeleteLarge(Backing backing, uint64_t pages);

  // Touches victim and bystanders, lets `update` delete or move the victim, and checks what went:
  // with the quirk enabled everything, with the quirk disabled exactly `expected`.
  template <typename Update>
  void ExpectPreciseUpdate(TestVm& vm, MemorySlot& victim, const std::vector<LeafRange>& expected,
                           Update update) {
    Bystanders bystanders(vm, victim.range());
    ASSERT_THAT(bystanders.Touch(vm.guest()), Succeeds());
    const Leaves before = PresentLeaves(vm.vm().stats().Read());

    ZapWatch watch(vm.vm());
    update();
    const ZapReport report = watch.Stop();
    ASSERT_TRUE(report.host_unmaps.empty()) << "the host unmapped guest memory meanwhile";

    const uint64_t faults = vm.FixedFaults();
    ASSERT_THAT(bystanders.Touch(vm.guest()), Succeeds());
    const uint64_t refaults = vm.FixedFaults() - faults;
    if (slot_zap_all()) {
      EXPECT_THAT(report, ZappedEverything());
      // A fault may map neighbours, too (pte prefetch), but never all.
      EXPECT_GE(refaults, bystanders.pages() / 8)
          << kPrecision << "not everything was faulted in again";
    } else {
      EXPECT_THAT(report, ZappedOnly(expected, CurrentMmuMode()));
      EXPECT_EQ(refaults, 0u) << kPrecision << "other slots were faulted in again";
      EXPECT_EQ(PresentLeaves(vm.vm().stats().Read()), before - report.dropped()) << kPrecision;
    }
  }
};

// What shows only if updates don't zap everything anyway.
class PrecisionLeafOnly : public Precision {};

TEST_P(Precision, Delete) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddSlot(kVictim, 2_MiB);
  ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
  ExpectPreciseUpdate(vm, victim, {{victim.range()}}, [&] { victim.Delete(); });
}

TEST_P(Precision, DeleteOnePage) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddSlot(kVictim, 4_KiB);
  ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
  ExpectPreciseUpdate(vm, victim, {{victim.range()}}, [&] { victim.Delete(); });
}

// Neither end is aligned to anything but a page, the neighbours share its page tables.
TEST_P(Precision, DeleteUnaligned) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddSlot(kVictim + 2_MiB - 3 * 4_KiB, 5_MiB + 4_KiB);
  ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
  ExpectPreciseUpdate(vm, victim, {{victim.range()}}, [&] { victim.Delete(); });
}

// Only some pages have SPTEs.  (The legacy and the shadow MMU also map neighbours of a page that
// faults; the TDP MMU does not, and the test is exact there.)
TEST_P(Precision, DeletePartlyTouched) {
  if (CurrentMmuMode() != MmuMode::kTdp)
    GTEST_SKIP() << "the " << ToString(CurrentMmuMode())
                 << " MMU prefetches SPTEs: which pages it maps isn't known exactly";
  TestVm vm(Config());
  MemorySlot victim = vm.AddSlot(kVictim, 4_MiB);
  std::vector<LeafRange> touched;
  for (const int64_t page : {0, 1, 511, 512, 700, -1}) {
    touched.push_back({{victim.page(page), kPageSize}});
    ASSERT_THAT(vm.guest().Write(victim.page(page), 1), Succeeds());
  }
  ExpectPreciseUpdate(vm, victim, touched, [&] { victim.Delete(); });
}

TEST_P(Precision, DeleteUntouched) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddSlot(kVictim, 64_MiB);
  ExpectPreciseUpdate(vm, victim, {}, [&] { victim.Delete(); });
}

TEST_P(Precision, Move) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddSlot(kVictim, 2_MiB);
  ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
  ExpectPreciseUpdate(vm, victim, {{victim.range()}}, [&] { victim.MoveTo(5_GiB); });
}

// The bystander leaves room for the victim to move.
TEST_P(Precision, MoveByOnePageOverItself) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddSlot(kVictim, 2_MiB);
  MemorySlot bystander = vm.AddSlot(kVictim + 4_MiB, 1_MiB);
  ASSERT_THAT(vm.guest().TouchWrite({victim.range(), bystander.range()}), Succeeds());
  const GpaRange old = victim.range();

  ZapWatch watch(vm.vm());
  victim.MoveTo(kVictim + kPageSize);
  const ZapReport report = watch.Stop();
  const uint64_t faults = vm.FixedFaults();
  ASSERT_THAT(vm.guest().TouchWrite({bystander.range()}), Succeeds());
  if (slot_zap_all()) {
    EXPECT_THAT(report, ZappedEverything());
    EXPECT_GT(vm.FixedFaults(), faults) << kPrecision;
  } else {
    EXPECT_THAT(report, ZappedOnly({{old}}, CurrentMmuMode()));
    EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision;
  }
}

void Precision::DeleteLarge(Backing backing, uint64_t pages) {
  if (const std::string reason = BackingUnavailable(backing, pages); !reason.empty())
    GTEST_SKIP() << reason;
  TestVm vm(Config());
  // Where the guest has the slot mapped with 1 GiB pages, so that no MMU has to split.
  MemorySlot victim = vm.AddSlot(32_GiB, pages * BackingPageSize(backing), backing);
  for (uint64_t i = 0; i < pages; i++)
    ASSERT_THAT(vm.guest().Write(victim.range().start + i * BackingPageSize(backing), i),
                Succeeds());
  const Leaves leaves = PresentLeaves(vm.vm().stats().Read());
  ASSERT_EQ(backing == Backing::k2M ? leaves.k2M : leaves.k1G, static_cast<int64_t>(pages))
      << "KVM did not map the slot with large pages: " << leaves;
  ExpectPreciseUpdate(vm, victim, {{victim.range(), backing}}, [&] { victim.Delete(); });
}

TEST_P(Precision, DeleteLargePages) { DeleteLarge(Backing::k2M, 4); }
TEST_P(Precision, DeleteLargePagesOf1G) { DeleteLarge(Backing::k1G, 1); }

// All slots of a VM, one after the other: each takes its own leaves with it, none is left at the
// end but those of the agent.
TEST_P(Precision, ManySlotsOneByOne) {
  constexpr int kSlots = 24;
  TestVm vm(Config());
  ASSERT_THAT(vm.guest().Nop(), Succeeds());
  std::vector<MemorySlot> slots;
  slots.reserve(kSlots);
  for (int i = 0; i < kSlots; i++)
    slots.push_back(vm.AddSlot(kVictim + static_cast<uint64_t>(i) * 32_KiB, 32_KiB));
  for (const MemorySlot& slot : slots)
    ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  int64_t expected = PresentLeaves(vm.vm().stats().Read()).total();
  for (MemorySlot& slot : slots) {
    ZapWatch watch(vm.vm());
    slot.Delete();
    const ZapReport report = watch.Stop();
    if (slot_zap_all()) {
      EXPECT_EQ(report.after.total(), 0) << kPrecision;
    } else {
      ASSERT_THAT(report, ZappedOnly({{slot.range()}}, CurrentMmuMode()));
      expected -= static_cast<int64_t>(slot.range().pages());
      ASSERT_EQ(report.after.total(), expected) << kPrecision;
    }
  }
}

// A slot with guest page tables that KVM shadows, in its first or in its last pages: their shadow
// pages go, those of other tables stay.  Where KVM shadows nothing, there is nothing but the slot's
// leaves to zap.
TEST_P(Precision, GuestPageTablesInTheSlot) {
  constexpr uint64_t kTables = 5 * kPageSize;
  for (const bool at_the_end : {false, true}) {
    SCOPED_TRACE(at_the_end ? "tables in the slot's last pages" : "tables in its first pages");
    TestVm vm(Config());
    MemorySlot data = vm.AddSlot(2_GiB, 1_MiB);
    MemorySlot victim = vm.AddSlot(kVictim, 64_KiB);
    PageTables tables(victim, {at_the_end ? victim.range().end() - kTables : kVictim, kTables});
    tables.MapIdentity({0, 4_MiB}, GuestPageSize::k2M);
    tables.MapIdentity(data.range(), GuestPageSize::k4K);
    ASSERT_EQ(tables.used().size, kTables);
    // First through the tables in the victim, then back to those elsewhere.
    ASSERT_THAT(vm.guest().SetCr3(tables.root()), Succeeds());
    ASSERT_THAT(vm.guest().TouchWrite({data.range()}), Succeeds());
    ASSERT_THAT(vm.guest().SetCr3(vm.tables().root()), Succeeds());
    ASSERT_THAT(vm.guest().TouchWrite({data.range()}), Succeeds());

    ZapWatch watch(vm.vm());
    victim.Delete();
    const ZapReport report = watch.Stop();
    const uint64_t faults = vm.FixedFaults();
    ASSERT_THAT(vm.guest().TouchWrite({data.range()}), Succeeds());
    const uint64_t refaults = vm.FixedFaults() - faults;
    if (slot_zap_all()) {
      EXPECT_THAT(report, ZappedEverything());
      EXPECT_GT(refaults, 0u) << kPrecision;
      continue;
    }
    EXPECT_EQ(refaults, 0u) << kPrecision
                            << "data reached through page tables outside of the slot was lost";
    EXPECT_EQ(report.zap_all, 0u) << kPrecision;
    EXPECT_GE(report.flush_requests, 1u);
    if (CurrentMmuMode() != MmuMode::kShadow) {
      EXPECT_EQ(report.shadow_zapped, 0u) << kPrecision;
      continue;
    }
    EXPECT_GE(report.shadow_zapped, tables.used().pages());
    if (!report.untraced.empty()) continue;
    std::set<Gfn> zapped;
    for (const PreparedZapPage& page : report.shadow_pages) {
      EXPECT_FALSE(page.direct) << "a shadow page that shadows no guest PTEs, of gfn "
                                << Hex(page.gfn);
      zapped.insert(page.gfn);
    }
    std::set<Gfn> expected;
    for (Gfn gfn = tables.used().first_gfn(); gfn < tables.used().end_gfn(); gfn++)
      expected.insert(gfn);
    EXPECT_EQ(zapped, expected) << kPrecision << "one shadow page per guest page table in the slot";
  }
}

// Guest page tables in one slot that is deleted, while the vCPU is using them: the root goes too,
// and the VM can be torn down without a trace in the kernel log.
TEST_P(Precision, GuestPageTablesInUse) {
  TestVm vm(Config());
  MemorySlot data = vm.AddSlot(2_GiB, 256_KiB);
  MemorySlot victim = vm.AddSlot(kVictim, 64_KiB);
  PageTables tables(victim, victim.range());
  tables.MapIdentity({0, 4_MiB}, GuestPageSize::k2M);
  tables.MapIdentity(data.range(), GuestPageSize::k4K);
  ASSERT_THAT(vm.guest().SetCr3(tables.root()), Succeeds());
  ASSERT_THAT(vm.guest().TouchWrite({data.range()}), Succeeds());
  victim.Delete();
  EXPECT_THAT(vm.guest().NopWithin(1000), IsStuck())
      << "the guest runs on page tables that are gone";
}

// Not about a single slot, so not the quirk's business: everything goes.
TEST_P(Precision, NxHugePagesToggleZapsEverything) {
  if (!NxHugePages::Available()) GTEST_SKIP() << "kvm has no nx_huge_pages parameter";
  TestVm vm(Config());
  MemorySlot slot = vm.AddSlot(kVictim, 256_KiB);
  ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  const NxHugePages nx;
  ZapWatch watch(vm.vm());
  nx.Toggle();
  EXPECT_THAT(watch.Stop(), ZappedEverything());
}

// MMIO SPTEs carry a few bits of the memslots' generation.  When those wrap around, everything
// goes, so that no old MMIO SPTE looks current.  That, too, is not about a single slot.
TEST_P(PrecisionLeafOnly, MmioGenerationWrapZapsEverything) {
  SetTestTimeout(std::chrono::seconds(300));
  // MMIO_SPTE_GEN_MASK has 19 bits (arch/x86/kvm/mmu/spte.h).  Each time the memslots are swapped,
  // the generation grows by 2: after kSwaps an MMIO SPTE of now, were it still there, would be
  // current again.  Deleting a slot swaps them twice, creating one once.
  constexpr uint64_t kSwaps = 1u << 18;
  constexpr uint64_t kUpdates = (kSwaps - 1) / 3;
  static_assert(3 * kUpdates + 1 == kSwaps);
  TestVm vm(Config());
  MemorySlot resident = vm.AddSlot(kVictim, 256_KiB);
  MemorySlot other = vm.AddSlot(kVictim + 1_GiB, 4_KiB);
  ASSERT_THAT(vm.guest().TouchWrite({resident.range()}), Succeeds());
  // Cached as MMIO with a generation of before the wrap, and not touched until after it.  Later on
  // there is memory in one of them.
  const Gpa stays_mmio = kVictim + 2_GiB;
  const Gpa turns_memory = kVictim + 3_GiB;
  for (const Gpa gpa : {stays_mmio, turns_memory})
    ASSERT_THAT(vm.guest().Read(gpa), IsMmioReadAt(gpa));
  const Leaves before = PresentLeaves(vm.vm().stats().Read());

  bool wrapped = false;
  Progress progress("updates", kUpdates);
  for (uint64_t updates = 1; updates <= kUpdates; updates++) {
    other.Delete();
    other.Add();
    if (updates % 256 != 0 && updates != kUpdates) continue;
    progress.Reached(updates);
    const Leaves now = PresentLeaves(vm.vm().stats().Read());
    if (now.total() == 0) {
      wrapped = true;
    } else {
      ASSERT_FALSE(wrapped) << "after " << updates << " updates";
      ASSERT_EQ(now, before) << "after " << updates << " updates";
    }
  }
  EXPECT_TRUE(wrapped) << "nothing was zapped in " << kUpdates << " updates";
  // The last swap: the generation's bits are those that were cached.
  MemorySlot memory = vm.AddFilledSlot(turns_memory, 4_KiB, /*seed=*/1);
  EXPECT_THAT(vm.guest().Verify({PatternOf(memory, 1)}), SeesPattern());
  EXPECT_THAT(vm.guest().TouchWrite({resident.range()}), Succeeds());
  for (int i = 0; i < 2; i++) EXPECT_THAT(vm.guest().Read(stays_mmio), IsMmioReadAt(stays_mmio));
}

// A slot so large that walking its rmaps takes many scheduler ticks: the walk has to yield, to the
// scheduler and to the vCPU that runs meanwhile.  Only its first pages are mapped, so what was
// zapped before the first yield has to be flushed there: nothing that comes later would.
TEST_P(Precision, LargeSlotYields) {
  TestVm vm(Config(2));
  const auto sparse = GuestMemory::Sparse(64_GiB);
  MemorySlot victim = vm.vm().AddSlot({.gpa = 32_GiB, .memory = sparse});
  MemorySlot busy = vm.AddSlot(kVictim, 2_MiB);
  FillMemory(busy.memory(), {.pages = busy.range().pages(), .seed = 1});
  const GpaRange touched = {32_GiB, 1_MiB};
  ASSERT_THAT(vm.guest().TouchWrite({touched}), Succeeds());

  VerifyLoop running(vm.guest(1), {PatternOf(busy, 1)});
  running.WaitForPasses(1);
  ZapWatch watch(vm.vm());
  victim.Delete();
  const ZapReport report = watch.Stop();
  const Outcome& outcome = running.Stop();
  EXPECT_TRUE(outcome.done) << outcome.exit_text;
  EXPECT_EQ(outcome.verdict.matches, outcome.verdict.words) << outcome;
  for (const Gpa gpa : {touched.start, touched.end() - kPageSize, touched.end()})
    EXPECT_THAT(vm.guest().Read(gpa), IsMmioReadAt(gpa));
  if (!slot_zap_all()) {
    EXPECT_EQ(report.dropped().total(), static_cast<int64_t>(touched.pages()))
        << kPrecision << report;
    EXPECT_GE(report.flush_requests, 1u);
    EXPECT_THAT(report, TracedLeavesAre(CurrentMmuMode() == MmuMode::kTdp
                                            ? std::vector<LeafRange>{{touched}}
                                            : std::vector<LeafRange>{}));
  }
}

SLOTZAP_INSTANTIATE(Precision);
INSTANTIATE_TEST_SUITE_P(Quirk, PrecisionLeafOnly, testing::Values(false), QuirkName);

}  // namespace
}  // namespace slotzap

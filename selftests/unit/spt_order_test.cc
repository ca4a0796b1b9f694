// SPDX-License-Identifier: GPL-2.0-only
#include "oracle/spt_order.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/matchers.h"

namespace slotzap {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

constexpr uint64_t kPresent = 1ull << 11;
constexpr uint64_t kLarge = 1ull << 7;
constexpr uint64_t kRemoved = 0x5a0;                 // REMOVED_SPTE
constexpr uint64_t kFrozen = 1ull << 63 | kRemoved;  // FROZEN_SPTE of VMX
constexpr uint64_t kMmio = 0x0ff0000000000607;

uint64_t Spte(uint64_t pfn) { return pfn << 12 | kPresent | 0x7; }
uint64_t LargeSpte(uint64_t pfn) { return Spte(pfn) | kLarge; }

SpteChanged Change(int level, Gfn gfn, uint64_t old_spte, uint64_t new_spte, int as_id = 0) {
  return {.as_id = as_id, .gfn = gfn, .level = level, .old_spte = old_spte, .new_spte = new_spte};
}

CreatedPage Root(int level) { return {.gfn = 0, .level = level, .direct = true}; }

// A checker of page tables with four levels, in which everything has its gfn as its pfn.
class SptOrder : public testing::Test {
 protected:
  static constexpr Gfn kGfn = 0x40000;  // 1 GiB

  // The tables down to that of 4 KiB entries, which begins at `gfn`, and `leaves` in it.
  void Map(Gfn gfn, unsigned leaves, int as_id = 0) {
    for (const int level : {4, 3, 2}) {
      const Gfn first = gfn & ~((1ull << 9 * (level - 1)) - 1);
      if (level == 2 || tables_.insert({as_id, level, first}).second)
        checker_.Add(Change(level, first, 0, Table(level), as_id));
    }
    for (Gfn i = 0; i < leaves; i++) checker_.Add(Change(1, gfn + i, 0, Spte(gfn + i), as_id));
  }
  static uint64_t Table(int level) { return Spte(0x100000 + static_cast<uint64_t>(level)); }
  void ClearLeaves(Gfn gfn, unsigned leaves, int as_id = 0, uint64_t to = 0) {
    for (Gfn i = 0; i < leaves; i++) checker_.Add(Change(1, gfn + i, Spte(gfn + i), to, as_id));
  }
  void ClearTable(int level, Gfn gfn, uint64_t to = 0) {
    checker_.Add(Change(level, gfn, Table(level), to));
  }

  SptOrderChecker checker_;
  std::set<std::tuple<int, int, Gfn>> tables_;
};

const std::vector<GpaRange> kFourPages = {{0x40000000, 0x4000}};

TEST_F(SptOrder, LeavesOnlyIsInOrder) {
  Map(kGfn, 4);
  Map(kGfn + 512, 1);
  checker_.Begin();
  ClearLeaves(kGfn, 4);
  const SptOrderReport report = checker_.Report();
  EXPECT_THAT(report, KeptSecureEptOrder());
  EXPECT_THAT(report, RemovedLeavesOnlyIn(kFourPages));
  EXPECT_EQ(report.removed(), (Leaves{4, 0, 0}));
  EXPECT_THAT(report.tables, IsEmpty());
  EXPECT_EQ(report.unknown_before, 0u);
  ASSERT_THAT(report.present, SizeIs(1));
  EXPECT_EQ(report.present[0].gfn, kGfn + 512);
}

TEST_F(SptOrder, TablesAfterTheirLeavesAreInOrder) {
  Map(kGfn, 4);
  checker_.Begin();
  ClearLeaves(kGfn, 4, 0, kFrozen);
  for (const int level : {2, 3}) ClearTable(level, kGfn, kFrozen);
  const SptOrderReport report = checker_.Report();
  EXPECT_THAT(report, KeptSecureEptOrder());
  EXPECT_THAT(report, RemovedLeavesOnlyIn(kFourPages));
  EXPECT_THAT(report.tables, SizeIs(2));
  EXPECT_FALSE(report.tables[0].child);
  EXPECT_THAT(report, RemovedTablesOnlyOf(kFourPages));
  EXPECT_THAT(report, Not(RemovedTablesOnlyOf({{0x80000000, 0x1000}}))) << "of others";
  EXPECT_THAT(report, Not(RemovedTablesOnlyOf(kFourPages, 1))) << "of the other address space";
}

TEST_F(SptOrder, ATableBeforeItsLeavesIsNot) {
  Map(kGfn, 4);
  checker_.Begin();
  ClearLeaves(kGfn, 3);
  ClearTable(2, kGfn, kRemoved);
  ClearLeaves(kGfn + 3, 1, 0, kRemoved);
  const SptOrderReport report = checker_.Report();
  EXPECT_THAT(report.tables, IsEmpty());
  ASSERT_THAT(report.violations, SizeIs(1));
  EXPECT_EQ(report.violations[0].ToString(),
            "address space 0: the level 2 entry of gfn 0x40000 was cleared (SPTE 0x100002807 -> "
            "0x5a0) while the level 1 entry of gfn 0x40003 below it was present (SPTE 0x40003807)");
  EXPECT_THAT(report, Not(KeptSecureEptOrder()));
}

TEST_F(SptOrder, EachTableOfASubtreeThatIsRemovedWholesaleIsAViolation) {
  Map(kGfn, 2);
  Map(kGfn + 512, 2);
  checker_.Begin();
  ClearTable(3, kGfn);
  for (const Gfn gfn : {kGfn, kGfn + 512}) {
    ClearTable(2, gfn, kRemoved);
    ClearLeaves(gfn, 2, 0, kRemoved);
  }
  const SptOrderReport report = checker_.Report();
  EXPECT_THAT(report.violations, SizeIs(3));
  EXPECT_THAT(report.present, IsEmpty());
}

// Nothing is known of what hangs below a table, until it is taken down itself.
TEST_F(SptOrder, WholesaleRemovalShowsThoughRecordingBeganLate) {
  checker_.Begin();
  ClearTable(3, kGfn);
  ClearTable(2, kGfn, kRemoved);
  ClearLeaves(kGfn, 2, 0, kRemoved);
  ClearTable(2, kGfn + 512, kRemoved);
  const SptOrderReport report = checker_.Report();
  ASSERT_THAT(report.violations, SizeIs(2));
  EXPECT_EQ(report.violations[0].change.level, 3);
  EXPECT_EQ(report.violations[0].child->level, 2);
  EXPECT_EQ(report.violations[1].change.level, 2);
  EXPECT_EQ(report.violations[1].child->gfn, kGfn);
  EXPECT_THAT(report.tables, SizeIs(1)) << "of the last table, nothing is known to be amiss";
  EXPECT_EQ(report.unknown_before, 5u);
}

TEST_F(SptOrder, LeavesFirstIsInOrderThoughRecordingBeganLate) {
  checker_.Begin();
  ClearLeaves(kGfn, 2);
  ClearTable(2, kGfn);
  const SptOrderReport report = checker_.Report();
  EXPECT_THAT(report, KeptSecureEptOrder());
  EXPECT_EQ(report.unknown_before, 3u);
  EXPECT_EQ(RemovalProblem(report, {{0x40000000, 0x2000}}), "");
  EXPECT_THAT(report, Not(RemovedLeavesOnlyIn({{0x40000000, 0x2000}}))) << "who knows what is left";
}

TEST_F(SptOrder, ATableInPlaceOfARemovedOneStartsAnew) {
  Map(kGfn, 1);
  checker_.Begin();
  ClearLeaves(kGfn, 1);
  ClearTable(2, kGfn);
  Map(kGfn, 1);
  // Learnt late, but it may well be in the new table.
  ClearLeaves(kGfn + 7, 1);
  EXPECT_THAT(checker_.Report(), KeptSecureEptOrder());
}

TEST_F(SptOrder, WhatHappensBeforeBeginIsNotJudged) {
  Map(kGfn, 1);
  checker_.AddZapAllFast();
  ClearTable(2, kGfn);
  ClearLeaves(kGfn, 1, 0, kRemoved);
  checker_.Begin();
  const SptOrderReport report = checker_.Report();
  EXPECT_THAT(report, KeptSecureEptOrder());
  EXPECT_THAT(report, RemovedLeavesOnlyIn({}));
  EXPECT_THAT(report.present, IsEmpty());
}

TEST_F(SptOrder, ZapAllReplacesTheRoot) {
  Map(kGfn, 1);
  checker_.Begin();
  checker_.AddZapAllFast();
  EXPECT_THAT(checker_.Report().root_replaced, HasSubstr("kvm_mmu_zap_all_fast"));
  EXPECT_THAT(checker_.Report(), Not(KeptSecureEptOrder()));
}

// The vCPU maps through a new root while the old one is taken down.
TEST_F(SptOrder, TwoRootsAtATimeAreToldApart) {
  checker_.Add(Root(4));
  Map(kGfn, 1);
  checker_.Begin();
  checker_.Add(Root(4));
  checker_.Add(Change(4, 0, 0, Spte(0x999)));
  checker_.Add(Change(1, kGfn, 0, Spte(kGfn)));
  checker_.Add(Change(1, kGfn, Spte(kGfn), kRemoved));
  const SptOrderReport report = checker_.Report();
  EXPECT_THAT(report.root_replaced, HasSubstr("the level 4 entry of gfn 0x0 was installed again"));
  ASSERT_THAT(report.present, SizeIs(1));
  EXPECT_EQ(report.present[0].gfn, kGfn) << "the new root's";
}

TEST_F(SptOrder, TheFirstRootOfAnAddressSpaceReplacesNone) {
  checker_.Add(Root(4));
  Map(kGfn, 1);
  checker_.Begin();
  checker_.Add(Root(4));
  Map(kGfn, 1, /*as_id=*/1);
  EXPECT_THAT(checker_.Report(), KeptSecureEptOrder());
  checker_.Add(Root(4));
  EXPECT_THAT(checker_.Report().root_replaced, HasSubstr("a root of level 4 was made"));
}

TEST_F(SptOrder, OnlyTheTopLevelHasRoots) {
  checker_.Add(Root(5));
  checker_.Begin();
  checker_.Add(Root(4));                                             // the first table below
  checker_.Add(CreatedPage{.gfn = 0, .level = 5, .direct = false});  // shadows guest tables
  EXPECT_THAT(checker_.Report(), KeptSecureEptOrder());
  checker_.Add(Root(5));
  EXPECT_THAT(checker_.Report(), Not(KeptSecureEptOrder()));
}

TEST_F(SptOrder, FiveLevelsShowThoughRecordingBeganLate) {
  checker_.Begin();
  checker_.Add(Root(4));
  checker_.Add(Change(5, 0, 0, Spte(1)));
  EXPECT_THAT(checker_.Report(), KeptSecureEptOrder());
}

TEST_F(SptOrder, PermissionsAndMmioAreNoRemoval) {
  Map(kGfn, 1);
  checker_.Begin();
  checker_.Add(Change(1, kGfn, Spte(kGfn), Spte(kGfn) & ~2ull));
  checker_.Add(Change(2, kGfn, Table(2), Table(2) & ~2ull));
  checker_.Add(Change(1, kGfn + 1, 0, kMmio));
  checker_.Add(Change(1, kGfn + 1, kMmio, kRemoved));
  const SptOrderReport report = checker_.Report();
  EXPECT_THAT(report, KeptSecureEptOrder());
  EXPECT_THAT(report, RemovedLeavesOnlyIn({}));
  EXPECT_EQ(report.changes, 4u);
  EXPECT_EQ(report.installs, 0u);
}

TEST_F(SptOrder, ALeafOfAnotherPageIsRemovedAndInstalled) {
  Map(kGfn, 1);
  checker_.Begin();
  checker_.Add(Change(1, kGfn, Spte(kGfn), Spte(0x777)));
  const SptOrderReport report = checker_.Report();
  EXPECT_THAT(report, KeptSecureEptOrder());
  EXPECT_EQ(report.removed(), (Leaves{1, 0, 0}));
  EXPECT_EQ(report.installs, 1u);
  EXPECT_THAT(report, Not(RemovedLeavesOnlyIn({{0x40000000, 0x1000}}))) << "one is there again";
}

TEST_F(SptOrder, ASplitRemovesNothing) {
  checker_.Add(Change(2, kGfn, 0, LargeSpte(0x80000)));
  checker_.Begin();
  checker_.Add(Change(2, kGfn, LargeSpte(0x80000), Table(2)));
  SptOrderReport report = checker_.Report();
  EXPECT_THAT(report, KeptSecureEptOrder());
  EXPECT_THAT(report, RemovedLeavesOnlyIn({}));
  EXPECT_EQ(report.splits, 1u);
  ASSERT_THAT(report.present, SizeIs(512));
  EXPECT_EQ(report.present[511].gfn, kGfn + 511);
  EXPECT_EQ(report.present[511].spte, Spte(0x80000 + 511));

  // Those were shown by no event, and are known all the same.
  for (Gfn i = 0; i < 512; i++) checker_.Add(Change(1, kGfn + i, Spte(0x80000 + i), 0));
  report = checker_.Report();
  EXPECT_THAT(report, RemovedLeavesOnlyIn({{0x40000000, 2ull << 20}}));
  EXPECT_EQ(report.unknown_before, 0u);
}

TEST_F(SptOrder, ASplitOf1GiBGivesLargePages) {
  checker_.Add(Change(3, kGfn, 0, LargeSpte(0x80000)));
  checker_.Begin();
  checker_.Add(Change(3, kGfn, LargeSpte(0x80000), Table(3)));
  ClearTable(3, kGfn);
  const SptOrderReport report = checker_.Report();
  ASSERT_THAT(report.present, SizeIs(512));
  EXPECT_EQ(report.present[1].spte, LargeSpte(0x80200));
  EXPECT_THAT(report.violations, SizeIs(1)) << "the table was not empty";
}

TEST_F(SptOrder, ACollapseIsAViolation) {
  Map(kGfn, 1);
  checker_.Begin();
  checker_.Add(Change(2, kGfn, Table(2), LargeSpte(0x80000)));
  const SptOrderReport report = checker_.Report();
  ASSERT_THAT(report.violations, SizeIs(1));
  EXPECT_THAT(report.violations[0].ToString(), HasSubstr("was replaced by a large page"));
}

TEST_F(SptOrder, AnotherTableIsAViolation) {
  Map(kGfn, 1);
  checker_.Begin();
  checker_.Add(Change(2, kGfn, Table(2), Spte(0x777)));
  ASSERT_THAT(checker_.Report().violations, SizeIs(1));
  EXPECT_THAT(checker_.Report().violations[0].ToString(), HasSubstr("by another table"));
}

TEST_F(SptOrder, NeighboursAreNotBelowATable) {
  Map(kGfn - 512, 512);
  Map(kGfn, 1);
  Map(kGfn + 512, 1);
  Map(kGfn, 1, /*as_id=*/1);
  checker_.Begin();
  ClearLeaves(kGfn, 1);
  ClearTable(2, kGfn);
  EXPECT_THAT(checker_.Report(), KeptSecureEptOrder());
}

TEST_F(SptOrder, TheLastGfnOfATableIsBelowIt) {
  Map(kGfn, 512);
  checker_.Begin();
  ClearLeaves(kGfn, 511);
  ClearTable(2, kGfn);
  ASSERT_THAT(checker_.Report().violations, SizeIs(1));
  EXPECT_EQ(checker_.Report().violations[0].child->gfn, kGfn + 511);
}

// 52 bits of guest physical addresses.
TEST_F(SptOrder, TheLastGfnOfAll) {
  constexpr Gfn kLast = (1ull << 40) - 1;
  checker_.Add(Change(5, 0xf000000000, 0, Spte(1)));
  checker_.Add(Change(1, kLast, 0, Spte(2)));
  checker_.Begin();
  checker_.Add(Change(5, 0xf000000000, Spte(1), 0));
  checker_.Add(Change(1, kLast, Spte(2), kRemoved));
  const SptOrderReport report = checker_.Report();
  ASSERT_THAT(report.violations, SizeIs(1));
  EXPECT_EQ(report.violations[0].child->gfn, kLast);
  EXPECT_THAT(report.present, IsEmpty());
}

TEST_F(SptOrder, MarksAndOtherEventsOfATrace) {
  const auto spte = [](const std::string& fields) {
    return " t-1 [000] .....  1.5: kvm_tdp_mmu_spte_changed: " + fields + "\n";
  };
  const std::string before = spte("as id 0 gfn 40000 level 2 old_spte 0 new_spte 100000907") +
                             spte("as id 0 gfn 40000 level 1 old_spte 0 new_spte 80000907");
  const std::string after =
      spte("as id 0 gfn 40000 level 2 old_spte 100000907 new_spte 5a0") +
      " t-1 [000] .....  1.5: kvm_unmap_hva_range: mmu notifier unmap range: 0x1000 -- 0x2000\n"
      " t-1 [000] .....  1.5: sched_switch: whatever\n";
  const std::string mark = " t-1 [000] .....  1.5: tracing_mark_write: slotzap: begin\n";
  SptOrderReport report = CheckTrace(ParseTrace(before + mark + after), {});
  EXPECT_EQ(report.changes, 1u);
  EXPECT_EQ(report.host_unmaps, 1u);
  EXPECT_THAT(report.violations, SizeIs(1));
  report = CheckTrace(ParseTrace(before + after), {});
  EXPECT_EQ(report.changes, 3u) << "no mark: all of it";
  EXPECT_THAT(report.violations, SizeIs(1));
}

TEST_F(SptOrder, CountsByRange) {
  checker_ = SptOrderChecker({.ranges = {kFourPages[0], {0x40002000, 0x100000}}});
  Map(kGfn, 4);
  Map(kGfn, 4, /*as_id=*/1);
  checker_.Begin();
  ClearLeaves(kGfn, 3);
  ClearLeaves(kGfn, 4, /*as_id=*/1);
  const SptOrderReport report = checker_.Report();
  ASSERT_THAT(report.ranges, SizeIs(2));
  EXPECT_EQ(report.ranges[0].removed, (Leaves{3, 0, 0}));
  EXPECT_EQ(report.ranges[0].left, (Leaves{1, 0, 0}));
  EXPECT_EQ(report.ranges[1].removed, (Leaves{1, 0, 0}));
  EXPECT_THAT(report.ToString(),
              HasSubstr("in [0x40000000, 0x40004000) removed 3 of 4 KiB, 0 of 2 MiB, 0 of 1 GiB, "
                        "left 1 of 4 KiB"));
}

TEST_F(SptOrder, RemovalProblemNamesWhatIsAmiss) {
  Map(kGfn, 4);
  Map(kGfn + 512, 1);
  Map(kGfn, 1, /*as_id=*/1);
  checker_.Begin();
  EXPECT_EQ(RemovalProblem(checker_.Report(), {}), "");
  EXPECT_EQ(RemovalProblem(checker_.Report(), kFourPages),
            "a leaf is left: gfn 0x40000 level 1 of address space 0");
  EXPECT_EQ(RemovalProblem(checker_.Report(), {{0x50000000, 0x1000}}),
            "no leaf was removed in [0x50000000, 0x50001000): none was known there");
  ClearLeaves(kGfn, 4);
  EXPECT_EQ(RemovalProblem(checker_.Report(), kFourPages), "");
  EXPECT_EQ(RemovalProblem(checker_.Report(), {{0x40000000, 0x3000}}),
            "a leaf outside of the ranges was removed: gfn 0x40003 level 1 of address space 0");
  EXPECT_EQ(RemovalProblem(checker_.Report(), kFourPages, 1),
            "a leaf outside of the ranges was removed: gfn 0x40000 level 1 of address space 0");
  ClearTable(2, kGfn);
  EXPECT_EQ(RemovalProblem(checker_.Report(), kFourPages), "");
  ClearTable(2, kGfn + 1024);
  EXPECT_THAT(RemovalProblem(checker_.Report(), kFourPages),
              HasSubstr("a table outside of the ranges was removed: address space 0: the level 2 "
                        "entry of gfn 0x40400 was cleared"));
}

TEST_F(SptOrder, SmmsLeavesAreJudgedInItsAddressSpace) {
  Map(kGfn, 4);
  Map(kGfn, 4, /*as_id=*/1);
  checker_.Begin();
  ClearLeaves(kGfn, 4, /*as_id=*/1);
  const SptOrderReport report = checker_.Report();
  EXPECT_THAT(report, RemovedLeavesOnlyIn(kFourPages, 1));
  EXPECT_THAT(report, Not(RemovedLeavesOnlyIn(kFourPages, 0)));
}

TEST_F(SptOrder, LargeLeavesThatReachBeyondTheRange) {
  for (const int level : {2, 3}) {
    SptOrderChecker checker;
    checker.Add(Change(level, kGfn, 0, LargeSpte(0x80000)));
    checker.Begin();
    const GpaRange whole = RangeOf(kGfn, level);
    const std::vector<GpaRange> half = {{whole.start, whole.size / 2}};
    EXPECT_THAT(RemovalProblem(checker.Report(), half), HasSubstr("a leaf is left"));
    checker.Add(Change(level, kGfn, LargeSpte(0x80000), 0));
    EXPECT_THAT(RemovalProblem(checker.Report(), half),
                HasSubstr("a leaf that reaches beyond the ranges was removed"));
    EXPECT_EQ(RemovalProblem(checker.Report(), {whole}), "");
    EXPECT_EQ(RemovalProblem(checker.Report(), {{half[0].end(), half[0].size}, half[0]}), "")
        << "two ranges may share a leaf that lies in both of them together";
  }
}

TEST_F(SptOrder, ReportWantsABegin) { EXPECT_THROW(checker_.Report(), std::logic_error); }

}  // namespace
}  // namespace slotzap

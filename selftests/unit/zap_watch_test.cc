// SPDX-License-Identifier: GPL-2.0-only
#include "oracle/zap_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace slotzap {
namespace {

using testing::HasSubstr;

TEST(Spte, PresenceIsKvmsOwnBit) {
  EXPECT_TRUE(IsPresentSpte(0x8000000102345907 | 1ull << 11));
  EXPECT_FALSE(IsPresentSpte(0)) << "zapped";
  EXPECT_FALSE(IsPresentSpte(0x0ff0000000000607)) << "MMIO, or frozen";
}

TEST(Spte, IsALeafAtTheLastLevelOrWithTheLargeBit) {
  EXPECT_TRUE(IsLeaf(0x907, 1));
  EXPECT_TRUE(IsLeaf(0x987, 2));
  EXPECT_FALSE(IsLeaf(0x907, 2));
  EXPECT_TRUE(IsLeaf(0x987, 3));
}

TEST(Leaves, AddUp) {
  const Leaves before = {10, 2, 1};
  const Leaves after = {4, 2, 0};
  EXPECT_EQ((before - after), (Leaves{6, 0, 1}));
  EXPECT_EQ((before - after).total(), 7);
}

TEST(Leaves, AreReadFromTheStatistics) {
  const StatsSnapshot stats({{"pages_4k", 3}, {"pages_2m", 2}, {"pages_1g", 1}});
  EXPECT_EQ(PresentLeaves(stats), (Leaves{3, 2, 1}));
}

// The tables of the slot that went, whole or in part, are sorted out, others stay for all to see.
TEST(ZapReport, SortsOutTheEmptiedTablesOfTheSlotsThatWent) {
  ZapReport report;
  report.slots = {{.slot = 1, .base_gfn = 0x40180, .npages = 0x100}};
  report.tables = {{0, 0x40000, 2, 0x107, 0}, {0, 0x40200, 2, 0x107, 0}, {0, 0x40400, 2, 0x107, 0}};
  report.shadow_pages = {{.gfn = 0x40000, .level = 1, .direct = true},
                         {.gfn = 0x40200, .level = 1, .direct = true},
                         {.gfn = 0x40000, .level = 2, .direct = true},
                         {.gfn = 0x40400, .level = 1, .direct = true},
                         {.gfn = 0x40000, .level = 3, .direct = true, .root_count = 1},
                         {.gfn = 0x40190, .level = 1}};
  report.shadow_zapped = 4;
  report.SortOutEmptied();
  ASSERT_EQ(report.tables.size(), 1u);
  EXPECT_EQ(report.tables[0].gfn, 0x40400u);
  EXPECT_EQ(report.emptied.size(), 3u);
  ASSERT_EQ(report.shadow_pages.size(), 3u);
  EXPECT_EQ(report.shadow_pages[0].gfn, 0x40400u) << "of another slot";
  EXPECT_EQ(report.shadow_pages[1].root_count, 1) << "a root";
  EXPECT_FALSE(report.shadow_pages[2].direct) << "of a guest page table";
  EXPECT_EQ(report.shadow_zapped, 3u) << "two of the three are the TDP MMU's";
}

TEST(ZapReport, NothingIsSortedOutWhenEverythingWent) {
  ZapReport report;
  report.slots = {{.slot = 1, .base_gfn = 0x40000, .npages = 0x200, .all = true}};
  report.shadow_pages = {{.gfn = 0x40000, .level = 1, .direct = true}};
  report.SortOutEmptied();
  EXPECT_EQ(report.shadow_pages.size(), 1u);
}

TEST(ZapReport, SaysWhatItKnows) {
  ZapReport report;
  report.before = {10, 0, 0};
  report.after = {7, 0, 0};
  report.flush_requests = 1;
  report.leaves = {{0, 0x40000, 1, 0x907, 0}};
  report.shadow_pages = {{.gfn = 0x200, .level = 2, .direct = true}};
  EXPECT_THAT(report.ToString(), HasSubstr("before: 10 of 4 KiB"));
  EXPECT_THAT(report.ToString(), HasSubstr("first leaves at gfn 0x40000 level 1"));
  EXPECT_THAT(report.ToString(), HasSubstr("gfn 0x200 level 2 direct"));
  report.untraced = "tracefs is not mounted";
  EXPECT_THAT(report.ToString(), HasSubstr("not traced: tracefs is not mounted"));
}

}  // namespace
}  // namespace slotzap

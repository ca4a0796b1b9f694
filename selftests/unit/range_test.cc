// SPDX-License-Identifier: GPL-2.0-only
#include "base/range.h"

#include <gtest/gtest.h>

namespace slotzap {
namespace {

using namespace literals;

TEST(GpaRange, CountsPagesAndFrames) {
  constexpr GpaRange range = {1_GiB, 12_KiB};
  EXPECT_EQ(range.pages(), 3u);
  EXPECT_EQ(range.first_gfn(), 0x40000u);
  EXPECT_EQ(range.end_gfn(), 0x40003u);
  EXPECT_EQ(range.end(), 1_GiB + 12_KiB);
}

TEST(GpaRange, EndIsOutside) {
  constexpr GpaRange range = {0x1000, 0x2000};
  EXPECT_FALSE(range.contains(0xfff));
  EXPECT_TRUE(range.contains(0x1000));
  EXPECT_TRUE(range.contains(0x2fff));
  EXPECT_FALSE(range.contains(0x3000));
}

TEST(GpaRange, NeighboursDoNotOverlap) {
  constexpr GpaRange range = {0x1000, 0x2000};
  EXPECT_FALSE(range.overlaps({0x3000, 0x1000}));
  EXPECT_FALSE(range.overlaps({0, 0x1000}));
  EXPECT_TRUE(range.overlaps({0x2000, 0x2000}));
  EXPECT_TRUE(range.overlaps({0x1800, 1}));
}

TEST(GpaRange, ReadsWell) {
  EXPECT_EQ(ToString({0x1000, 0x2000}), "[0x1000, 0x3000)");
  EXPECT_EQ(SizeString(4_KiB), "4 KiB");
  EXPECT_EQ(SizeString(3_MiB), "3 MiB");
  EXPECT_EQ(SizeString(5_GiB + 4_KiB), "5242884 KiB");
  EXPECT_EQ(SizeString(17), "17 bytes");
  EXPECT_EQ(SizeString(0), "0 bytes");
}

}  // namespace
}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "host/sw_rmp.h"

#include <gtest/gtest.h>

#include "base/file_descriptor.h"
#include "unit/temp_dir.h"

namespace slotzap {
namespace {

TEST(SwRmp, UnavailableWithoutTheParameter) {
  const TempDir none;
  EXPECT_NE(SwRmp::Unavailable(none.path()), "");
  none.Write("sw_rmp", "N\n");
  EXPECT_EQ(SwRmp::Unavailable(none.path()), "");
}

TEST(SwRmp, SetsAndPutsBackWhatItSets) {
  const TempDir dir;
  const std::string sw_rmp = dir.Write("sw_rmp", "N\n");
  const std::string hold = dir.Write("sw_rmp_hold", "N\n");
  const std::string fail = dir.Write("sw_rmp_fail_after", "-1\n");
  dir.Write("sw_rmp_refused", "0\n");
  {
    SwRmp rmp(dir.path());
    // A write replaces what sysfs shows; an ordinary file keeps its tail.
    EXPECT_EQ(ReadLine(sw_rmp).front(), 'Y');
    rmp.HoldWindow();
    EXPECT_EQ(ReadLine(hold).front(), 'Y');
    rmp.ReleaseWindow();
    EXPECT_EQ(ReadLine(hold).front(), 'N');
    rmp.HoldWindow();
    rmp.FailAfter(7);
    EXPECT_EQ(ReadLine(fail).front(), '7');
  }
  EXPECT_EQ(ReadLine(sw_rmp).front(), 'N');
  EXPECT_EQ(ReadLine(hold).front(), 'N');
  EXPECT_EQ(ReadLine(fail).substr(0, 2), "-1");
}

TEST(SwRmp, ReadsItsCounters) {
  const TempDir dir;
  dir.Write("sw_rmp", "Y\n");
  dir.Write("sw_rmp_hold", "N\n");
  dir.Write("sw_rmp_fail_after", "-1\n");
  dir.Write("sw_rmp_pages", "5\n");
  dir.Write("sw_rmp_assigned", "4\n");
  dir.Write("sw_rmp_unmapped", "3\n");
  dir.Write("sw_rmp_refused", "2\n");
  dir.Write("sw_rmp_held", "1\n");
  const SwRmp rmp(dir.path());
  EXPECT_EQ(rmp.refused(), 0u) << "what others did before";
  dir.Write("sw_rmp_refused", "9\n");
  EXPECT_EQ(rmp.refused(), 7u);
  EXPECT_EQ(rmp.pages(), 5u);
  EXPECT_EQ(rmp.assigned(), 4u);
  EXPECT_EQ(rmp.unmapped(), 3u);
  EXPECT_EQ(rmp.held(), 1u);
}

}  // namespace
}  // namespace slotzap

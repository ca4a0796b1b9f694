// SPDX-License-Identifier: GPL-2.0-only
#include "vfio/accounting.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <stdexcept>

#include "base/mapping.h"
#include "unit/temp_dir.h"

namespace slotzap {
namespace {

TEST(LockedBytes, AreThoseOfTheStatusFile) {
  const TempDir dir;
  EXPECT_EQ(
      LockedBytes(dir.Write("status", "VmPeak:\t 900 kB\nVmLck:\t   2048 kB\nVmPin:\t 4 kB\n")),
      2048u << 10);
  EXPECT_THROW(LockedBytes(dir.Write("empty", "VmPeak:\t 900 kB\n")), std::runtime_error);
}

TEST(LockedBytes, GrowWithMemoryThatIsLocked) {
  const uint64_t before = LockedBytes();
  const Mapping memory = Mapping::Anonymous(8192);
  ASSERT_EQ(mlock(memory.data(), 4096), 0);
  EXPECT_EQ(LockedBytes(), before + 4096);
  ASSERT_EQ(munlock(memory.data(), 4096), 0);
  EXPECT_EQ(LockedBytes(), before);
}

TEST(PinnedPages, AreWhatWasNotLetGo) {
  const TempDir dir;
  EXPECT_EQ(
      PinnedPages(dir.Write("vmstat", "nr_foll_pin_acquired 700\nnr_foll_pin_released 643\n")),
      57u);
  EXPECT_THROW(PinnedPages(dir.Write("none", "nr_free_pages 1\n")), std::runtime_error);
}

}  // namespace
}  // namespace slotzap

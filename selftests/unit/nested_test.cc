// SPDX-License-Identifier: GPL-2.0-only
#include "guest/nested.h"

#include <gtest/gtest.h>

#include "kvm/memory_slot.h"

namespace slotzap {
namespace {

using namespace literals;

TEST(NestedExit, InWords) {
  EXPECT_EQ(NestedExitText({}), "L2 was not entered");
  EXPECT_EQ(NestedExitText({.end = guest::NestedEnd::kFault,
                            .code = 0x400,
                            .info = 0x100000004,
                            .fault_addr = 0x40003000}),
            "L2 exited: fault at 0x40003000 (code 0x400, info 0x100000004)");
  EXPECT_EQ(NestedExitText({.end = guest::NestedEnd::kShutdown, .code = 2}),
            "L2 exited: triple fault (code 0x2, info 0x0)");
  EXPECT_EQ(
      NestedExitText(
          {.end = guest::NestedEnd::kEntryFailed, .code = 0x80000021, .instruction_error = 7}),
      "L2 could not be entered: VM-instruction error 7 (code 0x80000021, info 0x0)");
  EXPECT_EQ(NestedExitText({.end = guest::NestedEnd::kOther, .code = 0x30, .info = 1}),
            "L2 exited (code 0x30, info 0x1)");
}

// Intel SDM volume 3, 25.6.11: memory type WB, a walk of 4 levels, in an EPTP only.
TEST(NestedRoot, IsWhatTheCpuExpects) {
  const GuestMemory memory(16_KiB);
  const GpaRange range = {1_MiB, 16_KiB};
  EXPECT_EQ(NestedRoot(PageTables(memory, range, range, TableFormat::kGuest)), 1_MiB);
  EXPECT_EQ(NestedRoot(PageTables(memory, range, range, TableFormat::kNpt)), 1_MiB);
  EXPECT_EQ(NestedRoot(PageTables(memory, range, range, TableFormat::kEpt)), 1_MiB | 0x1e);
}

TEST(NestedSupport, HasPagingIfTablesHaveAFormatOfTheirOwn) {
  EXPECT_FALSE(NestedSupport{}.paging());
  EXPECT_TRUE(NestedSupport{.format = TableFormat::kNpt}.paging());
  EXPECT_TRUE(NestedSupport{.format = TableFormat::kEpt}.paging());
}

}  // namespace
}  // namespace slotzap

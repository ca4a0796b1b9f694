// SPDX-License-Identifier: GPL-2.0-only
#include "host/vm_stat.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "unit/temp_dir.h"

namespace slotzap {
namespace {

TEST(VmStat, FindsTheName) {
  const TempDir dir;
  const std::string path = dir.Write("vmstat", "nr_free_pages 12\nnr_sec_page_table_pages 34\n");
  EXPECT_EQ(VmStat("nr_free_pages", path), 12u);
  EXPECT_EQ(VmStat("nr_sec_page_table_pages", path), 34u);
  EXPECT_THROW(VmStat("nr_free", path), std::runtime_error);
  EXPECT_THROW(VmStat("nr_free_pages", dir.path() + "/nonesuch"), std::runtime_error);
}

TEST(VmStat, AvailableMemoryIsInBytes) {
  const TempDir dir;
  const std::string path = dir.Write(
      "meminfo", "MemTotal:        2048 kB\nMemAvailable:    1024 kB\nHugePages_Free: 0\n");
  EXPECT_EQ(AvailableMemory(path), 1u << 20);
  EXPECT_THROW(AvailableMemory(dir.Write("none", "MemTotal: 1 kB\n")), std::runtime_error);
  EXPECT_GT(AvailableMemory(), 0u);
}

TEST(VmStat, RefreshWritesTheFile) {
  const TempDir dir;
  const std::string path = dir.Write("stat_refresh", "");
  RefreshVmStat(path);
  EXPECT_THROW(VmStat("1", path), std::runtime_error);  // a name, but no value
  EXPECT_THROW(RefreshVmStat(dir.path() + "/none/stat_refresh"), std::exception);
}

}  // namespace
}  // namespace slotzap

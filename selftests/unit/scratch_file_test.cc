// SPDX-License-Identifier: GPL-2.0-only
#include "host/scratch_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <system_error>

#include "base/mapping.h"
#include "base/range.h"

namespace slotzap {
namespace {

TEST(ScratchFileTest, TheFolderIsTmpdir) {
  const char* before = std::getenv("TMPDIR");
  const std::string old = before != nullptr ? before : "";
  setenv("TMPDIR", "/somewhere", 1);
  EXPECT_EQ(ScratchFolder(), "/somewhere");
  unsetenv("TMPDIR");
  EXPECT_EQ(ScratchFolder(), "/tmp");
  if (before != nullptr) setenv("TMPDIR", old.c_str(), 1);
}

TEST(ScratchFileTest, TakesWholeBlocksOfAlignedMemory) {
  if (const std::string reason = DirectIoUnavailable(); !reason.empty()) GTEST_SKIP() << reason;
  const FileDescriptor file = DirectFile(4 * kPageSize);
  struct stat status = {};
  ASSERT_EQ(fstat(file.get(), &status), 0);
  EXPECT_EQ(status.st_size, 4 * 4096);
  EXPECT_EQ(status.st_nlink, 0u);
  const Mapping memory = Mapping::Anonymous(kPageSize);
  *memory.at<char>(0) = 'd';
  EXPECT_EQ(pwrite(file.get(), memory.data(), kPageSize, kPageSize), 4096);
  *memory.at<char>(0) = 0;
  EXPECT_EQ(pread(file.get(), memory.data(), kPageSize, kPageSize), 4096);
  EXPECT_EQ(*memory.at<char>(0), 'd');
}

TEST(ScratchFileTest, SaysWhyNot) {
  EXPECT_EQ(DirectIoUnavailable("/dev/shm"), "/dev/shm is in memory: nothing does DMA to it");
  EXPECT_NE(DirectIoUnavailable("/nowhere").find("no O_DIRECT"), std::string::npos);
  EXPECT_THROW(DirectFile(kPageSize, "/nowhere"), std::system_error);
}

}  // namespace
}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "base/file_descriptor.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <system_error>
#include <utility>

#include "unit/temp_dir.h"

namespace slotzap {
namespace {

TEST(FileDescriptor, ClosesOnceAndMoves) {
  FileDescriptor first = FileDescriptor::Open("/dev/null", O_RDONLY);
  const int number = first.get();
  FileDescriptor second = std::move(first);
  EXPECT_FALSE(first.valid());  // NOLINT: what is left of it is the question
  EXPECT_EQ(second.get(), number);
  second.Close();
  EXPECT_EQ(fcntl(number, F_GETFD), -1);
}

TEST(FileDescriptor, NamesThePathThatCannotBeOpened) {
  try {
    FileDescriptor::Open("/nonexistent/file", O_RDONLY);
    FAIL() << "opened it";
  } catch (const std::system_error& e) {
    EXPECT_EQ(e.code().value(), ENOENT);
    EXPECT_THAT(e.what(), testing::HasSubstr("/nonexistent/file"));
  }
}

TEST(Files, AreWrittenAndRead) {
  const TempDir dir;
  const std::string path = dir.path() + "/parameter";
  FileDescriptor::Open(path, O_CREAT | O_WRONLY, 0600);
  WriteFile(path, "Y\n \n");
  EXPECT_EQ(ReadFile(path), "Y\n \n");
  EXPECT_EQ(ReadLine(path), "Y");
  WriteFile(path, "N");
  EXPECT_EQ(ReadFile(path), "N") << "the old text has to go";
  EXPECT_TRUE(FileExists(path));
  EXPECT_FALSE(FileExists(path + "2"));
}

}  // namespace
}  // namespace slotzap

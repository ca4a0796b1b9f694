// SPDX-License-Identifier: GPL-2.0-only
#include "host/forked_process.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>

#include "base/mapping.h"
#include "base/range.h"

namespace slotzap {
namespace {

TEST(ForkedProcessTest, SharesWhatIsSharedAndKeepsTheRest) {
  const FileDescriptor file = MemoryFile(kPageSize);
  const Mapping shared = Mapping::Shared(file.get(), kPageSize);
  const Mapping own = Mapping::Anonymous(kPageSize);
  *own.at<uint64_t>(0) = 1;
  ForkedProcess child([&](uint64_t value) {
    *shared.at<uint64_t>(0) = value;
    *own.at<uint64_t>(0) += value;
    return *own.at<uint64_t>(0);
  });
  EXPECT_NE(child.pid(), getpid());
  *own.at<uint64_t>(0) = 100;
  EXPECT_EQ(child.Do(5), 6u);
  EXPECT_EQ(*shared.at<uint64_t>(0), 5u);
  EXPECT_EQ(child.Do(6), 12u);
  EXPECT_EQ(*own.at<uint64_t>(0), 100u);
}

TEST(ForkedProcessTest, AFailureIsTold) {
  ForkedProcess child([](uint64_t value) -> uint64_t {
    if (value == 1) throw std::runtime_error("no");
    return value;
  });
  EXPECT_THROW(child.Do(1), std::runtime_error);
  EXPECT_EQ(child.Do(2), 2u) << "it goes on";
}

TEST(ForkedProcessTest, EndsWhenToldTo) {
  ForkedProcess child([](uint64_t value) { return value; });
  const pid_t pid = child.pid();
  child.End();
  EXPECT_EQ(kill(pid, 0), -1);
  EXPECT_EQ(errno, ESRCH);
  EXPECT_ANY_THROW(child.Do(1));
  child.End();
}

}  // namespace
}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "host/user_faults.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "base/mapping.h"

namespace slotzap {
namespace {

constexpr uint64_t kPage = 4096;

class UserFaultsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = UserFaults::Unavailable(); !reason.empty())
      GTEST_SKIP() << reason;
  }

  const Mapping memory_ = Mapping::Anonymous(4 * kPage);
};

TEST_F(UserFaultsTest, WhoTouchesTheMemoryWaits) {
  UserFaults faults(memory_.data(), memory_.size());
  std::atomic<bool> done = false;
  std::thread toucher([&] {
    EXPECT_EQ(*memory_.at<volatile uint64_t>(2 * kPage + 8), 0u);
    done = true;
  });
  EXPECT_EQ(faults.WaitForFault(), memory_.address() + 2 * kPage);
  EXPECT_FALSE(done);
  faults.Resolve();
  toucher.join();
  EXPECT_TRUE(done);
}

TEST_F(UserFaultsTest, NobodyWaitsAfterwards) {
  {
    UserFaults faults(memory_.data(), memory_.size());
    faults.Resolve();
    *memory_.at<uint64_t>(0) = 7;
    faults.Resolve();
    EXPECT_EQ(*memory_.at<uint64_t>(0), 7u) << "resolving twice overwrote the memory";
  }
  *memory_.at<uint64_t>(3 * kPage) = 8;
  EXPECT_EQ(*memory_.at<uint64_t>(3 * kPage), 8u);
}

TEST_F(UserFaultsTest, RefusesWhatIsNoMemory) {
  EXPECT_THROW(UserFaults(memory_.data() + 1, kPage), std::system_error);
}

}  // namespace
}  // namespace slotzap

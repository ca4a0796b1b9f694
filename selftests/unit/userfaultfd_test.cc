// SPDX-License-Identifier: GPL-2.0-only
#include "host/userfaultfd.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "base/mapping.h"
#include "base/range.h"
#include "host/task.h"

namespace slotzap {
namespace {

class UserfaultfdTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = Userfaultfd::Unavailable(); !reason.empty())
      GTEST_SKIP() << reason;
  }

  static UserFault WaitForFault(Userfaultfd& uffd) {
    for (;;) {
      if (const auto fault = uffd.TakeFault()) return *fault;
      std::this_thread::yield();
    }
  }
  static uint64_t Load(const Mapping& memory, uint64_t offset) {
    return __atomic_load_n(memory.at<uint64_t>(offset), __ATOMIC_ACQUIRE);
  }

  FileDescriptor file_ = MemoryFile(4 * kPageSize);
  Mapping memory_ = Mapping::Shared(file_.get(), 4 * kPageSize);
};

TEST_F(UserfaultfdTest, AnAccessSleepsUntilThePageIsCopied) {
  Userfaultfd uffd;
  uffd.Register(memory_.address(), memory_.size());
  EXPECT_EQ(uffd.TakeFault(), std::nullopt);

  BackgroundCall<uint64_t> reader([&] { return Load(memory_, kPageSize + 8); });
  const UserFault fault = WaitForFault(uffd);
  EXPECT_EQ(fault, (UserFault{memory_.address() + kPageSize, false, reader.thread()}));
  EXPECT_EQ(uffd.TakeFault(), std::nullopt) << "each is told once";
  EXPECT_FALSE(reader.ended());

  std::vector<std::byte> page(kPageSize);
  const uint64_t value = 0x600d;
  std::memcpy(page.data() + 8, &value, sizeof(value));
  uffd.Copy(fault.address, page);
  EXPECT_EQ(reader.Join(), value);
  EXPECT_EQ(uffd.TryCopy(fault.address, page), std::errc::file_exists);
}

TEST_F(UserfaultfdTest, WritesAreToldFromReads) {
  Userfaultfd uffd;
  uffd.Register(memory_.address(), memory_.size());
  BackgroundCall<int> writer([&] {
    *memory_.at<uint64_t>(0) = 5;
    return 0;
  });
  EXPECT_TRUE(WaitForFault(uffd).write);
  uffd.Zero(memory_.address(), kPageSize);
  writer.Join();
  EXPECT_EQ(Load(memory_, 0), 5u);
}

TEST_F(UserfaultfdTest, ZeroedPagesDoNotFault) {
  Userfaultfd uffd;
  uffd.Register(memory_.address(), memory_.size());
  uffd.Zero(memory_.address(), 2 * kPageSize);
  EXPECT_EQ(Load(memory_, 0), 0u);
  EXPECT_EQ(Load(memory_, kPageSize), 0u);
  EXPECT_EQ(uffd.TakeFault(), std::nullopt);
}

TEST_F(UserfaultfdTest, OneThatIsWokenInVainSleepsAgain) {
  Userfaultfd uffd;
  uffd.Register(memory_.address(), memory_.size());
  BackgroundCall<uint64_t> reader([&] { return Load(memory_, 0); });
  const UserFault fault = WaitForFault(uffd);
  uffd.Wake(fault.address, kPageSize);
  EXPECT_EQ(WaitForFault(uffd), fault);
  uffd.Zero(fault.address, kPageSize);
  EXPECT_EQ(reader.Join(), 0u);
}

TEST_F(UserfaultfdTest, ClosingLetsEverybodyGoOn) {
  Userfaultfd uffd;
  uffd.Register(memory_.address(), memory_.size());
  BackgroundCall<uint64_t> reader([&] { return Load(memory_, 0); });
  WaitForFault(uffd);
  uffd.Close();
  EXPECT_EQ(reader.Join(), 0u);
}

TEST_F(UserfaultfdTest, ErrorsAreReturnedOrThrown) {
  Userfaultfd uffd;
  EXPECT_EQ(uffd.TryRegister(memory_.address() + 1, kPageSize), std::errc::invalid_argument);
  EXPECT_THROW(uffd.Register(memory_.address() + 1, kPageSize), std::system_error);
  EXPECT_TRUE(uffd.TryZero(memory_.address(), kPageSize)) << "nothing is registered";
  EXPECT_THROW(uffd.Zero(memory_.address(), kPageSize), std::system_error);
  EXPECT_THROW(uffd.Copy(memory_.address(), std::vector<std::byte>(kPageSize)), std::system_error);
  EXPECT_TRUE(uffd.TryWake(memory_.address() + 1, kPageSize));
  EXPECT_THROW(uffd.Wake(memory_.address() + 1, kPageSize), std::system_error);
}

}  // namespace
}  // namespace slotzap

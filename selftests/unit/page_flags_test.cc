// SPDX-License-Identifier: GPL-2.0-only
#include "host/page_flags.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>
#include <string_view>
#include <system_error>

#include "base/mapping.h"
#include "base/range.h"
#include "unit/temp_dir.h"

namespace slotzap {
namespace {

class FakePageFlags : public testing::Test {
 protected:
  static std::string Bytes(std::initializer_list<uint64_t> entries) {
    std::string bytes;
    for (const uint64_t entry : entries)
      bytes.append(reinterpret_cast<const char*>(&entry), sizeof(entry));
    return bytes;
  }
  void SetUp() override {
    // Pages at 0x0000: not there, 0x1000: frame 2, 0x2000: frame hidden.
    dir_.Write("self/pagemap", Bytes({0, 1ull << 63 | 1ull << 61 | 2, 1ull << 63}));
    dir_.Write("kpageflags", Bytes({0, 0, 1ull << 4 | 1ull << 3}));
  }

  TempDir dir_;
};

TEST_F(FakePageFlags, FindsTheFrameAndItsFlags) {
  const PageFlags flags(dir_.path());
  EXPECT_EQ(flags.FrameAt(0x1ff8), 2u);
  EXPECT_EQ(flags.Of(2), PageFlags::kDirty | 1u << 3);
  EXPECT_EQ(flags.Of(1), 0u);
}

TEST_F(FakePageFlags, DirtyAndReferenced) {
  const PageFlags flags(dir_.path());
  const auto* page = reinterpret_cast<const void*>(0x1000);
  EXPECT_TRUE(flags.IsDirty(page));
  EXPECT_FALSE(flags.IsReferenced(page));
  dir_.Write("kpageflags", Bytes({0, 0, 1ull << 2}));
  EXPECT_FALSE(flags.IsDirty(page));
  EXPECT_TRUE(flags.IsReferenced(page));
}

TEST(PageFlagsTest, FramesOfThisProcess) {
  if (const std::string reason = PageFlags::Unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  const Mapping memory = Mapping::Anonymous(3 * kPageSize);
  std::fill_n(memory.data(), memory.size(), std::byte{1});
  const PageFlags flags;
  const std::vector<uint64_t> frames = flags.FramesOf({memory.data() + kPageSize, 2 * kPageSize});
  ASSERT_EQ(frames.size(), 2u);
  EXPECT_EQ(frames[0], flags.FrameOf(memory.data() + kPageSize));
  EXPECT_EQ(frames[1], flags.FrameOf(memory.data() + 2 * kPageSize));
}

TEST_F(FakePageFlags, SaysWhatIsNotThere) {
  const PageFlags flags(dir_.path());
  EXPECT_THROW(flags.FrameAt(0x800), std::runtime_error);
  EXPECT_THROW(flags.FrameAt(0x2000), std::runtime_error);
  EXPECT_THROW(flags.FrameAt(0x3000), std::runtime_error);
  EXPECT_THROW(flags.Of(3), std::runtime_error);
}

TEST_F(FakePageFlags, NeedsBothFiles) {
  EXPECT_EQ(PageFlags::Unavailable(dir_.path()), "");
  EXPECT_NE(PageFlags::Unavailable(dir_.path() + "/self"), "");
  EXPECT_THROW(PageFlags(dir_.path() + "/self"), std::system_error);
}

}  // namespace
}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "host/pins.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <stdexcept>

#include "base/mapping.h"
#include "base/range.h"
#include "host/io_ring.h"
#include "unit/temp_dir.h"

namespace slotzap {
namespace {

TEST(PinsTest, ReadsWhatIsAccounted) {
  const TempDir dir;
  EXPECT_EQ(PinnedBytes(dir.Write("status", "Name:\tx\nVmLck:\t 4 kB\nVmPin:\t     128 kB\n")),
            128u << 10);
  EXPECT_EQ(LockedBytes(dir.path() + "/status"), 4u << 10);
  EXPECT_THROW(PinnedBytes(dir.Write("status", "Name:\tx\n")), std::runtime_error);
  EXPECT_THROW(LockedBytes(dir.path() + "/status"), std::runtime_error);
}

TEST(PinsTest, LockedMemoryIsAccounted) {
  const uint64_t before = LockedBytes();
  const Mapping memory = Mapping::Anonymous(2 * kPageSize);
  ASSERT_EQ(mlock(memory.data(), kPageSize), 0);
  EXPECT_EQ(LockedBytes(), before + kPageSize);
  ASSERT_EQ(munlock(memory.data(), kPageSize), 0);
  EXPECT_EQ(LockedBytes(), before);
}

TEST(PinsTest, RegisteredBuffersArePinned) {
  if (const std::string reason = IoRing::Unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  const Mapping memory = Mapping::Anonymous(4 * kPageSize);
  const uint64_t before = PinnedBytes();
  IoRing ring;
  ring.RegisterBuffers({{memory.address(), 3 * kPageSize}});
  EXPECT_EQ(PinnedBytes(), before + 3 * kPageSize);
  ring.UnregisterBuffers();
  EXPECT_EQ(PinnedBytes(), before);
}

}  // namespace
}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "base/mapping.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <stdexcept>
#include <utility>

#include "base/range.h"
#include "host/forked_process.h"

namespace slotzap {
namespace {

using namespace literals;

TEST(Mapping, IsAlignedAndZero) {
  const Mapping mapping = Mapping::Anonymous(8_KiB, 2_MiB);
  EXPECT_EQ(mapping.address() % 2_MiB, 0u);
  EXPECT_EQ(*mapping.at<uint64_t>(8_KiB - 8), 0u);
}

TEST(Mapping, RefusesWhatDoesNotFit) {
  const Mapping mapping = Mapping::Anonymous(4_KiB);
  EXPECT_THROW(mapping.at<uint64_t>(4_KiB - 7), std::out_of_range);
  EXPECT_THROW(mapping.at<uint64_t>(~0ull), std::out_of_range);
}

TEST(Mapping, RefusesBadSizesAndAlignments) {
  EXPECT_THROW(Mapping::Anonymous(0), std::invalid_argument);
  EXPECT_THROW(Mapping::Anonymous(100), std::invalid_argument);
  EXPECT_THROW(Mapping::Anonymous(4_KiB, 12_KiB), std::invalid_argument);
  EXPECT_THROW(Mapping::Anonymous(4_KiB, 512), std::invalid_argument);
}

TEST(Mapping, MovesItsMemory) {
  Mapping first = Mapping::Anonymous(4_KiB);
  *first.at<uint64_t>(0) = 42;
  Mapping second = std::move(first);
  EXPECT_FALSE(first.valid());  // NOLINT: what is left of it is the question
  EXPECT_EQ(*second.at<uint64_t>(0), 42u);
}

TEST(Mapping, SharesAFileAtAnOffset) {
  const FileDescriptor file = MemoryFile(12_KiB);
  const Mapping all = Mapping::Shared(file.get(), 12_KiB);
  const Mapping tail = Mapping::Shared(file.get(), 4_KiB, 8_KiB);
  *all.at<uint64_t>(8_KiB) = 7;
  EXPECT_EQ(*tail.at<uint64_t>(0), 7u);
}

TEST(Mapping, DiscardedMemoryIsZero) {
  const Mapping mapping = Mapping::Anonymous(12_KiB);
  for (const uint64_t offset : {0_KiB, 4_KiB, 8_KiB}) *mapping.at<uint64_t>(offset) = 1 + offset;
  mapping.Discard(4_KiB, 4_KiB);
  EXPECT_EQ(*mapping.at<uint64_t>(0), 1u);
  EXPECT_EQ(*mapping.at<uint64_t>(4_KiB), 0u);
  EXPECT_EQ(*mapping.at<uint64_t>(8_KiB), 1 + 8_KiB);
  EXPECT_THROW(mapping.Discard(8_KiB, 8_KiB), std::out_of_range);
}

TEST(Mapping, MovesPagesAway) {
  const Mapping mapping = Mapping::Anonymous(12_KiB);
  *mapping.at<uint64_t>(4_KiB) = 7;
  *mapping.at<uint64_t>(8_KiB) = 8;
  const Mapping moved = mapping.MoveAway(4_KiB, 4_KiB);
  EXPECT_EQ(*moved.at<uint64_t>(0), 7u);
  EXPECT_EQ(*mapping.at<uint64_t>(4_KiB), 0u);
  EXPECT_EQ(*mapping.at<uint64_t>(8_KiB), 8u);
}

// The kernel's own access tells whether memory can be written and read.
TEST(Mapping, ProtectsAndUnmapsParts) {
  const FileDescriptor file = MemoryFile(4_KiB);
  const Mapping mapping = Mapping::Anonymous(12_KiB);
  const auto read_into = [&](uint64_t offset) {
    return pread(file.get(), mapping.data() + offset, 8, 0);
  };
  const auto write_from = [&](uint64_t offset) {
    return pwrite(file.get(), mapping.data() + offset, 8, 0);
  };
  mapping.Protect(4_KiB, 4_KiB, PROT_READ);
  EXPECT_EQ(read_into(0), 8);
  EXPECT_EQ(read_into(4_KiB), -1);
  EXPECT_EQ(write_from(4_KiB), 8);
  mapping.UnmapPart(8_KiB, 4_KiB);
  EXPECT_EQ(write_from(8_KiB), -1);
  EXPECT_EQ(write_from(4_KiB), 8);
}

TEST(Mapping, APunchedHoleIsZeroForAll) {
  const FileDescriptor file = MemoryFile(12_KiB);
  const Mapping one = Mapping::Shared(file.get(), 12_KiB);
  const Mapping other = Mapping::Shared(file.get(), 12_KiB);
  for (uint64_t offset = 0; offset < 12_KiB; offset += 8) *one.at<uint64_t>(offset) = 7;
  PunchHole(file.get(), 4_KiB, 4_KiB);
  EXPECT_EQ(*other.at<uint64_t>(4_KiB - 8), 7u);
  EXPECT_EQ(*one.at<uint64_t>(4_KiB), 0u);
  EXPECT_EQ(*other.at<uint64_t>(8_KiB - 8), 0u);
  EXPECT_EQ(*other.at<uint64_t>(8_KiB), 7u);
  EXPECT_THROW(PunchHole(-1, 0, 4_KiB), std::system_error);
}

TEST(Mapping, KeptFromChildren) {
  const Mapping mapping = Mapping::Anonymous(8_KiB);
  mapping.KeepFromChildren(4_KiB, 4_KiB);
  ForkedProcess child([&](uint64_t offset) -> uint64_t {
    return msync(mapping.data() + offset, 4_KiB, MS_ASYNC) == 0 ? 1 : 0;
  });
  EXPECT_EQ(child.Do(0), 1u);
  EXPECT_EQ(child.Do(4_KiB), 0u) << "nothing is mapped there";
}

}  // namespace
}  // namespace slotzap

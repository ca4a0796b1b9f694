// SPDX-License-Identifier: GPL-2.0-only
#include "guest/page_contents.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace slotzap {
namespace {

constexpr uint64_t kWords = kPageSize / 8;

TEST(PageContentsTest, OnePatternAtFirst) {
  const PageContents contents(4, 5);
  const std::vector<Pattern> patterns = contents.At(0x10000);
  ASSERT_EQ(patterns.size(), 1u);
  EXPECT_EQ(patterns[0].range, (GpaRange{0x10000, 4 * kPageSize}));
  EXPECT_EQ(patterns[0].seed, 5u);
  EXPECT_EQ(patterns[0].first_word, 0u);
}

TEST(PageContentsTest, OneForEachPart) {
  PageContents contents(8, 5);
  contents.Fill(2, 2, 6);
  contents.Zero(4, 3);
  const std::vector<Pattern> patterns = contents.At(0);
  ASSERT_EQ(patterns.size(), 4u);
  EXPECT_EQ(patterns[0].range, (GpaRange{0, 2 * kPageSize}));
  EXPECT_EQ(patterns[1].range, (GpaRange{2 * kPageSize, 2 * kPageSize}));
  EXPECT_EQ(patterns[1].seed, 6u);
  EXPECT_EQ(patterns[1].first_word, 0u);
  EXPECT_EQ(patterns[2].range, (GpaRange{4 * kPageSize, 3 * kPageSize}));
  EXPECT_EQ(patterns[3].range, (GpaRange{7 * kPageSize, kPageSize}));
  EXPECT_EQ(patterns[3].first_word, 7 * kWords) << "what was there goes on";
  contents.Fill(2, 5, 5, 2 * kWords);
  EXPECT_EQ(contents.At(0).size(), 1u);
  EXPECT_THROW(contents.Fill(7, 2, 1), std::out_of_range);
}

TEST(PageContentsTest, ComparesMemory) {
  PageContents contents(3, 5);
  contents.Zero(1, 1);
  const GuestMemory memory(4 * kPageSize);
  contents.Store(memory, kPageSize);
  EXPECT_EQ(contents.ProblemIn(memory, kPageSize), "");
  EXPECT_EQ(memory.Load(kPageSize + 8), guest::PatternWord(5, 1));
  EXPECT_EQ(memory.Load(2 * kPageSize), 0u);
  memory.Store(2 * kPageSize + 24, 9);
  EXPECT_EQ(contents.ProblemIn(memory, kPageSize), "page 1, word 3: 0x9 instead of 0x0");
  EXPECT_NE(contents.ProblemIn(memory, 0), "");
}

TEST(PageContentsTest, Bytes) {
  PageContents contents(3, 5);
  const std::vector<std::byte> bytes = contents.Bytes(1, 2);
  ASSERT_EQ(bytes.size(), 2 * kPageSize);
  uint64_t word = 0;
  std::copy_n(bytes.data(), sizeof(word), reinterpret_cast<std::byte*>(&word));
  EXPECT_EQ(word, guest::PatternWord(5, kWords));
}

}  // namespace
}  // namespace slotzap

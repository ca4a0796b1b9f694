// SPDX-License-Identifier: GPL-2.0-only
#include "guest/protocol.h"

#include <gtest/gtest.h>

#include <set>

#include "guest/guest.h"
#include "guest/nested.h"

namespace slotzap::guest {
namespace {

TEST(Pattern, NeverLooksLikeNoMemory) {
  for (uint64_t seed = 0; seed < 64; seed++)
    for (uint64_t i = 0; i < 4096; i++) ASSERT_NE(PatternWord(seed, i), kNoMemory);
}

TEST(Pattern, DiffersBetweenWordsAndSeeds) {
  std::set<uint64_t> words;
  for (uint64_t seed = 0; seed < 16; seed++)
    for (uint64_t i = 0; i < 1024; i++) words.insert(PatternWord(seed, i));
  EXPECT_EQ(words.size(), 16u * 1024u);
}

TEST(Pattern, RepeatsWithItsPeriod) {
  const Range range = {.seed = 3, .first_word = 100, .period = 512};
  EXPECT_EQ(PatternWord(range, 5), PatternWord(3, 105));
  EXPECT_EQ(PatternWord(range, 5), PatternWord(range, 5 + 2 * 512));
  EXPECT_NE(PatternWord(range, 5), PatternWord(range, 6));
}

TEST(Layout, PartsOfTheAgentsSlotDoNotOverlap) {
  EXPECT_LE(kAgentGpa + AgentImage().size(), kMailboxGpa);
  EXPECT_LE(kMailboxGpa + uint64_t{kMaxVcpus} * 4096, kStackGpa);
  EXPECT_LE(kStackGpa + uint64_t{kMaxVcpus} * 4096, kAgentGpa + kAgentSize);
  EXPECT_LE(kAgentGpa + kAgentSize, kTablesGpa);
}

TEST(Layout, WhatEveryNestedGuestNeedsIsMappedForIt) {
  EXPECT_LE(kTablesGpa + kTablesSize, kNestedGpa);
  EXPECT_TRUE(NestedGuest::kNeeded.contains(kAgentGpa));
  EXPECT_LE(kNestedGpa + kNestedSize, NestedGuest::kNeeded.end());
}

}  // namespace
}  // namespace slotzap::guest

// SPDX-License-Identifier: GPL-2.0-only
#include "bench/samples.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace slotzap {
namespace {

TEST(Samples, MedianMinMaxLast) {
  Samples samples;
  for (const uint64_t ns : {50u, 10u, 30u}) samples.Add(ns);
  EXPECT_EQ(samples.count(), 3u);
  EXPECT_EQ(samples.median(), 30u);
  EXPECT_EQ(samples.min(), 10u);
  EXPECT_EQ(samples.max(), 50u);
  EXPECT_EQ(samples.last(), 30u);
}

TEST(Samples, OfTwoInTheMiddleTheLowerOne) {
  Samples samples;
  for (const uint64_t ns : {4u, 3u, 2u, 1u}) samples.Add(ns);
  EXPECT_EQ(samples.median(), 2u);
}

TEST(Samples, NoneHaveNoMedian) {
  const Samples samples;
  EXPECT_THROW(samples.median(), std::logic_error);
  EXPECT_THROW(samples.min(), std::logic_error);
  EXPECT_THROW(samples.max(), std::logic_error);
  EXPECT_THROW(samples.last(), std::logic_error);
}

TEST(Samples, TimeOfRunsTheAction) {
  bool ran = false;
  TimeOf([&] { ran = true; });
  EXPECT_TRUE(ran);
}

}  // namespace
}  // namespace slotzap

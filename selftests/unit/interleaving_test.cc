// SPDX-License-Identifier: GPL-2.0-only
#include "oracle/interleaving.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

namespace slotzap {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

std::string Never() { return ""; }

TEST(Interleaving, KeepsTheOrder) {
  Interleaving order;
  EXPECT_EQ(order.ToString(), "nothing");
  order.Saw("a");
  order.Saw("b");
  order.Saw("a");
  EXPECT_THAT(order.steps(), ElementsAre("a", "b", "a"));
  EXPECT_EQ(order.ToString(), "a -> b -> a");
}

TEST(Interleaving, AwaitsWhatAnotherThreadDoes) {
  Interleaving order;
  bool begun = false;
  std::thread other([&] {
    while (!__atomic_load_n(&begun, __ATOMIC_ACQUIRE)) std::this_thread::yield();
    order.Saw("other");
  });
  __atomic_store_n(&begun, true, __ATOMIC_RELEASE);
  order.Await(
      "seen", [&] { return !order.steps().empty(); }, Never);
  other.join();
  EXPECT_THAT(order.steps(), ElementsAre("other", "seen"));
}

TEST(Interleaving, AStepThatCanNotHappenAnyMoreIsAnError) {
  Interleaving order;
  order.Saw("a");
  int looked = 0;
  EXPECT_THAT(
      [&] {
        order.Await(
            "b", [] { return false; },
            [&] { return ++looked < 3 ? std::string() : std::string("it is over"); });
      },
      ThrowsMessage<StepMissed>(AllOf(HasSubstr("a, but not: b"), HasSubstr("it is over"))));
  EXPECT_EQ(looked, 3);
  EXPECT_THAT(order.steps(), ElementsAre("a"));
}

TEST(Interleaving, AStepThatHappenedJustBeforeTheEndCounts) {
  Interleaving order;
  order.Await(
      "a", [] { return true; }, [] { return std::string("it is over"); });
  EXPECT_THAT(order.steps(), ElementsAre("a"));
}

TEST(InterleavingProblem, SaysWhereTheyDiffer) {
  EXPECT_EQ(InterleavingProblem({}, {}), "");
  EXPECT_EQ(InterleavingProblem({"a", "b"}, {"a", "b"}), "");
  EXPECT_EQ(InterleavingProblem({"a"}, {"a", "b"}), "step 2 is missing: b");
  EXPECT_EQ(InterleavingProblem({"a", "b", "c"}, {"a", "b"}), "step 3 is one too many: c");
  EXPECT_EQ(InterleavingProblem({"b", "a"}, {"a", "b"}), "step 1 is: b; expected: a");
}

}  // namespace
}  // namespace slotzap

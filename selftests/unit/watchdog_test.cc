// SPDX-License-Identifier: GPL-2.0-only
#include "harness/watchdog.h"

#include <gtest/gtest.h>

#include <future>
#include <stdexcept>

namespace slotzap {
namespace {

using std::chrono::seconds;

// What expires is seen in harness_test.cc, since it ends the process.
TEST(Watchdog, EndsAtOnceWhenItIsNoLongerNeeded) {
  Watchdog watchdog(
      seconds(3600), [](seconds) { FAIL(); }, seconds(3600), [](seconds) { FAIL(); });
  watchdog.SetLimit(seconds(7200));
  watchdog.Restart();
}

TEST(Watchdog, TicksUntilThen) {
  std::promise<seconds> third;
  int ticks = 0;
  Watchdog watchdog(
      seconds(3600), [](seconds) { FAIL(); }, std::chrono::milliseconds(400),
      [&](seconds elapsed) {
        if (++ticks == 3) third.set_value(elapsed);
      });
  EXPECT_GE(third.get_future().get(), seconds(1));
}

TEST(DescribeThreads, NamesThisThreadAndItsSystemCall) {
  const std::string text = DescribeThreads();
  EXPECT_TRUE(text.starts_with("threads:\n")) << text;
  EXPECT_NE(text.find(", syscall "), std::string::npos) << text;
}

TEST(AskReporter, ReturnsItsText) {
  EXPECT_EQ(AskReporter([] { return "vcpu 0 halted"; }, seconds(60)), "vcpu 0 halted");
}

TEST(AskReporter, SurvivesItsFailure) {
  EXPECT_EQ(AskReporter([]() -> std::string { throw std::runtime_error("no vcpu"); }, seconds(60)),
            "the hang reporter failed: no vcpu");
}

TEST(AskReporter, DoesNotWaitForever) {
  const auto never = std::make_shared<std::promise<void>>();
  EXPECT_EQ(AskReporter(
                [never] {
                  never->get_future().wait();
                  return "";
                },
                seconds(0)),
            "the hang reporter hangs too");
  never->set_value();
}

}  // namespace
}  // namespace slotzap

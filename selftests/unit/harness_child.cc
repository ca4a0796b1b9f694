// SPDX-License-Identifier: GPL-2.0-only
// Tests that pass, fail, skip, hang, crash and leave splats on purpose.  harness_test.cc runs
// them, each time a few.
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>

#include "harness/main.h"
#include "harness/precision.h"

namespace slotzap {
namespace {

// Appends to the stand-in for the kernel log that harness_test.cc prepared.
void Log(const char* message) {
  std::ofstream(std::getenv("CHILD_KERNEL_LOG"), std::ios::app) << message << "\n";
}

TEST(Child, Passes) {}

TEST(Child, Fails) {
  EXPECT_EQ(1 + 1, 3) << "arithmetic";
  EXPECT_TRUE(false);
}

TEST(Child, LacksPrecision) { EXPECT_EQ(3, 2) << kPrecision << "leaves"; }

TEST(Child, LacksPrecisionAndMore) {
  EXPECT_EQ(3, 2) << kPrecision << "leaves";
  EXPECT_TRUE(false) << "memory";
}

TEST(Child, Skips) {
  SCOPED_TRACE("which is not why");
  GTEST_SKIP() << "no such\nmachine";
}

TEST(Child, Hangs) {
  SetTestTimeout(std::chrono::seconds(1));
  SetHangReporter([] { return "vcpu 0 is at 0x1000"; });
  EXPECT_TRUE(false) << "before it hung";
  for (;;) pause();
}

TEST(Child, HangsWithItsReporter) {
  SetTestTimeout(std::chrono::seconds(1));
  SetHangReporter([]() -> std::string {
    for (;;) pause();
  });
  for (;;) pause();
}

TEST(Child, Crashes) { raise(SIGSEGV); }
TEST(Child, Aborts) { std::abort(); }

TEST(Child, Splats) { Log("WARNING: CPU: 0 PID: 1 at virt/kvm/kvm_main.c:1 f+0x1/0x2 [kvm]"); }

class ChildFixture : public testing::Test {
 protected:
  void TearDown() override { Log("BUG: Bad page state in process child  pfn:1"); }
};
TEST_F(ChildFixture, SplatsInTearDown) {}

class ChildSetUpFails : public testing::Test {
 protected:
  static void SetUpTestSuite() { FAIL() << "no set-up"; }
};
TEST_F(ChildSetUpFails, Runs) {}

class ChildTearDown : public testing::Test {
 protected:
  static void TearDownTestSuite() { Log("BUG: sleeping function called from invalid context"); }
};
TEST_F(ChildTearDown, Runs) {}

class ChildTearDownHangs : public testing::Test {
 protected:
  static void TearDownTestSuite() {
    for (;;) pause();
  }
};
TEST_F(ChildTearDownHangs, Runs) {}

// Stands in for a VM.
struct HeldVm {
  HeldVm() { puts("# VM opened"); }
  ~HeldVm() { puts("# VM closed"); }
};

class ChildParameter : public testing::TestWithParam<bool> {};
TEST_P(ChildParameter, Passes) {}
INSTANTIATE_TEST_SUITE_P(Quirk, ChildParameter, testing::Bool(),
                         [](const auto& parameter) { return parameter.param ? "on" : "off"; });

}  // namespace
}  // namespace slotzap

int main(int argc, char** argv) {
  return slotzap::HarnessMain(
      argc, argv,
      {.needs_kvm = false,
       .promises_precision = [] { return std::getenv("CHILD_PROMISES_NOTHING") == nullptr; },
       .kernel_log_gate = std::getenv("CHILD_KERNEL_LOG") != nullptr,
       .hold_vm = [] { return std::make_shared<slotzap::HeldVm>(); }});
}

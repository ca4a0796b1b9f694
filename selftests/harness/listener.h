// SPDX-License-Identifier: GPL-2.0-only
// Connects GoogleTest to a Session, a Watchdog and the kernel log.
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "harness/session.h"
#include "harness/watchdog.h"
#include "host/kernel_log.h"

namespace slotzap {

class Listener : public testing::EmptyTestEventListener {
 public:
  // `log`: the kernel log whose splats fail tests, nullptr for no gate.  All must outlive this.
  Listener(Session& session, Watchdog& watchdog, KernelLog* log)
      : session_(session), watchdog_(watchdog), log_(log) {}

  void OnTestProgramStart(const testing::UnitTest& unit_test) override;
  void OnTestIterationStart(const testing::UnitTest& unit_test, int iteration) override;
  void OnTestStart(const testing::TestInfo& test) override;
  void OnTestPartResult(const testing::TestPartResult& part) override;
  void OnTestEnd(const testing::TestInfo& test) override;
  void OnTestSuiteEnd(const testing::TestSuite& suite) override;
  void OnTestProgramEnd(const testing::UnitTest& unit_test) override;

 private:
  std::string NewSplats();

  Session& session_;
  Watchdog& watchdog_;
  KernelLog* log_;
  std::string skip_reason_;
  bool contract_broken_ = false;  // something but precision failed
};

}  // namespace slotzap

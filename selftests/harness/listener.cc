// SPDX-License-Identifier: GPL-2.0-only
#include "harness/listener.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "harness/main.h"
#include "harness/precision.h"

namespace slotzap {
namespace {

// Where the compiler found it is of no use; where it is in the repository, is.
std::string Location(const testing::TestPartResult& part) {
  std::string_view file = part.file_name() == nullptr ? "" : part.file_name();
  if (const size_t at = file.rfind("/selftests/"); at != std::string_view::npos)
    file.remove_prefix(at + 1);
  std::string location(file);
  if (part.line_number() > 0) location += ":" + std::to_string(part.line_number());
  return location;
}

std::string FullName(const testing::TestInfo& test) {
  return std::string(test.test_suite_name()) + "." + test.name();
}

// "delete" of selftests/tests/delete_test.cc.
std::string Theme(const testing::TestInfo& test) {
  std::string_view file = test.file();
  file.remove_prefix(file.rfind('/') + 1);
  return std::string(file.substr(0, file.rfind("_test.")));
}

}  // namespace

void Listener::OnTestProgramStart(const testing::UnitTest& unit_test) {
  const int tests = unit_test.test_to_run_count() * GTEST_FLAG_GET(repeat);
  if (tests > 0) session_.Begin(static_cast<size_t>(tests));
}

// Not before, since this is when the order is known.
void Listener::OnTestIterationStart(const testing::UnitTest& unit_test, int /*iteration*/) {
  std::vector<TestRecord> tests;
  for (int i = 0; i < unit_test.total_test_suite_count(); i++) {
    const testing::TestSuite* suite = unit_test.GetTestSuite(i);
    for (int j = 0; j < suite->total_test_count(); j++)
      if (const testing::TestInfo& test = *suite->GetTestInfo(j); test.should_run())
        tests.push_back({.name = FullName(test), .theme = Theme(test)});
  }
  if (!tests.empty()) session_.Plan(std::move(tests));
}

void Listener::OnTestStart(const testing::TestInfo& /*test*/) {
  watchdog_.Restart();
  session_.TestStarted();
  skip_reason_.clear();
  contract_broken_ = false;
}

// Printed at once, so that it is there if the test then hangs or crashes.
void Listener::OnTestPartResult(const testing::TestPartResult& part) {
  if (part.failed()) {
    session_.Failure(Location(part) + ": failed\n" + part.summary());
    contract_broken_ |= std::string_view(part.summary()).find(kPrecision) == std::string_view::npos;
  }
  if (part.skipped()) {
    // Less the SCOPED_TRACEs, which GoogleTest appends: where in a test is not why.
    skip_reason_ = part.summary();
    skip_reason_.resize(std::min(skip_reason_.find("\nGoogle Test trace:"), skip_reason_.size()));
  }
}

// By now the fixture is gone, and with it the test's VMs.
void Listener::OnTestEnd(const testing::TestInfo& test) {
  // A failure that is added here is the test's own: GoogleTest forgets which test runs after this.
  if (const std::string splats = NewSplats(); !splats.empty())
    ADD_FAILURE_AT("kernel log", 0) << splats;

  watchdog_.Restart();
  SetHangReporter({});
  const testing::TestResult& result = *test.result();
  const Outcome outcome = result.Failed()
                              ? (contract_broken_ ? Outcome::kFailed : Outcome::kImprecise)
                          : result.Skipped() ? Outcome::kSkipped
                                             : Outcome::kPassed;
  session_.TestEnded(outcome, static_cast<double>(result.elapsed_time()) / 1000,
                     skip_reason_.empty() ? "no reason given" : skip_reason_);
}

void Listener::OnTestSuiteEnd(const testing::TestSuite& suite) {
  if (suite.ad_hoc_test_result().Failed())
    session_.FailedOutsideTests(std::string("set-up or tear-down of ") + suite.name());
}

void Listener::OnTestProgramEnd(const testing::UnitTest& unit_test) {
  if (unit_test.ad_hoc_test_result().Failed())
    session_.FailedOutsideTests("set-up or tear-down of all tests");
  if (const std::string splats = NewSplats(); !splats.empty()) {
    session_.Failure("kernel log: failed\n" + splats);
    session_.FailedOutsideTests("kernel log after the last test");
  }
  if (!session_.empty()) session_.Finish();
}

std::string Listener::NewSplats() {
  if (log_ == nullptr) return {};
  std::string text;
  for (const Splat& splat : log_->Splats()) text += (text.empty() ? "" : "\n") + ToString(splat);
  // What was seen once in this test has to show up in the next one that causes it.
  if (!text.empty()) KernelLog::RearmWarnOnce();
  return text;
}

}  // namespace slotzap

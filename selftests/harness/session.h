// SPDX-License-Identifier: GPL-2.0-only
// What is known about a run of tests, reported as it becomes known: as KTAP on standard output,
// and as results.json.  Knows nothing of GoogleTest, so that a run which can't go on (a test
// hangs) is reported from another thread in the same way.
#pragma once

#include <chrono>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace slotzap {

// Under what the tests ran; goes to the head of the results.  Empty: unknown, or not applicable.
struct RunInfo {
  std::string kernel;    // release, as of uname(2)
  std::string vendor;    // "svm" or "vmx"
  std::string mode;      // "tdp", "legacy" or "shadow"
  std::string emulator;  // what emulates the processor, see CpuEmulator()
  std::string gate;      // the kernel-log gate: "ON" or "OFF (why)"
  std::string again;     // the command that runs the tests again, FILTER= apart
  // Whether the kernel promises precision (harness/precision.h), so that lacking it is a failure.
  bool precision_promised = true;
  bool vm_held = false;  // a VM is kept open all along
};

enum class Outcome {
  kPassed,
  kFailed,
  kImprecise,  // kept the contract, but not the promise of precision
  kSkipped,
  kNotRun
};

struct TestRecord {
  std::string name;
  std::string theme{};  // what the test is about: its file's name, as "delete" of delete_test.cc
  Outcome outcome = Outcome::kNotRun;
  double seconds = 0;
  std::string message{};  // failures, or why it was skipped
};

// Thread-safe.  results.json has this shape; it is complete, and replaced as a whole, after each
// test, with the tests that did not run so far as "not run" and the running one as "failed":
//   {"kernel": "6.1.0", "vendor": "svm", "mode": "tdp", "emulator": "tcg",
//    "kernel_log_gate": "ON", "precision_promised": true,
//    "passed": 1, "failed": 0, "imprecise": 0, "skipped": 0,
//    "tests": [{"name": "A.B", "theme": "a", "seconds": 0.1, "message": "",
//               "outcome": "passed"|"failed"|"imprecise"|"skipped"|"not run"}]}
// Tests that did not run count as failed.  "imprecise" is only what a kernel doesn't promise: in
// KTAP "not ok ... # TODO".  Where it does, such a test has failed.
class Session {
 public:
  // results_directory: existing, or empty for none.
  Session(RunInfo info, std::string results_directory);

  // Prints the head: this many tests are going to run.
  void Begin(size_t tests);
  // The next tests to run, in their order: names and themes.
  void Plan(std::vector<TestRecord> tests);
  void Diagnostic(std::string_view text);
  void TestStarted();  // the next one of the plan; named at once, for it may end the host
  void StillRunning(std::chrono::seconds elapsed);  // the running test, if there is one
  void Failure(std::string_view text);  // of the running test, or of what runs between tests
  void TestEnded(Outcome outcome, double seconds, std::string_view skip_reason);
  // Reports the failures since the last test as those of `what`, which wasn't planned.
  void FailedOutsideTests(const std::string& what);
  void Finish();
  // In place of all of these: this process has no test to run.
  void NothingToRun(const std::string& why);

  // Reports that the running test, or what runs between tests, hangs; then Finish().  `text`:
  // what is known about the state of the process.
  void TimedOut(std::chrono::seconds limit, std::string_view text);

  bool empty() const;      // nothing was planned
  int ExitStatus() const;  // see harness/main.h

 private:
  struct Counts {
    size_t passed = 0, failed = 0, imprecise = 0, skipped = 0, not_run = 0;
  };

  Counts Count() const;
  void PrintRerun(const TestRecord& record) const;
  void PrintResult(const TestRecord& record, const std::string& remark);
  void FailExtra(const std::string& what, const std::string& remark);
  void FinishLocked();
  void WriteResults(bool finished = false);

  mutable std::mutex mutex_;
  const RunInfo info_;
  const std::string results_directory_;
  std::vector<TestRecord> records_;
  size_t next_ = 0;       // index of the record of the next test
  bool running_ = false;  // the test before it runs
  size_t printed_ = 0;    // how many result lines there are
  std::string failures_;  // since the last result line
  bool write_failed_ = false;
};

}  // namespace slotzap

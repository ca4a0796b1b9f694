// SPDX-License-Identifier: GPL-2.0-only
#include "harness/session.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "harness/fatal_signal.h"
#include "harness/main.h"

namespace slotzap {
namespace {

// Not through stdio: what was printed has to be out if the next thing is a crash, and a hung
// thread may own stdio's lock.
void Print(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(STDOUT_FILENO, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;  // nobody listens, and there is nowhere else to say so
    text.remove_prefix(static_cast<size_t>(n));
  }
}

void PrintDiagnostic(std::string_view text) {
  std::string lines;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    lines += "# " + std::string(text.substr(begin, end - begin)) + "\n";
    begin = end + 1;
  }
  Print(lines);
}

std::string SecondsText(double seconds) {
  char text[32];
  snprintf(text, sizeof(text), "%.3f s", seconds);
  return text;
}

const char* ToString(Outcome outcome) {
  switch (outcome) {
    case Outcome::kPassed:
      return "passed";
    case Outcome::kFailed:
      return "failed";
    case Outcome::kImprecise:
      return "imprecise";
    case Outcome::kSkipped:
      return "skipped";
    case Outcome::kNotRun:
      break;
  }
  return "not run";
}

// KTAP's result lines are one line each.
std::string OneLine(std::string_view text) {
  std::string line(text);
  for (char& c : line)
    if (c == '\n') c = ' ';
  return line;
}

}  // namespace

Session::Session(RunInfo info, std::string results_directory)
    : info_(std::move(info)), results_directory_(std::move(results_directory)) {}

void Session::Begin(size_t tests) {
  const std::lock_guard lock(mutex_);
  Print("KTAP version 1\n1.." + std::to_string(tests) + "\n");
  std::string machine = "kernel " + info_.kernel;
  for (const std::string& fact : {info_.vendor, info_.mode})
    if (!fact.empty()) machine += ", " + fact;
  if (!info_.emulator.empty()) machine += ", emulated by " + info_.emulator;
  PrintDiagnostic(machine);
  PrintDiagnostic("kernel log gate: " + info_.gate);
  if (!info_.precision_promised)
    PrintDiagnostic("this kernel does not promise precision: what lacks it is marked TODO");
  if (info_.vm_held) PrintDiagnostic("a VM with a vCPU is held open all along");
}

void Session::Plan(std::vector<TestRecord> tests) {
  const std::lock_guard lock(mutex_);
  for (TestRecord& test : tests) records_.push_back(std::move(test));
  WriteResults();
}

void Session::Diagnostic(std::string_view text) {
  const std::lock_guard lock(mutex_);
  PrintDiagnostic(text);
}

void Session::TestStarted() {
  const std::lock_guard lock(mutex_);
  next_++;
  running_ = true;
  failures_.clear();
  const std::string& name = records_[next_ - 1].name;
  PrintDiagnostic("running " + name);
  SetFatalSignalLine("not ok " + std::to_string(printed_ + 1) + " " + name);
}

void Session::StillRunning(std::chrono::seconds elapsed) {
  const std::lock_guard lock(mutex_);
  if (running_)
    PrintDiagnostic("still running after " + std::to_string(elapsed.count()) +
                    " s: " + records_[next_ - 1].name);
}

void Session::Failure(std::string_view text) {
  const std::lock_guard lock(mutex_);
  PrintDiagnostic(text);
  if (!failures_.empty()) failures_ += "\n";
  failures_ += text;
}

void Session::TestEnded(Outcome outcome, double seconds, std::string_view skip_reason) {
  const std::lock_guard lock(mutex_);
  TestRecord& record = records_[next_ - 1];
  running_ = false;
  if (outcome == Outcome::kImprecise && info_.precision_promised) outcome = Outcome::kFailed;
  record.outcome = outcome;
  record.seconds = seconds;
  record.message = outcome == Outcome::kSkipped ? OneLine(skip_reason) : failures_;
  if (outcome == Outcome::kFailed) PrintRerun(record);
  PrintResult(record, outcome == Outcome::kSkipped     ? "SKIP " + record.message
                      : outcome == Outcome::kImprecise ? "TODO precision, not promised here"
                                                       : SecondsText(seconds));
  WriteResults();
}

void Session::FailedOutsideTests(const std::string& what) {
  const std::lock_guard lock(mutex_);
  FailExtra(what, "");
}

void Session::FailExtra(const std::string& what, const std::string& remark) {
  const auto at = records_.begin() + static_cast<std::ptrdiff_t>(next_++);
  const TestRecord& record =
      *records_.insert(at, {.name = what, .outcome = Outcome::kFailed, .message = failures_});
  PrintResult(record, remark);
  WriteResults();
}

void Session::TimedOut(std::chrono::seconds limit, std::string_view text) {
  const std::lock_guard lock(mutex_);
  const std::string remark = "timed out after " + std::to_string(limit.count()) + " s";
  PrintDiagnostic(text);
  if (!failures_.empty()) failures_ += "\n";
  failures_ += remark + "\n" + std::string(text);
  if (running_) {
    TestRecord& record = records_[next_ - 1];
    running_ = false;
    record.outcome = Outcome::kFailed;
    record.seconds = static_cast<double>(limit.count());
    record.message = failures_;
    PrintRerun(record);
    PrintResult(record, remark);
  } else {
    FailExtra(next_ == 0 ? "before the first test" : "after " + records_[next_ - 1].name, remark);
  }
  FinishLocked();
}

void Session::Finish() {
  const std::lock_guard lock(mutex_);
  FinishLocked();
}

void Session::FinishLocked() {
  SetFatalSignalLine("not ok " + std::to_string(printed_ + 1) + " the end of the program");
  const Counts counts = Count();
  if (counts.not_run > 0)
    PrintDiagnostic("not run, and counted as failed: " + std::to_string(counts.not_run));
  PrintDiagnostic("passed " + std::to_string(counts.passed) + ", failed " +
                  std::to_string(counts.failed) +
                  (counts.imprecise > 0 ? ", imprecise " + std::to_string(counts.imprecise) : "") +
                  ", skipped " + std::to_string(counts.skipped));
  WriteResults(true);
}

void Session::NothingToRun(const std::string& why) {
  const std::lock_guard lock(mutex_);
  Print("KTAP version 1\n1..0 # SKIP " + why + "\n");
  WriteResults(true);
}

bool Session::empty() const {
  const std::lock_guard lock(mutex_);
  return records_.empty();
}

int Session::ExitStatus() const {
  const std::lock_guard lock(mutex_);
  const Counts counts = Count();
  if (counts.failed > 0 || write_failed_) return kExitFailed;
  return counts.passed + counts.imprecise == 0 ? kExitSkipped : kExitPassed;
}

Session::Counts Session::Count() const {
  Counts counts;
  for (const TestRecord& record : records_) {
    if (record.outcome == Outcome::kPassed) counts.passed++;
    if (record.outcome == Outcome::kSkipped) counts.skipped++;
    if (record.outcome == Outcome::kFailed) counts.failed++;
    if (record.outcome == Outcome::kImprecise) counts.imprecise++;
    if (record.outcome == Outcome::kNotRun) counts.not_run++;
  }
  counts.failed += counts.not_run;
  return counts;
}

void Session::PrintRerun(const TestRecord& record) const {
  PrintDiagnostic("run just this: " + info_.again + " FILTER=" + record.name);
}

void Session::PrintResult(const TestRecord& record, const std::string& remark) {
  const bool ok = record.outcome == Outcome::kPassed || record.outcome == Outcome::kSkipped;
  Print((ok ? "ok " : "not ok ") + std::to_string(++printed_) + " " + record.name +
        (remark.empty() ? "" : " # " + remark) + "\n");
  failures_.clear();
  SetFatalSignalLine("not ok " + std::to_string(printed_ + 1) + " after " + record.name);
}

// What is on disk while a test runs is what remains if it takes the process down.
void Session::WriteResults(bool finished) {
  if (results_directory_.empty() || write_failed_) return;
  const Counts counts = Count();
  nlohmann::ordered_json tests = nlohmann::ordered_json::array();
  for (size_t i = 0; i < records_.size(); i++) {
    const TestRecord& record = records_[i];
    const bool is_next = i == next_ && !finished;
    tests.push_back({{"name", record.name},
                     {"theme", record.theme},
                     {"outcome", ToString(is_next ? Outcome::kFailed : record.outcome)},
                     {"seconds", record.seconds},
                     {"message", is_next ? "the process ended here" : record.message}});
  }
  const nlohmann::ordered_json results = {{"kernel", info_.kernel},
                                          {"vendor", info_.vendor},
                                          {"mode", info_.mode},
                                          {"emulator", info_.emulator},
                                          {"kernel_log_gate", info_.gate},
                                          {"precision_promised", info_.precision_promised},
                                          {"passed", counts.passed},
                                          {"failed", counts.failed},
                                          {"imprecise", counts.imprecise},
                                          {"skipped", counts.skipped},
                                          {"tests", std::move(tests)}};
  const std::string path = results_directory_ + "/results.json";
  std::ofstream out(path + ".new", std::ios::trunc);
  // Kernel logs need not be valid UTF-8.
  out << results.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << "\n";
  out.close();
  if (out && rename((path + ".new").c_str(), path.c_str()) == 0) return;
  write_failed_ = true;
  PrintDiagnostic("cannot write " + path + ": the run counts as failed");
}

}  // namespace slotzap

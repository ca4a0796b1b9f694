// SPDX-License-Identifier: GPL-2.0-only
// What every GoogleTest binary of ours runs: KTAP on standard output, results as JSON and JUnit
// XML, the kernel-log gate, a time limit for each test.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

namespace slotzap {

struct HarnessOptions {
  // The tests need a loaded KVM: its vendor and MMU mode are looked up, and --mode is checked.
  bool needs_kvm = true;
  // Whether the kernel promises precision (harness/precision.h); by default it does.
  std::function<bool()> promises_precision{};
  // A splat in the kernel log fails the test that ran.
  bool kernel_log_gate = true;
  // If given, there is a flag --hold-vm.  It calls this before the first test, and what comes back
  // lives until the last one is over: a VM, so that KVM doesn't become idle between tests.
  std::function<std::shared_ptr<void>()> hold_vm = nullptr;
};

enum ExitStatus { kExitPassed = 0, kExitFailed = 1, kExitSkipped = 4 };

// Parses the command line, runs the tests, returns main()'s exit status: kExitPassed,
// kExitFailed if anything failed (or a wrong flag, or a filter that selects nothing), or
// kExitSkipped if every test was skipped (or none is left for this of GoogleTest's shards).  If a
// test exceeds its time, the process ends.
int HarnessMain(int argc, char** argv, const HarnessOptions& options = {});

// Gives the test that runs `timeout` from its start, in place of --timeout.  Without effect
// outside of a test.
void SetTestTimeout(std::chrono::seconds timeout);

// What to ask when a test hangs, e.g. for the state of its vCPUs: the text is printed before
// the result.  Called from another thread, while the test's threads run on.  It is forgotten at
// the end of the test, after its fixture is gone; an empty function forgets it earlier, which is
// necessary if it refers to something that dies earlier.
void SetHangReporter(std::function<std::string()> reporter);

}  // namespace slotzap

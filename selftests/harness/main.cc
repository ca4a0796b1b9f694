// SPDX-License-Identifier: GPL-2.0-only
#include "harness/main.h"

#include <gtest/gtest.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "harness/fatal_signal.h"
#include "harness/listener.h"
#include "harness/session.h"
#include "harness/watchdog.h"
#include "host/kernel_log.h"
#include "host/kvm_module.h"

namespace slotzap {
namespace {

constexpr std::chrono::seconds kReporterLimit(5);

struct Flags {
  std::string mode;
  int timeout = 60;  // seconds
  std::string results;
  std::string kernel_log = "/dev/kmsg";
  // Milliseconds after which a test that takes long says that it runs, each time.  Whoever ends
  // hosts that say nothing (scripts/host-lib.sh) then waits for the test's own limit.
  int tick = 20000;
  bool hold_vm = false;
  std::vector<std::string> others;  // for GoogleTest
};

// What SetTestTimeout() and SetHangReporter() refer to: there is one run in a process.
std::mutex hooks_mutex;
Watchdog* current_watchdog = nullptr;
std::function<std::string()> hang_reporter;

int Error(const std::string& what) {
  fflush(stdout);
  fprintf(stderr, "error: %s\n", what.c_str());
  return kExitFailed;
}

// The exit status if there is nothing more to do.
std::optional<int> ParseFlags(int argc, char** argv, const HarnessOptions& options, Flags& flags) {
  CLI::App app("Runs the tests; prints KTAP.", std::filesystem::path(argv[0]).filename().string());
  app.footer(
      "GoogleTest's flags work too, e.g. --gtest_filter=PATTERN and --gtest_list_tests.\n"
      "Exit status: 0 passed, 1 failed, 4 everything skipped.");
  app.allow_extras();
  if (options.needs_kvm)
    app.add_option("--mode", flags.mode, "The MMU mode that the loaded KVM has to be in")
        ->check(CLI::IsMember({"tdp", "legacy", "shadow"}));
  app.add_option("--timeout", flags.timeout, "Seconds that a test may take, 60 if not given")
      ->check(CLI::PositiveNumber);
  app.add_option("--results", flags.results, "Directory for results.json and junit.xml")
      ->envname("SLOTZAP_RESULTS");
  if (options.hold_vm)
    app.add_flag("--hold-vm", flags.hold_vm,
                 "Keep a VM with a vCPU open from before the first test to after the last");
  // For the harness's own tests, which can't cause real splats and have little time; hidden by
  // having no group.
  app.add_option("--kernel-log", flags.kernel_log)->group("");
  app.add_option("--tick", flags.tick)->group("")->check(CLI::PositiveNumber);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitPassed : kExitFailed;
  }
  flags.others = app.remaining();
  return std::nullopt;
}

// GoogleTest takes the flags that are its own; whatever remains is an error.
void InitGoogleTest(char* program, const Flags& flags) {
  if (!flags.results.empty()) {
    const std::string junit = flags.results + "/junit.xml";
    std::filesystem::create_directories(flags.results);
    // No test may match, and GoogleTest doesn't write its own if one hangs: old ones would mislead.
    std::filesystem::remove(junit);
    std::filesystem::remove(flags.results + "/results.json");
    GTEST_FLAG_SET(output, "xml:" + junit);
  }
  std::vector<std::string> others = flags.others;
  std::vector<char*> arguments = {program};
  for (std::string& other : others) arguments.push_back(other.data());
  int count = static_cast<int>(arguments.size());
  arguments.push_back(nullptr);
  testing::InitGoogleTest(&count, arguments.data());
  if (count > 1)
    throw std::runtime_error(std::string("unknown argument '") + arguments[1] + "'; see --help");
  if (GTEST_FLAG_GET(repeat) < 1) throw std::runtime_error("--gtest_repeat has to be 1 or more");
}

RunInfo DescribeRun(const HarnessOptions& options, const Flags& flags) {
  RunInfo info;
  utsname system = {};
  if (uname(&system) == 0) info.kernel = system.release;
  info.emulator = CpuEmulator();
  // Whoever started this knows better.
  const char* again = std::getenv("SLOTZAP_AGAIN");
  info.again = again != nullptr ? again : "make check";
  if (options.promises_precision) info.precision_promised = options.promises_precision();
  if (!options.needs_kvm) return info;
  try {
    const KvmModule kvm = DetectKvmModule();
    info.vendor = kvm.vendor;
    info.mode = ToString(kvm.mode);
  } catch (const std::runtime_error&) {
    // Tests then skip, and say why; unless a mode was asked for.
    if (!flags.mode.empty()) throw;
  }
  if (!flags.mode.empty() && flags.mode != info.mode)
    throw std::runtime_error("--mode=" + flags.mode + ", but the loaded KVM is in mode " +
                             info.mode + ": reload it with the parameters of that mode");
  return info;
}

// Opens the kernel log if it can be trusted to show splats.  `gate`: "ON" or "OFF (why)".
std::unique_ptr<KernelLog> OpenGate(bool wanted, const std::string& path, std::string& gate) {
  std::string reason = "these tests don't need it";
  if (wanted) {
    try {
      auto log = std::make_unique<KernelLog>(path);
      reason = log->Canary();
      if (reason.empty()) {
        KernelLog::RearmWarnOnce();
        gate = "ON";
        return log;
      }
    } catch (const std::exception& error) {
      reason = error.what();
    }
  }
  gate = "OFF (" + reason + ")";
  return nullptr;
}

[[noreturn]] void EndHungProcess(Session& session, std::chrono::seconds limit) {
  std::function<std::string()> reporter;
  {
    const std::lock_guard lock(hooks_mutex);
    reporter = hang_reporter;
  }
  std::string text = DescribeThreads();
  if (reporter) text += "\n" + AskReporter(reporter, kReporterLimit);
  session.TimedOut(limit, text);
  _exit(kExitFailed);
}

int RunTests(const HarnessOptions& options, const Flags& flags) {
  RunInfo info = DescribeRun(options, flags);
  const auto log = OpenGate(options.kernel_log_gate, flags.kernel_log, info.gate);
  const std::shared_ptr<void> held = flags.hold_vm ? options.hold_vm() : nullptr;
  info.vm_held = held != nullptr;
  Session session(std::move(info), flags.results);
  Watchdog watchdog(
      std::chrono::seconds(flags.timeout),
      [&](std::chrono::seconds limit) { EndHungProcess(session, limit); },
      std::chrono::milliseconds(flags.tick),
      [&](std::chrono::seconds elapsed) { session.StillRunning(elapsed); });
  InstallFatalSignalHandler();
  {
    const std::lock_guard lock(hooks_mutex);
    current_watchdog = &watchdog;
  }

  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  delete listeners.Release(listeners.default_result_printer());
  auto* listener = new Listener(session, watchdog, log.get());
  listeners.Append(listener);
  // The session knows more than this status: that a test may be imprecise only.
  [[maybe_unused]] const int status = RUN_ALL_TESTS();
  delete listeners.Release(listener);
  {
    const std::lock_guard lock(hooks_mutex);
    current_watchdog = nullptr;
  }

  if (session.empty()) {
    // GoogleTest deals tests out from the first shard on: there are none if that one has none.
    const char* shard = std::getenv("GTEST_SHARD_INDEX");
    if (shard == nullptr || std::string_view(shard) == "0")
      return Error("no test matches '" + GTEST_FLAG_GET(filter) +
                   "'; --gtest_list_tests prints their names");
    session.NothingToRun("no test is left for this shard");
  }
  return session.ExitStatus();
}

}  // namespace

void SetTestTimeout(std::chrono::seconds timeout) {
  const std::lock_guard lock(hooks_mutex);
  if (current_watchdog != nullptr) current_watchdog->SetLimit(timeout);
}

void SetHangReporter(std::function<std::string()> reporter) {
  const std::lock_guard lock(hooks_mutex);
  hang_reporter = std::move(reporter);
}

int HarnessMain(int argc, char** argv, const HarnessOptions& options) {
  // What tests print themselves has to come between the lines of KTAP where it belongs.
  setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);
  try {
    Flags flags;
    if (const auto status = ParseFlags(argc, argv, options, flags)) return *status;
    InitGoogleTest(argv[0], flags);
    if (GTEST_FLAG_GET(list_tests)) return RUN_ALL_TESTS();
    return RunTests(options, flags);
  } catch (const std::exception& error) {
    return Error(error.what());
  }
}

}  // namespace slotzap

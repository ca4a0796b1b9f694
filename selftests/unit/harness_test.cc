// SPDX-License-Identifier: GPL-2.0-only
// Runs harness_child.cc's tests in a process of their own, and compares what that prints.
#include <gtest/gtest.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>

#include "base/file_descriptor.h"
#include "host/kvm_module.h"
#include "unit/temp_dir.h"

namespace slotzap {
namespace {

struct Child {
  std::string raw;     // standard output and error
  std::string output;  // the same, with what differs from run to run replaced
  int status = 0;      // of the process as a shell sees it: 128 + N for signal N
};

// What varies: times, line numbers in harness_child.cc, where things are, the state of threads.
// That a test starts is left out: each does.
std::string Normalise(std::string text) {
  const auto replace = [&](const char* what, const char* with) {
    text = std::regex_replace(text, std::regex(what), with);
  };
  replace("# \\d+\\.\\d+ s\n", "# T s\n");
  replace("harness_child.cc:\\d+", "harness_child.cc:N");
  replace("# kernel \\d[^\n]*\n", "# kernel K\n");
  replace("# threads:\n(#  [^\n]*\n)*", "# threads\n");
  replace("# running [^\n]*\n", "");
  return text;
}

// `variables`: of its environment, which has none of those that deal out the tests of this process.
Child RunChild(const std::string& arguments, const std::string& variables = "") {
  const std::string child =
      std::filesystem::read_symlink("/proc/self/exe").parent_path() / "slotzap-unit-child";
  if (!FileExists(child)) throw std::runtime_error("the tests need " + child + " beside them");
  const std::string command = "exec env -u GTEST_TOTAL_SHARDS -u GTEST_SHARD_INDEX " + variables +
                              " " + child + " " + arguments + " 2>&1";
  FILE* pipe = popen(command.c_str(), "re");
  if (pipe == nullptr) ThrowErrno("popen " + child);
  std::string output;
  char buffer[4096];
  for (size_t n = 0; (n = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) output.append(buffer, n);
  const int status = pclose(pipe);
  return {output, Normalise(output),
          WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)};
}

Child RunTests(const std::string& filter, const std::string& flags = "") {
  return RunChild("--gtest_filter=" + filter + " " + flags);
}

std::string Head(int tests, const std::string& gate = "OFF (these tests don't need it)") {
  return "KTAP version 1\n1.." + std::to_string(tests) +
         "\n# kernel K\n# kernel log gate: " + gate + "\n";
}

TEST(Harness, AVmIsHeldFromBeforeTheFirstTestToAfterTheLast) {
  const std::string tests =
      "ok 1 Child.Passes # T s\n"
      "# passed 1, failed 0, skipped 0\n";
  EXPECT_EQ(RunTests("Child.Passes").output, Head(1) + tests);
  EXPECT_EQ(RunTests("Child.Passes", "--hold-vm").output,
            "# VM opened\n" + Head(1) + "# a VM with a vCPU is held open all along\n" + tests +
                "# VM closed\n");
}

TEST(Harness, EveryOutcomeHasItsLine) {
  const Child run = RunTests("Child.Passes:Child.Fails:Child.Skips:*ChildParameter*");
  EXPECT_EQ(run.output, Head(5) +
                            "ok 1 Child.Passes # T s\n"
                            "# selftests/unit/harness_child.cc:N: failed\n"
                            "# Expected equality of these values:\n"
                            "#   1 + 1\n"
                            "#     Which is: 2\n"
                            "#   3\n"
                            "# arithmetic\n"
                            "# selftests/unit/harness_child.cc:N: failed\n"
                            "# Value of: false\n"
                            "#   Actual: false\n"
                            "# Expected: true\n"
                            "# run just this: make check FILTER=Child.Fails\n"
                            "not ok 2 Child.Fails # T s\n"
                            "ok 3 Child.Skips # SKIP no such machine\n"
                            "ok 4 Quirk/ChildParameter.Passes/off # T s\n"
                            "ok 5 Quirk/ChildParameter.Passes/on # T s\n"
                            "# passed 3, failed 1, skipped 1\n");
  EXPECT_EQ(run.status, 1);
}

// What a test that lacks precision prints before its result.
constexpr char kImprecision[] =
    "# selftests/unit/harness_child.cc:N: failed\n"
    "# Expected equality of these values:\n"
    "#   3\n"
    "#   2\n"
    "# [precision] leaves\n";

TEST(Harness, PrecisionThatIsPromisedHasToBeKept) {
  const Child run = RunTests("Child.LacksPrecision");
  EXPECT_EQ(run.output, Head(1) + kImprecision +
                            "# run just this: make check FILTER=Child.LacksPrecision\n"
                            "not ok 1 Child.LacksPrecision # T s\n"
                            "# passed 0, failed 1, skipped 0\n");
  EXPECT_EQ(run.status, 1);
}

TEST(Harness, PrecisionThatIsNotPromisedIsTodoTheContractIsNot) {
  const TempDir results;
  setenv("CHILD_PROMISES_NOTHING", "1", 1);
  const Child imprecise =
      RunTests("Child.LacksPrecision:Child.Passes", "--results=" + results.path());
  const Child broken = RunTests("Child.LacksPrecisionAndMore");
  unsetenv("CHILD_PROMISES_NOTHING");
  const std::string head =
      "# this kernel does not promise precision: what lacks it is marked TODO\n";
  EXPECT_EQ(imprecise.output,
            Head(2) + head + "ok 1 Child.Passes # T s\n" + kImprecision +
                "not ok 2 Child.LacksPrecision # TODO precision, not promised here\n"
                "# passed 1, failed 0, imprecise 1, skipped 0\n");
  EXPECT_EQ(imprecise.status, 0);
  EXPECT_EQ(broken.output, Head(1) + head + kImprecision +
                               "# selftests/unit/harness_child.cc:N: failed\n"
                               "# Value of: false\n"
                               "#   Actual: false\n"
                               "# Expected: true\n"
                               "# memory\n"
                               "# run just this: make check FILTER=Child.LacksPrecisionAndMore\n"
                               "not ok 1 Child.LacksPrecisionAndMore # T s\n"
                               "# passed 0, failed 1, skipped 0\n");
  EXPECT_EQ(broken.status, 1);

  const auto json = nlohmann::json::parse(ReadFile(results.path() + "/results.json"));
  EXPECT_EQ(json["precision_promised"], false);
  EXPECT_EQ(json["imprecise"], 1);
  EXPECT_EQ(json["tests"][1]["outcome"], "imprecise");
  EXPECT_EQ(json["tests"][1]["theme"], "harness_child.cc");
}

TEST(Harness, StatusTellsPassedFromAllSkipped) {
  EXPECT_EQ(RunTests("Child.Passes:Child.Skips").status, 0);
  EXPECT_EQ(RunTests("Child.Skips").status, 4);
}

TEST(Harness, AFilterThatMatchesNothingIsAnError) {
  const Child run = RunTests("Nonesuch");
  EXPECT_EQ(run.output,
            "error: no test matches 'Nonesuch'; --gtest_list_tests prints their names\n");
  EXPECT_EQ(run.status, 1);
}

TEST(Harness, AShardWithoutTestsIsSkipped) {
  const TempDir results;
  const std::string second = "GTEST_TOTAL_SHARDS=2 GTEST_SHARD_INDEX=1";
  const std::string arguments = "--gtest_filter=Child.Passes --results=" + results.path();
  const Child run = RunChild(arguments, second);
  EXPECT_EQ(run.output, "KTAP version 1\n1..0 # SKIP no test is left for this shard\n");
  EXPECT_EQ(run.status, 4);
  const auto json = nlohmann::json::parse(ReadFile(results.path() + "/results.json"));
  EXPECT_TRUE(json["tests"].empty());

  EXPECT_EQ(RunChild(arguments, "GTEST_TOTAL_SHARDS=2 GTEST_SHARD_INDEX=0").status, 0);
  EXPECT_EQ(RunChild("--gtest_filter=Child.Passes:Child.Skips", second).output,
            Head(1) + "ok 1 Child.Skips # SKIP no such machine\n# passed 0, failed 0, skipped 1\n");
}

// One of them says so, for others can't tell.
TEST(Harness, AFilterThatMatchesNothingIsAnErrorInTheFirstShard) {
  const std::string first = "GTEST_TOTAL_SHARDS=2 GTEST_SHARD_INDEX=0";
  EXPECT_EQ(RunChild("--gtest_filter=Nonesuch", first).output,
            "error: no test matches 'Nonesuch'; --gtest_list_tests prints their names\n");
}

// By now GoogleTest has read this process's own.
TEST(Harness, TheShardOfTheseTestsIsNotTheChilds) {
  setenv("GTEST_TOTAL_SHARDS", "2", 1);
  setenv("GTEST_SHARD_INDEX", "1", 1);
  const Child run = RunTests("Child.Passes");
  unsetenv("GTEST_TOTAL_SHARDS");
  unsetenv("GTEST_SHARD_INDEX");
  EXPECT_EQ(run.output, Head(1) + "ok 1 Child.Passes # T s\n# passed 1, failed 0, skipped 0\n");
}

// Whatever ends a host, the last lines that come out of it say in which test.
TEST(Harness, TestsAreNamedWhenTheyStart) {
  const Child run = RunTests("Child.Passes:Child.Crashes");
  EXPECT_NE(run.raw.find("\n# running Child.Passes\nok 1 Child.Passes #"), std::string::npos)
      << run.raw;
  EXPECT_TRUE(
      run.raw.ends_with("\n# running Child.Crashes\n"
                        "not ok 2 Child.Crashes # died of signal 11\n"))
      << run.raw;
}

TEST(Harness, WrongArgumentsAreErrors) {
  const Child unknown = RunChild("--nonesuch");
  EXPECT_NE(unknown.output.find("error: unknown argument '--nonesuch'"), std::string::npos)
      << unknown.output;
  EXPECT_EQ(unknown.status, 1);
  EXPECT_EQ(RunChild("--timeout=0").status, 1);
  EXPECT_EQ(RunChild("--timeout=soon").status, 1);
  EXPECT_EQ(RunChild("--gtest_repeat=-1").status, 1);
  EXPECT_EQ(RunChild("--help").status, 0);
}

TEST(Harness, ListsTestsWithoutRunningThem) {
  const Child run = RunTests("Child.P*", "--gtest_list_tests");
  EXPECT_EQ(run.output, "Child.\n  Passes\n");
  EXPECT_EQ(run.status, 0);
}

TEST(Harness, RepeatedTestsAreNumberedOn) {
  EXPECT_EQ(RunTests("Child.Passes", "--gtest_repeat=2").output,
            Head(2) + "ok 1 Child.Passes # T s\nok 2 Child.Passes # T s\n" +
                "# passed 2, failed 0, skipped 0\n");
}

TEST(Harness, AFailureInASuitesSetUpFailsTheRun) {
  const Child run = RunTests("ChildSetUpFails.*");
  EXPECT_EQ(run.output, Head(1) +
                            "# selftests/unit/harness_child.cc:N: failed\n"
                            "# Failed\n"
                            "# no set-up\n"
                            "ok 1 ChildSetUpFails.Runs # SKIP no reason given\n"
                            "not ok 2 set-up or tear-down of ChildSetUpFails\n"
                            "# passed 0, failed 1, skipped 1\n");
  EXPECT_EQ(run.status, 1);
}

TEST(Harness, AHangEndsTheRunWithWhatIsKnown) {
  const TempDir results;
  const Child run = RunTests("Child.Passes:Child.Hangs:ChildParameter*:Child.Crashes",
                             "--results=" + results.path());
  EXPECT_EQ(run.output, Head(3) +
                            "ok 1 Child.Passes # T s\n"
                            "# selftests/unit/harness_child.cc:N: failed\n"
                            "# Value of: false\n"
                            "#   Actual: false\n"
                            "# Expected: true\n"
                            "# before it hung\n"
                            "# threads\n"
                            "# vcpu 0 is at 0x1000\n"
                            "# run just this: make check FILTER=Child.Hangs\n"
                            "not ok 2 Child.Hangs # timed out after 1 s\n"
                            "# not run, and counted as failed: 1\n"
                            "# passed 1, failed 2, skipped 0\n");
  EXPECT_EQ(run.status, 1);

  const auto json = nlohmann::json::parse(ReadFile(results.path() + "/results.json"));
  ASSERT_EQ(json["tests"].size(), 3u);
  EXPECT_EQ(json["tests"][0]["outcome"], "passed");
  EXPECT_EQ(json["tests"][1]["outcome"], "failed");
  EXPECT_EQ(json["tests"][2]["outcome"], "not run");
  EXPECT_EQ(json["failed"], 2);
}

TEST(Harness, ATestThatTakesLongSaysThatItRuns) {
  const Child run = RunTests("Child.Hangs", "--tick=100");
  EXPECT_NE(run.output.find("# before it hung\n"
                            "# still running after 0 s: Child.Hangs\n"),
            std::string::npos)
      << run.output;
}

TEST(Harness, AHangBetweenTestsIsNoticed) {
  const Child run = RunTests("ChildTearDownHangs.*", "--timeout=1");
  EXPECT_EQ(run.output, Head(1) +
                            "ok 1 ChildTearDownHangs.Runs # T s\n"
                            "# threads\n"
                            "not ok 2 after ChildTearDownHangs.Runs # timed out after 1 s\n"
                            "# passed 1, failed 1, skipped 0\n");
  EXPECT_EQ(run.status, 1);
}

TEST(Harness, ACrashNamesItsTestAndLeavesResults) {
  const TempDir results;
  const Child crash = RunTests("Child.Passes:Child.Crashes", "--results=" + results.path());
  EXPECT_EQ(crash.output,
            Head(2) + "ok 1 Child.Passes # T s\nnot ok 2 Child.Crashes # died of signal 11\n");
  EXPECT_EQ(crash.status, 128 + SIGSEGV);
  const auto json = nlohmann::json::parse(ReadFile(results.path() + "/results.json"));
  EXPECT_EQ(json["tests"][0]["outcome"], "passed");
  EXPECT_EQ(json["tests"][1]["outcome"], "failed");
  EXPECT_EQ(json["tests"][1]["message"], "the process ended here");

  const Child abort = RunTests("Child.Aborts");
  EXPECT_EQ(abort.output, Head(1) + "not ok 1 Child.Aborts # died of signal 6\n");
}

TEST(Harness, ASplatFailsTheTestThatCausedIt) {
  const TempDir dir;
  const std::string log = dir.Write("kmsg", "");
  setenv("CHILD_KERNEL_LOG", log.c_str(), 1);
  const Child run = RunTests("Child.Passes:Child.Splats:ChildFixture.*:ChildTearDown.*",
                             "--kernel-log=" + log + " --results=" + dir.path());
  unsetenv("CHILD_KERNEL_LOG");
  if (run.output.find("gate: OFF") != std::string::npos)
    GTEST_SKIP() << "needs a readable /proc/kallsyms: " << run.output;
  EXPECT_EQ(run.output, Head(4, "ON") +
                            "ok 1 Child.Passes # T s\n"
                            "# kernel log: failed\n"
                            "# Failed\n"
                            "# WARNING: CPU: 0 PID: 1 at virt/kvm/kvm_main.c:1 f+0x1/0x2 [kvm]\n"
                            "# run just this: make check FILTER=Child.Splats\n"
                            "not ok 2 Child.Splats # T s\n"
                            "# kernel log: failed\n"
                            "# Failed\n"
                            "# BUG: Bad page state in process child  pfn:1\n"
                            "# run just this: make check FILTER=ChildFixture.SplatsInTearDown\n"
                            "not ok 3 ChildFixture.SplatsInTearDown # T s\n"
                            "ok 4 ChildTearDown.Runs # T s\n"
                            "# kernel log: failed\n"
                            "# BUG: sleeping function called from invalid context\n"
                            "not ok 5 kernel log after the last test\n"
                            "# passed 2, failed 3, skipped 0\n");
  EXPECT_EQ(run.status, 1);
  // GoogleTest's own report has the splats too.
  EXPECT_NE(ReadFile(dir.path() + "/junit.xml").find("Bad page state"), std::string::npos);
}

TEST(Harness, AGateThatCannotWorkIsOff) {
  const TempDir dir;
  setenv("CHILD_KERNEL_LOG", "none", 1);
  const Child run = RunTests("Child.Passes", "--kernel-log=" + dir.path() + "/none");
  unsetenv("CHILD_KERNEL_LOG");
  EXPECT_NE(run.output.find("# kernel log gate: OFF (open " + dir.path() + "/none: No such file"),
            std::string::npos)
      << run.output;
  EXPECT_EQ(run.status, 0);
}

TEST(Harness, ResultsSayUnderWhatTheTestsRan) {
  const TempDir dir;
  RunTests("Child.Passes:Child.Skips:Child.Fails", "--results=" + dir.path() + "/new/directory");
  const auto json = nlohmann::json::parse(ReadFile(dir.path() + "/new/directory/results.json"));
  utsname system = {};
  ASSERT_EQ(uname(&system), 0);
  EXPECT_EQ(json["kernel"], system.release);
  EXPECT_EQ(json["emulator"], CpuEmulator());
  EXPECT_EQ(json["vendor"], "");
  EXPECT_EQ(json["kernel_log_gate"], "OFF (these tests don't need it)");
  EXPECT_EQ(json["passed"], 1);
  EXPECT_EQ(json["failed"], 1);
  EXPECT_EQ(json["skipped"], 1);
  EXPECT_EQ(json["tests"][1]["name"], "Child.Fails");
  EXPECT_NE(json["tests"][1]["message"].get<std::string>().find("arithmetic"), std::string::npos);
  EXPECT_EQ(json["tests"][2]["message"], "no such machine");
  EXPECT_TRUE(FileExists(dir.path() + "/new/directory/junit.xml"));
}

TEST(Harness, ResultsThatCannotBeWrittenFailTheRun) {
  const TempDir dir;
  const std::string file = dir.Write("file", "");
  const Child run = RunTests("Child.Passes", "--results=" + file + "/results");
  EXPECT_EQ(run.status, 1);
  EXPECT_TRUE(run.output.starts_with("error: ")) << run.output;
}

}  // namespace
}  // namespace slotzap

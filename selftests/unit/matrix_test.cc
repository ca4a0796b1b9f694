// SPDX-License-Identifier: GPL-2.0-only
#include "cli/matrix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "unit/temp_dir.h"

namespace slotzap {
namespace {

using testing::HasSubstr;
using testing::Not;

SuiteRun RunOf(const std::string& machine, const std::string& mode,
               std::vector<SuiteRun::Test> tests, const std::string& kernel = "6.12") {
  return {kernel, machine, mode, "6.12.1-cloud", machine, "tcg", std::move(tests)};
}

TEST(Matrix, ARunIsNamedByItsFile) {
  const TempDir dir;
  const SuiteRun run = SuiteRun::Load(dir.Write("6.12.unpatched-svm-tdp.json", R"({
      "kernel": "6.12.1", "vendor": "svm", "emulator": "tcg", "tests": [
        {"name": "A.B", "theme": "delete", "outcome": "passed", "seconds": 1, "message": ""}]})"));
  EXPECT_EQ(run.kernel, "6.12.unpatched");
  EXPECT_EQ(run.machine, "svm");
  EXPECT_EQ(run.mode, "tdp");
  EXPECT_EQ(run.release, "6.12.1");
  EXPECT_EQ(run.vendor, "svm");
  ASSERT_EQ(run.tests.size(), 1u);
  EXPECT_EQ(run.tests[0].theme, "delete");
}

TEST(Matrix, FilesThatAreNoResultsAreNamed) {
  const TempDir dir;
  EXPECT_THROW(SuiteRun::Load(dir.Write("results.json", "{}")), std::runtime_error);
  EXPECT_THROW(SuiteRun::Load(dir.Write("-tdp.json", "{}")), std::runtime_error);
  EXPECT_THROW(SuiteRun::Load(dir.Write("6.1-svm-tdp.json", "{}")), std::runtime_error);
  EXPECT_THROW(SuiteRun::Load(dir.Write("6.1-svm-legacy.json", "half")), std::runtime_error);
}

TEST(Matrix, ACellSaysWhatThereIs) {
  EXPECT_EQ(MatrixCell().Text(), "-");
  EXPECT_EQ((MatrixCell{.passed = 30}).Text(), "30");
  EXPECT_EQ((MatrixCell{.passed = 1, .failed = 2, .imprecise = 3, .skipped = 4}).Text(),
            "2F 3i 1 4s");
}

// Sorted, whatever the order of the files.
TEST(Matrix, ARowPerThemeAColumnPerMachineAndMode) {
  const Matrix matrix({
      RunOf("vmx", "tdp",
            {{"D.One", "delete", "imprecise", "3 leaves"}, {"M.One", "move", "not run", ""}}),
      RunOf("svm", "shadow",
            {{"D.One", "delete", "failed", "where\nit hurts"},
             {"M.One", "move", "skipped", "no move"},
             {"M.Two", "move", "skipped", "no move"}}),
      RunOf("svm", "tdp", {{"D.One", "delete", "passed", ""}, {"D.Two", "delete", "passed", ""}}),
  });
  EXPECT_EQ(matrix.Text(),
            "6.12    svm            vmx\n"
            "theme   tdp  shadow    tdp\n"
            "delete    2      1F     1i\n"
            "move      -      2s     1F\n"
            "all       2   1F 2s  1F 1i\n"
            "\n"
            "N passed, NF failed, Ni imprecise on a kernel that does not promise precision, Ns "
            "skipped\n"
            "\n"
            "Failed:\n"
            "  D.One: where\n    it hurts\n"
            "      6.12-svm-shadow\n"
            "  M.One: not run\n"
            "      6.12-vmx-tdp\n"
            "\n"
            "Imprecise:\n"
            "  D.One\n"
            "      6.12-vmx-tdp\n"
            "\n"
            "Skipped:\n"
            "  move, 2: no move\n"
            "      6.12-svm-shadow\n");
}

TEST(Matrix, ATablePerKernel) {
  const Matrix matrix({RunOf("svm", "tdp", {{"D.One", "delete", "passed", ""}}, "6.1"),
                       RunOf("svm", "tdp", {{"D.One", "delete", "passed", ""}}, "6.12")});
  EXPECT_THAT(matrix.Text(),
              HasSubstr("6.1     svm\ntheme   tdp\ndelete    1\nall       1\n\n6.12    svm\n"));
}

TEST(Matrix, ThemesThatAKernelWasNotTestedForAreNotInItsTable) {
  const Matrix matrix({RunOf("svm", "tdp", {{"D.One", "delete", "passed", ""}}, "6.1"),
                       RunOf("svm", "tdp", {{"M.One", "move", "passed", ""}}, "6.12")});
  EXPECT_THAT(matrix.Text(), HasSubstr("6.1     svm\ntheme   tdp\ndelete    1\nall       1\n\n"));
  EXPECT_THAT(matrix.Text(), HasSubstr("6.12   svm\ntheme  tdp\nmove     1\nall      1\n\n"));
}

TEST(Matrix, AMachineOfOnesOwnIsShownWithItsVendor) {
  SuiteRun host = RunOf("host", "tdp", {{"D.One", "delete", "passed", ""}});
  host.vendor = "svm";
  host.emulator = "";
  SuiteRun nested = RunOf("nested", "tdp", {{"D.One", "delete", "passed", ""}});
  nested.vendor = "vmx";
  nested.emulator = "kvm";
  const Matrix matrix({host, nested});
  EXPECT_THAT(matrix.Text(), HasSubstr("6.12    host (svm)  nested (vmx)\n"
                                       "theme          tdp           tdp\n"
                                       "delete           1             1\n"));
  EXPECT_THAT(matrix.Html(), HasSubstr("<th colspan=\"1\">host (svm)</th>"
                                       "<th colspan=\"1\">nested (vmx, kvm)</th>"));
}

// As scripts/check writes it.
TEST(Matrix, AHostThatDiedHasItsColumn) {
  const TempDir dir;
  const SuiteRun dead = SuiteRun::Load(dir.Write(
      "6.12-svm-tdp.json", R"({"kernel": "", "vendor": "", "mode": "tdp", "emulator": "", "tests": [
 {"name": "host", "theme": "host", "outcome": "failed", "seconds": 0, "message": "it \"hangs\""}]})"));
  const Matrix matrix({dead, RunOf("svm", "legacy", {{"D.One", "delete", "passed", ""}})});
  EXPECT_THAT(matrix.Text(), HasSubstr("6.12    svm\n"
                                       "theme   tdp  legacy\n"
                                       "delete    -       1\n"
                                       "host     1F       -\n"
                                       "all      1F       1\n"));
  EXPECT_THAT(matrix.Text(), HasSubstr("Failed:\n  host: it \"hangs\"\n      6.12-svm-tdp\n"));
  EXPECT_THAT(matrix.Html(), HasSubstr("Linux 6.12.1-cloud<"));
  EXPECT_THAT(matrix.Html(), HasSubstr("<th colspan=\"2\">svm (tcg)</th>"));
}

TEST(Matrix, ShardsShareAColumn) {
  const Matrix matrix({RunOf("svm", "tdp", {{"D.One", "delete", "passed", ""}}),
                       RunOf("svm", "shadow", {{"D.One", "delete", "passed", ""}}),
                       RunOf("svm", "tdp", {{"D.Two", "delete", "failed", ""}}),
                       RunOf("svm", "tdp", {})});
  EXPECT_THAT(matrix.Text(), HasSubstr("6.12     svm\n"
                                       "theme    tdp  shadow\n"
                                       "delete  1F 1       1\n"
                                       "all     1F 1       1\n\n"));
}

TEST(Matrix, ThePageHasItAllAndIsSafe) {
  const Matrix matrix({RunOf("svm", "tdp", {{"D.One", "delete", "failed", "a < b & \"c\""}}),
                       RunOf("svm", "legacy", {{"D.One", "delete", "skipped", "<none>"}})});
  const std::string page = matrix.Html();
  EXPECT_THAT(page, HasSubstr("<th colspan=\"2\">svm (tcg)</th>"));
  EXPECT_THAT(page, HasSubstr("<td class=\"failed\" title=\"0 passed, 1 failed, 0 imprecise, 0 "
                              "skipped\">1F</td>"));
  EXPECT_THAT(page, HasSubstr("a &lt; b &amp; &quot;c&quot;"));
  EXPECT_THAT(page, HasSubstr("&lt;none&gt;"));
  EXPECT_THAT(page, Not(HasSubstr("<none>")));
}

}  // namespace
}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "tests/matchers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <string>

namespace slotzap {
namespace {

using testing::HasSubstr;
using testing::Not;

// What a failing EXPECT_THAT(value, matcher) would add to "Actual: ...".
template <typename T>
std::string Explain(const T& value, const testing::Matcher<const T&>& matcher) {
  testing::StringMatchResultListener listener;
  EXPECT_FALSE(matcher.MatchAndExplain(value, &listener));
  return listener.str();
}

Outcome Done() {
  Outcome outcome;
  outcome.done = true;
  return outcome;
}

TEST(StatusMatchers, TellSuccessFromErrors) {
  const KvmStatus failed("KVM_FOO(1)", -1, EINVAL);
  const KvmStatus worked("KVM_FOO(1)", 0, 0);
  EXPECT_THAT(worked, IsOk());
  EXPECT_THAT(failed, FailsWith(EINVAL));
  EXPECT_EQ(Explain(failed, IsOk()), "which is KVM_FOO(1): Invalid argument (errno 22)");
  EXPECT_EQ(Explain(failed, FailsWith(EEXIST)), "which is KVM_FOO(1): Invalid argument (errno 22)");
  EXPECT_EQ(Explain(worked, FailsWith(EINVAL)), "which is KVM_FOO(1) = 0");
}

TEST(OutcomeMatchers, TellMemoryFromMmio) {
  Outcome memory = Done();
  memory.value = 7;
  EXPECT_THAT(memory, Succeeds());
  EXPECT_THAT(memory, Returns(7));
  EXPECT_THAT(memory, Not(Returns(8)));
  EXPECT_EQ(Explain(memory, IsMmioReadAt(0x1000)), "which returned 0x7, with 0 MMIO accesses");

  Outcome mmio = Done();
  mmio.mmio_count = 1;
  mmio.mmio = {{0x1000, 8, false, guest::kNoMemory}};
  EXPECT_THAT(mmio, IsMmioReadAt(0x1000));
  EXPECT_THAT(mmio, Not(IsMmioReadAt(0x1008)));
  EXPECT_THAT(mmio, Not(IsMmioWriteAt(0x1000, guest::kNoMemory)));
  EXPECT_THAT(mmio, Not(Succeeds()));
  mmio.mmio_count = 2;
  EXPECT_THAT(mmio, Not(IsMmioReadAt(0x1000))) << "two accesses are not one";
}

TEST(OutcomeMatchers, StuckIsNotSuccess) {
  Outcome stuck;
  stuck.exit_text = "KVM_EXIT_SHUTDOWN";
  EXPECT_THAT(stuck, IsStuck());
  EXPECT_THAT(Done(), Not(IsStuck()));
  EXPECT_EQ(Explain(stuck, Succeeds()), "which did not finish: KVM_EXIT_SHUTDOWN");
  EXPECT_THAT(stuck, Not(SeesPattern()));
}

TEST(OutcomeMatchers, FindsNothingWantsEveryPage) {
  Outcome touch = Done();
  touch.mmio_count = 2;
  touch.mmio = {{0x1000, 8, false, guest::kNoMemory}, {0x2000, 8, false, guest::kNoMemory}};
  EXPECT_THAT(touch, FindsNothingIn({0x1000, 0x2000}));
  EXPECT_THAT(touch, Not(FindsNothingIn({0x1000, 0x3000})));
  touch.mmio[1].gpa = 0x3000;
  EXPECT_THAT(Explain(touch, FindsNothingIn({0x1000, 0x2000})), HasSubstr("at 0x3000"));
}

TEST(OutcomeMatchers, SeesPatternWantsEveryWord) {
  Outcome verified = Done();
  EXPECT_THAT(verified, Not(SeesPattern())) << "nothing was compared";
  verified.verdict = {.words = 2, .matches = 2};
  EXPECT_THAT(verified, SeesPattern());
  verified.verdict = {.words = 2,
                      .matches = 1,
                      .absent = 0,
                      .wrong = 1,
                      .wrong_gpa = 0x1008,
                      .wrong_seen = 1,
                      .wrong_expected = 2};
  EXPECT_EQ(Explain(verified, SeesPattern()),
            "which saw 2 words: 1 right, 0 absent, 1 wrong (the first at 0x1008: 0x1, expected "
            "0x2)");
}

// Of a slot with two pages at gfn 0x100, in the TDP MMU.
ZapReport TwoPages() {
  ZapReport report;
  report.before = {10, 0, 0};
  report.after = {8, 0, 0};
  report.flush_requests = 1;
  report.leaves = {{0, 0x100, 1, 0x907, 0}, {0, 0x101, 1, 0x907, 0}};
  return report;
}
const std::vector<LeafRange> kTwoPages = {{{0x100000, 0x2000}}};

TEST(ZapMatchers, ZappedOnlyAcceptsExactlyThat) {
  EXPECT_THAT(TwoPages(), ZappedOnly(kTwoPages, MmuMode::kTdp));
  EXPECT_THAT(TwoPages(), Not(ZappedOnly(kTwoPages, MmuMode::kTdp, /*address_space=*/1)));
}

TEST(ZapMatchers, ZappedOnlyNoticesEachDeviation) {
  const auto matcher = ZappedOnly(kTwoPages, MmuMode::kTdp);
  ZapReport report = TwoPages();
  report.after.k4K = 7;
  EXPECT_THAT(Explain(report, matcher), HasSubstr("3 of 4 KiB"));

  report = TwoPages();
  report.flush_requests = 0;
  EXPECT_THAT(Explain(report, matcher), HasSubstr("no TLB flush"));

  report = TwoPages();
  report.zap_all = 1;
  EXPECT_THAT(Explain(report, matcher), HasSubstr("all roots were invalidated"));

  report = TwoPages();
  report.shadow_zapped = 1;
  EXPECT_THAT(Explain(report, matcher), HasSubstr("1 shadow pages"));

  report = TwoPages();
  report.tables = {{0, 0, 3, 0x907, 0}};
  EXPECT_THAT(Explain(report, matcher), HasSubstr("1 tables were zapped"));

  report = TwoPages();
  report.leaves[1].gfn = 0x102;
  EXPECT_THAT(Explain(report, matcher), HasSubstr("should have stayed: gfn 0x102 level 1"));

  report = TwoPages();
  report.leaves[1].gfn = 0x100;
  EXPECT_THAT(Explain(report, matcher), HasSubstr("zapped twice: gfn 0x100"));

  report = TwoPages();
  report.leaves.pop_back();
  EXPECT_THAT(Explain(report, matcher), HasSubstr("not zapped: gfn 0x101"));

  report = TwoPages();
  report.leaves[0].as_id = 1;
  EXPECT_THAT(Explain(report, matcher), HasSubstr("address space 1"));
}

TEST(ZapMatchers, ZappedOnlyNothingWantsNoFlush) {
  ZapReport report;
  EXPECT_THAT(report, ZappedOnly({}, MmuMode::kLegacy));
  report.flush_requests = 1;
  EXPECT_THAT(report, Not(ZappedOnly({}, MmuMode::kLegacy)));
}

TEST(ZapMatchers, ZappedEverythingWantsNothingLeft) {
  ZapReport report;
  report.before = {10, 1, 0};
  report.zap_all = 1;
  EXPECT_THAT(report, ZappedEverything());
  report.after = {1, 0, 0};
  EXPECT_THAT(report, Not(ZappedEverything()));
  report.after = {};
  report.zap_all = 0;
  EXPECT_THAT(report, Not(ZappedEverything()));
  report.untraced = "no tracefs";
  EXPECT_THAT(report, ZappedEverything());
  report.before = {};
  EXPECT_THAT(report, Not(ZappedEverything())) << "there was nothing to zap";
}

}  // namespace
}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "cli/order.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <system_error>

#include "unit/temp_dir.h"

namespace slotzap {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// What a function says in the exception that it throws.
template <typename F>
std::string Refusal(F f) {
  try {
    f();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "no exception";
}

// Two pages of a slot at 1 GiB are removed, then what mapped them.
constexpr char kInOrder[] =
    "# tracer: nop\n"
    "#\n"
    "# entries-in-buffer/entries-written: 6/6   #P:2\n"
    "#\n"
    "  qemu-93 [001] .....  1.1: kvm_mmu_get_page: sp gen 0 gfn 40000 l1 8-byte q0 direct wux nxe "
    "ad root 0 sync new\n"
    "  qemu-93 [001] .....  1.1: kvm_tdp_mmu_spte_changed: as id 0 gfn 40000 level 2 old_spte 0 "
    "new_spte 100907\n"
    "  qemu-93 [001] .....  1.2: kvm_tdp_mmu_spte_changed: as id 0 gfn 40000 level 1 old_spte 0 "
    "new_spte 80907\n"
    "  qemu-93 [001] .....  1.2: kvm_tdp_mmu_spte_changed: as id 0 gfn 40001 level 1 old_spte 0 "
    "new_spte 81907\n"
    "  qemu-93 [001] .....  1.3: kvm_tdp_mmu_spte_changed: as id 0 gfn 40000 level 1 old_spte "
    "80907 new_spte 0\n"
    "  qemu-93 [001] .....  1.3: kvm_tdp_mmu_spte_changed: as id 0 gfn 40001 level 1 old_spte "
    "81907 new_spte 0\n";
constexpr char kTableFirst[] =
    "  qemu-93 [001] .....  1.4: kvm_tdp_mmu_spte_changed: as id 0 gfn 40200 level 2 old_spte "
    "102907 new_spte 5a0\n"
    "  qemu-93 [001] .....  1.4: kvm_tdp_mmu_spte_changed: as id 0 gfn 40203 level 1 old_spte "
    "83907 new_spte 5a0\n";

TEST(GpaRangeOption, TakesNumbersAndUnits) {
  EXPECT_EQ(ParseGpaRange("0x40000000+0x200000"), (GpaRange{0x40000000, 0x200000}));
  EXPECT_EQ(ParseGpaRange("1G+2M"), (GpaRange{1ull << 30, 2ull << 20}));
  EXPECT_EQ(ParseGpaRange("0+4096"), (GpaRange{0, 4096}));
  EXPECT_EQ(ParseGpaRange("0x10T+4K"), (GpaRange{16ull << 40, 4096}));
}

TEST(GpaRangeOption, SaysWhatIsWrong) {
  const auto why = [](const char* text) { return Refusal([&] { ParseGpaRange(text); }); };
  EXPECT_EQ(why("1G"),
            "range '1G': there is no '+'; right would be START+SIZE, e.g. 0x40000000+0x200000 or "
            "1G+2M");
  for (const char* text : {"x+4K", "+4K", "-1+4K", "40000000h+4K", "0x+4K", "17179869184T+4K"})
    EXPECT_THAT(why(text), HasSubstr("its start is no number")) << text;
  for (const char* text : {"1G+", "1G+4KB", "1G+4K+4K", "1G+ 4K"})
    EXPECT_THAT(why(text), HasSubstr("its size is no number")) << text;
  for (const char* text : {"1+4K", "1G+1"})
    EXPECT_THAT(why(text), HasSubstr("multiples of 4096")) << text;
  EXPECT_THAT(why("1G+0"), HasSubstr("it is empty"));
  EXPECT_THAT(why("0xfffffffffffff000+8K"), HasSubstr("beyond the last address"));
}

TEST(OrderTrace, HasToBeCompleteAndOfTheTdpMmu) {
  EXPECT_EQ(ReadOrderTrace(kInOrder).size(), 6u);
  EXPECT_THAT(Refusal([] { ReadOrderTrace(std::string(kInOrder) + "CPU:1 [LOST 12 EVENTS]\n"); }),
              HasSubstr("'CPU:1 [LOST 12 EVENTS]'"));
  EXPECT_THAT(Refusal([] {
                ReadOrderTrace(std::string("# entries-in-buffer/entries-written: 6/900   #P:2\n") +
                               kInOrder);
              }),
              HasSubstr("entries-in-buffer/entries-written: 6/900"));
  for (const char* text : {"", "hello\n", " t-1 [000] .....  1.5: sched_switch: x\n"})
    EXPECT_THAT(Refusal([&] { ReadOrderTrace(text); }),
                HasSubstr("there is no event kvm_tdp_mmu_spte_changed"));
}

class OrderCommand : public testing::Test {
 protected:
  OrderResult CheckTraceFile(const std::string& text, std::vector<std::string> ranges = {}) {
    return CheckOrder(
        {.ranges = std::move(ranges), .trace_path = dir_.Write("trace", text), .command = {}});
  }
  TempDir dir_;
};

TEST_F(OrderCommand, PassesWhatIsInOrder) {
  const OrderResult result = CheckTraceFile(kInOrder, {"1G+8K"});
  EXPECT_EQ(result.verdict.result, Verdict::kPass);
  EXPECT_EQ(result.verdict.sentence,
            "PASS: the root was kept and no table was removed before what is below it; leaves "
            "removed: 2 of 4 KiB, 0 of 2 MiB, 0 of 1 GiB, all of them in the ranges, where none is "
            "left.");
  EXPECT_EQ(Summary(result),
            "root            kept\n"
            "leaves removed  2 of 4 KiB, 0 of 2 MiB, 0 of 1 GiB\n"
            "  in [0x40000000, 0x40002000): 2 of 4 KiB, 0 of 2 MiB, 0 of 1 GiB; left: 0 of 4 KiB, "
            "0 of 2 MiB, 0 of 1 GiB\n"
            "tables removed  0 in order, 0 out of order\n"
            "installed       3 entries; split: 0\n"
            "\n");
}

TEST_F(OrderCommand, FailsWhatIsNot) {
  const OrderResult result = CheckTraceFile(std::string(kInOrder) + kTableFirst);
  EXPECT_EQ(result.verdict.result, Verdict::kFail);
  EXPECT_THAT(result.verdict.sentence,
              StartsWith("FAIL: 1 table was removed out of order, first address space 0: the level "
                         "2 entry of gfn 0x40200 was cleared"));
  EXPECT_THAT(Summary(result), HasSubstr("tables removed  0 in order, 1 out of order\n"));
  EXPECT_THAT(Summary(result), HasSubstr("Note: 2 of the entries that changed were mapped before"));
  const nlohmann::json json = ToJson(result);
  EXPECT_EQ(json["verdict"], "fail");
  EXPECT_EQ(json["violations"][0]["child"]["gfn"], "0x40203");
}

TEST_F(OrderCommand, FailsWhatIsRemovedElsewhere) {
  EXPECT_EQ(CheckTraceFile(kInOrder).verdict.result, Verdict::kPass);
  const OrderResult result = CheckTraceFile(kInOrder, {"1G+4K"});
  EXPECT_EQ(result.verdict.result, Verdict::kFail);
  EXPECT_EQ(result.verdict.sentence,
            "FAIL: a leaf outside of the ranges was removed: gfn 0x40001 level 1 of address space "
            "0.");
}

TEST_F(OrderCommand, NamesTheFileThatIsNoTrace) {
  EXPECT_THAT(Refusal([&] { CheckTraceFile("hello\n"); }), HasSubstr("/trace: there is no event"));
  EXPECT_THAT(Refusal([] { CheckOrder({.ranges = {}, .trace_path = "/nonesuch", .command = {}}); }),
              HasSubstr("/nonesuch"));
}

TEST_F(OrderCommand, WantsATraceOrACommand) {
  EXPECT_EQ(Refusal([] { CheckOrder({}); }),
            "nothing to check; give either a trace, slotzap order --trace FILE, or a command that "
            "makes KVM remove something, slotzap order -- COMMAND ARGS");
  EXPECT_THAT(
      Refusal([] { CheckOrder({.ranges = {}, .trace_path = "trace", .command = {"true"}}); }),
      HasSubstr("both a trace and a command"));
}

TEST(RunCommand, SaysHowItEnded) {
  EXPECT_EQ(RunCommand({"true"}), "exited with status 0");
  EXPECT_EQ(RunCommand({"sh", "-c", "exit 3"}), "exited with status 3");
  EXPECT_EQ(RunCommand({"sh", "-c", "kill -9 $$"}), "was ended by signal 9");
  EXPECT_THROW(RunCommand({"/nonesuch"}), std::system_error);
}

}  // namespace
}  // namespace slotzap

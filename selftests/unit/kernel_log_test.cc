// SPDX-License-Identifier: GPL-2.0-only
#include "host/kernel_log.h"

#include <gtest/gtest.h>

#include <fstream>
#include <system_error>

#include "unit/temp_dir.h"

namespace slotzap {
namespace {

TEST(IsSplat, ReportsOfBugs) {
  for (
      const char* message : {
          "WARNING: CPU: 1 PID: 212 at arch/x86/kvm/mmu/mmu.c:6871 kvm_nx_recovery+0x2f/0x34 [kvm]",
          "WARNING: arch/x86/kvm/mmu/mmu.c:7351 at kvm_mmu_zap+0x10/0x20 [kvm], CPU#0: t/93",
          "WARNING: CPU: 0 PID: 1 at drivers/firmware/efi/memmap.c:41 efi_memmap+0x1/0x2",
          "WARNING: possible circular locking dependency detected",
          "WARNING: possible recursive locking detected",
          "WARNING: possible irq lock inversion dependency detected",
          "WARNING: inconsistent lock state",
          "WARNING: suspicious RCU usage",
          "WARNING: bad unlock balance detected!",
          "WARNING: held lock freed!",
          "WARNING: lock held when returning to user space!",
          "[ BUG: Invalid wait context ]",
          "INFO: trying to register non-static key.",
          "BUG: kernel NULL pointer dereference, address: 0000000000000008",
          "BUG: unable to handle page fault for address: ffffc90000a3d000",
          "BUG: sleeping function called from invalid context at kernel/locking/mutex.c:580",
          "BUG: scheduling while atomic: slotzap-tests/93/0x00000002",
          "BUG: KASAN: slab-use-after-free in unaccount_shadowed+0x5b/0x1f0 [kvm]",
          "BUG: KASAN: use-after-free in unaccount_shadowed+0x5b/0x1f0 [kvm]",
          "BUG: KFENCE: out-of-bounds read in f+0x1/0x2",
          "KASAN: null-ptr-deref in range [0x0000000000000008-0x000000000000000f]",
          "UBSAN: shift-out-of-bounds in arch/x86/kvm/mmu/mmu.c:100:20",
          "BUG: Bad page state in process slotzap-tests  pfn:10cc5b",
          "BUG: Bad page map in process t  pte:800000010cc5b867 pmd:10000067",
          "BUG: Bad rss-counter state mm:00000000c5a0 type:MM_ANONPAGES val:1",
          "BUG: non-zero pgtables_bytes on freeing mm: 4096",
          "BUG kvm_mmu_page_header (Tainted: G  OE ): Objects remaining on __kmem_cache_shutdown()",
          "watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [slotzap-tests:93]",
          "watchdog: Watchdog detected hard LOCKUP on cpu 1",
          "INFO: task slotzap-tests:93 blocked for more than 120 seconds.",
          "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
          "rcu: INFO: rcu_preempt self-detected stall on CPU",
          "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-...D }",
          "general protection fault, probably for address 0xdead000000000100: 0000 [#1] SMP",
          "Oops: 0002 [#1] PREEMPT SMP NOPTI",
          "Oops: int3: 0000 [#1] SMP NOPTI",
          "invalid opcode: 0000 [#1] PREEMPT SMP NOPTI",
          "kernel BUG at arch/x86/kvm/mmu/mmu.c:1026!",
          "refcount_t: underflow; use-after-free.",
          "list_add corruption. prev->next should be next (ffff8881), but was 0000000000000000.",
          "list_del corruption, ffff888100a3d000->next is LIST_POISON1 (dead000000000100)",
      })
    EXPECT_TRUE(IsSplat(message)) << message;
}

TEST(IsSplat, HarmlessLines) {
  for (const char* message : {
           "",
           "ACPI BIOS Warning (bug): 32/64X length mismatch in FADT/Gpe0Block: 128/64",
           "ACPI BIOS Error (bug): Could not resolve symbol [\\_SB.PCI0], AE_NOT_FOUND",
           "ACPI Warning: SystemIO range 0x0428-0x042F conflicts with OpRegion 0x0400-0x047F",
           "[Firmware Bug]: TSC_DEADLINE disabled due to Errata; please update microcode",
           "Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on, data leaks possible",
           "Spectre V2 : Spectre v2 mitigation leaves CPU vulnerable to RETBleed attacks",
           "WARNING: Spectre v2 mitigation leaves CPU vulnerable to RETBleed attacks, data leaks!",
           "WARNING: This firmware interface is deprecated, update your BIOS",
           "MDS: Vulnerable: Clear CPU buffers attempted, no microcode",
           "Warning: unable to open an initial console.",
           "Kernel command line: console=ttyS0 oops=panic nmi_watchdog=0 kasan.fault=panic",
           "traps: agent[321] general protection fault ip:401000 sp:7ffc0 error:0 in agent[401000]",
           "agent[321]: segfault at 8 ip 0000000000401000 sp 00007ffc0 error 4 in agent[401000]",
           "kvm_amd: Nested Virtualization enabled",
           "kvm: loading out-of-tree module taints kernel.",
           "kvm: module verification failed: signature and/or required key missing - tainting",
           "kvm [93]: ignored rdmsr: 0x3a data 0x0",
           "KASAN sanitizer is on",
           "kasan: KernelAddressSanitizer initialized",
           "rcu: Hierarchical RCU implementation.",
           "rcu: RCU calculated value of scheduler-enlistment delay is 25 jiffies.",
           "Lock dependency validator: Copyright (c) 2006 Red Hat, Inc., Ingo Molnar",
           "clocksource: timekeeping watchdog on CPU1: Marking clocksource 'tsc' as unstable",
           "hrtimer: interrupt took 1234567 ns",
           "perf: interrupt took too long (2505 > 2500), lowering",
           "systemd[1]: nginx.service: WARNING: something of user space",
           "BUG report: https://bugs.example.org",
           "slotzap-host: kvm_amd.npt=Y",
       })
    EXPECT_FALSE(IsSplat(message)) << message;
}

TEST(SplatScanner, AReportStartsAtCutHereAndEndsAtEndTrace) {
  SplatScanner scanner;
  for (const char* message : {
           "kvm_amd: Nested Paging enabled",
           "------------[ cut here ]------------",
           "root is in use",
           "WARNING: CPU: 0 PID: 1 at mmu.c:1 f+0x1/0x2 [kvm]",
           "Modules linked in: kvm_amd(OE) kvm(OE)",
           "---[ end trace 0000000000000000 ]---",
           "something else",
       })
    scanner.AddMessage(message);
  const std::vector<Splat> splats = scanner.Take();
  ASSERT_EQ(splats.size(), 1u);
  EXPECT_EQ(splats[0].headline, "WARNING: CPU: 0 PID: 1 at mmu.c:1 f+0x1/0x2 [kvm]");
  EXPECT_EQ(ToString(splats[0]),
            "WARNING: CPU: 0 PID: 1 at mmu.c:1 f+0x1/0x2 [kvm]\n"
            "    ------------[ cut here ]------------\n"
            "    root is in use\n"
            "    Modules linked in: kvm_amd(OE) kvm(OE)\n"
            "    ---[ end trace 0000000000000000 ]---");
  EXPECT_TRUE(scanner.Take().empty());
}

TEST(SplatScanner, TheLinesOfOneOopsAreOneReport) {
  SplatScanner scanner;
  for (const char* message :
       {"BUG: unable to handle page fault for address: ffffc90000a3d000",
        "#PF: supervisor read access in kernel mode", "Oops: 0000 [#1] PREEMPT SMP NOPTI"})
    scanner.AddMessage(message);
  EXPECT_EQ(scanner.Take().size(), 1u);
}

TEST(SplatScanner, TheNextCutHereStartsAnotherReport) {
  SplatScanner scanner;
  for (const char* message : {"WARNING: inconsistent lock state", "details",
                              "------------[ cut here ]------------", "kernel BUG at mmu.c:1!"})
    scanner.AddMessage(message);
  const std::vector<Splat> splats = scanner.Take();
  ASSERT_EQ(splats.size(), 2u);
  EXPECT_EQ(splats[1].headline, "kernel BUG at mmu.c:1!");
}

TEST(SplatScanner, ReportsAreCutAndOneAfterThemIsStillSeen) {
  SplatScanner scanner;
  scanner.AddMessage("BUG: Bad page state in process a  pfn:1");
  for (size_t i = 1; i < Splat::kMaxLines; i++) scanner.AddMessage("a stack frame");
  scanner.AddMessage("not part of it");
  scanner.AddMessage("BUG: Bad page state in process b  pfn:2");
  const std::vector<Splat> splats = scanner.Take();
  ASSERT_EQ(splats.size(), 2u);
  EXPECT_EQ(splats[0].lines.size(), Splat::kMaxLines);
  EXPECT_EQ(splats[1].lines.size(), 1u);
}

TEST(SplatScanner, WhatFollowsTakeBelongsToNoEarlierReport) {
  SplatScanner scanner;
  scanner.AddMessage("BUG: Bad page state in process a  pfn:1");
  EXPECT_EQ(scanner.Take().size(), 1u);
  scanner.AddMessage("a stack frame");
  scanner.AddMessage("BUG: Bad page state in process b  pfn:2");
  const std::vector<Splat> splats = scanner.Take();
  ASSERT_EQ(splats.size(), 1u);
  EXPECT_EQ(splats[0].headline, "BUG: Bad page state in process b  pfn:2");
}

TEST(SplatScanner, LostMessagesCountAsASplat) {
  SplatScanner scanner;
  scanner.AddLost();
  scanner.AddMessage("BUG: Bad page state in process a  pfn:1");
  const std::vector<Splat> splats = scanner.Take();
  ASSERT_EQ(splats.size(), 2u);
  EXPECT_NE(splats[0].headline.find("overran"), std::string::npos);
}

// A regular file in place of /dev/kmsg.
class FakeKernelLog : public testing::Test {
 protected:
  void Append(const std::string& text) const { std::ofstream(path_, std::ios::app) << text; }

  TempDir dir_;
  std::string path_ = dir_.Write("kmsg", "4,1,100,-;BUG: before it was opened\n");
  std::string warn_once_ = dir_.Write("clear_warn_once", "");
};

TEST_F(FakeKernelLog, SplatsAreReportedOnce) {
  KernelLog log(path_);
  EXPECT_TRUE(log.Splats().empty());
  Append(
      "6,2,200,-;kvm_amd: Nested Paging enabled\n SUBSYSTEM=pci\n"
      "4,3,300,-,caller=T1;BUG: Bad page state in process a  pfn:1\n"
      "4,4,400,c;page:(____ptrval____) refcount:0; mapcount:-128\n");
  const std::vector<Splat> splats = log.Splats();
  ASSERT_EQ(splats.size(), 1u);
  EXPECT_EQ(splats[0].headline, "BUG: Bad page state in process a  pfn:1");
  ASSERT_EQ(splats[0].lines.size(), 2u);
  EXPECT_EQ(splats[0].lines[1], "page:(____ptrval____) refcount:0; mapcount:-128");
  EXPECT_TRUE(log.Splats().empty());
}

TEST_F(FakeKernelLog, EscapedLinesAreLookedAtOneByOne) {
  KernelLog log(path_);
  Append("4,2,200,-;\\x0a=====\\x0aWARNING: suspicious RCU usage\\x0a6.1.0 \\x5cx\\x0a\n");
  const std::vector<Splat> splats = log.Splats();
  ASSERT_EQ(splats.size(), 1u);
  EXPECT_EQ(splats[0].headline, "WARNING: suspicious RCU usage");
  ASSERT_GE(splats[0].lines.size(), 2u);
  EXPECT_EQ(splats[0].lines[1], "6.1.0 \\x");
}

TEST_F(FakeKernelLog, AnIncompleteLineWaitsForItsEnd) {
  KernelLog log(path_);
  Append("4,2,200,-;BUG: Bad page");
  EXPECT_TRUE(log.Splats().empty());
  Append(" state in process a  pfn:1\n");
  EXPECT_EQ(log.Splats().size(), 1u);
}

TEST_F(FakeKernelLog, TheCanaryIsSeenAndNotReported) {
  KernelLog log(path_);
  Append("4,2,200,-;BUG: Bad page state in process a  pfn:1\n4,2,200,-;---[ end trace 0 ]---\n");
  EXPECT_EQ(log.Canary(warn_once_), "");
  const std::vector<Splat> splats = log.Splats();
  ASSERT_EQ(splats.size(), 1u);
  EXPECT_EQ(splats[0].headline, "BUG: Bad page state in process a  pfn:1");
}

TEST_F(FakeKernelLog, TheCanaryIsMissedIfTheLogDropsIt) {
  const std::string null = "/dev/null";
  KernelLog log(null);
  EXPECT_NE(log.Canary(warn_once_).find("was not found"), std::string::npos);
}

TEST_F(FakeKernelLog, AKernelWithoutWarnIsFoundOut) {
  KernelLog log(path_);
  const std::string none = dir_.path() + "/none";
  const std::string without = dir_.Write("kallsyms", "0000000000000000 T report_bugs\n");
  EXPECT_NE(log.Canary(none, without).find("prints no WARN"), std::string::npos);
  const std::string with = dir_.Write("kallsyms", "0000000000000000 T report_bug\n");
  EXPECT_EQ(log.Canary(none, with), "");
}

TEST_F(FakeKernelLog, WarnOnceIsRearmedWhereThatIsPossible) {
  EXPECT_TRUE(KernelLog::RearmWarnOnce(warn_once_));
  EXPECT_FALSE(KernelLog::RearmWarnOnce(dir_.path() + "/none"));
}

TEST(KernelLog, ALogThatCannotBeOpenedIsAnError) {
  const TempDir dir;
  EXPECT_THROW(KernelLog(dir.path() + "/none"), std::system_error);
}

}  // namespace
}  // namespace slotzap

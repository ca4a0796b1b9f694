// SPDX-License-Identifier: GPL-2.0-only
// Theme: the order that TDX's Secure-EPT imposes (oracle/spt_order.h), checked on the TDP MMU.
//
// Quirk disabled: a memslot update keeps it.  Quirk enabled: it does not, and the checker says so.
#include <functional>
#include <memory>
#include <optional>

#include "guest/smm.h"
#include "oracle/spt_order.h"
#include "tests/slot_test.h"

namespace slotzap {
namespace {

using testing::Not;

constexpr Gpa kVictim = 1_GiB;

// Touched memory right below and right above the victim, and far away.
struct Bystanders {
  Bystanders(TestVm& vm, const GpaRange& victim)
      : below(vm.AddSlot(victim.start - 1_MiB, 1_MiB)),
        above(vm.AddSlot(victim.end(), 1_MiB)),
        far_away(vm.AddSlot(12_GiB, 4_MiB)) {
    EXPECT_THAT(vm.guest().TouchWrite({below.range(), above.range(), far_away.range()}),
                Succeeds());
  }

  MemorySlot below, above, far_away;
};

class SptOrder : public SlotTest {
 protected:
  void SetUp() override {
    SlotTest::SetUp();
    if (IsSkipped()) return;
    if (const std::string reason = SptOrderWatch::Unavailable(); !reason.empty())
      GTEST_SKIP() << reason;
    watch_.emplace();
  }

  // What the operation that Begin() announced has to show: that exactly the leaves in `ranges`
  // went, in order; or, with the quirk enabled, that everything went at once.
  void ExpectOrder(const std::vector<GpaRange>& ranges, int address_space = 0) {
    ExpectOrder(watch_->End(), ranges, address_space);
  }
  void ExpectOrder(const SptOrderReport& report, const std::vector<GpaRange>& ranges,
                   int address_space = 0) {
    ASSERT_EQ(report.host_unmaps, 0u) << "the host unmapped guest memory meanwhile";
    if (slot_zap_all()) {
      EXPECT_THAT(report, Not(KeptSecureEptOrder()));
      EXPECT_NE(report.root_replaced, "") << kPrecision;
      EXPECT_EQ(report.violations.empty(), !ZappingARootBreaksTheOrder(report))
          << kPrecision << report;
      EXPECT_TRUE(report.present.empty()) << kPrecision << report;
    } else {
      EXPECT_THAT(report, KeptSecureEptOrder());
      EXPECT_THAT(report, RemovedLeavesOnlyIn(ranges, address_space));
      EXPECT_THAT(report, RemovedTablesOnlyOf(ranges, address_space));
    }
  }

  // Whether dropping a root also removes tables before what is below them.  Since Linux 6.9,
  // tdp_mmu_zap_root() goes 4 KiB, 2 MiB, 1 GiB, root, which skips a level if the root's is 5.
  static bool ZappingARootBreaksTheOrder(const SptOrderReport& report) {
    return !KernelIsAtLeast("6.9") || report.root_level > 4;
  }

  std::optional<SptOrderWatch> watch_;  // made before the VM
};

TEST_P(SptOrder, Delete) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddSlot(kVictim, 2_MiB);
  ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
  const Bystanders bystanders(vm, victim.range());
  watch_->Begin({victim.range()});
  victim.Delete();
  ExpectOrder({victim.range()});
}

TEST_P(SptOrder, DeleteUnaligned) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddSlot(kVictim + 2_MiB - 3 * 4_KiB, 5_MiB + 4_KiB);
  ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
  const Bystanders bystanders(vm, victim.range());
  watch_->Begin({victim.range()});
  victim.Delete();
  ExpectOrder({victim.range()});
}

// A slot that is all that its page tables map: they may follow it.
TEST_P(SptOrder, DeleteTheOnlySlotOfItsTables) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddSlot(5_GiB, 16_KiB);
  ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
  watch_->Begin({victim.range()});
  victim.Delete();
  ExpectOrder({victim.range()});
}

TEST_P(SptOrder, DeleteUntouched) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddSlot(kVictim, 64_MiB);
  const Bystanders bystanders(vm, victim.range());
  watch_->Begin();
  victim.Delete();
  ExpectOrder({});
}

TEST_P(SptOrder, Move) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddSlot(kVictim, 2_MiB);
  ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
  const Bystanders bystanders(vm, victim.range());
  const GpaRange old = victim.range();
  watch_->Begin({old});
  victim.MoveTo(5_GiB);
  ExpectOrder({old});
}

// As a VMM resizes a slot: there is no ioctl that does.
TEST_P(SptOrder, ShrinkAndGrow) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddSlot(kVictim, 2_MiB);
  const auto memory = victim.config().memory;
  ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
  const Bystanders bystanders(vm, victim.range());
  watch_->Begin({victim.range()});
  victim.Delete();
  MemorySlot small = vm.vm().AddSlot({.gpa = kVictim, .memory = memory, .size = 1_MiB});
  small.Delete();
  victim.Add();
  ExpectOrder({victim.range()});
}

TEST_P(SptOrder, LargePages) {
  for (const Backing backing : {Backing::k2M, Backing::k1G}) {
    SCOPED_TRACE("pages of " + SizeString(BackingPageSize(backing)));
    const uint64_t pages = backing == Backing::k2M ? 4 : 1;
    if (const std::string reason = BackingUnavailable(backing, pages); !reason.empty())
      GTEST_SKIP() << reason;
    watch_.emplace();
    TestVm vm(Config());
    MemorySlot victim = vm.AddSlot(32_GiB, pages * BackingPageSize(backing), backing);
    for (uint64_t i = 0; i < pages; i++)
      ASSERT_THAT(vm.guest().Write(victim.range().start + i * BackingPageSize(backing), i),
                  Succeeds());
    const Bystanders bystanders(vm, victim.range());
    watch_->Begin({victim.range()});
    victim.Delete();
    const SptOrderReport report = watch_->End();
    ExpectOrder(report, {victim.range()});
    ASSERT_EQ(report.ranges.size(), 1u);
    const auto large = static_cast<int64_t>(pages);
    EXPECT_EQ(report.ranges[0].removed,
              backing == Backing::k2M ? (Leaves{0, large, 0}) : (Leaves{0, 0, large}));
  }
}

// Dirty logging maps a large page's memory with small ones.
TEST_P(SptOrder, DeleteWhatWasSplit) {
  if (const std::string reason = BackingUnavailable(Backing::k2M, 4); !reason.empty())
    GTEST_SKIP() << reason;
  TestVm vm(Config());
  MemorySlot victim = vm.AddSlot(32_GiB, 8_MiB, Backing::k2M);
  ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
  victim.SetFlags(KVM_MEM_LOG_DIRTY_PAGES);
  ASSERT_THAT(vm.guest().Write(victim.page(3), 1), Succeeds());
  watch_->Begin({victim.range()});
  victim.Delete();
  const SptOrderReport report = watch_->End();
  ExpectOrder(report, {victim.range()});
  EXPECT_GT(report.ranges[0].removed.k4K, 0) << report;
}

// With the quirk disabled, too: KVM puts large pages back in place of the tables, in one go.
TEST_P(SptOrder, StoppingTheDirtyLogBreaksIt) {
  if (const std::string reason = BackingUnavailable(Backing::k2M, 4); !reason.empty())
    GTEST_SKIP() << reason;
  TestVm vm(Config());
  MemorySlot slot = vm.AddSlot(32_GiB, 8_MiB, Backing::k2M);
  slot.SetFlags(KVM_MEM_LOG_DIRTY_PAGES);
  ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  watch_->Begin();
  slot.SetFlags(0);
  const SptOrderReport report = watch_->End();
  EXPECT_EQ(report.root_replaced, "") << kPrecision;
  EXPECT_EQ(report.violations.size(), 4u) << kPrecision << report;
}

TEST_P(SptOrder, DeleteInEitherAddressSpace) {
  if (Kvm().CheckExtension(KVM_CAP_X86_SMM) == 0)
    GTEST_SKIP() << "this KVM has no System Management Mode";
  for (const uint16_t space : {uint16_t{0}, Smm::kAddressSpace}) {
    SCOPED_TRACE("address space " + std::to_string(space));
    watch_.emplace();
    TestVm vm(Config());
    Smm smm(vm.vm());
    MemorySlot slot = vm.AddSlot(kVictim, 256_KiB);
    MemorySlot smm_slot = vm.vm().AddSlot({.gpa = kVictim,
                                           .memory = std::make_shared<GuestMemory>(256_KiB),
                                           .address_space = Smm::kAddressSpace});
    ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
    ASSERT_THAT(smm.TouchRead(vm.guest(), smm_slot.range()), Succeeds());
    watch_->Begin({slot.range()}, space);
    (space == 0 ? slot : smm_slot).Delete();
    ExpectOrder({slot.range()}, space);
  }
}

// The first SMI, while the operation goes on, needs a second root.
TEST_P(SptOrder, ASecondAddressSpacesRootReplacesNone) {
  if (Kvm().CheckExtension(KVM_CAP_X86_SMM) == 0)
    GTEST_SKIP() << "this KVM has no System Management Mode";
  TestVm vm(Config());
  Smm smm(vm.vm());
  MemorySlot smm_slot = vm.vm().AddSlot({.gpa = kVictim,
                                         .memory = std::make_shared<GuestMemory>(16_KiB),
                                         .address_space = Smm::kAddressSpace});
  ASSERT_THAT(vm.guest().Nop(), Succeeds());
  watch_->Begin();
  ASSERT_THAT(smm.TouchRead(vm.guest(), smm_slot.range()), Succeeds());
  const SptOrderReport report = watch_->End();
  EXPECT_THAT(report, KeptSecureEptOrder());
  EXPECT_GE(report.installs, smm_slot.range().pages());
}

// Another vCPU faults in pages meanwhile.
TEST_P(SptOrder, DeleteWhileTheGuestRuns) {
  constexpr uint64_t kSeed = 0x5e97;
  TestVm vm(Config(2));
  MemorySlot victim = vm.AddSlot(kVictim, 2_MiB);
  MemorySlot busy = vm.AddFilledSlot(victim.range().end(), 4_MiB, kSeed);
  ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
  VerifyLoop reader(vm.guest(1), {PatternOf(busy, kSeed)});
  watch_->Begin({victim.range()});
  victim.Delete();
  reader.WaitForPasses(2);
  const SptOrderReport report = watch_->End();
  reader.Stop();
  if (slot_zap_all()) {
    EXPECT_THAT(report, Not(KeptSecureEptOrder()));
    if (ZappingARootBreaksTheOrder(report)) {
      EXPECT_FALSE(report.violations.empty()) << kPrecision << report;
    }
  } else {
    EXPECT_THAT(report, KeptSecureEptOrder());
    EXPECT_THAT(report, RemovedLeavesOnlyIn({victim.range()}));
  }
}

// What was mapped before recording began is not known, but what breaks the order shows.
TEST_P(SptOrder, ShowsThoughRecordingBeganLate) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddSlot(kVictim, 2_MiB);
  ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());
  watch_.emplace();
  watch_->Begin({victim.range()});
  victim.Delete();
  const SptOrderReport report = watch_->End();
  EXPECT_GE(report.unknown_before, victim.range().pages());
  EXPECT_EQ(report.violations.empty(), !slot_zap_all() || !ZappingARootBreaksTheOrder(report))
      << kPrecision << report;
  if (slot_zap_all()) {
    EXPECT_THAT(report, Not(KeptSecureEptOrder()));
  } else {
    EXPECT_EQ(RemovalProblem(report, {victim.range()}), "") << kPrecision;
  }
}

TEST_P(SptOrder, TheEndOfTheVmLeavesNothing) {
  auto vm = std::make_unique<TestVm>(Config());
  ASSERT_THAT(vm->guest().Nop(), Succeeds());
  watch_->Begin();
  vm.reset();
  const SptOrderReport report = watch_->End();
  EXPECT_EQ(report.violations.empty(), !ZappingARootBreaksTheOrder(report)) << kPrecision << report;
  EXPECT_TRUE(report.present.empty()) << kPrecision << report;
}

SLOTZAP_INSTANTIATE(SptOrder);

}  // namespace
}  // namespace slotzap

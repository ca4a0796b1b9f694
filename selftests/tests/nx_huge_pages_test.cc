// SPDX-License-Identifier: GPL-2.0-only
// Theme: NX huge pages.  Slots with large pages that KVM split because the guest executes from
// them.
#include <optional>
#include <thread>
#include <vector>

#include "tests/nx_huge_pages.h"
#include "tests/slot_test.h"

namespace slotzap {
namespace {

// Where the guest has 1 GiB pages, so that shadow paging is free to use large pages, too.
constexpr Gpa kGpa = 32_GiB;
// int (*)(void): mov $0x600d, %eax; ret
constexpr std::byte kFunction[] = {std::byte{0xb8}, std::byte{0x0d}, std::byte{0x60},
                                   std::byte{0x00}, std::byte{0x00}, std::byte{0xc3}};
constexpr uint64_t kFunctionResult = 0x600d;

class NxSplit : public SlotTest {
 protected:
  void SetUp() override {
    SlotTest::SetUp();
    if (IsSkipped()) return;
    if (!NxHugePages::Available() || !NxRecovery::Available())
      GTEST_SKIP() << "kvm has no nx_huge_pages parameters";
    if (const std::string reason = BackingUnavailable(Backing::k2M, 2); !reason.empty())
      GTEST_SKIP() << reason;
    nx_.emplace();
    nx_->Force();
  }

  static int64_t Splits(TestVm& vm) {
    return static_cast<int64_t>(vm.vm().stats().Read("nx_lpage_splits"));
  }

  // 4 MiB in pages of 2 MiB, with a function at the start, all of it mapped: the first half in
  // small pages, since the guest has called the function, the second half in a large one.
  static MemorySlot AddSplit(TestVm& vm) {
    MemorySlot slot = vm.AddSlot(kGpa, 4_MiB, Backing::k2M);
    slot.memory().Write(0, kFunction);
    vm.MapOwnMemory();
    const Leaves before = PresentLeaves(vm.vm().stats().Read());
    EXPECT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
    EXPECT_EQ(PresentLeaves(vm.vm().stats().Read()) - before, (Leaves{0, 2, 0}));
    EXPECT_EQ(Splits(vm), 0);
    EXPECT_THAT(vm.guest().Call(kGpa), Returns(kFunctionResult));
    EXPECT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
    EXPECT_EQ(PresentLeaves(vm.vm().stats().Read()) - before, (Leaves{512, 1, 0}));
    EXPECT_EQ(Splits(vm), 1);
    return slot;
  }
  static std::vector<LeafRange> LeavesOf(const MemorySlot& slot) {
    return {{{slot.range().start, 2_MiB}}, {{slot.range().start + 2_MiB, 2_MiB}, Backing::k2M}};
  }

  // Lets the recovery thread give up what is split.  Should that never happen, the test's time
  // ends.
  static void Recover(TestVm& vm) {
    const NxRecovery recovery;
    while (Splits(vm) != 0) std::this_thread::yield();
  }

  std::optional<NxHugePages> nx_;
};

TEST_P(NxSplit, Delete) {
  TestVm vm(Config());
  MemorySlot other = vm.AddSlot(kGpa + 4_MiB, 64_KiB);
  MemorySlot slot = AddSplit(vm);
  ASSERT_THAT(vm.guest().TouchWrite({other.range()}), Succeeds());
  const Vcpu::State before = vm.guest().vcpu().Save();
  ZapWatch watch(vm.vm());
  slot.Delete();
  const ZapReport report = watch.Stop();
  const uint64_t faults = vm.FixedFaults();
  ASSERT_THAT(vm.guest().TouchWrite({other.range()}), Succeeds());
  if (slot_zap_all()) {
    EXPECT_THAT(report, ZappedEverything());
  } else {
    EXPECT_THAT(report, ZappedOnly(LeavesOf(slot), CurrentMmuMode()));
    EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision;
  }
  for (const Gpa gpa : {slot.page(0), slot.page(511), slot.page(512), slot.page(-1)})
    EXPECT_THAT(vm.guest().Read(gpa), IsMmioReadAt(gpa));
  EXPECT_THAT(vm.guest().Call(kGpa), IsStuck()) << "the guest runs code that is gone";
  slot.Add();
  vm.guest().RestoreTo(before);
  EXPECT_THAT(vm.guest().Call(kGpa), Returns(kFunctionResult));
}

// The page tables that split the slot's pages go with it: in its place, another one has large pages
// at once, without waiting for recovery.
TEST_P(NxSplit, TheNextSlotHasLargePagesAtOnce) {
  TestVm vm(Config());
  MemorySlot slot = AddSplit(vm);
  slot.Delete();
  if (!slot_zap_all()) {
    EXPECT_EQ(Splits(vm), 0) << kPrecision << "the slot's page tables are still there";
  }
  slot.Add();
  vm.MapOwnMemory();
  const Leaves before = PresentLeaves(vm.vm().stats().Read());
  ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  EXPECT_EQ(PresentLeaves(vm.vm().stats().Read()) - before, (Leaves{0, 2, 0})) << kPrecision;
  EXPECT_THAT(vm.guest().Call(kGpa), Returns(kFunctionResult));
}

// What was split stays so until it is recovered, then the slot can have large pages again.
TEST_P(NxSplit, RecoveryWithTheSlotGone) {
  TestVm vm(Config());
  MemorySlot slot = AddSplit(vm);
  slot.Delete();
  Recover(vm);
  slot.Add();
  vm.MapOwnMemory();
  const Leaves before = PresentLeaves(vm.vm().stats().Read());
  ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  EXPECT_EQ(PresentLeaves(vm.vm().stats().Read()) - before, (Leaves{0, 2, 0}));
  EXPECT_THAT(vm.guest().Call(kGpa), Returns(kFunctionResult));
}

// While pages elsewhere in the VM are being logged, recovery looks for the memslot of what it gives
// up, and has to do without one.
TEST_P(NxSplit, RecoveryWithTheSlotGoneAndALogElsewhere) {
  if (!slot_zap_all() && KernelIsAtLeast("6.12"))
    if (const std::string reason = KnownBug("kvm_recover_nx_huge_pages() does WARN_ON_ONCE(!slot)");
        !reason.empty())
      GTEST_SKIP() << reason;
  TestVm vm(Config());
  MemorySlot slot = AddSplit(vm);
  MemorySlot logged = vm.vm().AddSlot({.gpa = 1_GiB,
                                       .memory = std::make_shared<GuestMemory>(64_KiB),
                                       .flags = KVM_MEM_LOG_DIRTY_PAGES});
  slot.Delete();
  Recover(vm);  // the kernel log tells whether it went well
  slot.Add();
  EXPECT_THAT(vm.guest().Call(kGpa), Returns(kFunctionResult));
}

// Recovery with the slot there: the log of another slot doesn't keep it from giving up its pages.
TEST_P(NxSplit, RecoveryOfALiveSlot) {
  TestVm vm(Config());
  MemorySlot slot = AddSplit(vm);
  MemorySlot other = vm.AddSlot(1_GiB, 64_KiB);
  ASSERT_THAT(vm.guest().TouchWrite({other.range()}), Succeeds());
  other.Delete();
  if (!slot_zap_all()) {
    EXPECT_EQ(Splits(vm), 1) << kPrecision << "another slot's pages were given up";
  }
  Recover(vm);
  vm.MapOwnMemory();
  const Leaves before = PresentLeaves(vm.vm().stats().Read());
  ASSERT_THAT(vm.guest().TouchWrite({{kGpa, 2_MiB}}), Succeeds());
  EXPECT_EQ((PresentLeaves(vm.vm().stats().Read()) - before).k2M, 1);
  slot.Delete();
  EXPECT_THAT(vm.guest().Read(kGpa), IsMmioReadAt(kGpa));
}

SLOTZAP_INSTANTIATE(NxSplit);

}  // namespace
}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
// Theme: quirk ABI.  How userspace finds, sets and clears KVM_X86_QUIRK_SLOT_ZAP_ALL.
#include <cerrno>
#include <optional>

#include "tests/slot_test.h"

namespace slotzap {
namespace {

constexpr Gpa kVictim = 1_GiB;
constexpr Gpa kBystander = 3_GiB;

// A VM with a victim and a bystander, which tells by behaviour what the quirk's state is.
class ProbeVm : public TestVm {
 public:
  ProbeVm() : victim_(AddSlot(kVictim, 64_KiB)), bystander_(AddSlot(kBystander, 256_KiB)) {}

  void Touch() {
    ASSERT_THAT(guest().TouchWrite({victim_.range(), bystander_.range()}), Succeeds());
  }

  // Deletes the victim and adds it again.  Did the bystander lose its mappings?
  bool DeleteZapsAll() {
    Touch();
    const Leaves before = PresentLeaves(vm().stats().Read());
    victim_.Delete();
    const Leaves dropped = before - PresentLeaves(vm().stats().Read());
    const uint64_t faults = FixedFaults();
    EXPECT_THAT(guest().TouchWrite({bystander_.range()}), Succeeds());
    const bool refaulted = FixedFaults() != faults;
    EXPECT_EQ(refaulted, dropped.total() > static_cast<int64_t>(victim_.range().pages()))
        << kPrecision << "statistics and refaults disagree: " << dropped;
    victim_.Add();
    return refaulted;
  }

  // As DeleteZapsAll(), by moving the victim away and back.
  bool MoveZapsAll() {
    Touch();
    victim_.MoveTo(kVictim + 1_GiB);
    const uint64_t faults = FixedFaults();
    EXPECT_THAT(guest().TouchWrite({bystander_.range()}), Succeeds());
    const bool refaulted = FixedFaults() != faults;
    victim_.MoveTo(kVictim);
    return refaulted;
  }

 private:
  MemorySlot victim_;
  MemorySlot bystander_;
};

class QuirkAbi : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = Kvm::Unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  }
};

// The tests below need the quirk; that it is there is a test of its own.
class QuirkAbiWithQuirk : public QuirkAbi {
 protected:
  void SetUp() override {
    QuirkAbi::SetUp();
    if (IsSkipped()) return;
    if (const std::string reason = QuirkUnavailable(); !reason.empty()) GTEST_SKIP() << reason;
  }
};

TEST_F(QuirkAbi, Advertised) {
  const Kvm kvm;
  Vm vm(kvm);
  const auto of_system = static_cast<uint64_t>(kvm.CheckExtension(KVM_CAP_DISABLE_QUIRKS2));
  EXPECT_TRUE((of_system & kQuirkSlotZapAll) != 0) << Hex(of_system);
  EXPECT_TRUE((vm.quirks().Supported() & kQuirkSlotZapAll) != 0) << Hex(vm.quirks().Supported());
  EXPECT_EQ(of_system & 0x7f, 0x7fu) << "quirks that Linux 6.1 always had are gone";
}

TEST_F(QuirkAbi, EnabledByDefault) {
  ProbeVm vm;
  EXPECT_TRUE(vm.DeleteZapsAll());
  EXPECT_TRUE(vm.MoveZapsAll());
}

TEST_F(QuirkAbiWithQuirk, UnknownBitsFailAndChangeNothing) {
  ProbeVm vm;
  const uint64_t supported = vm.vm().quirks().Supported();
  for (unsigned bit = 0; bit < 64; bit++) {
    const uint64_t mask = 1ull << bit;
    if ((supported & mask) != 0) continue;
    EXPECT_THAT(vm.vm().quirks().TryDisable(mask), FailsWith(EINVAL)) << "bit " << bit;
    EXPECT_THAT(vm.vm().quirks().TryDisable(mask | kQuirkSlotZapAll), FailsWith(EINVAL))
        << "bit " << bit;
  }
  EXPECT_TRUE(vm.DeleteZapsAll()) << "a call that failed disabled the quirk";
}

TEST_F(QuirkAbiWithQuirk, DisabledBeforeTheFirstRun) {
  ProbeVm vm;
  EXPECT_THAT(vm.vm().quirks().TryDisable(kQuirkSlotZapAll), IsOk());
  EXPECT_FALSE(vm.DeleteZapsAll());
  EXPECT_FALSE(vm.MoveZapsAll());
}

TEST_F(QuirkAbiWithQuirk, TakesEffectOnAVmThatAlreadyRan) {
  ProbeVm vm;
  ASSERT_TRUE(vm.DeleteZapsAll());
  vm.Touch();
  vm.vm().quirks().Disable(kQuirkSlotZapAll);
  EXPECT_FALSE(vm.DeleteZapsAll());
  EXPECT_FALSE(vm.MoveZapsAll());
}

// Kernels differ in whether a quirk that isn't in the mask comes back: Linux 6.1 sets the disabled
// quirks to what is passed, 6.12 adds it.  Where they can be asked, they have to do what they say.
TEST_F(QuirkAbiWithQuirk, LeavingItOutOfTheMaskDoesOneThingOrTheOther) {
  ProbeVm vm;
  const auto in_effect = [&]() -> std::optional<bool> {
    const auto quirks = vm.vm().quirks().InEffect();
    if (!quirks) return std::nullopt;
    return (*quirks & kQuirkSlotZapAll) != 0;
  };
  vm.vm().quirks().Disable(kQuirkSlotZapAll);
  ASSERT_FALSE(vm.DeleteZapsAll());
  vm.vm().quirks().Disable(0);
  const bool comes_back = vm.DeleteZapsAll();
  EXPECT_TRUE(comes_back || KernelIsAtLeast("6.2"));
  EXPECT_EQ(in_effect().value_or(comes_back), comes_back);
  EXPECT_EQ(vm.DeleteZapsAll(), comes_back) << "and stays what it is";
  vm.vm().quirks().Disable(kQuirkSlotZapAll);
  EXPECT_FALSE(vm.DeleteZapsAll());
}

class QuirksInEffect : public QuirkAbiWithQuirk {
 protected:
  void SetUp() override {
    QuirkAbiWithQuirk::SetUp();
    if (IsSkipped()) return;
    if (of_system() == 0) GTEST_SKIP() << "this kernel can't be asked for the quirks in effect";
  }
  static uint64_t of_system() {
    return static_cast<uint64_t>(Kvm().CheckExtension(KVM_CAP_X86_QUIRKS_IN_EFFECT));
  }
  static uint64_t Of(ProbeVm& vm) { return vm.vm().quirks().InEffect().value(); }
};

TEST_F(QuirksInEffect, TheSystemSaysWhatCanBe) {
  ProbeVm vm;
  EXPECT_EQ(of_system(), vm.vm().quirks().Supported());
  EXPECT_EQ(Of(vm) & ~of_system(), 0u);
}

TEST_F(QuirksInEffect, FollowWhatIsDisabled) {
  ProbeVm vm;
  ProbeVm other;
  const uint64_t initially = Of(vm);
  EXPECT_TRUE((initially & kQuirkSlotZapAll) != 0) << Hex(initially);
  EXPECT_TRUE(vm.DeleteZapsAll());
  vm.vm().quirks().Disable(kQuirkSlotZapAll);
  EXPECT_EQ(Of(vm), initially & ~kQuirkSlotZapAll);
  EXPECT_FALSE(vm.DeleteZapsAll());
  EXPECT_EQ(Of(other), initially) << "another VM's";
  EXPECT_THAT(vm.vm().quirks().TryDisable(1ull << 63), FailsWith(EINVAL));
  EXPECT_EQ(Of(vm), initially & ~kQuirkSlotZapAll) << "a call that failed";
  vm.vm().quirks().Disable(vm.vm().quirks().Supported());
  EXPECT_EQ(Of(vm), 0u);
}

TEST_F(QuirksInEffect, CannotBeEnabledAsACapability) {
  ProbeVm vm;
  EXPECT_THAT(vm.vm().TryEnableCap(KVM_CAP_X86_QUIRKS_IN_EFFECT, 0), FailsWith(EINVAL));
  EXPECT_THAT(vm.vm().TryEnableCap(KVM_CAP_X86_MEMSLOT_ZAP_LEAFS_ONLY, 0), FailsWith(EINVAL));
}

TEST_F(QuirkAbiWithQuirk, IsPerVm) {
  ProbeVm zaps_all;
  ProbeVm leaf_only;
  leaf_only.vm().quirks().Disable(kQuirkSlotZapAll);
  for (int round = 0; round < 3; round++) {
    EXPECT_TRUE(zaps_all.DeleteZapsAll()) << kPrecision << "round " << round;
    EXPECT_FALSE(leaf_only.DeleteZapsAll()) << "round " << round;
  }
}

// A slot of one VM goes; the other VM, which maps the same memory, loses nothing.
TEST_F(QuirkAbiWithQuirk, AnotherVmKeepsItsMappingsEitherWay) {
  for (const bool zap_all : {true, false}) {
    SCOPED_TRACE(zap_all ? "quirk enabled" : "quirk disabled");
    TestVm vm({.slot_zap_all = zap_all});
    TestVm other({.slot_zap_all = zap_all});
    auto memory = std::make_shared<GuestMemory>(256_KiB);
    MemorySlot slot = vm.vm().AddSlot({.gpa = kVictim, .memory = memory});
    MemorySlot same = other.vm().AddSlot({.gpa = kVictim, .memory = memory});
    ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
    ASSERT_THAT(other.guest().TouchWrite({same.range()}), Succeeds());
    const uint64_t faults = other.FixedFaults();
    slot.Delete();
    EXPECT_THAT(other.guest().TouchWrite({same.range()}), Succeeds());
    EXPECT_EQ(other.FixedFaults(), faults) << kPrecision;
  }
}

TEST_F(QuirkAbiWithQuirk, OtherQuirksDoNotMatter) {
  ProbeVm vm;
  vm.vm().quirks().Disable(vm.vm().quirks().Supported() & ~kQuirkSlotZapAll);
  EXPECT_TRUE(vm.DeleteZapsAll());
  vm.vm().quirks().Disable(vm.vm().quirks().Supported());
  EXPECT_FALSE(vm.DeleteZapsAll());
}

// The older capability, which doesn't validate its argument, sets the same quirks.
TEST_F(QuirkAbiWithQuirk, TheOlderCapabilityWorksToo) {
  ProbeVm vm;
  EXPECT_THAT(vm.vm().TryEnableCap(KVM_CAP_DISABLE_QUIRKS, kQuirkSlotZapAll), IsOk());
  EXPECT_FALSE(vm.DeleteZapsAll());
}

// VMMs pass it all ones, or quirks of later kernels.
TEST_F(QuirkAbiWithQuirk, TheOlderCapabilityTakesAnyBit) {
  for (const uint64_t others : {1ull << 40, ~0ull}) {
    ProbeVm vm;
    EXPECT_THAT(vm.vm().TryEnableCap(KVM_CAP_DISABLE_QUIRKS, kQuirkSlotZapAll | others), IsOk());
    EXPECT_FALSE(vm.DeleteZapsAll());
  }
}

}  // namespace
}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
// Theme: address spaces.  A gfn can be in two memslots, one for SMM and one for everything else;
// deleting one leaves the other alone.
#include <cerrno>
#include <string>
#include <vector>

#include "base/file_descriptor.h"
#include "guest/page_tables.h"
#include "guest/smm.h"
#include "tests/slot_test.h"

namespace slotzap {
namespace {

constexpr Gpa kGpa = 1_GiB;
constexpr uint64_t kSize = 256_KiB;
constexpr uint64_t kSeed = 0x0a5;
constexpr uint64_t kSmmSeed = 0x5a5;

// What the SMM handler should find in a slot filled with the pattern.
uint64_t SumOf(uint64_t seed, const GpaRange& range) {
  uint64_t sum = 0;
  for (uint64_t page = 0; page < range.pages(); page++)
    sum = AddHalves(sum, guest::PatternWord(seed, page * kPageSize / 8));
  return sum;
}

// The same guest physical addresses, with memory of its own in each address space.
class TwoSpaces : public TestVm {
 public:
  explicit TwoSpaces(const GuestVmConfig& config)
      : TestVm(config), smm_(vm()), slot_(AddFilledSlot(kGpa, kSize, kSeed)), smm_slot_(AddSmm()) {}

  Outcome TouchNormal() { return guest().TouchRead({slot_.range()}); }
  Outcome TouchSmm() { return smm_.TouchRead(guest(), smm_slot_.range()); }
  Outcome WriteInSmm(uint64_t page, uint32_t word) {
    return smm_.TouchWrite(guest(), {smm_slot_.range().start + page * kPageSize, kPageSize}, word);
  }
  MemorySlot& slot() { return slot_; }
  MemorySlot& smm_slot() { return smm_slot_; }

  // Maps both, and everything that switching to SMM and back needs.
  void TouchBoth() {
    for (int i = 0; i < 2; i++) {
      ASSERT_THAT(TouchNormal(), Succeeds());
      ASSERT_THAT(TouchSmm(), Succeeds());
    }
  }

 private:
  MemorySlot AddSmm() {
    auto memory = std::make_shared<GuestMemory>(kSize);
    FillMemory(*memory, {.pages = kSize / kPageSize, .seed = kSmmSeed});
    return vm().AddSlot({.gpa = kGpa, .memory = memory, .address_space = Smm::kAddressSpace});
  }

  Smm smm_;
  MemorySlot slot_;
  MemorySlot smm_slot_;
};

// Why a vCPU in SMM leaves no SPTEs behind, or an empty string.
std::string SmmMapsNothing() {
  constexpr char kParameter[] = "/sys/module/kvm_intel/parameters/unrestricted_guest";
  if (!FileExists(kParameter) || ReadLine(kParameter) == "Y") return "";
  return "without unrestricted guests (VMX, shadow paging) KVM emulates SMM's code, and maps "
         "nothing";
}

class AddressSpace : public SlotTest {
 protected:
  void SetUp() override {
    SlotTest::SetUp();
    if (!IsSkipped() && Kvm().CheckExtension(KVM_CAP_X86_SMM) == 0)
      GTEST_SKIP() << "this KVM has no System Management Mode";
  }

  void DeleteEither(Backing backing);
};

TEST_P(AddressSpace, EachSeesItsOwnMemory) {
  TwoSpaces vm(Config());
  EXPECT_THAT(vm.guest().Verify({PatternOf(vm.slot(), kSeed)}), SeesPattern());
  EXPECT_EQ(vm.TouchSmm().value, SumOf(kSmmSeed, vm.smm_slot().range()));
  constexpr uint32_t kWord = 0x5a11;
  const uint64_t high_half = vm.smm_slot().Load(vm.smm_slot().page(3)) >> 32 << 32;
  EXPECT_EQ(vm.WriteInSmm(3, kWord).value, high_half | kWord);
  EXPECT_EQ(vm.smm_slot().Load(vm.smm_slot().page(3)), high_half | kWord);
  EXPECT_THAT(vm.guest().Verify({PatternOf(vm.slot(), kSeed)}), SeesPattern());
}

TEST_P(AddressSpace, DeletingTheNormalSlotLeavesSmmsAlone) {
  TwoSpaces vm(Config());
  vm.TouchBoth();
  vm.slot().Delete();
  const uint64_t faults = vm.FixedFaults();
  const Outcome outcome = vm.TouchSmm();
  EXPECT_THAT(outcome, Succeeds());
  EXPECT_EQ(outcome.value, SumOf(kSmmSeed, vm.smm_slot().range()));
  if (slot_zap_all())
    EXPECT_GT(vm.FixedFaults(), faults) << kPrecision;
  else
    EXPECT_EQ(vm.FixedFaults(), faults)
        << kPrecision << "the slot of the other address space was zapped";
  EXPECT_THAT(vm.TouchNormal(), FindsNothingIn(vm.slot().range()));
}

TEST_P(AddressSpace, DeletingSmmsSlotLeavesTheNormalOneAlone) {
  TwoSpaces vm(Config());
  vm.TouchBoth();
  vm.smm_slot().Delete();
  const uint64_t faults = vm.FixedFaults();
  EXPECT_THAT(vm.TouchNormal(), Succeeds());
  if (slot_zap_all())
    EXPECT_GT(vm.FixedFaults(), faults) << kPrecision;
  else
    EXPECT_EQ(vm.FixedFaults(), faults)
        << kPrecision << "the slot of the other address space was zapped";
  const Outcome outcome = vm.TouchSmm();
  EXPECT_TRUE(outcome.done) << outcome.exit_text;
  // Two reads of 4 bytes a page.
  EXPECT_EQ(outcome.mmio_count, 2 * vm.smm_slot().range().pages());
  EXPECT_THAT(vm.guest().Verify({PatternOf(vm.slot(), kSeed)}), SeesPattern());
}

TEST_P(AddressSpace, ExactlyTheSlotsLeavesAreZapped) {
  if (const std::string reason = SmmMapsNothing(); !reason.empty()) GTEST_SKIP() << reason;
  TwoSpaces vm(Config());
  for (MemorySlot* slot : {&vm.slot(), &vm.smm_slot()}) {
    vm.TouchBoth();
    ZapWatch watch(vm.vm());
    slot->Delete();
    const ZapReport report = watch.Stop();
    if (slot_zap_all())
      EXPECT_THAT(report, ZappedEverything());
    else
      EXPECT_THAT(report,
                  ZappedOnly({{slot->range()}}, CurrentMmuMode(), slot->config().address_space));
    slot->Add();
  }
}

// Page tables of the guest, where SMM has a slot of its own.  Where KVM shadows them, deleting
// SMM's slot is no reason to drop the shadow pages.
TEST_P(AddressSpace, GuestPageTablesOfTheOtherSpaceStay) {
  if (const std::string reason = SmmMapsNothing(); !reason.empty()) GTEST_SKIP() << reason;
  constexpr uint64_t kTables = 5 * kPageSize;
  TestVm vm(Config());
  Smm smm(vm.vm());
  MemorySlot data = vm.AddSlot(2_GiB, 256_KiB);
  MemorySlot slot = vm.AddSlot(kGpa, 64_KiB);
  MemorySlot smm_slot = vm.vm().AddSlot({.gpa = kGpa,
                                         .memory = std::make_shared<GuestMemory>(64_KiB),
                                         .address_space = Smm::kAddressSpace});
  PageTables tables(slot, {kGpa, kTables});
  tables.MapIdentity({0, 4_MiB}, GuestPageSize::k2M);
  tables.MapIdentity(data.range(), GuestPageSize::k4K);
  ASSERT_THAT(vm.guest().SetCr3(tables.root()), Succeeds());
  for (int i = 0; i < 2; i++) {
    ASSERT_THAT(vm.guest().TouchWrite({data.range()}), Succeeds());
    ASSERT_THAT(smm.TouchRead(vm.guest(), smm_slot.range()), Succeeds());
  }
  ASSERT_THAT(vm.guest().TouchWrite({data.range()}), Succeeds());

  ZapWatch watch(vm.vm());
  smm_slot.Delete();
  const ZapReport report = watch.Stop();
  const uint64_t faults = vm.FixedFaults();
  EXPECT_THAT(vm.guest().TouchWrite({data.range()}), Succeeds());
  if (slot_zap_all()) {
    EXPECT_THAT(report, ZappedEverything());
    EXPECT_GT(vm.FixedFaults(), faults) << kPrecision;
  } else {
    EXPECT_THAT(report, ZappedOnly({{smm_slot.range()}}, CurrentMmuMode(), Smm::kAddressSpace));
    EXPECT_EQ(vm.FixedFaults(), faults)
        << kPrecision << "what is mapped through the tables was zapped";
  }
}

TEST_P(AddressSpace, MovingSmmsSlotLeavesTheNormalOneAlone) {
  TwoSpaces vm(Config());
  vm.TouchBoth();
  const GpaRange old = vm.smm_slot().range();
  ZapWatch watch(vm.vm());
  vm.smm_slot().MoveTo(kGpa + 1_MiB);
  const ZapReport report = watch.Stop();
  if (slot_zap_all()) {
    EXPECT_THAT(report, ZappedEverything());
  } else {
    const std::vector<LeafRange> mapped(SmmMapsNothing().empty() ? 1 : 0, LeafRange{old});
    EXPECT_THAT(report, ZappedOnly(mapped, CurrentMmuMode(), Smm::kAddressSpace));
  }
  EXPECT_EQ(vm.TouchSmm().value, SumOf(kSmmSeed, old)) << "its memory follows the slot";
  EXPECT_THAT(vm.guest().Verify({PatternOf(vm.slot(), kSeed)}), SeesPattern());
  // What is SMM's is no slot of the other space.
  const Gpa elsewhere = vm.smm_slot().range().start;
  EXPECT_THAT(vm.guest().Read(elsewhere), IsMmioReadAt(elsewhere));
}

// Whole page tables, or large pages, in both spaces at the same addresses.
void AddressSpace::DeleteEither(Backing backing) {
  if (const std::string reason = SmmMapsNothing(); !reason.empty()) GTEST_SKIP() << reason;
  constexpr uint64_t kLargeSize = 4_MiB;
  if (const std::string reason = BackingUnavailable(backing, 4); !reason.empty())
    GTEST_SKIP() << reason;
  TestVm vm(Config());
  Smm smm(vm.vm());
  MemorySlot slot = vm.AddSlot(kGpa, kLargeSize, backing);
  MemorySlot smm_slot =
      vm.vm().AddSlot({.gpa = kGpa,
                       .memory = std::make_shared<GuestMemory>(kLargeSize, backing),
                       .address_space = Smm::kAddressSpace});
  const auto touch_both = [&] {
    for (int i = 0; i < 2; i++) {
      ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
      ASSERT_THAT(smm.TouchRead(vm.guest(), smm_slot.range()), Succeeds());
    }
  };
  touch_both();
  if (backing == Backing::k2M) {
    ASSERT_EQ(PresentLeaves(vm.vm().stats().Read()).k2M, 4);
  }
  for (MemorySlot* victim : {&slot, &smm_slot}) {
    SCOPED_TRACE("address space " + std::to_string(victim->config().address_space));
    touch_both();
    ZapWatch watch(vm.vm());
    victim->Delete();
    const ZapReport report = watch.Stop();
    const uint64_t faults = vm.FixedFaults();
    if (victim == &slot) {
      EXPECT_THAT(smm.TouchRead(vm.guest(), smm_slot.range()), Succeeds());
    } else {
      EXPECT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
    }
    if (slot_zap_all()) {
      EXPECT_THAT(report, ZappedEverything());
    } else {
      EXPECT_THAT(report, ZappedOnly({{victim->range(), backing}}, CurrentMmuMode(),
                                     victim->config().address_space));
      EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision << "the other space was zapped";
    }
    victim->Add();
  }
}

TEST_P(AddressSpace, WholePageTables) { DeleteEither(Backing::k4K); }

TEST_P(AddressSpace, LargePages) { DeleteEither(Backing::k2M); }

// Both slots are logged.  The log of each is its own, whatever happens to the other one.
TEST_P(AddressSpace, DirtyLogOfTheOther) {
  TwoSpaces vm(Config());
  vm.TouchBoth();
  vm.slot().SetFlags(KVM_MEM_LOG_DIRTY_PAGES);
  vm.smm_slot().SetFlags(KVM_MEM_LOG_DIRTY_PAGES);
  vm.slot().GetDirtyLog();
  for (const uint64_t page : {3u, 4u, 63u})
    ASSERT_THAT(vm.guest().TouchWrite({{vm.slot().range().start + page * kPageSize, kPageSize}}),
                Succeeds());
  vm.smm_slot().Delete();
  EXPECT_THAT(vm.slot().GetDirtyLog().Set(), testing::ElementsAre(3, 4, 63));
  vm.smm_slot().Add();
  EXPECT_THAT(vm.smm_slot().GetDirtyLog().Set(), testing::IsEmpty()) << "a fresh slot is clean";
  ASSERT_THAT(vm.guest().TouchWrite({{vm.slot().range().start, kPageSize}}), Succeeds());
  EXPECT_THAT(vm.slot().GetDirtyLog().Set(), testing::ElementsAre(0));
  EXPECT_THAT(vm.smm_slot().GetDirtyLog().Set(), testing::IsEmpty())
      << "a write outside of SMM is in SMM's log";

  ASSERT_THAT(vm.WriteInSmm(5, 1), Succeeds());
  EXPECT_THAT(vm.slot().GetDirtyLog().Set(), testing::IsEmpty())
      << "a write in SMM is in the other log";
  EXPECT_THAT(vm.smm_slot().GetDirtyLog().Set(), testing::ElementsAre(5));
  ASSERT_THAT(vm.WriteInSmm(6, 1), Succeeds());
  vm.slot().Delete();
  ASSERT_THAT(vm.WriteInSmm(63, 1), Succeeds());
  DirtyBitmap gone(vm.slot().range().pages());
  EXPECT_THAT(vm.slot().TryGetDirtyLog(gone), FailsWith(ENOENT));
  EXPECT_THAT(vm.smm_slot().GetDirtyLog().Set(), testing::ElementsAre(6, 63));
  // Its write protection is there, too.
  vm.slot().Add();
  ASSERT_THAT(vm.WriteInSmm(6, 2), Succeeds());
  vm.slot().MoveTo(kGpa + 1_MiB);
  EXPECT_THAT(vm.smm_slot().GetDirtyLog().Set(), testing::ElementsAre(6));
}

// What is no memory is remembered, until a slot of that address space comes.
TEST_P(AddressSpace, MemoryComesWhereThereWasNone) {
  TestVm vm(Config());
  Smm smm(vm.vm());
  const GpaRange range = {kGpa, 64_KiB};
  const auto finds = [&](bool normal, bool in_smm) {
    for (int i = 0; i < 2; i++) {
      EXPECT_EQ(vm.guest().TouchRead({range}).mmio_count, normal ? 0 : range.pages());
      // Two reads of 4 bytes a page.
      EXPECT_EQ(smm.TouchRead(vm.guest(), range).mmio_count, in_smm ? 0 : 2 * range.pages());
    }
  };
  finds(false, false);
  MemorySlot smm_slot = vm.vm().AddSlot({.gpa = kGpa,
                                         .memory = std::make_shared<GuestMemory>(range.size),
                                         .address_space = Smm::kAddressSpace});
  finds(false, true);
  smm_slot.Delete();
  finds(false, false);
  MemorySlot slot = vm.AddSlot(kGpa, range.size);
  finds(true, false);
  smm_slot.Add();
  finds(true, true);
  slot.Delete();
  finds(false, true);
}

// A vCPU remembers the slot that it found last, until the slots change; those of the other address
// space are others, however often either has changed.
TEST_P(AddressSpace, TheSlotFoundLastIsOfTheRightSpace) {
  TwoSpaces vm(Config());
  for (int change = 0; change < 16; change++) {
    SCOPED_TRACE("changes of SMM's slots: " + std::to_string(change));
    EXPECT_THAT(vm.guest().Verify({PatternOf(vm.slot(), kSeed)}), SeesPattern());
    EXPECT_EQ(vm.TouchSmm().value, SumOf(kSmmSeed, vm.smm_slot().range()));
    vm.smm_slot().SetFlags(change % 2 == 0 ? KVM_MEM_LOG_DIRTY_PAGES : 0);
    vm.smm_slot().Delete();
    vm.smm_slot().Add();
  }
}

// The host takes memory away that only SMM has mapped.
TEST_P(AddressSpace, TheHostUnmapsSmmsMemory) {
  if (const std::string reason = SmmMapsNothing(); !reason.empty()) GTEST_SKIP() << reason;
  TestVm vm(Config());
  Smm smm(vm.vm());
  const auto memory = GuestMemory::Anonymous(kSize);
  FillMemory(*memory, {.pages = kSize / kPageSize, .seed = kSmmSeed});
  MemorySlot slot =
      vm.vm().AddSlot({.gpa = kGpa, .memory = memory, .address_space = Smm::kAddressSpace});
  for (int i = 0; i < 2; i++)
    ASSERT_EQ(smm.TouchRead(vm.guest(), slot.range()).value, SumOf(kSmmSeed, slot.range()));
  const Leaves before = PresentLeaves(vm.vm().stats().Read());
  memory->Unmap(8 * kPageSize, 16 * kPageSize);
  EXPECT_EQ((before - PresentLeaves(vm.vm().stats().Read())).total(), 16) << kPrecision;
  FillMemory(*memory, {.pages = kSize / kPageSize, .seed = kSmmSeed + 1});
  EXPECT_EQ(smm.TouchRead(vm.guest(), slot.range()).value, SumOf(kSmmSeed + 1, slot.range()))
      << "SMM has pages that the host took away";
}

// Dirty rings say whose slot it was, and protect that slot's page again.
TEST_P(AddressSpace, DirtyRingEntries) {
  constexpr uint64_t kRingBytes = 64_KiB;
  if (Kvm().CheckExtension(KVM_CAP_DIRTY_LOG_RING) < static_cast<int>(kRingBytes))
    GTEST_SKIP() << "this KVM has no dirty rings of " << SizeString(kRingBytes);
  GuestVmConfig config = Config();
  config.dirty_ring_bytes = kRingBytes;
  TwoSpaces vm(config);
  DirtyRing ring = vm.guest().vcpu().OpenDirtyRing(kRingBytes);
  vm.slot().SetFlags(KVM_MEM_LOG_DIRTY_PAGES);
  vm.smm_slot().SetFlags(KVM_MEM_LOG_DIRTY_PAGES);
  const DirtyPage normal = {0, vm.slot().id(), 3};
  const DirtyPage in_smm = {Smm::kAddressSpace, vm.smm_slot().id(), 3};
  for (int round = 0; round < 3; round++) {
    ASSERT_THAT(vm.WriteInSmm(3, 1), Succeeds());
    EXPECT_THAT(ring.Collect(), testing::ElementsAre(in_smm)) << "round " << round;
    ASSERT_THAT(vm.guest().TouchWrite({{vm.slot().page(3), kPageSize}}), Succeeds());
    EXPECT_THAT(ring.Collect(), testing::ElementsAre(normal)) << "round " << round;
    EXPECT_EQ(vm.vm().ResetDirtyRings(), 2u);
  }
}

SLOTZAP_INSTANTIATE(AddressSpace);

}  // namespace
}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
// Theme: protected VMs.  Private memory is reached through no mapping but the guest's, so what KVM
// drops must be what was asked for, and nothing else: a slot that goes, a hole that is punched, a
// range that is converted.  The quirk changes nothing for these VMs.
#include "tests/protected_vm.h"

#include <sys/mman.h>

#include <cerrno>
#include <functional>
#include <optional>
#include <vector>

#include "harness/main.h"
#include "harness/progress.h"
#include "oracle/spt_order.h"
#include "tests/nx_huge_pages.h"
#include "tests/test_device.h"

namespace slotzap {
namespace {

constexpr Gpa kGpa = 1_GiB;
constexpr uint64_t kShared = 0x5ba2ed;
constexpr uint64_t kPrivate = 0x9217a7e;

// Memory that is all zero, as private memory that nobody has written to.
uint64_t CountZeroPages(Guest& guest, const GpaRange& range) {
  uint64_t zero = 0;
  for (Gpa gpa = range.start; gpa < range.end(); gpa += kPageSize) {
    const Outcome outcome = guest.Read(gpa);
    EXPECT_THAT(outcome, Succeeds());
    zero += outcome.value == 0 ? 1 : 0;
  }
  return zero;
}

class ProtectedVm : public ProtectedTest {};

TEST_P(ProtectedVm, PrivateAccessToADeletedSlot) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddPrivateSlot(kGpa, 64_KiB);
  vm.vm().MakePrivate(slot.range());
  const Pattern pattern = PatternOf(slot, kPrivate);
  ASSERT_THAT(vm.guest().Fill({pattern}), Succeeds());

  const Vcpu::State state = vm.guest().vcpu().Save();
  slot.Delete();
  for (const int64_t page : {0, 7, -1}) {
    EXPECT_THAT(vm.guest().Read(slot.page(page)), IsPrivateFaultAt(slot.page(page)));
    vm.guest().RestoreTo(state);
  }
  EXPECT_THAT(vm.guest().Write(slot.page(3), 1), IsPrivateFaultAt(slot.page(3)));

  // The memory is the file's, not the slot's.  What was interrupted goes on.
  slot.Add();
  EXPECT_THAT(vm.guest().Resume(), Succeeds());
  EXPECT_THAT(vm.guest().Read(slot.page(3)), Returns(1));
  EXPECT_THAT(vm.guest().Write(slot.page(3), guest::PatternWord(kPrivate, 3 * kPageSize / 8)),
              Succeeds());
  EXPECT_THAT(vm.guest().Verify({pattern}), SeesPattern());
}

TEST_P(ProtectedVm, PrivateAccessWhileTheSlotIsDeleted) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddPrivateSlot(kGpa, 64_KiB);
  MemorySlot other = vm.AddPrivateSlot(2_GiB, 64_KiB);
  vm.vm().MakePrivate(slot.range());
  vm.vm().MakePrivate(other.range());
  const Pattern pattern = PatternOf(slot, kPrivate);
  ASSERT_THAT(vm.guest().Fill({pattern, PatternOf(other, kPrivate)}), Succeeds());

  for (int round = 0; round < 20; round++) {
    AsyncCommand reader(vm.guest(), [&](Guest& guest) {
      for (;;) {
        Outcome outcome = guest.Verify({pattern});
        if (!outcome.done || outcome.verdict.matches != outcome.verdict.words) return outcome;
      }
    });
    reader.WaitForExits(3);
    ASSERT_FALSE(reader.ended());
    slot.Delete();
    const Outcome outcome = reader.Join();
    ASSERT_FALSE(outcome.done) << outcome;
    ASSERT_TRUE(outcome.memory_fault.has_value()) << outcome.exit_text;
    EXPECT_TRUE(slot.range().contains(outcome.memory_fault->gpa)) << outcome.exit_text;
    EXPECT_TRUE(outcome.memory_fault->is_private()) << outcome.exit_text;
    EXPECT_EQ(outcome.memory_fault->size, kPageSize) << outcome.exit_text;
    slot.Add();
    EXPECT_THAT(vm.guest().Resume(), SeesPattern()) << "round " << round;
  }
  EXPECT_THAT(vm.guest().Verify({PatternOf(other, kPrivate)}), SeesPattern());
}

TEST_P(ProtectedVm, OnlyTheLeavesOfADeletedSlotGo) {
  TestVm vm(Config());
  MemorySlot victim = vm.AddPrivateSlot(kGpa, 2_MiB);
  MemorySlot below = vm.AddPrivateSlot(kGpa - 64_KiB, 64_KiB);
  MemorySlot above = vm.AddPrivateSlot(kGpa + 2_MiB, 64_KiB);
  MemorySlot shared = vm.AddPrivateSlot(3_GiB, 1_MiB);
  // Half of the victim stays shared.
  vm.vm().MakePrivate({kGpa, 1_MiB});
  vm.vm().MakePrivate(below.range());
  vm.vm().MakePrivate(above.range());
  const auto touch_others = [&] {
    return vm.guest().TouchWrite({below.range(), above.range(), shared.range()});
  };
  ASSERT_THAT(touch_others(), Succeeds());
  ASSERT_THAT(vm.guest().TouchWrite({victim.range()}), Succeeds());

  ZapWatch watch(vm.vm());
  victim.Delete();
  const ZapReport report = watch.Stop();
  ASSERT_TRUE(report.host_unmaps.empty());
  EXPECT_THAT(report, ZappedOnly({{victim.range()}}, CurrentMmuMode()));
  const uint64_t faults = vm.FixedFaults();
  EXPECT_THAT(touch_others(), Succeeds());
  EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision << "other slots were faulted in again";
}

TEST_P(ProtectedVm, TheQuirkIsNeverInEffect) {
  TestVm vm(Config());
  const auto in_effect = vm.vm().quirks().InEffect();
  if (!in_effect) GTEST_SKIP() << "this kernel can't be asked for the quirks in effect";
  EXPECT_EQ(*in_effect & kQuirkSlotZapAll, 0u) << Hex(*in_effect);
}

TEST_P(ProtectedVm, PrivateMemoryNeedsAGuestMemfd) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddFilledSlot(kGpa, 64_KiB, kShared);
  vm.vm().MakePrivate({slot.page(2), kPageSize});
  const Vcpu::State state = vm.guest().vcpu().Save();
  EXPECT_THAT(vm.guest().Read(slot.page(2)), IsPrivateFaultAt(slot.page(2)));
  vm.guest().RestoreTo(state);
  EXPECT_THAT(vm.guest().Read(slot.page(3)),
              Returns(guest::PatternWord(kShared, 3 * kPageSize / 8)));
  vm.vm().MakeShared({slot.page(2), kPageSize});
  EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kShared)}), SeesPattern());
}

TEST_P(ProtectedVm, AttributesStayWhenTheSlotGoes) {
  TestVm vm(Config());
  MemorySlot slot = AddFilledPrivateSlot(vm, kGpa, 64_KiB, kShared);
  vm.vm().MakePrivate({slot.page(1), kPageSize});
  ASSERT_THAT(vm.guest().Write(slot.page(1), 42), Succeeds());
  slot.Delete();
  // Set while there's no slot, and before there ever was one.
  vm.vm().MakePrivate({slot.page(2), kPageSize});
  vm.vm().MakePrivate({2_GiB, kPageSize});
  slot.Add();
  MemorySlot later = AddFilledPrivateSlot(vm, 2_GiB, 8_KiB, kShared);
  EXPECT_THAT(vm.guest().Read(slot.page(1)), Returns(42));
  EXPECT_THAT(vm.guest().Read(slot.page(2)), Returns(0));
  EXPECT_THAT(vm.guest().Read(later.page(0)), Returns(0));
  EXPECT_THAT(vm.guest().Read(later.page(1)), Returns(guest::PatternWord(kShared, kPageSize / 8)));
}

// --- conversions ---------------------------------------------------------------------------------

struct Conversion {
  const char* name;
  uint64_t offset;  // from the first of two adjacent slots
  uint64_t size;
};

// Two slots of 4 MiB that meet at a 2 MiB boundary, and a third that is not aligned to anything.
constexpr Conversion kConversions[] = {
    {"FirstPage", 0, 4_KiB},
    {"OnePageInTheMiddle", 1_MiB, 4_KiB},
    {"LastPageOfTheSlot", 4_MiB - 4_KiB, 4_KiB},
    {"TwoMiB", 2_MiB, 2_MiB},
    {"TwoMiBUnaligned", 1_MiB, 2_MiB},
    {"AcrossA2MiBBoundary", 2_MiB - 4_KiB, 8_KiB},
    {"AcrossTwoSlots", 4_MiB - 8_KiB, 16_KiB},
    {"WholeSlotAndABit", 0, 4_MiB + 4_KiB},
};

class ProtectedConversion : public testing::TestWithParam<Conversion> {
 protected:
  void SetUp() override {
    if (const std::string reason = Kvm::Unavailable(); !reason.empty()) GTEST_SKIP() << reason;
    if (const std::string reason = ProtectedVmsUnavailable(); !reason.empty())
      GTEST_SKIP() << reason;
  }
};

TEST_P(ProtectedConversion, BothSidesKeepTheirContents) {
  TestVm vm({.type = VmType::kSwProtected});
  MemorySlot first = vm.AddPrivateSlot(kGpa, 4_MiB);
  MemorySlot second = vm.AddPrivateSlot(kGpa + 4_MiB, 4_MiB);
  const GpaRange all = {kGpa, 8_MiB};
  const Pattern shared = {.range = all, .seed = kShared};
  FillMemory(first.memory(), {.start = kGpa, .pages = 1024, .seed = kShared});
  FillMemory(second.memory(),
             {.start = kGpa + 4_MiB, .pages = 1024, .seed = kShared, .first_word = 4_MiB / 8});
  const GpaRange part = {kGpa + GetParam().offset, GetParam().size};
  const Pattern inside = {.range = part, .seed = kPrivate};
  const Pattern before = PartOf(shared, {kGpa, GetParam().offset});
  const Pattern after = PartOf(shared, {part.end(), all.end() - part.end()});
  const auto others = [&](Guest& guest) {
    return before.range.size != 0 ? guest.Verify({before, after}) : guest.Verify({after});
  };

  ASSERT_THAT(vm.guest().Verify({shared}), SeesPattern());
  vm.vm().MakePrivate(part);
  EXPECT_EQ(CountZeroPages(vm.guest(), part), part.pages()) << "private memory begins as zero";
  ASSERT_THAT(vm.guest().Fill({inside}), Succeeds());
  EXPECT_THAT(vm.guest().Verify({inside}), SeesPattern());
  EXPECT_THAT(others(vm.guest()), SeesPattern());

  // To the host and, after the conversion, to the guest, the shared side is what it was.
  for (Gpa gpa = part.start; gpa < part.end(); gpa += kPageSize) {
    const MemorySlot& slot = gpa < second.range().start ? first : second;
    ASSERT_EQ(slot.Load(gpa), guest::PatternWord(kShared, (gpa - kGpa) / 8)) << Hex(gpa);
  }
  vm.vm().MakeShared(part);
  EXPECT_THAT(vm.guest().Verify({shared}), SeesPattern());

  // And so is the private side.
  vm.vm().MakePrivate(part);
  EXPECT_THAT(vm.guest().Verify({inside}), SeesPattern());
  EXPECT_THAT(others(vm.guest()), SeesPattern());
}

TEST_P(ProtectedConversion, NothingOutsideIsZapped) {
  TestVm vm({.type = VmType::kSwProtected});
  MemorySlot first = vm.AddPrivateSlot(kGpa, 4_MiB);
  MemorySlot second = vm.AddPrivateSlot(kGpa + 4_MiB, 4_MiB);
  const GpaRange part = {kGpa + GetParam().offset, GetParam().size};
  const GpaRange after = {part.end(), kGpa + 8_MiB - part.end()};
  const auto touch_others = [&](Guest& guest) {
    return GetParam().offset != 0 ? guest.TouchWrite({{kGpa, GetParam().offset}, after})
                                  : guest.TouchWrite({after});
  };
  for (int round = 0; round < 2; round++) {
    ASSERT_THAT(vm.guest().TouchWrite({first.range(), second.range()}), Succeeds());
    const uint64_t faults = vm.FixedFaults();
    if (round == 0)
      vm.vm().MakePrivate(part);
    else
      vm.vm().MakeShared(part);
    EXPECT_THAT(touch_others(vm.guest()), Succeeds());
    EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision;
    EXPECT_THAT(vm.guest().TouchWrite({part}), Succeeds());
    EXPECT_EQ(vm.FixedFaults() - faults, part.pages()) << kPrecision;
  }
}

std::string ConversionName(const testing::TestParamInfo<Conversion>& info) {
  return info.param.name;
}
INSTANTIATE_TEST_SUITE_P(Range, ProtectedConversion, testing::ValuesIn(kConversions),
                         ConversionName);

// A huge page that is partly converted has to be split, one that is whole again may be huge.
TEST_P(ProtectedVm, APartOfAHugePageTurnsPrivate) {
  if (const std::string reason = BackingUnavailable(Backing::k2M, 2); !reason.empty())
    GTEST_SKIP() << reason;
  TestVm vm(Config());
  MemorySlot slot = vm.vm().AddSlot({.gpa = kGpa,
                                     .memory = std::make_shared<GuestMemory>(4_MiB, Backing::k2M),
                                     .memfd = vm.vm().CreateGuestMemfd(4_MiB)});
  FillMemory(slot.memory(), {.start = kGpa, .pages = 1024, .seed = kShared});
  const Pattern shared = PatternOf(slot, kShared);
  ASSERT_THAT(vm.guest().Verify({shared}), SeesPattern());
  ASSERT_EQ(PresentLeaves(vm.vm().stats().Read()).k2M, 2);

  const GpaRange page = {slot.page(100), kPageSize};
  vm.vm().MakePrivate(page);
  EXPECT_EQ(PresentLeaves(vm.vm().stats().Read()).k2M, 1)
      << kPrecision << "the other huge page stays";
  ASSERT_THAT(vm.guest().Write(page.start, 7), Succeeds());
  EXPECT_THAT(vm.guest().Verify({PartOf(shared, {kGpa, 100 * kPageSize}),
                                 PartOf(shared, {page.end(), slot.range().end() - page.end()})}),
              SeesPattern());
  EXPECT_EQ(PresentLeaves(vm.vm().stats().Read()).k2M, 1) << kPrecision;
  EXPECT_THAT(vm.guest().Read(page.start), Returns(7));

  vm.vm().MakeShared(page);
  EXPECT_THAT(vm.guest().Verify({shared}), SeesPattern());
}

// Pages that are partly private are not mapped as huge ones, whichever end of a conversion they are
// at, and whether or not there was a slot when they were converted.
TEST_P(ProtectedVm, HugePagesThatArePartlyPrivate) {
  if (const std::string reason = BackingUnavailable(Backing::k2M, 4); !reason.empty())
    GTEST_SKIP() << reason;
  constexpr uint64_t kSize = 8_MiB;
  for (const bool without_slot : {false, true}) {
    SCOPED_TRACE(without_slot ? "converted while there is no slot" : "converted while it is there");
    TestVm vm(Config());
    MemorySlot slot = vm.vm().AddSlot({.gpa = kGpa,
                                       .memory = std::make_shared<GuestMemory>(kSize, Backing::k2M),
                                       .memfd = vm.vm().CreateGuestMemfd(kSize)});
    FillMemory(slot.memory(), {.start = kGpa, .pages = kSize / kPageSize, .seed = kShared});
    const Pattern shared = PatternOf(slot, kShared);
    ASSERT_THAT(vm.guest().Verify({shared}), SeesPattern());
    const GpaRange part = {kGpa + 1_MiB, 4_MiB};
    if (without_slot) slot.Delete();
    vm.vm().MakePrivate(part);
    if (without_slot) slot.Add();
    // What is shared of the huge pages at both ends, and then what is private of them.
    EXPECT_THAT(
        vm.guest().Verify({PartOf(shared, {kGpa, 1_MiB}), PartOf(shared, {part.end(), 1_MiB})}),
        SeesPattern());
    EXPECT_EQ(CountZeroPages(vm.guest(), {kGpa + 1_MiB, 1_MiB}), 256u);
    EXPECT_EQ(CountZeroPages(vm.guest(), {kGpa + 4_MiB, 1_MiB}), 256u);
    // The last one is shared as a whole.
    EXPECT_THAT(vm.guest().Verify({PartOf(shared, {kGpa + 6_MiB, 2_MiB})}), SeesPattern());
    EXPECT_EQ(PresentLeaves(vm.vm().stats().Read()).k2M, 1) << kPrecision;
  }
}

// A slot that can't be created keeps nothing of the file that it was to be bound to.
TEST_P(ProtectedVm, ASlotThatFailsLeavesTheFileAlone) {
  TestVm vm(Config());
  const auto memfd = vm.vm().CreateGuestMemfd(128_KiB);
  const SlotConfig config = {.gpa = kGpa,
                             .memory = std::make_shared<GuestMemory>(128_KiB),
                             .size = 128_KiB,
                             .memfd = memfd};
  // No processor has so many physical address bits (SDM volume 3, 4.1.4).
  SlotConfig beyond = config;
  beyond.gpa = 1ull << 52;
  EXPECT_THAT(MemorySlot(vm.vm(), 100, beyond).TryAdd(), FailsWith(EINVAL));
  memfd->PunchHole(0, 128_KiB);
  MemorySlot slot(vm.vm(), 100, config);
  EXPECT_THAT(slot.TryAdd(), IsOk());
  EXPECT_THAT(MemorySlot(vm.vm(), 101,
                         [&] {
                           SlotConfig again = config;
                           again.gpa = 3_GiB;
                           return again;
                         }())
                  .TryAdd(),
              FailsWith(EINVAL))
      << "the file's pages are another slot's";
  vm.vm().MakePrivate(slot.range());
  ASSERT_THAT(vm.guest().Fill({PatternOf(slot, kPrivate)}), Succeeds());
  memfd->PunchHole(0, 64_KiB);
  EXPECT_EQ(CountZeroPages(vm.guest(), {kGpa, 64_KiB}), 16u);
  slot.Delete();
  memfd->PunchHole(0, 128_KiB);
}

// --- what zaps private memory, and what must not -------------------------------------------------

TEST_P(ProtectedVm, AHoleTakesItsPagesAndNoOthers) {
  TestVm vm(Config());
  MemorySlot slot = AddFilledPrivateSlot(vm, kGpa, 4_MiB, kShared);
  const GpaRange private_part = {kGpa + 1_MiB, 2_MiB};
  vm.vm().MakePrivate(private_part);
  const Pattern pattern = {.range = private_part, .seed = kPrivate};
  ASSERT_THAT(vm.guest().Fill({pattern}), Succeeds());
  const Pattern low = PartOf(PatternOf(slot, kShared), {kGpa, 1_MiB});
  ASSERT_THAT(vm.guest().Verify({low}), SeesPattern());

  // Reaches into the shared part, of whose private pages there are none yet.
  const GpaRange hole = {kGpa + 512_KiB, 1_MiB};
  const uint64_t faults = vm.FixedFaults();
  slot.config().memfd->PunchHole(hole.start - kGpa, hole.size);
  EXPECT_THAT(vm.guest().Verify({low}), SeesPattern());
  EXPECT_THAT(vm.guest().Verify({PartOf(pattern, {hole.end(), private_part.end() - hole.end()})}),
              SeesPattern());
  EXPECT_EQ(vm.FixedFaults(), faults)
      << kPrecision << "something outside of the hole was faulted in again";
  EXPECT_EQ(CountZeroPages(vm.guest(), {private_part.start, hole.end() - private_part.start}),
            128u);
}

// The zap of the next memslot may let others have mmu_lock, who take what isn't mapped for what
// isn't in a TLB (HostMemory.OneSlotIsFlushedBeforeTheNextIsZapped has the same for mmu notifiers).
TEST_P(ProtectedVm, OneSlotIsFlushedBeforeTheNextIsZapped) {
  if (const std::string reason = KnownBug("KVM flushes but once for all memslots of a range");
      !reason.empty())
    GTEST_SKIP() << reason;
  TestVm vm(Config());
  const auto memfd = vm.vm().CreateGuestMemfd(128_KiB);
  const auto add_half = [&](uint64_t offset) {
    return vm.vm().AddSlot({.gpa = kGpa + offset,
                            .memory = std::make_shared<GuestMemory>(64_KiB),
                            .memfd = memfd,
                            .memfd_offset = offset});
  };
  MemorySlot first = add_half(0);
  MemorySlot second = add_half(64_KiB);
  const GpaRange both = {kGpa, 128_KiB};

  const auto touch = [&] {
    vm.vm().MakePrivate(both);
    ASSERT_THAT(vm.guest().TouchWrite({both}), Succeeds());
  };
  EXPECT_EQ(FewestFlushes(vm, touch, [&] { memfd->PunchHole(0, both.size); }), 2u) << "a hole";
  EXPECT_EQ(FewestFlushes(vm, touch, [&] { vm.vm().MakeShared(both); }), 2u) << "a conversion";
}

// What the host does with its mapping of the slot says nothing about memory that it can't map.
TEST_P(ProtectedVm, TheHostsUnmapSparesPrivateMappings) {
  TestVm vm(Config());
  MemorySlot slot = AddFilledPrivateSlot(vm, kGpa, 4_MiB, kShared);
  const GpaRange private_part = {kGpa + 1_MiB, 2_MiB};
  vm.vm().MakePrivate(private_part);
  const Pattern pattern = {.range = private_part, .seed = kPrivate};
  ASSERT_THAT(vm.guest().Fill({pattern}), Succeeds());
  const GpaRange low = {kGpa, 1_MiB};
  const GpaRange high = {kGpa + 3_MiB, 1_MiB};
  ASSERT_THAT(vm.guest().TouchRead({low, high}), Succeeds());

  const uint64_t faults = vm.FixedFaults();
  ASSERT_EQ(madvise(slot.memory().data(), 4_MiB, MADV_DONTNEED), 0);
  EXPECT_THAT(vm.guest().Verify({pattern}), SeesPattern());
  EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision << "private memory was faulted in again";
  EXPECT_THAT(vm.guest().TouchRead({low, high}), Succeeds());
  EXPECT_EQ(vm.FixedFaults() - faults, low.pages() + high.pages())
      << kPrecision << "what is shared has to be faulted in again";
}

// Memory types and the APIC's page: KVM zaps for both, by gfn.
class ProtectedVmDevice : public DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped()) return;
    if (const std::string reason = ProtectedVmsUnavailable(); !reason.empty())
      GTEST_SKIP() << reason;
  }

  // Memory around the APIC's default address and elsewhere, every other page private.  `zap` may
  // drop what is shared, in `may_drop`, but nothing private.
  void ExpectPrivateSurvives(const GpaRange& must_drop,
                             const std::function<void(TestVm&, TestDevice&)>& zap) {
    GuestVmConfig config = Config();
    config.type = VmType::kSwProtected;
    TestVm vm(config);
    TestDevice device(vm.vm());
    const GpaRange near_apic = {0xfee00000 - 64_KiB, 256_KiB};
    const GpaRange elsewhere = {8_GiB, 256_KiB};
    uint64_t dropped = 0;
    std::vector<MemorySlot> slots;
    for (const GpaRange& range : {near_apic, elsewhere}) {
      slots.push_back(vm.AddPrivateSlot(range.start, range.size));
      for (Gpa gpa = range.start; gpa < range.end(); gpa += 2 * kPageSize) {
        vm.vm().MakePrivate({gpa, kPageSize});
        if (must_drop.contains(gpa + kPageSize)) dropped++;
      }
    }
    const Pattern first = {.range = near_apic, .seed = kPrivate};
    const Pattern second = {.range = elsewhere, .seed = kShared};
    ASSERT_THAT(vm.guest().Fill({first, second}), Succeeds());

    const Leaves before = PresentLeaves(vm.vm().stats().Read());
    const uint64_t faults = vm.FixedFaults();
    zap(vm, device);
    if (IsSkipped()) return;
    const Leaves gone = before - PresentLeaves(vm.vm().stats().Read());
    // The page that the agent itself runs from is shared as well.
    EXPECT_GE(gone.total(), static_cast<int64_t>(dropped)) << gone;
    for (const GpaRange& range : {near_apic, elsewhere})
      for (Gpa gpa = range.start; gpa < range.end(); gpa += 2 * kPageSize)
        ASSERT_THAT(vm.guest().Read(gpa), Succeeds());
    // So that the agent's own pages are there again.
    ASSERT_THAT(vm.guest().Verify({PartOf(first, {near_apic.start, kPageSize})}), SeesPattern());
    const uint64_t agent_faults = vm.FixedFaults() - faults;
    EXPECT_LE(agent_faults, 16u) << kPrecision << "private pages were faulted in again";
    EXPECT_THAT(vm.guest().Verify({first, second}), SeesPattern());
    EXPECT_EQ(vm.FixedFaults() - faults - agent_faults, dropped)
        << kPrecision << "not exactly the shared pages were faulted in again";
  }
};

TEST_P(ProtectedVmDevice, PrivateMemorySurvivesAZapOfAllGfns) {
  ExpectPrivateSurvives({0, ~0ull << kPageShift}, [](TestVm&, TestDevice& device) {
    const KvmStatus status = device.TryZapSharedGfnRange(0, ~0ull >> kPageShift);
    if (status.error() == EOPNOTSUPP)
      GTEST_SKIP() << "this kernel doesn't tell private from shared";
    EXPECT_THAT(status, IsOk());
  });
}

// As a device with such DMA comes and goes.  KVM zaps where that changes memory types, i.e. for
// EPT.
TEST_P(ProtectedVmDevice, PrivateMemorySurvivesNoncoherentDma) {
  const bool matters = DetectKvmModule().vendor == "vmx";
  const GpaRange everything = {0, ~0ull << kPageShift};
  for (const bool twice : {false, true}) {
    SCOPED_TRACE(twice ? "it comes and goes" : "it comes");
    ExpectPrivateSurvives(matters ? everything : GpaRange{}, [&](TestVm&, TestDevice& device) {
      device.SetNoncoherentDma(true);
      if (twice) device.SetNoncoherentDma(false);
    });
  }
}

// APICv being inhibited zaps one gfn: as it happens, a shared one here.
TEST_P(ProtectedVmDevice, PrivateMemorySurvivesAZapOfTheApicsPage) {
  const Gpa apic = 0xfee00000;
  ExpectPrivateSurvives({apic + kPageSize, kPageSize}, [&](TestVm&, TestDevice& device) {
    for (const Gfn gfn : {apic >> kPageShift, (apic >> kPageShift) + 1}) {
      const KvmStatus status = device.TryZapSharedGfnRange(gfn, gfn + 1);
      if (status.error() == EOPNOTSUPP)
        GTEST_SKIP() << "this kernel doesn't tell private from shared";
      EXPECT_THAT(status, IsOk());
    }
  });
}

// --- the order of Secure-EPT ---------------------------------------------------------------------

// Whatever happens to a protected VM while it runs, the root stays, and leaves go before tables.
class ProtectedOrder : public ProtectedTest {
 protected:
  static constexpr GpaRange kHalf = {kGpa, 1_MiB};

  void SetUp() override {
    ProtectedTest::SetUp();
    if (IsSkipped()) return;
    if (const std::string reason = SptOrderWatch::Unavailable(); !reason.empty())
      GTEST_SKIP() << reason;
    watch_.emplace();
    vm_.emplace(Config());
    // The first half private, the second shared, and the same again elsewhere.
    for (const Gpa gpa : {kGpa, 2_GiB}) {
      slots_.push_back(AddFilledPrivateSlot(*vm_, gpa, 2_MiB, kShared));
      vm_->vm().MakePrivate({gpa, kHalf.size});
      ASSERT_THAT(vm_->guest().Fill({{.range = {gpa, kHalf.size}, .seed = kPrivate}}), Succeeds());
      ASSERT_THAT(vm_->guest().TouchRead({slots_.back().range()}), Succeeds());
    }
  }

  // `operation` takes exactly the leaves in `ranges`.
  void ExpectOrder(const std::vector<GpaRange>& ranges, const std::function<void()>& operation) {
    watch_->Begin(ranges);
    operation();
    const SptOrderReport report = watch_->End();
    EXPECT_THAT(report, KeptSecureEptOrder());
    EXPECT_THAT(report, RemovedLeavesOnlyIn(ranges));
    EXPECT_THAT(report, RemovedTablesOnlyOf(ranges));
    // What is private elsewhere is what it was.
    EXPECT_THAT(vm_->guest().Verify({{.range = {2_GiB, kHalf.size}, .seed = kPrivate}}),
                SeesPattern());
  }

  std::optional<SptOrderWatch> watch_;  // made before the VM
  std::optional<TestVm> vm_;
  std::vector<MemorySlot> slots_;
};

TEST_P(ProtectedOrder, Delete) {
  ExpectOrder({slots_[0].range()}, [&] { slots_[0].Delete(); });
}

TEST_P(ProtectedOrder, ConvertToShared) {
  ExpectOrder({{kGpa, 512_KiB}}, [&] { vm_->vm().MakeShared({kGpa, 512_KiB}); });
}

TEST_P(ProtectedOrder, ConvertToPrivate) {
  ExpectOrder({{kGpa + 1_MiB, 512_KiB}}, [&] { vm_->vm().MakePrivate({kGpa + 512_KiB, 1_MiB}); });
}

TEST_P(ProtectedOrder, PunchAHole) {
  ExpectOrder({{kGpa + 64_KiB, 64_KiB}},
              [&] { slots_[0].config().memfd->PunchHole(64_KiB, 64_KiB); });
}

TEST_P(ProtectedOrder, TheHostUnmaps) {
  ExpectOrder({{kGpa + 1_MiB, 1_MiB}},
              [&] { ASSERT_EQ(madvise(slots_[0].memory().data(), 2_MiB, MADV_DONTNEED), 0); });
}

// Not about a slot, so the quirk would not matter; the type does.
TEST_P(ProtectedOrder, NxHugePagesAreToggled) {
  if (!NxHugePages::Available()) GTEST_SKIP() << "kvm has no nx_huge_pages parameter";
  const NxHugePages nx;
  watch_->Begin();
  nx.Toggle();
  const SptOrderReport report = watch_->End();
  EXPECT_THAT(report, KeptSecureEptOrder());
  for (const SpteChanged& leaf : report.leaves)
    EXPECT_FALSE(kHalf.contains(leaf.gfn << kPageShift))
        << kPrecision << "private: " << Hex(leaf.gfn);
  EXPECT_GE(report.leaves.size(), 2 * (2_MiB - kHalf.size) / kPageSize) << kPrecision << report;
  const uint64_t faults = vm_->FixedFaults();
  EXPECT_THAT(vm_->guest().Verify({{.range = kHalf, .seed = kPrivate}}), SeesPattern());
  EXPECT_LE(vm_->FixedFaults() - faults, 16u)
      << kPrecision << "private memory was faulted in again";
}

// The quirk makes no difference, so once is enough: it takes a while.
class ProtectedMmioGeneration : public ProtectedOrder {};

TEST_P(ProtectedMmioGeneration, WrapZapsMmioSptesOnly) {
  SetTestTimeout(std::chrono::seconds(300));
  // MMIO_SPTE_GEN_MASK has 19 bits (arch/x86/kvm/mmu/spte.h).  Creating and deleting a slot swaps
  // the memslots three times; with one address space, each adds 1 to the generation.
  constexpr uint64_t kUpdatesToWrap = (1u << 19) / 3 + 1;
  const Gpa mmio = 3_GiB;
  ASSERT_THAT(vm_->guest().Read(mmio), IsMmioReadAt(mmio));
  MemorySlot other = vm_->AddSlot(4_GiB, 4_KiB);
  const Leaves before = PresentLeaves(vm_->vm().stats().Read());
  watch_->Begin();
  Progress progress("updates", kUpdatesToWrap);
  for (uint64_t update = 0; update < kUpdatesToWrap; update++) {
    progress.Reached(update);
    other.Delete();
    other.Add();
  }
  const SptOrderReport report = watch_->End();
  EXPECT_THAT(report, KeptSecureEptOrder());
  EXPECT_THAT(report, RemovedLeavesOnlyIn({}));
  EXPECT_GE(report.changes, 1u) << "no MMIO SPTE went, i.e. the generation didn't wrap";
  EXPECT_EQ(PresentLeaves(vm_->vm().stats().Read()), before) << kPrecision;
  EXPECT_THAT(vm_->guest().Read(mmio), IsMmioReadAt(mmio));
  EXPECT_THAT(vm_->guest().Verify({{.range = kHalf, .seed = kPrivate}}), SeesPattern());
}

SLOTZAP_INSTANTIATE(ProtectedOrder);
INSTANTIATE_TEST_SUITE_P(Quirk, ProtectedMmioGeneration, testing::Values(true), QuirkName);
SLOTZAP_INSTANTIATE(ProtectedVm);
SLOTZAP_INSTANTIATE(ProtectedVmDevice);

}  // namespace
}  // namespace slotzap

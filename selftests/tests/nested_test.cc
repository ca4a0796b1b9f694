// SPDX-License-Identifier: GPL-2.0-only
// Theme: nested guests.  The guest ("L1") runs a guest of its own ("L2"), so that KVM shadows the
// page tables that L1 has for L2, beside what it has for L1 itself: with the TDP MMU, two MMUs map
// the same memslots.  In shadow mode there is no nested paging, L2's own page tables are shadowed.
//
// What the guests see holds on any kernel.  What is zapped is this project's promise
// (Documentation/zap.md): the SPTEs of the slot in both MMUs, shadow pages only of tables in it.
#include "guest/nested.h"

#include <algorithm>
#include <cerrno>
#include <functional>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "guest/smm.h"
#include "harness/main.h"
#include "tests/race.h"
#include "tests/slot_test.h"

namespace slotzap {
namespace {

using testing::AnyOf;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr uint64_t kSeed = 0x1e57;
constexpr uint64_t kOtherSeed = 0x2e57;

constexpr Gpa kTables = 1_GiB;  // L1's tables for L2
constexpr uint64_t kTablesSize = 64_KiB;
constexpr Gpa kData = 2_GiB;  // where most tests have the slot that goes

// A VM whose vCPUs each can run a guest, all of them on the same nested tables.  At first those map
// nothing but what each guest needs.  Their first `upper` pages, the root at least, are in one
// memslot, the others in another one.
class NestedVm : public TestVm {
 public:
  NestedVm(const GuestVmConfig& config, const NestedSupport& support, uint64_t upper = 1)
      : TestVm(config),
        support_(support),
        agent_memory_(AddSlot(guest::kNestedGpa, guest::kNestedSize)),
        memory_(std::make_shared<GuestMemory>(kTablesSize)),
        upper_slot_(vm().AddSlot({.gpa = kTables, .memory = memory_, .size = upper * kPageSize})),
        lower_slot_(vm().AddSlot(
            {.gpa = kTables + upper * kPageSize, .memory = memory_, .offset = upper * kPageSize})),
        nested_(MakeTables(*memory_, kTables)) {
    for (unsigned i = 0; i < vcpus(); i++)
      l2_.push_back(std::make_unique<NestedGuest>(guest(i), support, nested_, tables()));
  }

  NestedGuest& l2(unsigned i = 0) { return *l2_.at(i); }
  PageTables& nested() { return nested_; }
  MemorySlot& upper_slot() { return upper_slot_; }
  MemorySlot& lower_slot() { return lower_slot_; }
  // Put other tables in the place of those whose slot was deleted.
  void AddUpper(const std::shared_ptr<GuestMemory>& memory) { upper_slot_.AddWith(memory, 0); }
  void AddLower(const std::shared_ptr<GuestMemory>& memory) {
    lower_slot_.AddWith(memory, lower_slot_.range().start - kTables);
  }
  // Other nested tables, in memory of kTablesSize that the guest has, or will have, at `gpa`.
  PageTables MakeTables(const GuestMemory& memory, Gpa gpa) const {
    const GpaRange range = {gpa, kTablesSize};
    PageTables tables(memory, range, range, support_.format);
    tables.MapIdentity(NestedGuest::kNeeded, GuestPageSize::k2M);
    return tables;
  }

  // A filled slot that the nested tables map, at its own address, in 4 KiB pages.
  MemorySlot AddMappedSlot(Gpa gpa, uint64_t size, uint64_t seed) {
    MemorySlot slot = AddFilledSlot(gpa, size, seed);
    nested_.MapIdentity(slot.range(), GuestPageSize::k4K);
    return slot;
  }

 private:
  NestedSupport support_;
  MemorySlot agent_memory_;
  std::shared_ptr<GuestMemory> memory_;
  MemorySlot upper_slot_;
  MemorySlot lower_slot_;
  PageTables nested_;
  std::vector<std::unique_ptr<NestedGuest>> l2_;
};

// Why L2 must not be entered here while the root of its tables is in no memslot, or an empty
// string.
std::string RootMustStay() {
  // mmu_check_root() asks for a triple fault, which KVM takes for an exit of an L2 that wasn't
  // entered yet: WARN_ON_ONCE(nested_run_pending) in nested_svm_vmexit(), __nested_vmx_vmexit().
  // Any L1 can make it do so.  Since Linux 6.6 such a root is replaced by an empty one.
  if (!KernelIsAtLeast("6.6"))
    return "entering a nested guest whose root is in no memslot makes this kernel WARN";
  return "";
}

std::shared_ptr<GuestMemory> FilledMemory(uint64_t size, uint64_t seed) {
  auto memory = std::make_shared<GuestMemory>(size);
  FillMemory(*memory, {.pages = size / kPageSize, .seed = seed});
  return memory;
}

// L2 ended because what translates its addresses isn't there, as L1 was told.
//   EXPECT_THAT(vm.l2().Nop(), EndsByNestedFault());
testing::Matcher<const Outcome&> EndsByNestedFault() {
  return testing::Truly([](const Outcome& outcome) {
    if (outcome.done || !outcome.nested_exit) return false;
    const guest::NestedEnd end = outcome.nested_exit->end;
    return end == guest::NestedEnd::kFault || end == guest::NestedEnd::kShutdown;
  });
}

class Nested : public SlotTest {
 protected:
  void SetUp() override {
    SlotTest::SetUp();
    if (IsSkipped()) return;
    support_ = DetectNested(Kvm());
    if (support_.kind == guest::Virtualization::kNone)
      GTEST_SKIP() << "guests can't run guests here (kvm_amd.nested, kvm_intel.nested)";
  }

  const NestedSupport& support() const { return support_; }

  // Whether everything went, as it does with the quirk enabled; otherwise, that `leaves` 4 KiB
  // SPTEs went, in all MMUs together, and neither a root nor a table, nor a shadow page.  `mapped`:
  // what L1 had mapped of it, which the TDP MMU traces one by one.
  void ExpectOnlyLeavesWent(const ZapReport& report, uint64_t leaves,
                            const std::vector<LeafRange>& mapped) const {
    if (slot_zap_all()) {
      EXPECT_THAT(report, ZappedEverything());
      return;
    }
    EXPECT_EQ(report.dropped(), (Leaves{.k4K = static_cast<int64_t>(leaves)}))
        << kPrecision << report;
    EXPECT_GE(report.flush_requests, 1u) << kPrecision << report;
    EXPECT_EQ(report.shadow_zapped, 0u) << kPrecision << report;
    EXPECT_EQ(report.zap_all, 0u) << kPrecision << report;
    EXPECT_TRUE(report.tables.empty()) << kPrecision << report;
    EXPECT_TRUE(report.shadow_pages.empty()) << kPrecision << report;
    if (CurrentMmuMode() == MmuMode::kTdp) {
      EXPECT_THAT(report, TracedLeavesAre(mapped));
    }
  }

  // What `touch` faults in again.
  template <typename Touch>
  void ExpectRefaults(TestVm& vm, const char* whose, Touch touch) const {
    const uint64_t faults = vm.FixedFaults();
    touch();
    const uint64_t refaults = vm.FixedFaults() - faults;
    if (slot_zap_all())
      EXPECT_GT(refaults, 0u) << kPrecision << whose << ": nothing was zapped";
    else
      EXPECT_EQ(refaults, 0u) << kPrecision << whose << ": other slots were faulted in again";
  }

 private:
  NestedSupport support_;
};

// What the other tests build on: L2 reaches what both L1's tables and a memslot have, L1 is told of
// what its tables don't have, userspace of what no memslot has.
TEST_P(Nested, TablesAndSlotsDecideWhatL2Reaches) {
  NestedVm vm(Config(), support());
  MemorySlot data = vm.AddMappedSlot(kData, 64_KiB, kSeed);
  MemorySlot unmapped = vm.AddFilledSlot(kData + 1_MiB, 64_KiB, kSeed);
  const GpaRange no_slot = {data.range().end(), 16_KiB};
  vm.nested().MapIdentity(no_slot, GuestPageSize::k4K);

  EXPECT_THAT(vm.l2().Nop(), Succeeds());
  EXPECT_THAT(vm.l2().Verify({PatternOf(data, kSeed)}), SeesPattern());
  EXPECT_THAT(vm.l2().TouchRead({no_slot}), FindsNothingIn(no_slot));
  EXPECT_THAT(vm.l2().Write(no_slot.start, 0xbad), IsMmioWriteAt(no_slot.start, 0xbad));
  const Outcome fault = vm.l2().Read(unmapped.page(3));
  ASSERT_THAT(fault, EndsByNestedFault());
  EXPECT_EQ(fault.nested_exit->end, guest::NestedEnd::kFault) << fault;
  EXPECT_EQ(fault.nested_exit->fault_addr, unmapped.page(3)) << fault;
  // Neither did L1 any harm.
  EXPECT_THAT(vm.guest().Verify({PatternOf(unmapped, kSeed)}), SeesPattern());
  EXPECT_THAT(vm.l2().Fill({PatternOf(data, kOtherSeed)}), Succeeds());
  EXPECT_THAT(vm.guest().Verify({PatternOf(data, kOtherSeed)}), SeesPattern());
}

TEST_P(Nested, SlotThatOnlyL2Maps) {
  NestedVm vm(Config(), support());
  MemorySlot slot = vm.AddMappedSlot(kData, 128_KiB, kSeed);
  const auto old_memory = slot.config().memory;
  ASSERT_THAT(vm.l2().Verify({PatternOf(slot, kSeed)}), SeesPattern());

  ZapWatch watch(vm.vm());
  slot.Delete();
  ExpectOnlyLeavesWent(watch.Stop(), slot.range().pages(), {});
  EXPECT_THAT(vm.l2().TouchRead({slot.range()}), FindsNothingIn(slot.range()));
  EXPECT_THAT(vm.l2().Write(slot.page(-1), 0xbad), IsMmioWriteAt(slot.page(-1), 0xbad));

  slot.AddWith(FilledMemory(128_KiB, kOtherSeed));
  EXPECT_THAT(vm.l2().Verify({PatternOf(slot, kOtherSeed)}), SeesPattern());
  ASSERT_THAT(vm.l2().Write(slot.page(3), 0x600d), Succeeds());
  EXPECT_EQ(slot.Load(slot.page(3)), 0x600du);
  EXPECT_EQ(old_memory->Load(3 * kPageSize), guest::PatternWord(kSeed, 3 * kPageSize / 8))
      << "L2's write went to the memory of the slot that was deleted";
}

// Without an access in between that would make KVM look again.
TEST_P(Nested, RecreatedSlotShowsL2TheNewBacking) {
  NestedVm vm(Config(), support());
  MemorySlot slot = vm.AddMappedSlot(kData, 128_KiB, kSeed);
  ASSERT_THAT(vm.l2().Verify({PatternOf(slot, kSeed)}), SeesPattern());
  slot.Delete();
  slot.AddWith(FilledMemory(128_KiB, kOtherSeed));
  EXPECT_THAT(vm.l2().Verify({PatternOf(slot, kOtherSeed)}), SeesPattern());
}

// With the TDP MMU, L1's SPTEs are in one MMU, L2's in the other.
TEST_P(Nested, SlotThatBothMap) {
  NestedVm vm(Config(), support());
  MemorySlot slot = vm.AddMappedSlot(kData, 128_KiB, kSeed);
  for (int round = 0; round < 2; round++) {
    const uint64_t seed = kSeed + static_cast<uint64_t>(round);
    ASSERT_THAT(vm.guest().Verify({PatternOf(slot, seed)}), SeesPattern());
    ASSERT_THAT(vm.l2().Verify({PatternOf(slot, seed)}), SeesPattern());
    ZapWatch watch(vm.vm());
    slot.Delete();
    ExpectOnlyLeavesWent(watch.Stop(), 2 * slot.range().pages(), {{slot.range()}});
    EXPECT_THAT(vm.l2().TouchRead({slot.range()}), FindsNothingIn(slot.range()));
    EXPECT_THAT(vm.guest().TouchRead({slot.range()}), FindsNothingIn(slot.range()));
    slot.AddWith(FilledMemory(128_KiB, seed + 1));
  }
  EXPECT_THAT(vm.l2().Verify({PatternOf(slot, kSeed + 2)}), SeesPattern());
  EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kSeed + 2)}), SeesPattern());
}

// Neighbours that share page tables with the victim, L1's and KVM's, and one far away.
TEST_P(Nested, BystandersStay) {
  for (const bool move : {false, true}) {
    SCOPED_TRACE(move ? "the slot is moved" : "the slot is deleted");
    NestedVm vm(Config(), support());
    MemorySlot below = vm.AddMappedSlot(kData - 64_KiB, 64_KiB, kSeed + 1);
    MemorySlot victim = vm.AddMappedSlot(kData, 64_KiB, kSeed);
    MemorySlot above = vm.AddMappedSlot(victim.range().end(), 64_KiB, kSeed + 2);
    MemorySlot far_away = vm.AddMappedSlot(12_GiB, 64_KiB, kSeed + 3);
    const std::initializer_list<Pattern> bystanders = {
        PatternOf(below, kSeed + 1), PatternOf(above, kSeed + 2), PatternOf(far_away, kSeed + 3)};
    for (int i = 0; i < 2; i++) {
      ASSERT_THAT(vm.l2().Verify(bystanders), SeesPattern());
      ASSERT_THAT(vm.l2().Verify({PatternOf(victim, kSeed)}), SeesPattern());
      ASSERT_THAT(vm.guest().Verify(bystanders), SeesPattern());
      ASSERT_THAT(vm.guest().Verify({PatternOf(victim, kSeed)}), SeesPattern());
    }

    const GpaRange gone = victim.range();
    ZapWatch watch(vm.vm());
    if (move)
      victim.MoveTo(5_GiB);
    else
      victim.Delete();
    ExpectOnlyLeavesWent(watch.Stop(), 2 * gone.pages(), {{gone}});
    ExpectRefaults(vm, "L2", [&] { EXPECT_THAT(vm.l2().Verify(bystanders), SeesPattern()); });
    ExpectRefaults(vm, "L1", [&] { EXPECT_THAT(vm.guest().Verify(bystanders), SeesPattern()); });
    EXPECT_THAT(vm.l2().TouchRead({gone}), FindsNothingIn(gone));
  }
}

TEST_P(Nested, SlotMoves) {
  constexpr Gpa kTo = 3_GiB;
  NestedVm vm(Config(), support());
  MemorySlot slot = vm.AddMappedSlot(kData, 64_KiB, kSeed);
  vm.nested().MapIdentity({kTo, 64_KiB}, GuestPageSize::k4K);
  for (int i = 0; i < 2; i++) {
    for (const auto& [from, to] : {std::pair{kData, kTo}, std::pair{kTo, kData}}) {
      ASSERT_THAT(vm.l2().Verify({PatternOf(slot, kSeed)}), SeesPattern());
      slot.MoveTo(to);
      EXPECT_THAT(vm.l2().Read(from), IsMmioReadAt(from));
      EXPECT_THAT(vm.l2().Verify({PatternOf(slot, kSeed)}), SeesPattern());
    }
  }
}

// One entry of L1's tables maps two slots.  KVM shadows it with small pages, of which only the
// victim's may go: not the page table that maps them, also if it begins where the victim does.
TEST_P(Nested, LargeNestedEntryOverTwoSlots) {
  for (const bool victim_first : {true, false}) {
    SCOPED_TRACE(victim_first ? "the first one goes" : "the second one goes");
    NestedVm vm(Config(), support());
    MemorySlot first = vm.AddFilledSlot(kData, 1_MiB, kSeed);
    MemorySlot second = vm.AddFilledSlot(kData + 1_MiB, 1_MiB, kSeed + 1);
    vm.nested().MapIdentity({kData, 2_MiB}, GuestPageSize::k2M);
    ASSERT_THAT(vm.l2().Verify({PatternOf(first, kSeed), PatternOf(second, kSeed + 1)}),
                SeesPattern());

    MemorySlot& victim = victim_first ? first : second;
    const Pattern neighbour = victim_first ? PatternOf(second, kSeed + 1) : PatternOf(first, kSeed);
    ZapWatch watch(vm.vm());
    victim.Delete();
    ExpectOnlyLeavesWent(watch.Stop(), victim.range().pages(), {});
    ExpectRefaults(vm, "L2", [&] { EXPECT_THAT(vm.l2().Verify({neighbour}), SeesPattern()); });
    EXPECT_THAT(vm.l2().TouchRead({victim.range()}), FindsNothingIn(victim.range()));
    victim.AddWith(FilledMemory(1_MiB, kOtherSeed));
    EXPECT_THAT(vm.l2().Verify({neighbour, PatternOf(victim, kOtherSeed)}), SeesPattern());
  }
}

// Large SPTEs for L2: those of the slot go, its neighbours' stay.
TEST_P(Nested, LargePages) {
  constexpr uint64_t kPages = 3;
  if (const std::string reason = BackingUnavailable(Backing::k2M, kPages); !reason.empty())
    GTEST_SKIP() << reason;
  NestedVm vm(Config(), support());
  std::vector<MemorySlot> slots;
  for (uint64_t i = 0; i < kPages; i++) {
    slots.push_back(vm.AddFilledSlot(kData + i * 2_MiB, 2_MiB, kSeed + i, Backing::k2M));
    vm.nested().MapIdentity(slots.back().range(), GuestPageSize::k2M);
  }
  const auto touch = [&] { return vm.l2().TouchRead({slots[0].range(), slots[2].range()}); };
  const Leaves none = PresentLeaves(vm.vm().stats().Read());
  ASSERT_THAT(vm.l2().TouchRead({slots[1].range()}), Succeeds());
  ASSERT_THAT(touch(), Succeeds());
  const Leaves mapped = PresentLeaves(vm.vm().stats().Read()) - none;
  ASSERT_EQ(mapped.k2M, static_cast<int64_t>(kPages)) << mapped;

  ZapWatch watch(vm.vm());
  slots[1].Delete();
  const ZapReport report = watch.Stop();
  if (slot_zap_all()) {
    EXPECT_THAT(report, ZappedEverything());
  } else {
    EXPECT_EQ(report.dropped(), (Leaves{.k2M = 1})) << kPrecision << report;
    EXPECT_GE(report.flush_requests, 1u) << kPrecision << report;
    EXPECT_EQ(report.shadow_zapped, 0u) << kPrecision << report;
  }
  ExpectRefaults(vm, "L2", [&] { EXPECT_THAT(touch(), Succeeds()); });
  EXPECT_THAT(vm.l2().Read(slots[1].page(7)), IsMmioReadAt(slots[1].page(7)));
}

// The host takes memory away that only L2 has mapped: its pages may be somebody else's next.
TEST_P(Nested, TheHostUnmapsWhatOnlyL2Maps) {
  NestedVm vm(Config(), support());
  const auto memory = GuestMemory::Anonymous(64_KiB);
  MemorySlot slot = vm.vm().AddSlot({.gpa = kData, .memory = memory});
  vm.nested().MapIdentity(slot.range(), GuestPageSize::k4K);
  EXPECT_EQ(FewestFlushes(
                vm, [&] { ASSERT_THAT(vm.l2().TouchWrite({slot.range()}), Succeeds()); },
                [&] { memory->Unmap(0, 64_KiB); }),
            1u);
  FillMemory(*memory, {.pages = 16, .seed = kOtherSeed});
  EXPECT_THAT(vm.l2().Verify({PatternOf(slot, kOtherSeed)}), SeesPattern());
}

// One entry of L1's tables maps more than the slot has in large pages: the shadow page that stands
// in for it has a leaf for each of the slot's pages, and nothing is left of it without.
TEST_P(Nested, ShadowPagesThatAreEmptyGo) {
  NestedVm vm(Config(), support());
  MemorySlot first = vm.AddFilledSlot(kData, 1_MiB, kSeed);
  MemorySlot second = vm.AddFilledSlot(kData + 1_MiB, 1_MiB, kSeed + 1);
  vm.nested().MapIdentity({kData, 2_MiB}, GuestPageSize::k2M);
  const auto touch = [&] {
    ASSERT_THAT(vm.l2().Verify({PatternOf(first, kSeed), PatternOf(second, kSeed + 1)}),
                SeesPattern());
  };
  for (MemorySlot* last : {&first, &second}) {
    MemorySlot& other = last == &first ? second : first;
    touch();
    touch();
    other.Delete();
    ZapWatch watch(vm.vm());
    last->Delete();
    const ZapReport report = watch.Stop();
    if (!slot_zap_all() && report.untraced.empty()) {
      EXPECT_TRUE(std::ranges::any_of(report.emptied,
                                      [](const PreparedZapPage& page) {
                                        return page.direct && page.gfn == kData >> kPageShift;
                                      }))
          << kPrecision << report;
    }
    first.Add();
    second.Add();
  }
  touch();
}

// What KVM has for a memslot only once there is a nested guest, it has for SMM's slots, too, that
// were there before.
TEST_P(Nested, SmmsSlotsFromBefore) {
  if (Kvm().CheckExtension(KVM_CAP_X86_SMM) == 0)
    GTEST_SKIP() << "this KVM has no System Management Mode";
  NestedVm vm(Config(), support());
  Smm smm(vm.vm());
  MemorySlot slot = vm.vm().AddSlot(
      {.gpa = kData, .memory = FilledMemory(64_KiB, kSeed), .address_space = Smm::kAddressSpace});
  const Outcome first = smm.TouchRead(vm.guest(), slot.range());
  ASSERT_THAT(first, Succeeds());
  ASSERT_THAT(vm.l2().Nop(), Succeeds());
  EXPECT_THAT(smm.TouchRead(vm.guest(), slot.range()), Returns(first.value));
  slot.SetFlags(KVM_MEM_LOG_DIRTY_PAGES);
  EXPECT_THAT(smm.TouchWrite(vm.guest(), {slot.page(5), kPageSize}, 1), Succeeds());
  EXPECT_THAT(slot.GetDirtyLog().Set(), ElementsAre(5));
  slot.Delete();
  // Two reads of 4 bytes a page.
  EXPECT_EQ(smm.TouchRead(vm.guest(), slot.range()).mmio_count, 2 * slot.range().pages());
  slot.Add();
  EXPECT_THAT(smm.TouchRead(vm.guest(), slot.range()), Succeeds());
  EXPECT_THAT(vm.l2().Nop(), Succeeds());
}

// L1's tables for L2 are in memory that goes: L2 can't go on, L1 can.  Tables in their place count
// as if the old ones had never been.
class NestedTables : public Nested {
 protected:
  // The first `upper` pages of the tables stay, unless `all` go.
  void DeleteTablesAndGoOn(uint64_t upper, bool all = false);
};

void NestedTables::DeleteTablesAndGoOn(uint64_t upper, bool all) {
  NestedVm vm(Config(), support(), upper);
  const auto delete_tables = [&] {
    vm.lower_slot().Delete();
    if (all) vm.upper_slot().Delete();
  };
  // Each has a table of the last level.
  std::vector<MemorySlot> slots;
  std::vector<Pattern> patterns;
  for (uint64_t i = 0; i < 3; i++) {
    slots.push_back(vm.AddMappedSlot(kData + i * 2_MiB, 64_KiB, kSeed + i));
    patterns.push_back(PatternOf(slots.back(), kSeed + i));
  }
  MemorySlot other = vm.AddFilledSlot(kData + 1_MiB, 64_KiB, kOtherSeed);
  const auto verify_all = [&](auto& guest) {
    EXPECT_THAT(guest.Verify({patterns[0], patterns[1], patterns[2]}), SeesPattern());
  };
  const auto find_nothing = [&] {
    for (const MemorySlot& slot : slots)
      EXPECT_THAT(vm.l2().Read(slot.page(0)), EndsByNestedFault());
  };
  for (int i = 0; i < 2; i++) {
    ASSERT_THAT(vm.guest().Verify({PatternOf(other, kOtherSeed)}), SeesPattern());
    verify_all(vm.guest());
    verify_all(vm.l2());
  }

  ZapWatch watch(vm.vm());
  delete_tables();
  const ZapReport report = watch.Stop();
  ExpectRefaults(vm, "L1", [&] { verify_all(vm.guest()); });
  if (!slot_zap_all() && report.untraced.empty()) {
    // Exactly the tables' shadow pages, and, of those below, such that map the large pages that
    // every guest has.
    std::set<Gfn> zapped;
    for (const PreparedZapPage& page : report.shadow_pages) {
      if (!page.direct)
        EXPECT_TRUE(zapped.insert(page.gfn).second) << kPrecision << report;
      else
        EXPECT_LT(page.gfn, NestedGuest::kNeeded.end_gfn()) << kPrecision << report;
    }
    std::set<Gfn> expected;
    for (Gpa gpa = all ? kTables : vm.lower_slot().range().start; gpa < vm.nested().used().end();
         gpa += kPageSize)
      expected.insert(gpa >> kPageShift);
    EXPECT_EQ(zapped, expected) << kPrecision << report;
    EXPECT_EQ(report.zap_all, 0u) << kPrecision << report;
    EXPECT_TRUE(report.leaves.empty()) << kPrecision << report;
    EXPECT_TRUE(report.tables.empty()) << kPrecision << report;
  }
  find_nothing();

  // The same tables again.
  vm.lower_slot().Add();
  if (all) vm.upper_slot().Add();
  verify_all(vm.l2());
  // Others, by which the same address is other memory; with L2 failing in between, and without.
  // Those that stay point to the same pages.
  for (const bool use_in_between : {true, false}) {
    const auto memory = std::make_shared<GuestMemory>(kTablesSize);
    PageTables tables = vm.MakeTables(*memory, kTables);
    const MemorySlot& seen = use_in_between ? other : slots[1];
    tables.Map(kData, seen.range().start, 64_KiB, GuestPageSize::k4K);
    delete_tables();
    if (use_in_between) find_nothing();
    vm.AddLower(memory);
    if (all) vm.AddUpper(memory);
    EXPECT_THAT(vm.l2().Verify(
                    {{.range = slots[0].range(), .seed = use_in_between ? kOtherSeed : kSeed + 1}}),
                SeesPattern());
    EXPECT_THAT(vm.l2().Read(slots[1].page(0)), EndsByNestedFault());
  }
}

// Root, and one table each of levels 3 and 2 for what every guest needs, one of level 2 for data.
TEST_P(NestedTables, OfTheLastLevel) { DeleteTablesAndGoOn(4); }

TEST_P(NestedTables, BelowTheRoot) { DeleteTablesAndGoOn(1); }

TEST_P(NestedTables, WithTheRoot) {
  if (const std::string reason = RootMustStay(); !reason.empty()) GTEST_SKIP() << reason;
  DeleteTablesAndGoOn(1, /*all=*/true);
}

// As above, but L2 has other tables by then: it keeps what it has mapped through those.
TEST_P(NestedTables, NoLongerInUse) {
  NestedVm vm(Config(), support());
  MemorySlot data = vm.AddMappedSlot(kData, 64_KiB, kSeed);
  MemorySlot other_slot = vm.AddSlot(kTables + kTablesSize, kTablesSize);
  PageTables others = vm.MakeTables(other_slot.memory(), other_slot.range().start);
  others.MapIdentity(data.range(), GuestPageSize::k4K);
  ASSERT_THAT(vm.l2().Verify({PatternOf(data, kSeed)}), SeesPattern());
  vm.l2().UseTables(others);
  for (int i = 0; i < 2; i++) ASSERT_THAT(vm.l2().Verify({PatternOf(data, kSeed)}), SeesPattern());

  ZapWatch watch(vm.vm());
  vm.lower_slot().Delete();
  vm.upper_slot().Delete();
  const ZapReport report = watch.Stop();
  ExpectRefaults(vm, "L2",
                 [&] { EXPECT_THAT(vm.l2().Verify({PatternOf(data, kSeed)}), SeesPattern()); });
  if (!slot_zap_all()) {
    EXPECT_EQ(report.shadow_zapped, vm.nested().used().pages()) << kPrecision << report;
  }
  vm.upper_slot().Add();
  vm.l2().UseTables(vm.nested());
  EXPECT_THAT(vm.l2().Nop(), EndsByNestedFault());
  vm.lower_slot().Add();
  EXPECT_THAT(vm.l2().Verify({PatternOf(data, kSeed)}), SeesPattern());
}

// Pages that were nested tables are ordinary pages after their slot went and came again: KVM
// neither protects them from writes nor takes what L1 writes there for entries.
TEST_P(NestedTables, AreOrdinaryMemoryAfterwards) {
  NestedVm vm(Config(), support());
  MemorySlot data = vm.AddMappedSlot(kData, 64_KiB, kSeed);
  MemorySlot other_slot = vm.AddSlot(kTables + 2_MiB, kTablesSize);
  PageTables others = vm.MakeTables(other_slot.memory(), other_slot.range().start);
  others.MapIdentity(data.range(), GuestPageSize::k4K);
  ASSERT_THAT(vm.l2().Verify({PatternOf(data, kSeed)}), SeesPattern());
  vm.lower_slot().Delete();
  vm.upper_slot().Delete();
  const auto memory = std::make_shared<GuestMemory>(kTablesSize);
  vm.AddUpper(memory);
  vm.AddLower(memory);
  vm.l2().UseTables(others);
  ASSERT_THAT(vm.l2().Verify({PatternOf(data, kSeed)}), SeesPattern());

  // A page that is write-protected takes a fault per write, or more.
  const GpaRange former = {kTables, kTablesSize};
  ASSERT_THAT(vm.guest().TouchWrite({former}), Succeeds());
  const uint64_t taken = vm.guest().vcpu().stats().Read("pf_taken");
  ASSERT_THAT(vm.guest().Fill({{.range = former, .seed = kOtherSeed}}), Succeeds());
  EXPECT_EQ(vm.guest().vcpu().stats().Read("pf_taken"), taken)
      << kPrecision << "writes were trapped";
  EXPECT_THAT(vm.guest().Verify({{.range = former, .seed = kOtherSeed}}), SeesPattern());
  EXPECT_THAT(vm.l2().Verify({PatternOf(data, kSeed)}), SeesPattern());
}

// A VM goes while KVM has all that a nested guest makes it have, in whatever state its slots are.
// A shadow page that outlived its memslot is freed then, and looks for it.
TEST_P(Nested, TheVmGoesWhileL2IsLive) {
  struct Case {
    const char* name;
    // What goes while L2 runs, and what goes when it has been interrupted.
    bool data = false, lower = false, lower_again = false, later_root = false, later_all = false;
  };
  for (const Case& gone :
       {Case{.name = "all slots are there"}, Case{.name = "data gone", .data = true},
        Case{.name = "lower tables gone", .lower = true},
        Case{.name = "lower tables gone and back", .lower = true, .lower_again = true},
        Case{.name = "root gone later", .later_root = true},
        Case{.name = "all gone",
        .data = true,
        .lower = true,
        .later_root = true,
        .later_all = true}}) {
    SCOPED_TRACE(gone.name);
    NestedVm vm(Config(2), support());
    MemorySlot data = vm.AddMappedSlot(kData, 64_KiB, kSeed);
    ASSERT_THAT(vm.l2(0).Verify({PatternOf(data, kSeed)}), SeesPattern());
    vm.l2(1).set_restart(true);
    VerifyLoop loop(vm.l2(1), {PatternOf(data, kSeed)});
    loop.WaitForPasses(1);
    if (gone.data) data.Delete();
    if (gone.lower) vm.lower_slot().Delete();
    if (gone.lower_again) {
      vm.lower_slot().Add();
      loop.WaitForPasses(1);
    }
    EXPECT_EQ(loop.Abandon().verdict.wrong, 0u);
    if (gone.later_root) vm.upper_slot().Delete();
    if (gone.later_all) {
      vm.agent_slot().Delete();
      vm.tables_slot().Delete();
    }
  }
}

class NestedStress : public Nested {
 protected:
  void SetUp() override {
    Nested::SetUp();
    if (IsSkipped()) return;
    SetTestTimeout(std::chrono::seconds(180));
  }
};

// L2 on one vCPU sees what is always there, on another what comes and goes, with other memory each
// time, next to it.
TEST_P(NestedStress, SlotsComeAndGoWhileL2Runs) {
  NestedVm vm(Config(3), support());
  constexpr uint64_t kSize = 64_KiB;
  MemorySlot resident = vm.AddMappedSlot(kData, 256_KiB, kSeed);
  MemorySlot slot = vm.AddMappedSlot(resident.range().end(), kSize, kSeed + 1);
  MemorySlot changing = vm.AddMappedSlot(slot.range().end(), kSize, kSeed + 2);
  VerifyLoop always(vm.l2(1), {PatternOf(resident, kSeed)});
  VerifyLoop sometimes(vm.l2(2), {PatternOf(slot, kSeed + 1)});
  always.WaitForPasses(1);
  for (uint64_t round = 0; round < 24; round++) {
    const Gpa home = slot.range().start;
    if (round % 3 == 0) {
      slot.MoveTo(7_GiB);
      if (round % 2 == 0) sometimes.WaitForPasses(1);
      slot.MoveTo(home);
    } else {
      slot.Delete();
      if (round % 2 == 0) sometimes.WaitForPasses(1);
      slot.Add();
    }
    if (round % 4 == 0) sometimes.WaitForPasses(1);
    changing.Delete();
    changing.AddWith(FilledMemory(kSize, kSeed + 3 + round));
    ASSERT_THAT(vm.l2(0).Verify({PatternOf(changing, kSeed + 3 + round)}), SeesPattern())
        << "round " << round;
  }
  always.WaitForPasses(1);
  sometimes.WaitForPasses(1);
  EXPECT_THAT(always.Stop(), SeesPattern());
  const Outcome& outcome = sometimes.Stop();
  EXPECT_TRUE(outcome.done) << outcome;
  EXPECT_EQ(outcome.verdict.wrong, 0u) << outcome;
  EXPECT_GT(outcome.verdict.matches, 0u) << outcome;
  EXPECT_GT(outcome.verdict.absent, 0u) << outcome;
  EXPECT_THAT(vm.l2(0).Verify({PatternOf(resident, kSeed), PatternOf(slot, kSeed + 1)}),
              SeesPattern());
}

// The nested tables themselves come and go, with an address in them that each time means other
// memory.
class NestedTablesStress : public NestedStress {
 protected:
  void LetTablesComeAndGo(bool root);
};

void NestedTablesStress::LetTablesComeAndGo(bool root) {
  NestedVm vm(Config(2), support());
  MemorySlot resident = vm.AddMappedSlot(kData, 64_KiB, kSeed);
  std::vector<MemorySlot> targets;
  std::vector<std::shared_ptr<GuestMemory>> tables_memory;
  constexpr Gpa kAlias = 6_GiB;
  for (uint64_t i = 0; i < 2; i++) {
    targets.push_back(vm.AddFilledSlot(kData + 1_MiB + i * 64_KiB, 64_KiB, kSeed + 1 + i));
    tables_memory.push_back(std::make_shared<GuestMemory>(kTablesSize));
    PageTables tables = vm.MakeTables(*tables_memory.back(), kTables);
    tables.MapIdentity(resident.range(), GuestPageSize::k4K);
    tables.Map(kAlias, targets.back().range().start, 64_KiB, GuestPageSize::k4K);
  }
  vm.l2(1).set_restart(true);
  VerifyLoop loop(vm.l2(1), {PatternOf(resident, kSeed)});
  loop.WaitForPasses(1);
  for (uint64_t round = 0; round < 12; round++) {
    const auto& memory = tables_memory[round % 2];
    vm.lower_slot().Delete();
    if (root) vm.upper_slot().Delete();
    if (round % 2 == 0) loop.WaitForNestedFaults(1);
    vm.AddLower(memory);
    if (root) vm.AddUpper(memory);
    ASSERT_THAT(vm.l2(0).Verify({{.range = {kAlias, 64_KiB}, .seed = kSeed + 1 + round % 2}}),
                SeesPattern())
        << "round " << round;
    loop.WaitForPasses(1);
  }
  const Outcome& outcome = loop.Stop();
  EXPECT_TRUE(outcome.done) << outcome;
  EXPECT_EQ(outcome.verdict.wrong, 0u) << outcome;
  EXPECT_EQ(outcome.verdict.absent, 0u) << outcome;
  EXPECT_GT(outcome.verdict.matches, 0u) << outcome;
  EXPECT_GE(outcome.nested_faults, 6u);
}

TEST_P(NestedTablesStress, BelowTheRoot) { LetTablesComeAndGo(false); }

TEST_P(NestedTablesStress, WithTheRoot) {
  if (const std::string reason = RootMustStay(); !reason.empty()) GTEST_SKIP() << reason;
  LetTablesComeAndGo(true);
}

// The first nested guest of a VM with the TDP MMU makes KVM allocate rmaps for all memslots, while
// one of them goes.
TEST_P(NestedStress, FirstL2AppearWhileASlotGoes) {
  for (int round = 0; round < 8; round++) {
    NestedVm vm(Config(2), support());
    MemorySlot data = vm.AddMappedSlot(kData, 64_KiB, kSeed);
    MemorySlot slot = vm.AddMappedSlot(kData + 1_MiB, 64_KiB, kSeed + 1);
    ASSERT_THAT(vm.guest().Verify({PatternOf(slot, kSeed + 1)}), SeesPattern());
    AsyncCommand first(vm.guest(1),
                       [&](Guest&) { return vm.l2(1).Verify({PatternOf(data, kSeed)}); });
    do {
      slot.Delete();
      slot.Add();
    } while (!first.ended());
    ASSERT_THAT(first.Join(), SeesPattern());
    ASSERT_THAT(vm.l2().Verify({PatternOf(slot, kSeed + 1)}), SeesPattern());
    slot.Delete();
    ASSERT_THAT(vm.l2().TouchRead({slot.range()}), FindsNothingIn(slot.range()));
  }
}

// As above, with the window held open: a slot is INVALID, and KVM waits for a fault elsewhere that
// the host takes its time for, when the first L2 makes it allocate rmaps.  They go to the INVALID
// copy; the slot that is then zapped has none.
class NestedStressRmaps : public NestedStress {
 protected:
  // The update is called `name` in the report.
  void During(const char* name, const std::function<KvmStatus(MemorySlot&)>& update,
              const testing::Matcher<const KvmStatus&>& result,
              const std::function<void(NestedVm&, MemorySlot&)>& check);
};

void NestedStressRmaps::During(const char* name,
                               const std::function<KvmStatus(MemorySlot&)>& update,
                               const testing::Matcher<const KvmStatus&>& result,
                               const std::function<void(NestedVm&, MemorySlot&)>& check) {
  if (const std::string reason = Userfaultfd::Unavailable(); !reason.empty())
    GTEST_SKIP() << reason;
  NestedVm vm(Config(2), support());
  // More than the 2 MiB that the walk on Linux 6.1 takes as a step: at the first page of a slot
  // without rmaps it would find a null pointer, which ends the walk, and only later a wild one.
  MemorySlot slot = vm.AddMappedSlot(kData, 4_MiB, kSeed);
  GatedMemory elsewhere("bystander", 2_MiB, kSeed + 1);
  MemorySlot other = vm.vm().AddSlot({.gpa = kData + 4_MiB, .memory = elsewhere.memory()});

  Race race;
  Race::Command& reader =
      race.Start(vm.guest(0), [&](Guest& guest) { return guest.Read(other.page(0)); });
  race.AwaitSleeping(reader, elsewhere, 0);
  Race::Call& call = race.Start(name, [&] { return update(slot); });
  race.AwaitWaiting(call, Waits::kForReaders);
  race.Do("the first L2 runs", [&] { EXPECT_THAT(vm.l2(1).Nop(), Succeeds()); });
  race.Provide(elsewhere, 0);
  EXPECT_THAT(call.run.Join(), result);
  EXPECT_THAT(reader.run.Join(), Returns(elsewhere.word(0)));
  race.ExpectOrder({"vCPU 0 sleeps for page 0 of the bystander",
                    std::string(name) + " waits for readers", "the first L2 runs",
                    "page 0 of the bystander comes", std::string(name) + " returned"});
  check(vm, slot);
}

TEST_P(NestedStressRmaps, AppearWhileASlotGoes) {
  During(
      "delete", [](MemorySlot& slot) { return slot.TryDelete(); }, IsOk(),
      [](NestedVm& vm, MemorySlot& slot) {
        EXPECT_THAT(vm.l2(1).Read(slot.page(0)), IsMmioReadAt(slot.page(0)));
        slot.Add();
        EXPECT_THAT(vm.l2(1).Verify({PatternOf(slot, kSeed)}), SeesPattern());
      });
}

// A move that KVM finds it can't make when it has let go of the slot: what takes its place again
// has the rmaps.
TEST_P(NestedStressRmaps, AppearWhileASlotFailsToMove) {
  During(
      "move", [](MemorySlot& slot) { return slot.TryMoveTo(1ull << 52); }, FailsWith(EINVAL),
      [](NestedVm& vm, MemorySlot& slot) {
        EXPECT_THAT(vm.l2(1).Verify({PatternOf(slot, kSeed)}), SeesPattern());
        slot.SetFlags(KVM_MEM_LOG_DIRTY_PAGES);
        EXPECT_THAT(vm.l2(1).Write(slot.page(600), 1), Succeeds());
        EXPECT_THAT(slot.GetDirtyLog().Set(), ElementsAre(600));
        slot.Delete();
        EXPECT_THAT(vm.l2(1).Read(slot.page(0)), IsMmioReadAt(slot.page(0)));
      });
}

SLOTZAP_INSTANTIATE(NestedStressRmaps);

// A page fault that sleeps still uses the memslot that it began with.  When that was replaced, and
// only then the first L2 made KVM allocate what memslots have for shadow pages, it has none of it
// (but for rmaps in legacy mode, and for the counts of write-tracked gfns on a 6.1 that is built
// for KVMGT).
class NestedLateRmaps : public NestedStress {
 protected:
  // `name` is what replaces the slot, e.g. "delete".
  void Replace(const std::string& name, const std::function<KvmStatus(MemorySlot&)>& ioctl,
               const std::function<void(NestedVm&, MemorySlot&, const Outcome&)>& check);
};

void NestedLateRmaps::Replace(
    const std::string& name, const std::function<KvmStatus(MemorySlot&)>& ioctl,
    const std::function<void(NestedVm&, MemorySlot&, const Outcome&)>& check) {
  if (CurrentMmuMode() == MmuMode::kShadow)
    GTEST_SKIP()
        << "without nested paging, memslots have what shadow pages take from the beginning";
  if (const std::string reason = Userfaultfd::Unavailable(); !reason.empty())
    GTEST_SKIP() << reason;
  if (const std::string reason =
          KnownBug("a fault on a memslot that was replaced follows a null pointer");
      !reason.empty())
    GTEST_SKIP() << reason;
  NestedVm vm(Config(2), support());
  GatedMemory memory("victim", 2_MiB, kSeed);
  MemorySlot slot = vm.vm().AddSlot({.gpa = kData, .memory = memory.memory()});
  vm.nested().MapIdentity(slot.range(), GuestPageSize::k4K);

  Race race;
  Race::Command& writer =
      race.Start(vm.guest(0), [&](Guest& guest) { return guest.Write(slot.page(3), kOtherSeed); });
  race.AwaitSleeping(writer, memory, 3);
  Race::Call& update = race.Start(name, [&] { return ioctl(slot); });
  race.AwaitWaiting(update, Waits::kForReaders);
  race.Do("the first L2 runs", [&] { EXPECT_THAT(vm.l2(1).Nop(), Succeeds()); });
  race.Provide(memory, 3);
  EXPECT_THAT(update.run.Join(), IsOk());
  check(vm, slot, writer.run.Join());
  race.ExpectOrder({"vCPU 0 sleeps for page 3 of the victim", name + " waits for readers",
                    "the first L2 runs", "page 3 of the victim comes", name + " returned"});
}

TEST_P(NestedLateRmaps, ASlotIsDeletedUnderAFault) {
  const auto erase = [](MemorySlot& slot) { return slot.TryDelete(); };
  Replace("delete", erase, [](NestedVm& vm, MemorySlot& slot, const Outcome& outcome) {
    // It is retried, and finds the slot gone.  A 6.1 may have had all it takes in the old one.
    if (KernelIsAtLeast("6.12")) {
      EXPECT_THAT(outcome, IsMmioWriteAt(slot.page(3), kOtherSeed));
    } else {
      EXPECT_THAT(outcome, AnyOf(IsMmioWriteAt(slot.page(3), kOtherSeed), Succeeds()));
    }
    EXPECT_THAT(vm.l2(1).Read(slot.page(3)), IsMmioReadAt(slot.page(3)));
  });
}

TEST_P(NestedLateRmaps, ASlotIsLoggedUnderAFault) {
  const auto log = [](MemorySlot& slot) { return slot.TrySetFlags(KVM_MEM_LOG_DIRTY_PAGES); };
  Replace("log", log, [](NestedVm& vm, MemorySlot& slot, const Outcome& outcome) {
    EXPECT_THAT(outcome, Succeeds());
    // If it wasn't retried, the log began after it.
    if (KernelIsAtLeast("6.12")) {
      EXPECT_THAT(slot.GetDirtyLog().Set(), ElementsAre(3));
    } else {
      EXPECT_THAT(slot.GetDirtyLog().Set(), AnyOf(ElementsAre(3), IsEmpty()));
    }
    EXPECT_THAT(vm.l2(1).Read(slot.page(3)), Returns(kOtherSeed));
  });
}

// The host unmaps a page that L2 has as a large one, and gives mmu_lock up on the way.  Meanwhile
// the large page is split, for the dirty log: what it is split into has to go as well.
TEST_P(NestedStress, ALargePageIsSplitWhileItIsUnmapped) {
  if (CurrentMmuMode() != MmuMode::kTdp)
    GTEST_SKIP() << "only in tdp mode KVM splits large pages for the dirty log";
  if (!KernelIsAtLeast("6.12")) GTEST_SKIP() << "unmapping by the host doesn't yield here";
  if (const std::string reason = BackingUnavailable(Backing::k2M, 1); !reason.empty())
    GTEST_SKIP() << reason;
  if (const std::string reason = TestDevice::Unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  if (const std::string reason =
          KnownBug("a large page that is split while it is unmapped stays mapped");
      !reason.empty())
    GTEST_SKIP() << reason;
  const std::vector<int> cpus = AllowedCpus();
  if (cpus.size() < 2) GTEST_SKIP() << "needs a CPU for the thread that is held, and another one";
  const CpuPin others(cpus[1]);

  NestedVm vm(Config(), support());
  vm.vm().EnableCap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
                    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
  MemorySlot slot = vm.AddFilledSlot(kData, 2_MiB, kSeed, Backing::k2M);
  vm.nested().MapIdentity(slot.range(), GuestPageSize::k2M);
  const auto leaves = [&] { return PresentLeaves(vm.vm().stats().Read()); };
  ASSERT_THAT(vm.l2().Nop(), Succeeds());
  const Leaves without = leaves();
  ASSERT_THAT(vm.l2().Verify({PatternOf(slot, kSeed)}), SeesPattern());
  ASSERT_EQ(leaves() - without, (Leaves{.k2M = 1}));
  slot.SetFlags(KVM_MEM_LOG_DIRTY_PAGES);
  ASSERT_EQ(leaves() - without, (Leaves{.k2M = 1})) << "the log itself split it";

  Race race;
  Hold hold(vm, SLOTZAP_TEST_MMU_LOCK_AGAIN);
  if (!hold.Unavailable().empty()) GTEST_SKIP() << hold.Unavailable();
  Race::Call& unmap = race.Start("unmap", [&] {
    const CpuPin pin(cpus[0]);
    slot.memory().Free(0, 2_MiB);
    return KvmStatus("madvise(MADV_REMOVE)", 0, 0);
  });
  hold.Await(race, "unmap gave mmu_lock up");
  race.Do("the large page is split", [&] {
    slot.ClearDirtyLog(slot.GetDirtyLog());
    EXPECT_EQ(leaves() - without, (Leaves{.k4K = 512}));
  });
  hold.Release(race, "unmap goes on");
  EXPECT_THAT(unmap.run.Join(), IsOk());
  race.ExpectOrder(
      {"unmap gave mmu_lock up", "the large page is split", "unmap goes on", "unmap returned"});
  EXPECT_EQ(leaves(), without) << "what the host unmapped is still mapped for L2";
}

SLOTZAP_INSTANTIATE(Nested);
SLOTZAP_INSTANTIATE(NestedTables);
SLOTZAP_INSTANTIATE(NestedStress);
SLOTZAP_INSTANTIATE(NestedLateRmaps);
SLOTZAP_INSTANTIATE(NestedTablesStress);

}  // namespace
}  // namespace slotzap

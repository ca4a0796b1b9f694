// SPDX-License-Identifier: GPL-2.0-only
// Theme: the guest's paging modes.  Shadow paging has other shadow pages for each: direct ones for
// a guest without paging; four roots for a page directory of a 32-bit guest, and two shadow pages
// for each of its page tables; roots that are no shadow pages for PAE; a level more for 5-level
// paging.
#include <list>
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "guest/bare_vcpu.h"
#include "tests/slot_test.h"

namespace slotzap {
namespace {

constexpr uint64_t kSeed = 0xda7a;
constexpr uint64_t kOtherSeed = 0x07e5;
// Half of it is in the one, half in the other shadow page of a 32-bit guest's page table.
constexpr GpaRange kData = {1_GiB + 2_MiB - 32_KiB, 64_KiB};
constexpr GpaRange kBystander = {2_GiB, 64_KiB};
constexpr GpaRange kMoved = {2_GiB + 1_MiB, 64_KiB};
constexpr GpaRange kOther = {3_GiB, 64_KiB};
constexpr uint64_t kTablesSize = 64_KiB;

// What the page tables of the guest map, each at its own address, but for kData.
PageTables MakeTables(const GuestMemory& memory, GpaRange range, GpaRange window, PagingMode mode,
                      GpaRange data) {
  PageTables tables(memory, range, window, FormatOf(mode));
  tables.MapIdentity(BareVcpu::kCode, GuestPageSize::k4K);
  tables.Map(kData.start, data.start, data.size, GuestPageSize::k4K);
  tables.MapIdentity(kBystander, GuestPageSize::k4K);
  tables.MapIdentity(kMoved, GuestPageSize::k4K);
  return tables;
}

// The pages of the tables, which are the last ones of the slot.
GpaRange TablesWindow(PagingMode mode, GpaRange slot) {
  const GuestMemory scratch(slot.size);
  const uint64_t size = MakeTables(scratch, slot, slot, mode, kData).used().size;
  return {slot.end() - size, size};
}

// How many shadow pages KVM has for each of the tables that MakeTables() makes, by gfn.
std::map<Gfn, int> ShadowPages(PagingMode mode, const GpaRange& tables) {
  std::map<Gfn, int> pages;
  for (Gfn gfn = tables.first_gfn(); gfn < tables.end_gfn(); gfn++) pages[gfn] = 1;
  const Gfn root = tables.first_gfn();
  if (mode == PagingMode::k32Bit) {
    // Each maps a quarter of what the page directory does (mmu_alloc_shadow_roots()), or half of
    // what a page table does: MakeTables() makes that of kData after the code's.
    pages[root] = 4;
    pages[root + 2] = 2;
  } else if (mode == PagingMode::kPae) {
    pages.erase(root);  // kvm_mmu::pae_root is not a shadow page
  }
  return pages;
}

// What TouchRead() of a filled slot returns.
uint64_t SumOf(const MemorySlot& slot) {
  uint64_t sum = 0;
  for (Gpa page = slot.range().start; page < slot.range().end(); page += kPageSize)
    sum += slot.Load(page);
  return sum & 0xffffffff;
}

// Each access was MMIO.
testing::Matcher<const Outcome&> FindsNoMemory(const GpaRange& range) {
  const uint64_t sum = range.pages() * 0xffffffff & 0xffffffff;
  return testing::AllOf(testing::Field("done", &Outcome::done, true),
                        testing::Field("mmio_count", &Outcome::mmio_count, range.pages()),
                        testing::Field("value", &Outcome::value, sum));
}

// A VM with one vCPU, no agent, and memory where MakeTables() expects it.
struct PagingVm : TestVm {
  explicit PagingVm(bool slot_zap_all)
      : TestVm({.slot_zap_all = slot_zap_all, .vcpus = 0}),
        cpu(vm()),
        data(AddFilledSlot(kData.start, kData.size, kSeed)),
        bystander(AddFilledSlot(kBystander.start, kBystander.size, kSeed + 1)) {}

  // The vCPU enters a mode, with page tables of its own that fill the end of a memslot.
  MemorySlot& EnterWithTables(PagingMode mode, Gpa slot_gpa) {
    MemorySlot& slot = tables.emplace_back(AddSlot(slot_gpa, kTablesSize));
    const GpaRange window = TablesWindow(mode, slot.range());
    cpu.Enter(mode, MakeTables(slot.memory(), slot.range(), window, mode, kData).root());
    return slot;
  }
  void TouchAll() {
    ASSERT_THAT(cpu.TouchRead(kData), Returns(SumOf(data)));
    ASSERT_THAT(cpu.TouchWrite(kData, kWord), Returns(kData.pages() * kWord));
    ASSERT_THAT(cpu.TouchWrite(kBystander, kWord), Returns(kBystander.pages() * kWord));
  }
  uint64_t Faults() { return cpu.vcpu().stats().Read("pf_fixed"); }

  static constexpr uint32_t kWord = 0x5a5a;
  BareVcpu cpu;
  MemorySlot data;
  MemorySlot bystander;
  std::list<MemorySlot> tables;
};

using Param = std::tuple<PagingMode, bool>;

std::string ParamName(const testing::TestParamInfo<Param>& info) {
  static const std::map<PagingMode, std::string> kNames = {{PagingMode::kNone, "Unpaged"},
                                                           {PagingMode::k32Bit, "ThirtyTwoBit"},
                                                           {PagingMode::kPae, "Pae"},
                                                           {PagingMode::k4Level, "FourLevels"},
                                                           {PagingMode::k5Level, "FiveLevels"}};
  const auto& [mode, slot_zap_all] = info.param;
  return kNames.at(mode) + (slot_zap_all ? "ZapAll" : "LeafOnly");
}

class PagingModes : public testing::TestWithParam<Param> {
 protected:
  void SetUp() override {
    if (const std::string reason = SlotTestUnavailable(slot_zap_all()); !reason.empty())
      GTEST_SKIP() << reason;
    if (const std::string reason = PagingModeUnavailable(Kvm(), mode()); !reason.empty())
      GTEST_SKIP() << reason;
  }

  PagingMode mode() const { return std::get<0>(GetParam()); }
  bool slot_zap_all() const { return std::get<1>(GetParam()); }

  void Enter(PagingVm& vm) const {
    if (mode() == PagingMode::kNone)
      vm.cpu.Enter(mode());
    else
      vm.EnterWithTables(mode(), 16_MiB);
  }

  // `update` makes the slot of kData go, and nothing else.
  template <typename Update>
  void ExpectPreciseUpdate(PagingVm& vm, Update update) {
    ZapWatch watch(vm.vm());
    update();
    const ZapReport report = watch.Stop();
    const uint64_t faults = vm.Faults();
    EXPECT_THAT(vm.cpu.TouchRead(kBystander), Returns(kBystander.pages() * PagingVm::kWord));
    if (slot_zap_all()) {
      EXPECT_THAT(report, ZappedEverything());
      EXPECT_GT(vm.Faults(), faults) << kPrecision;
    } else {
      EXPECT_THAT(report, ZappedOnly({{kData}}, CurrentMmuMode()));
      EXPECT_EQ(vm.Faults(), faults) << kPrecision << "another slot was faulted in again";
    }
    EXPECT_THAT(vm.cpu.TouchRead(kData), FindsNoMemory(kData));
  }
};

TEST_P(PagingModes, TheSlotIsDeleted) {
  PagingVm vm(slot_zap_all());
  Enter(vm);
  ASSERT_NO_FATAL_FAILURE(vm.TouchAll());
  ExpectPreciseUpdate(vm, [&] { vm.data.Delete(); });

  auto other = std::make_shared<GuestMemory>(kData.size);
  FillMemory(*other, {.start = kData.start, .pages = kData.pages(), .seed = kOtherSeed});
  vm.data.AddWith(other);
  EXPECT_THAT(vm.cpu.TouchRead(kData), Returns(SumOf(vm.data)));
}

TEST_P(PagingModes, TheSlotIsMoved) {
  PagingVm vm(slot_zap_all());
  Enter(vm);
  ASSERT_NO_FATAL_FAILURE(vm.TouchAll());
  EXPECT_THAT(vm.cpu.TouchRead(kMoved), FindsNoMemory(kMoved));
  ExpectPreciseUpdate(vm, [&] { vm.data.MoveTo(kMoved.start); });
  EXPECT_THAT(vm.cpu.TouchRead(kMoved), Returns(kMoved.pages() * PagingVm::kWord));
}

INSTANTIATE_TEST_SUITE_P(Mode, PagingModes,
                         testing::Combine(testing::Values(PagingMode::kNone, PagingMode::k32Bit,
                                                          PagingMode::kPae, PagingMode::k4Level,
                                                          PagingMode::k5Level),
                                          testing::Values(true, false)),
                         ParamName);

class PagingModesTables : public PagingModes {};

// The page tables are in the slot's last pages.  Their shadow pages go, all of them, and no other;
// what comes in their place is what the guest uses.
TEST_P(PagingModesTables, TheSlotIsDeletedAndGetsOtherTables) {
  PagingVm vm(slot_zap_all());
  MemorySlot other = vm.AddFilledSlot(kOther.start, kOther.size, kOtherSeed);
  MemorySlot& victim = vm.EnterWithTables(mode(), 16_MiB);
  const GpaRange window = TablesWindow(mode(), victim.range());
  ASSERT_NO_FATAL_FAILURE(vm.TouchAll());
  // The same by page tables elsewhere, which it then runs on.
  vm.EnterWithTables(mode(), 32_MiB);
  ASSERT_THAT(vm.cpu.TouchRead(kData), Returns(kData.pages() * PagingVm::kWord));
  ASSERT_THAT(vm.cpu.TouchRead(kBystander), Returns(kBystander.pages() * PagingVm::kWord));

  ZapWatch watch(vm.vm());
  victim.Delete();
  const ZapReport report = watch.Stop();
  const uint64_t faults = vm.Faults();
  EXPECT_THAT(vm.cpu.TouchRead(kData), Returns(kData.pages() * PagingVm::kWord));
  EXPECT_THAT(vm.cpu.TouchRead(kBystander), Returns(kBystander.pages() * PagingVm::kWord));
  if (slot_zap_all()) {
    EXPECT_THAT(report, ZappedEverything());
    EXPECT_GT(vm.Faults(), faults) << kPrecision;
  } else {
    EXPECT_EQ(vm.Faults(), faults)
        << kPrecision << "what page tables outside of the slot map was faulted in again";
    EXPECT_EQ(report.zap_all, 0u) << kPrecision;
    EXPECT_GE(report.flush_requests, 1u);
    if (CurrentMmuMode() != MmuMode::kShadow) {
      EXPECT_EQ(report.shadow_zapped, 0u) << kPrecision << report;
    } else if (report.untraced.empty()) {
      std::map<Gfn, int> zapped;
      for (const PreparedZapPage& page : report.shadow_pages) zapped[page.gfn]++;
      EXPECT_EQ(zapped, ShadowPages(mode(), window)) << kPrecision << "by gfn: shadow pages";
    }
  }

  const auto replaced = std::make_shared<GuestMemory>(kTablesSize);
  const Gpa root = MakeTables(*replaced, victim.range(), window, mode(), kOther).root();
  victim.AddWith(replaced);
  vm.cpu.Enter(mode(), root);
  EXPECT_THAT(vm.cpu.TouchRead(kData), Returns(SumOf(other)));
}

INSTANTIATE_TEST_SUITE_P(Mode, PagingModesTables,
                         testing::Combine(testing::Values(PagingMode::k32Bit, PagingMode::kPae,
                                                          PagingMode::k4Level, PagingMode::k5Level),
                                          testing::Values(true, false)),
                         ParamName);

class PagingModesInTurn : public SlotTest {};

// One vCPU goes through all modes: shadow paging then has leaves of all of them for the same
// memory.
TEST_P(PagingModesInTurn, AllLeavesOfTheSlotGo) {
  PagingVm vm(slot_zap_all());
  std::map<PagingMode, Gpa> roots = {{PagingMode::kNone, 0}};
  Gpa gpa = 16_MiB;
  for (const PagingMode mode :
       {PagingMode::k32Bit, PagingMode::kPae, PagingMode::k4Level, PagingMode::k5Level}) {
    if (!PagingModeUnavailable(Kvm(), mode).empty()) continue;
    const MemorySlot& tables = vm.EnterWithTables(mode, gpa);
    roots[mode] = TablesWindow(mode, tables.range()).start;
    gpa += 16_MiB;
  }
  for (const auto& [mode, root] : roots) {
    SCOPED_TRACE(testing::PrintToString(mode));
    vm.cpu.Enter(mode, root);
    ASSERT_THAT(vm.cpu.TouchWrite(kData, PagingVm::kWord), Succeeds());
    ASSERT_THAT(vm.cpu.TouchWrite(kBystander, PagingVm::kWord), Succeeds());
  }

  ZapWatch watch(vm.vm());
  vm.data.Delete();
  const ZapReport report = watch.Stop();
  if (slot_zap_all()) {
    EXPECT_THAT(report, ZappedEverything());
  } else if (CurrentMmuMode() == MmuMode::kShadow) {
    EXPECT_EQ(report.dropped().total(), static_cast<int64_t>(kData.pages() * roots.size()))
        << kPrecision << report;
    EXPECT_EQ(report.shadow_zapped, 0u) << kPrecision << report;
  } else {
    EXPECT_THAT(report, ZappedOnly({{kData}}, CurrentMmuMode()));
  }
  for (const auto& [mode, root] : roots) {
    SCOPED_TRACE(testing::PrintToString(mode));
    vm.cpu.Enter(mode, root);
    const uint64_t faults = vm.Faults();
    EXPECT_THAT(vm.cpu.TouchRead(kBystander), Returns(kBystander.pages() * PagingVm::kWord));
    if (!slot_zap_all()) {
      EXPECT_EQ(vm.Faults(), faults) << kPrecision << "another slot was faulted in again";
    }
    EXPECT_THAT(vm.cpu.TouchRead(kData), FindsNoMemory(kData));
  }
}

SLOTZAP_INSTANTIATE(PagingModesInTurn);

}  // namespace
}  // namespace slotzap

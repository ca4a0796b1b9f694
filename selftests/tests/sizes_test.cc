// SPDX-License-Identifier: GPL-2.0-only
// Theme: sizes and edges.  Slots of one page and of a terabyte, at the ends of guest physical
// memory, with large pages that their edges cut through, and with guest page tables of every level.
#include <algorithm>
#include <cerrno>
#include <set>
#include <utility>
#include <vector>

#include "host/huge_pages.h"
#include "tests/every_level.h"

namespace slotzap {
namespace {

constexpr uint64_t kSeed = 0x512e5;
// Where the guest has 1 GiB pages, so that shadow paging is free to use large pages, too.
constexpr Gpa kLarge = 32_GiB;
// Free virtual addresses, for what is beyond the guest's identity mapping.
constexpr uint64_t kWindow = 1ull << 39;

// KVM's hash table of shadow pages: in which of its buckets one is that is for this gfn
// (arch/x86/kvm/mmu/mmu.c, kvm_page_table_hashfn(); linux/hash.h, hash_64()).
constexpr uint64_t kBuckets = 1ull << 12;
uint64_t BucketOf(Gfn gfn) { return gfn * 0x61c8864680b583ebull >> 52; }

// The first and the last gfn of `range` that is a multiple of `step`, for each of the hash table's
// first and last two buckets one that is in it, and one that shares its bucket with none of the
// first kBuckets of them.
std::set<Gfn> GfnsAtTheEnds(const GpaRange& range, Gfn step) {
  std::set<Gfn> gfns = {range.first_gfn(), range.end_gfn() - step};
  std::vector<bool> wanted(kBuckets, true);
  Gfn gfn = range.first_gfn();
  for (uint64_t i = 0; i < kBuckets && gfn < range.end_gfn(); i++, gfn += step)
    wanted[BucketOf(gfn)] = false;
  for (; gfn < range.end_gfn(); gfn += step) {
    if (!wanted[BucketOf(gfn)]) continue;
    gfns.insert(gfn);
    break;
  }
  for (const uint64_t bucket : {uint64_t{0}, uint64_t{1}, kBuckets - 2, kBuckets - 1}) {
    for (gfn = range.first_gfn(); gfn < range.end_gfn(); gfn += step) {
      if (BucketOf(gfn) != bucket) continue;
      gfns.insert(gfn);
      break;
    }
  }
  return gfns;
}

class SlotSizes : public SlotTest {
 protected:
  // Lets `update` delete or move a slot of which KVM maps `expected`, and checks what went;
  // `others` are mapped before and have to be mapped still.  Virtual addresses of the guest where
  // it has them elsewhere than its physical ones.
  template <typename Update>
  void ExpectPrecise(TestVm& vm, const std::vector<LeafRange>& expected,
                     std::initializer_list<GpaRange> others, Update update) {
    ASSERT_THAT(vm.guest().TouchWrite(others), Succeeds());
    ZapWatch watch(vm.vm());
    update();
    const ZapReport report = watch.Stop();
    const uint64_t faults = vm.FixedFaults();
    ASSERT_THAT(vm.guest().TouchWrite(others), Succeeds());
    if (slot_zap_all()) {
      EXPECT_THAT(report, ZappedEverything());
      EXPECT_GT(vm.FixedFaults(), faults) << kPrecision;
    } else {
      EXPECT_THAT(report, ZappedOnly(expected, CurrentMmuMode()));
      EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision << "other slots were faulted in again";
    }
  }

  // The leaves that touching all of `range` adds.
  static Leaves LeavesOf(TestVm& vm, GpaRange range) {
    vm.MapOwnMemory();
    const Leaves before = PresentLeaves(vm.vm().stats().Read());
    EXPECT_THAT(vm.guest().TouchWrite({range}), Succeeds());
    return PresentLeaves(vm.vm().stats().Read()) - before;
  }

  static MemorySlot AddPart(TestVm& vm, const std::shared_ptr<GuestMemory>& memory, Gpa base,
                            uint64_t offset, uint64_t size) {
    return vm.vm().AddSlot(
        {.gpa = base + offset, .memory = memory, .offset = offset, .size = size});
  }
};

// Three slots of one page each, side by side, across a boundary of 1 GiB or of 4 GiB.
TEST_P(SlotSizes, OnePageEach) {
  for (const Gpa boundary : {1_GiB, 4_GiB}) {
    SCOPED_TRACE(SizeString(boundary));
    TestVm vm(Config());
    MemorySlot below = vm.AddFilledSlot(boundary - kPageSize, kPageSize, kSeed);
    MemorySlot middle = vm.AddFilledSlot(boundary, kPageSize, kSeed + 1);
    MemorySlot above = vm.AddFilledSlot(boundary + kPageSize, kPageSize, kSeed + 2);
    const std::pair<MemorySlot*, uint64_t> slots[] = {
        {&below, kSeed}, {&middle, kSeed + 1}, {&above, kSeed + 2}};
    for (const auto& [victim, seed] : slots) {
      std::vector<MemorySlot*> others;
      for (const auto& [slot, other_seed] : slots)
        if (slot != victim) others.push_back(slot);
      ASSERT_THAT(vm.guest().TouchWrite({victim->range()}), Succeeds());
      ExpectPrecise(vm, {{victim->range()}}, {others[0]->range(), others[1]->range()},
                    [&, slot = victim] { slot->Delete(); });
      EXPECT_THAT(vm.guest().Read(victim->page(0)), IsMmioReadAt(victim->page(0)));
      for (const auto& [slot, other_seed] : slots) {
        if (slot == victim) continue;
        EXPECT_THAT(vm.guest().Verify({PatternOf(*slot, other_seed)}), SeesPattern());
      }
      victim->Add();
    }
  }
}

// The last pages that the guest can address, and the slot right below them.
TEST_P(SlotSizes, TopOfMemory) {
  TestVm vm(Config());
  const Gpa top = 1ull << Kvm().PhysicalAddressBits();
  vm.tables().Map(kWindow, top - 2_MiB, 2_MiB, GuestPageSize::k2M);
  const auto virt = [&](const GpaRange& range) {
    return GpaRange{kWindow + (range.start - (top - 2_MiB)), range.size};
  };
  MemorySlot last = vm.AddFilledSlot(top - 16_KiB, 16_KiB, kSeed);
  MemorySlot below = vm.AddFilledSlot(top - 32_KiB, 16_KiB, kSeed + 1);
  const std::pair<MemorySlot*, MemorySlot*> rounds[] = {{&last, &below}, {&below, &last}};
  for (const auto& [victim, other] : rounds) {
    ASSERT_THAT(vm.guest().TouchWrite({virt(victim->range())}), Succeeds());
    ExpectPrecise(vm, {{victim->range()}}, {virt(other->range())},
                  [&, slot = victim] { slot->Delete(); });
    const GpaRange where = virt(victim->range());
    for (uint64_t offset = 0; offset < where.size; offset += kPageSize)
      EXPECT_THAT(vm.guest().Read(where.start + offset),
                  IsMmioReadAt(victim->range().start + offset));
    victim->Add();
  }
  EXPECT_THAT(vm.guest().Verify({{.range = virt(last.range()), .seed = kSeed},
                                 {.range = virt(below.range()), .seed = kSeed + 1}}),
              SeesPattern());
}

// The highest gfn at which KVM takes a slot.  Shadow paging takes some that the guest can't reach.
TEST_P(SlotSizes, LastGfnThatKvmAccepts) {
  TestVm vm(Config());
  MemorySlot other = vm.AddSlot(1_GiB, 64_KiB);
  MemorySlot slot = vm.AddSlot(2_GiB, 16_KiB);
  unsigned bits = 52;  // MAXPHYADDR can't be more (SDM volume 3, 4.1.4)
  while (!slot.TryMoveTo((1ull << bits) - 16_KiB).ok()) ASSERT_GE(--bits, 36u);
  EXPECT_GE(bits, Kvm().PhysicalAddressBits());
  EXPECT_THAT(slot.TryMoveTo((1ull << bits) - 12_KiB), FailsWith(EINVAL));
  ExpectPrecise(vm, {}, {other.range()}, [&] { slot.Delete(); });
  slot.Add();
  ExpectPrecise(vm, {}, {other.range()}, [&] { slot.MoveTo(2_GiB); });
  EXPECT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
}

// Memory in 2 MiB pages, cut into three slots such that the cuts go through the middle of a page:
// there KVM has to use 4 KiB, in between it uses 2 MiB.
TEST_P(SlotSizes, EdgesCutThroughLargePages) {
  if (const std::string reason = BackingUnavailable(Backing::k2M, 4); !reason.empty())
    GTEST_SKIP() << reason;
  TestVm vm(Config());
  const auto memory = std::make_shared<GuestMemory>(8_MiB, Backing::k2M);
  MemorySlot below = AddPart(vm, memory, kLarge, 0, 1_MiB);
  MemorySlot middle = AddPart(vm, memory, kLarge, 1_MiB, 6_MiB);
  MemorySlot above = AddPart(vm, memory, kLarge, 7_MiB, 1_MiB);
  const std::vector<LeafRange> middle_leaves = {{{kLarge + 1_MiB, 1_MiB}},
                                                {{kLarge + 2_MiB, 4_MiB}, Backing::k2M},
                                                {{kLarge + 6_MiB, 1_MiB}}};
  ASSERT_EQ(LeavesOf(vm, middle.range()), (Leaves{512, 2, 0}));
  ExpectPrecise(vm, middle_leaves, {below.range(), above.range()}, [&] { middle.Delete(); });
  for (const Gpa gpa : {middle.page(0), kLarge + 2_MiB, kLarge + 5_MiB, middle.page(-1)})
    EXPECT_THAT(vm.guest().Read(gpa), IsMmioReadAt(gpa));
  middle.Add();
  ASSERT_EQ(LeavesOf(vm, middle.range()), (Leaves{512, 2, 0}));
  ASSERT_THAT(vm.guest().TouchWrite({below.range(), above.range()}), Succeeds());
  ExpectPrecise(vm, {{below.range()}}, {middle.range(), above.range()}, [&] { below.Delete(); });
  ASSERT_THAT(vm.guest().TouchWrite({above.range()}), Succeeds());
  ExpectPrecise(vm, {{above.range()}}, {middle.range()}, [&] { above.Delete(); });
}

// One 1 GiB page, cut into two slots: 2 MiB SPTEs on both sides.
TEST_P(SlotSizes, OneGigabytePage) {
  if (const std::string reason = BackingUnavailable(Backing::k1G, 1); !reason.empty())
    GTEST_SKIP() << reason;
  TestVm vm(Config());
  // Clearing it takes longer than all else here, so it serves twice.
  const auto memory = std::make_shared<GuestMemory>(1_GiB, Backing::k1G);
  MemorySlot lower = AddPart(vm, memory, kLarge, 0, 512_MiB);
  MemorySlot upper = AddPart(vm, memory, kLarge, 512_MiB, 512_MiB);
  const GpaRange in_lower = {upper.range().start - 4_MiB, 4_MiB};
  const GpaRange in_upper = {upper.range().start, 4_MiB};
  EXPECT_EQ(LeavesOf(vm, in_lower), (Leaves{0, 2, 0}));
  EXPECT_EQ(LeavesOf(vm, in_upper), (Leaves{0, 2, 0}));
  ExpectPrecise(vm, {{in_lower, Backing::k2M}}, {in_upper}, [&] { lower.Delete(); });
  EXPECT_THAT(vm.guest().Read(lower.page(-1)), IsMmioReadAt(lower.page(-1)));
  lower.Add();
  ASSERT_THAT(vm.guest().TouchWrite({in_lower, in_upper}), Succeeds());
  ExpectPrecise(vm, {{in_upper, Backing::k2M}}, {in_lower}, [&] { upper.Delete(); });
  EXPECT_THAT(vm.guest().Read(upper.page(0)), IsMmioReadAt(upper.page(0)));
  lower.Delete();

  // In one piece, with a slot of one page right behind it.
  MemorySlot large = vm.vm().AddSlot({.gpa = kLarge, .memory = memory});
  MemorySlot small = vm.AddSlot(large.range().end(), kPageSize);
  const GpaRange in_large = {small.range().start - kPageSize, kPageSize};
  // With the quirk disabled, the page table that had 2 MiB SPTEs is in the way of a 1 GiB one, and
  // replaced by it.
  EXPECT_EQ(LeavesOf(vm, in_large), (Leaves{0, 0, 1}));
  EXPECT_EQ(LeavesOf(vm, small.range()), (Leaves{1, 0, 0}));
  ExpectPrecise(vm, {{small.range()}}, {in_large}, [&] { small.Delete(); });
  EXPECT_THAT(vm.guest().Read(small.page(0)), IsMmioReadAt(small.page(0)));
  small.Add();
  ASSERT_THAT(vm.guest().TouchWrite({small.range(), in_large}), Succeeds());
  ExpectPrecise(vm, {{large.range(), Backing::k1G}}, {small.range()}, [&] { large.Delete(); });
  EXPECT_THAT(vm.guest().Read(large.page(-1)), IsMmioReadAt(large.page(-1)));
}

// Guest physical and host virtual addresses differ in their offset into a large page: KVM can't use
// any, although the memory has them.
TEST_P(SlotSizes, MisalignedBacking) {
  if (const std::string reason = BackingUnavailable(Backing::k2M, 3); !reason.empty())
    GTEST_SKIP() << reason;
  TestVm vm(Config());
  MemorySlot other = vm.AddSlot(kLarge + 4_MiB, 64_KiB);
  MemorySlot slot = vm.vm().AddSlot({.gpa = kLarge,
                                     .memory = std::make_shared<GuestMemory>(6_MiB, Backing::k2M),
                                     .offset = kPageSize,
                                     .size = 4_MiB});
  ASSERT_EQ(LeavesOf(vm, slot.range()), (Leaves{1024, 0, 0}));
  ExpectPrecise(vm, {{slot.range()}}, {other.range()}, [&] { slot.Delete(); });
  // Moved to where they agree, the same memory gets large pages.
  slot.Add();
  slot.MoveTo(kLarge + 512_MiB + kPageSize);
  EXPECT_EQ(LeavesOf(vm, slot.range()), (Leaves{512, 1, 0}));
}

TEST_P(SlotSizes, TransparentHugePages) {
  constexpr uint64_t kSize = 4_MiB;
  const auto memory = GuestMemory::TransparentHuge(kSize);
  if (const uint64_t huge = TransparentHugeBytes(memory->address(), kSize); huge < kSize)
    GTEST_SKIP() << "only " << huge << " of " << kSize
                 << " bytes are in transparent huge pages: they are off, or memory is fragmented";
  TestVm vm(Config());
  MemorySlot other = vm.AddSlot(kLarge + kSize, 64_KiB);
  MemorySlot slot = vm.vm().AddSlot({.gpa = kLarge, .memory = memory});
  ASSERT_EQ(LeavesOf(vm, slot.range()), (Leaves{0, 2, 0}));
  for (const Gpa gpa : {slot.page(0), slot.page(513), slot.page(-1)})
    ASSERT_THAT(vm.guest().Write(gpa, gpa + 1), Succeeds());
  ExpectPrecise(vm, {{slot.range(), Backing::k2M}}, {other.range()}, [&] { slot.Delete(); });
  EXPECT_THAT(vm.guest().Read(slot.page(513)), IsMmioReadAt(slot.page(513)));
  slot.Add();
  for (const Gpa gpa : {slot.page(0), slot.page(513), slot.page(-1)})
    EXPECT_THAT(vm.guest().Read(gpa), Returns(gpa + 1));
  EXPECT_EQ(TransparentHugeBytes(memory->address(), kSize), kSize)
      << kPrecision << "KVM made the kernel split a huge page";
}

// A huge slot of which the guest touched the first page, the last, and one in the middle.
// LargeSlotYields (precision_test.cc) is about how long the walk takes, this is about where it
// goes.
TEST_P(SlotSizes, MostlyEmptyTerabyte) {
  // A terabyte, or what the guest can address of it, where its virtual addresses can be the same.
  // Other MMUs than the TDP MMU need 8 bytes of rmap for each page of a slot, and look at all of
  // them: 2 GiB for a terabyte, which a host of 2 GiB hasn't got, and 8 s for 128 GiB if it is an
  // emulated one.
  const Gpa top = 1ull << std::min(Kvm().PhysicalAddressBits(), 46u);
  const uint64_t size =
      CurrentMmuMode() == MmuMode::kTdp ? std::min<uint64_t>(1024_GiB, top - 8_GiB) : 32_GiB;
  const Gpa start = top - size - 2_MiB;
  TestVm vm(Config());
  const uint64_t offsets[] = {0, size / 2 + 3 * kPageSize, size - kPageSize};
  for (const Gpa gpa : {start, start + size / 2, start + size - 2_MiB, start + size})
    if (gpa >= vm.mapped_end()) vm.tables().MapIdentity({gpa, 2_MiB}, GuestPageSize::k2M);
  MemorySlot slot = vm.vm().AddSlot({.gpa = start, .memory = GuestMemory::Sparse(size)});
  MemorySlot above = vm.AddSlot(start + size + 1_MiB, 64_KiB);
  MemorySlot other = vm.AddSlot(1_GiB, 64_KiB);

  const auto touched = [&] {
    std::vector<LeafRange> leaves;
    for (const uint64_t offset : offsets)
      leaves.push_back({{slot.range().start + offset, kPageSize}});
    return leaves;
  };
  for (const LeafRange& leaf : touched())
    ASSERT_THAT(vm.guest().Write(leaf.range.start, leaf.range.start), Succeeds());
  ExpectPrecise(vm, touched(), {above.range(), other.range()}, [&] { slot.Delete(); });
  for (const LeafRange& leaf : touched())
    EXPECT_THAT(vm.guest().Read(leaf.range.start), IsMmioReadAt(leaf.range.start));

  slot.Add();
  for (const LeafRange& leaf : touched())
    ASSERT_THAT(vm.guest().Read(leaf.range.start), Returns(leaf.range.start));
  const std::vector<LeafRange> before = touched();
  ExpectPrecise(vm, before, {above.range(), other.range()},
                [&] { slot.MoveTo(start + kPageSize); });
  // What is at the old addresses now is another page of the same slot, or nothing.
  EXPECT_THAT(vm.guest().Read(start), IsMmioReadAt(start));
  for (size_t i = 1; i < before.size(); i++)
    EXPECT_THAT(vm.guest().Read(before[i].range.start), Returns(0));
  for (size_t i = 0; i < before.size() - 1; i++)
    EXPECT_THAT(vm.guest().Read(touched()[i].range.start), Returns(before[i].range.start));
}

// Each level's table goes, from the root downwards.
TEST_P(SlotSizes, GuestPageTablesOfEveryLevel) {
  for (int level = 4; level >= 1; level--) {
    SCOPED_TRACE("level " + std::to_string(level));
    TablesOfEveryLevel vm(Config(), kSeed);
    MemorySlot& victim = vm.slot(level);
    ASSERT_THAT(vm.guest().SetCr3(vm.table(4)), Succeeds());
    ASSERT_THAT(vm.guest().Verify({{.range = vm.window(), .seed = kSeed}}), SeesPattern());
    ASSERT_THAT(vm.guest().SetCr3(vm.tables().root()), Succeeds());
    // The slot itself is mapped, too, with all its pages.
    ASSERT_THAT(vm.guest().TouchRead({victim.range(), vm.data().range()}), Succeeds());
    const Vcpu::State before = vm.guest().vcpu().Save();

    ZapWatch watch(vm.vm());
    victim.Delete();
    const ZapReport report = watch.Stop();
    const uint64_t faults = vm.FixedFaults();
    ASSERT_THAT(vm.guest().TouchRead({vm.data().range()}), Succeeds());
    if (slot_zap_all()) {
      EXPECT_THAT(report, ZappedEverything());
    } else if (CurrentMmuMode() != MmuMode::kShadow) {
      EXPECT_THAT(report, ZappedOnly({{victim.range()}}, CurrentMmuMode()));
    } else {
      // That table's shadow page, and if it has leaves those.
      const auto expected =
          static_cast<int64_t>(victim.range().pages() + (level == 1 ? vm.window().pages() : 0));
      EXPECT_EQ(report.dropped(), (Leaves{expected, 0, 0})) << kPrecision;
      EXPECT_EQ(report.shadow_zapped, 1u) << kPrecision;
      EXPECT_EQ(report.zap_all, 0u) << kPrecision;
      EXPECT_GE(report.flush_requests, 1u);
      if (report.untraced.empty()) {
        std::set<std::pair<Gfn, int>> zapped;
        for (const PreparedZapPage& page : report.shadow_pages)
          zapped.insert({page.gfn, page.level});
        EXPECT_EQ(zapped, (std::set<std::pair<Gfn, int>>{{vm.table(level) >> kPageShift, level}}))
            << kPrecision;
      }
    }
    if (!slot_zap_all()) {
      EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision << "what other tables map was lost";
    }

    // The same table again, but it translates the window no more: nothing may remember that it did.
    victim.Store(vm.entry(level), 0);
    victim.Add();
    ASSERT_THAT(vm.guest().SetCr3(vm.table(4)), Succeeds());
    const Outcome outcome = vm.guest().Read(vm.kVirt);
    EXPECT_THAT(outcome, IsStuck());
    EXPECT_THAT(outcome.exit_text, testing::HasSubstr("vector 14"));
    vm.guest().RestoreTo(before);
  }
}

// Guest page tables here and there in a slot that has more pages than KVM has buckets for their
// shadow pages.
TEST_P(SlotSizes, GuestPageTablesInALargeSlot) {
  TablesOfEveryLevel vm(Config(), kSeed);
  MemorySlot victim =
      vm.vm().AddSlot({.gpa = 12_GiB, .memory = GuestMemory::Sparse(4 * kBuckets * kPageSize)});
  const std::set<Gfn> tables = GfnsAtTheEnds(victim.range(), 1);
  ASSERT_GE(tables.size(), 4u);
  std::vector<std::pair<uint64_t, Gpa>> entries;  // what they translate, and by which entry
  for (const Gfn gfn : tables) {
    const uint64_t virt = TablesOfEveryLevel::kVirt + (entries.size() + 1) * 2_MiB;
    entries.emplace_back(virt, (gfn << kPageShift) + TableIndex(virt, 1) * 8);
    vm.slot(2).Store(vm.table(2) + TableIndex(virt, 2) * 8, TableEntry(gfn << kPageShift));
  }
  const auto translate_to = [&](int64_t page) {
    for (const auto& [virt, entry] : entries) victim.Store(entry, LeafEntry(vm.data().page(page)));
  };
  const auto expect_translated_to = [&](int64_t page) {
    ASSERT_THAT(vm.guest().SetCr3(vm.table(4)), Succeeds());
    for (const auto& [virt, entry] : entries)
      EXPECT_THAT(vm.guest().Read(virt), Returns(vm.data().Load(vm.data().page(page))));
    ASSERT_THAT(vm.guest().SetCr3(vm.tables().root()), Succeeds());
  };
  translate_to(0);
  expect_translated_to(0);
  ASSERT_THAT(vm.guest().TouchRead({vm.data().range()}), Succeeds());

  ZapWatch watch(vm.vm());
  victim.Delete();
  const ZapReport report = watch.Stop();
  const uint64_t faults = vm.FixedFaults();
  ASSERT_THAT(vm.guest().TouchRead({vm.data().range()}), Succeeds());
  if (slot_zap_all()) {
    EXPECT_THAT(report, ZappedEverything());
  } else {
    EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision << "what other tables map was lost";
    if (CurrentMmuMode() == MmuMode::kShadow) {
      EXPECT_EQ(report.shadow_zapped, tables.size()) << kPrecision;
      if (report.untraced.empty()) {
        std::set<Gfn> zapped;
        for (const PreparedZapPage& page : report.shadow_pages) zapped.insert(page.gfn);
        EXPECT_EQ(zapped, tables) << kPrecision;
      }
    }
  }
  // The tables say something else when they are back, and that is what counts.
  translate_to(1);
  victim.Add();
  expect_translated_to(1);
}

// KVM's own page tables for a slot that needs more of them than there are buckets.
TEST_P(SlotSizes, PageTablesOfALargeSlotGo) {
  TestVm vm(Config());
  MemorySlot other = vm.AddSlot(1_GiB, 64_KiB);
  MemorySlot victim =
      vm.vm().AddSlot({.gpa = kLarge, .memory = GuestMemory::Sparse(2 * kBuckets * 2_MiB)});
  const std::set<Gfn> tables = GfnsAtTheEnds(victim.range(), 512);
  ASSERT_GE(tables.size(), 4u);
  std::vector<LeafRange> touched;
  for (const Gfn gfn : tables) {
    touched.push_back({{gfn << kPageShift, kPageSize}});
    ASSERT_THAT(vm.guest().Write(gfn << kPageShift, gfn), Succeeds());
  }
  ASSERT_THAT(vm.guest().TouchWrite({other.range()}), Succeeds());
  ZapWatch watch(vm.vm());
  victim.Delete();
  const ZapReport report = watch.Stop();
  for (const Gfn gfn : tables)
    EXPECT_THAT(vm.guest().Read(gfn << kPageShift), IsMmioReadAt(gfn << kPageShift));
  if (slot_zap_all()) {
    EXPECT_THAT(report, ZappedEverything());
    return;
  }
  EXPECT_THAT(report, ZappedOnly(touched, CurrentMmuMode()));
  if (!report.untraced.empty()) return;
  std::set<Gfn> emptied;
  for (const PreparedZapPage& page : report.emptied)
    if (page.level == 1) emptied.insert(page.gfn);
  EXPECT_EQ(emptied, tables) << kPrecision << "one page table of 4 KiB SPTEs for each";
}

// Guest page tables of small pages that map pages here and there in a large slot: KVM skips what is
// not mapped in between, in steps of 2 MiB.
TEST_P(SlotSizes, LargeSlotInSmallGuestPages) {
  constexpr int64_t kStep = 512;
  TablesOfEveryLevel vm(Config(), kSeed);
  MemorySlot victim =
      vm.vm().AddSlot({.gpa = 12_GiB, .memory = GuestMemory::Sparse(32 * kStep * kPageSize)});
  std::vector<LeafRange> touched;
  std::vector<std::pair<uint64_t, Gpa>> window;
  for (const int64_t page : {int64_t{0}, kStep - 1, 2 * kStep, 4 * kStep - 1, 7 * kStep + 5,
                             8 * kStep, 16 * kStep - 1, int64_t{-1}}) {
    const uint64_t index = window.size();
    vm.slot(1).Store(vm.entry(1) + index * 8, LeafEntry(victim.page(page)));
    window.emplace_back(vm.kVirt + index * kPageSize, victim.page(page));
    touched.push_back({{victim.page(page), kPageSize}});
  }
  ASSERT_THAT(vm.guest().SetCr3(vm.table(4)), Succeeds());
  for (const auto& [virt, gpa] : window) ASSERT_THAT(vm.guest().Write(virt, gpa), Succeeds());
  ZapWatch watch(vm.vm());
  victim.Delete();
  const ZapReport report = watch.Stop();
  for (const auto& [virt, gpa] : window) EXPECT_THAT(vm.guest().Read(virt), IsMmioReadAt(gpa));
  if (slot_zap_all()) {
    EXPECT_THAT(report, ZappedEverything());
  } else {
    EXPECT_THAT(report, ZappedOnly(touched, CurrentMmuMode()));
  }
}

// Two guest page tables map a slot, and the first to go is that of one of them: what the other maps
// of the slot is still there to be zapped.
TEST_P(SlotSizes, SlotThatTwoTablesMap) {
  TablesOfEveryLevel vm(Config(), kSeed);
  ASSERT_THAT(vm.guest().SetCr3(vm.table(4)), Succeeds());
  ASSERT_THAT(vm.guest().Verify({{.range = vm.window(), .seed = kSeed}}), SeesPattern());
  ASSERT_THAT(vm.guest().SetCr3(vm.tables().root()), Succeeds());
  ASSERT_THAT(vm.guest().TouchRead({vm.data().range()}), Succeeds());
  vm.slot(1).Delete();
  ASSERT_THAT(vm.guest().TouchRead({vm.data().range()}), Succeeds());

  ZapWatch watch(vm.vm());
  vm.data().Delete();
  const ZapReport report = watch.Stop();
  for (int64_t page = 0; page < static_cast<int64_t>(TablesOfEveryLevel::kDataPages); page++)
    EXPECT_THAT(vm.guest().Read(vm.data().page(page)), IsMmioReadAt(vm.data().page(page)));
  if (slot_zap_all()) {
    EXPECT_THAT(report, ZappedEverything());
  } else {
    EXPECT_THAT(report, ZappedOnly({{vm.data().range()}}, CurrentMmuMode()));
  }
}

SLOTZAP_INSTANTIATE(SlotSizes);

}  // namespace
}  // namespace slotzap

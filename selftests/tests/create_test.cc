// SPDX-License-Identifier: GPL-2.0-only
// Theme: create.  What KVM refuses to create, or to replace, it refuses as a whole: the slots that
// are there stay what they are, mapped and with their contents.  Contract tests but for what says
// otherwise.
#include <cerrno>
#include <string>

#include "tests/slot_test.h"

namespace slotzap {
namespace {

constexpr uint64_t kSeed = 0xc4ea;
constexpr Gpa kGpa = 1_GiB;
constexpr uint64_t kSize = 256_KiB;
constexpr uint16_t kFreeId = 100;
// No processor has so many physical address bits (SDM volume 3, 4.1.4).
constexpr Gpa kBeyond = 1ull << 52;

class SlotCreate : public SlotTest {
 protected:
  // A slot with contents that the guest has mapped, and how to see that nothing happened to it.
  struct Mapped {
    explicit Mapped(TestVm& vm_) : vm(vm_), slot(vm.AddFilledSlot(kGpa, kSize, kSeed)) { Expect(); }
    void Expect() const { EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern()); }
    // Tries to set memslot `id` up; KVM refuses.
    void Refuses(uint16_t id, const SlotConfig& config, int error) const {
      const uint64_t faults = vm.FixedFaults();
      ZapWatch watch(vm.vm());
      EXPECT_THAT(MemorySlot(vm.vm(), id, config).TryAdd(), FailsWith(error));
      EXPECT_THAT(watch.Stop(), ZappedOnly({}, CurrentMmuMode()));
      Expect();
      EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision << "it made the guest fault again";
    }

    TestVm& vm;
    MemorySlot slot;
  };
};

TEST_P(SlotCreate, OverAnotherSlotFails) {
  TestVm vm(Config());
  const Mapped mapped(vm);
  const struct {
    const char* where;
    Gpa gpa;
    uint64_t size;
  } kPlaces[] = {
      {"in the same place", kGpa, kSize},
      {"inside", kGpa + 64_KiB, 64_KiB},
      {"around it", kGpa - 64_KiB, kSize + 128_KiB},
      {"over its first page", kGpa - 64_KiB, 64_KiB + kPageSize},
      {"over its last page", kGpa + kSize - kPageSize, 64_KiB},
  };
  for (const auto& place : kPlaces) {
    SCOPED_TRACE(place.where);
    mapped.Refuses(
        kFreeId,
        {.gpa = place.gpa, .memory = std::make_shared<GuestMemory>(place.size), .size = place.size},
        EEXIST);
  }
  // The nearest places that are free.
  MemorySlot below = vm.AddSlot(kGpa - 64_KiB, 64_KiB);
  MemorySlot above = vm.AddSlot(kGpa + kSize, 64_KiB);
  EXPECT_THAT(vm.guest().TouchWrite({below.range(), above.range()}), Succeeds());
  mapped.Expect();
}

// A memslot is deleted before another one takes its number: KVM replaces neither its memory nor
// its size.
TEST_P(SlotCreate, UnderTheSameNumberFails) {
  TestVm vm(Config());
  const Mapped mapped(vm);
  const SlotConfig config = mapped.slot.config();
  const auto refuses = [&](const char* what, Gpa gpa, std::shared_ptr<GuestMemory> memory,
                           uint64_t size, uint32_t flags) {
    SCOPED_TRACE(what);
    mapped.Refuses(mapped.slot.id(),
                   {.gpa = gpa, .memory = std::move(memory), .size = size, .flags = flags}, EINVAL);
  };
  const auto other = std::make_shared<GuestMemory>(2 * kSize);
  refuses("other memory", kGpa, other, kSize, 0);
  refuses("other memory at another address", 3_GiB, other, kSize, 0);
  refuses("larger", kGpa, other, 2 * kSize, 0);
  refuses("smaller", kGpa, config.memory, kSize / 2, 0);
  refuses("smaller, at another address", 3_GiB, config.memory, kSize / 2, 0);
  refuses("read-only", kGpa, config.memory, kSize, KVM_MEM_READONLY);
  EXPECT_THAT(vm.guest().Read(3_GiB), IsMmioReadAt(3_GiB));
}

// KVM finds that out late, when it has let go of a slot that moves.
TEST_P(SlotCreate, BeyondTheLastGfnFails) {
  TestVm vm(Config());
  const Mapped mapped(vm);
  const auto memory = std::make_shared<GuestMemory>(kSize);
  mapped.Refuses(kFreeId, {.gpa = kBeyond, .memory = memory, .size = kSize}, EINVAL);
  mapped.Refuses(
      kFreeId, {.gpa = kBeyond, .memory = memory, .size = kSize, .flags = KVM_MEM_LOG_DIRTY_PAGES},
      EINVAL);
  // The number is still free.
  MemorySlot slot(vm.vm(), kFreeId, {.gpa = 3_GiB, .memory = memory, .size = kSize});
  slot.Add();
  EXPECT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
}

// Nothing of it is at the address that it can't have; at its own it is what it was, the log
// included.
TEST_P(SlotCreate, MovingBeyondTheLastGfnFails) {
  for (const bool logged : {false, true}) {
    SCOPED_TRACE(logged ? "with a dirty log" : "without");
    TestVm vm(Config());
    MemorySlot slot = vm.AddFilledSlot(kGpa, kSize, kSeed);
    if (logged) slot.SetFlags(KVM_MEM_LOG_DIRTY_PAGES);
    MemorySlot other = vm.AddSlot(2_GiB, kSize);
    const auto write = [&](int64_t page) {
      ASSERT_THAT(
          vm.guest().Write(slot.page(page),
                           guest::PatternWord(kSeed, static_cast<uint64_t>(page) * kPageSize / 8)),
          Succeeds());
    };
    ASSERT_THAT(vm.guest().TouchWrite({other.range()}), Succeeds());
    for (const int64_t page : {3, 60}) write(page);
    for (int i = 0; i < 3; i++) {
      const uint64_t faults = vm.FixedFaults();
      EXPECT_THAT(slot.TryMoveTo(kBeyond), FailsWith(EINVAL));
      ASSERT_THAT(vm.guest().TouchWrite({other.range()}), Succeeds());
      if (!slot_zap_all()) {
        EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision << "another slot was faulted in again";
      }
    }
    // Other slots' logs, in memory that may have been this one's.
    for (Gpa gpa = 4_GiB; gpa < 4_GiB + 8 * kSize; gpa += kSize) {
      MemorySlot more = vm.vm().AddSlot({.gpa = gpa,
                                         .memory = std::make_shared<GuestMemory>(kSize),
                                         .flags = KVM_MEM_LOG_DIRTY_PAGES});
      ASSERT_THAT(vm.guest().TouchWrite({more.range()}), Succeeds());
    }
    for (const int64_t page : {5, 63}) write(page);
    if (logged) {
      EXPECT_THAT(slot.GetDirtyLog().Set(), testing::ElementsAre(3, 5, 60, 63));
      EXPECT_THAT(slot.GetDirtyLog().Set(), testing::IsEmpty());
      write(7);
      EXPECT_THAT(slot.GetDirtyLog().Set(), testing::ElementsAre(7));
    }
    EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern());
    slot.MoveTo(3_GiB);
    EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern());
    slot.Delete();
    EXPECT_THAT(vm.guest().Read(3_GiB), IsMmioReadAt(3_GiB));
  }
}

SLOTZAP_INSTANTIATE(SlotCreate);

}  // namespace
}  // namespace slotzap

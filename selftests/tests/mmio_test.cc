// SPDX-License-Identifier: GPL-2.0-only
// Theme: MMIO where a slot was, and memory again where MMIO was.
#include <vector>

#include "base/event_fd.h"
#include "tests/slot_test.h"

namespace slotzap {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr uint64_t kSeed = 0x10;
constexpr Gpa kGpa = 1_GiB;
constexpr uint64_t kSize = 64_KiB;

class FormerSlot : public SlotTest {};

// The bytes of an access that are in [first, end) of memory that is all ones elsewhere.
uint64_t Bytes(unsigned count) { return count == 8 ? ~0ull : (1ull << count * 8) - 1; }

// The guest accesses a deleted slot in all sizes that KVM emulates.
TEST_P(FormerSlot, AccessesOfAllSizes) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddFilledSlot(kGpa, kSize, kSeed);
  ASSERT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern());
  slot.Delete();
  for (const unsigned size : {1u, 2u, 4u, 8u}) {
    for (const Gpa gpa : {slot.page(0), slot.page(5) + 24, slot.range().end() - size}) {
      SCOPED_TRACE(std::to_string(size) + " bytes at " + Hex(gpa));
      const Outcome read = vm.guest().ReadSized(gpa, size);
      EXPECT_EQ(read.value, Bytes(size));
      EXPECT_THAT(read.mmio, ElementsAre(MmioAccess{gpa, size, false, ~0ull}));
      const uint64_t value = 0x8877665544332211 & Bytes(size);
      const Outcome write = vm.guest().WriteSized(gpa, value, size);
      ASSERT_EQ(write.mmio.size(), 1u);
      EXPECT_EQ(write.mmio[0].gpa, gpa);
      EXPECT_EQ(write.mmio[0].size, size);
      EXPECT_TRUE(write.mmio[0].write);
      EXPECT_EQ(write.mmio[0].value & Bytes(size), value);
    }
  }
  slot.Add();
  EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern())
      << "a write reached the memory of the deleted slot";
}

// Accesses with one foot in a slot that is there, and one in a slot that was: each byte from where
// it belongs.
TEST_P(FormerSlot, AccessesAcrossTheEdge) {
  TestVm vm(Config());
  MemorySlot below = vm.AddFilledSlot(kGpa - kSize, kSize, kSeed);
  MemorySlot slot = vm.AddFilledSlot(kGpa, kSize, kSeed + 1);
  MemorySlot above = vm.AddFilledSlot(slot.range().end(), kSize, kSeed + 2);
  ASSERT_THAT(vm.guest().TouchWrite({below.range(), slot.range(), above.range()}), Succeeds());
  const auto old_memory = slot.config().memory;
  slot.Delete();
  for (const unsigned size : {2u, 4u, 8u}) {
    for (unsigned inside = 1; inside < size; inside++) {  // bytes in the deleted slot
      SCOPED_TRACE(std::to_string(inside) + " of " + std::to_string(size) + " bytes");
      const unsigned outside = size - inside;
      {
        const Gpa gpa = slot.range().end() - inside;
        const uint64_t memory = above.Load(above.range().start) & Bytes(outside);
        const Outcome read = vm.guest().ReadSized(gpa, size);
        EXPECT_EQ(read.value, memory << inside * 8 | Bytes(inside));
        ASSERT_EQ(read.mmio.size(), 1u);
        EXPECT_EQ(read.mmio[0], (MmioAccess{gpa, inside, false, ~0ull}));
        const Outcome write = vm.guest().WriteSized(gpa, read.value, size);
        ASSERT_EQ(write.mmio.size(), 1u);
        EXPECT_EQ(write.mmio[0].size, inside);
        EXPECT_EQ(above.Load(above.range().start) & Bytes(outside), memory);
      }
      {
        const Gpa gpa = slot.range().start - outside;
        const uint64_t memory = below.Load(slot.range().start - 8) >> (8 - outside) * 8;
        const Outcome read = vm.guest().ReadSized(gpa, size);
        EXPECT_EQ(read.value, Bytes(inside) << outside * 8 | memory);
        ASSERT_EQ(read.mmio.size(), 1u);
        EXPECT_EQ(read.mmio[0], (MmioAccess{slot.range().start, inside, false, ~0ull}));
      }
    }
  }
  // A write of other bytes than were there, to see that they arrive in the neighbour, and only
  // there.
  const Gpa gpa = slot.range().end() - 4;
  ASSERT_THAT(vm.guest().WriteSized(gpa, 0x1122334455667788, 8),
              testing::Field(&Outcome::done, true));
  EXPECT_EQ(above.Load(above.range().start) & 0xffffffff, 0x11223344u);
  EXPECT_EQ(old_memory->Load(kSize - 8), guest::PatternWord(kSeed + 1, kSize / 8 - 1));
}

// KVM remembers where no memory is (MMIO SPTEs, and a cache per vCPU); a new slot makes it forget.
TEST_P(FormerSlot, CachedMmioGivesWayToMemory) {
  TestVm vm(Config(2));
  MemorySlot slot = vm.AddFilledSlot(kGpa, kSize, kSeed);
  for (int round = 0; round < 4; round++) {
    slot.Delete();
    for (unsigned vcpu = 0; vcpu < 2; vcpu++)
      for (int i = 0; i < 2; i++)
        ASSERT_THAT(vm.guest(vcpu).TouchRead({slot.range()}), FindsNothingIn(slot.range()));
    slot.Add();
    for (unsigned vcpu = 0; vcpu < 2; vcpu++)
      ASSERT_THAT(vm.guest(vcpu).Verify({PatternOf(slot, kSeed)}), SeesPattern());
  }
}

// MMIO between two slots stays MMIO when one of them goes, and the other one stays memory.
TEST_P(FormerSlot, HoleBetweenSlots) {
  TestVm vm(Config());
  MemorySlot below = vm.AddFilledSlot(kGpa, kPageSize, kSeed);
  MemorySlot above = vm.AddFilledSlot(kGpa + 2 * kPageSize, kPageSize, kSeed + 1);
  const Gpa hole = kGpa + kPageSize;
  ASSERT_THAT(vm.guest().Read(hole), IsMmioReadAt(hole));
  ASSERT_THAT(vm.guest().Verify({PatternOf(below, kSeed), PatternOf(above, kSeed + 1)}),
              SeesPattern());
  below.Delete();
  EXPECT_THAT(vm.guest().Read(hole), IsMmioReadAt(hole));
  EXPECT_THAT(vm.guest().Read(kGpa), IsMmioReadAt(kGpa));
  EXPECT_THAT(vm.guest().Verify({PatternOf(above, kSeed + 1)}), SeesPattern());
  MemorySlot filled = vm.AddFilledSlot(kGpa, 2 * kPageSize, kSeed + 2);
  EXPECT_THAT(vm.guest().Verify({PatternOf(filled, kSeed + 2), PatternOf(above, kSeed + 1)}),
              SeesPattern());
}

// An ioeventfd where a slot was: writes go there, until there is memory again.
TEST_P(FormerSlot, IoEventFd) {
  TestVm vm(Config());
  MemorySlot slot = vm.AddFilledSlot(kGpa, kSize, kSeed);
  ASSERT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern());
  const EventFd event;
  const Gpa doorbell = slot.page(3);
  vm.vm().AssignIoEventFd(doorbell, 8, event.fd());
  EXPECT_THAT(vm.guest().Write(doorbell, 1), Succeeds());
  EXPECT_EQ(event.Take(), 0u) << "memory is in the way";

  for (uint64_t round = 0; round < 3; round++) {
    slot.Delete();
    for (int i = 0; i < 3; i++) EXPECT_THAT(vm.guest().Write(doorbell, 2), Succeeds());
    EXPECT_EQ(event.Take(), 3u);
    EXPECT_THAT(vm.guest().Read(doorbell), IsMmioReadAt(doorbell));
    EXPECT_THAT(vm.guest().Write(doorbell + 8, 3), IsMmioWriteAt(doorbell + 8, 3));
    EXPECT_NE(slot.Load(doorbell), 2u);

    slot.Add();
    EXPECT_THAT(vm.guest().Write(doorbell, 100 + round), Succeeds());
    EXPECT_EQ(event.Take(), 0u) << "memory is in the way again";
    EXPECT_EQ(slot.Load(doorbell), 100 + round);
  }
  slot.Delete();
  vm.vm().DeassignIoEventFd(doorbell, 8, event.fd());
  EXPECT_THAT(vm.guest().Write(doorbell, 4), IsMmioWriteAt(doorbell, 4));
}

// Coalesced MMIO where a slot was, likewise.
TEST_P(FormerSlot, CoalescedMmio) {
  TestVm vm(Config());
  CoalescedMmioRing ring = vm.guest().vcpu().CoalescedMmio();
  MemorySlot slot = vm.AddFilledSlot(kGpa, kSize, kSeed);
  ASSERT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern());
  const GpaRange zone = {slot.page(2), kPageSize};
  vm.vm().RegisterCoalescedMmio(zone);
  for (uint64_t round = 0; round < 3; round++) {
    EXPECT_THAT(vm.guest().Write(zone.start, round), Succeeds());
    EXPECT_THAT(ring.Take(), IsEmpty());
    EXPECT_EQ(slot.Load(zone.start), round);

    slot.Delete();
    EXPECT_THAT(vm.guest().WriteSized(zone.start, 0x1234, 2), Succeeds());
    EXPECT_THAT(vm.guest().WriteSized(zone.end() - 8, 0x5678, 8), Succeeds());
    EXPECT_THAT(ring.Take(), ElementsAre(CoalescedWrite{zone.start, 2, 0x1234},
                                         CoalescedWrite{zone.end() - 8, 8, 0x5678}));
    EXPECT_THAT(vm.guest().Write(zone.end(), 9), IsMmioWriteAt(zone.end(), 9));
    slot.Add();
  }
  slot.Delete();
  vm.vm().UnregisterCoalescedMmio(zone);
  EXPECT_THAT(vm.guest().Write(zone.start, 1), IsMmioWriteAt(zone.start, 1));
}

// Read-only slots: the guest reads memory, its writes are MMIO.
class ReadOnlySlot : public SlotTest {
 protected:
  static MemorySlot Rom(TestVm& vm) {
    auto memory = std::make_shared<GuestMemory>(kSize);
    FillMemory(*memory, {.pages = kSize / kPageSize, .seed = kSeed});
    return vm.vm().AddSlot({.gpa = kGpa, .memory = memory, .flags = KVM_MEM_READONLY});
  }
  static void ExpectReadOnly(TestVm& vm, const MemorySlot& slot) {
    EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern());
    for (const Gpa gpa : {slot.page(0), slot.page(-1) + 8}) {
      EXPECT_THAT(vm.guest().Write(gpa, 0xbad), IsMmioWriteAt(gpa, 0xbad));
      EXPECT_NE(slot.Load(gpa), 0xbadu) << "the guest wrote to a read-only slot";
    }
  }
};

TEST_P(ReadOnlySlot, WritesAreMmio) {
  TestVm vm(Config());
  MemorySlot rom = Rom(vm);
  ExpectReadOnly(vm, rom);
  rom.Delete();
  EXPECT_THAT(vm.guest().TouchRead({rom.range()}), FindsNothingIn(rom.range()));
  rom.Add();
  ExpectReadOnly(vm, rom);
  rom.MoveTo(kGpa + kPageSize);
  EXPECT_THAT(vm.guest().Read(kGpa), IsMmioReadAt(kGpa));
  ExpectReadOnly(vm, rom);
}

// As firmware does: the same memory writable, read-only, writable, by deleting and creating the
// slot.  The flag can't be changed in place.
TEST_P(ReadOnlySlot, FlipsBetweenRomAndRam) {
  TestVm vm(Config());
  MemorySlot other = vm.AddSlot(kGpa + kSize, kSize);
  MemorySlot rom = Rom(vm);
  EXPECT_THAT(rom.TrySetFlags(0), FailsWith(EINVAL));
  SlotConfig writable = rom.config();
  writable.flags = 0;
  MemorySlot ram(vm.vm(), rom.id(), writable);
  ASSERT_THAT(vm.guest().TouchWrite({other.range()}), Succeeds());
  for (uint64_t round = 0; round < 4; round++) {
    ExpectReadOnly(vm, rom);
    const uint64_t faults = vm.FixedFaults();
    rom.Delete();
    ram.Add();
    const Gpa gpa = ram.page(static_cast<int64_t>(round));
    const uint64_t word = ram.Load(gpa);
    EXPECT_THAT(vm.guest().TouchWrite({ram.range()}), Succeeds());
    EXPECT_THAT(vm.guest().Write(gpa, round), Succeeds());
    EXPECT_EQ(ram.Load(gpa), round);
    EXPECT_THAT(vm.guest().Write(gpa, word), Succeeds());
    EXPECT_GT(vm.FixedFaults(), faults);
    ram.Delete();
    rom.Add();
    const uint64_t before_others = vm.FixedFaults();
    ASSERT_THAT(vm.guest().TouchWrite({other.range()}), Succeeds());
    if (!slot_zap_all()) {
      EXPECT_EQ(vm.FixedFaults(), before_others)
          << kPrecision << "another slot was faulted in again";
    }
  }
}

SLOTZAP_INSTANTIATE(FormerSlot);
SLOTZAP_INSTANTIATE(ReadOnlySlot);

}  // namespace
}  // namespace slotzap

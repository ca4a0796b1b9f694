// SPDX-License-Identifier: GPL-2.0-only
// Theme: KVM's own writes.  KVM keeps some structures in the guest's memory up to date (steal time,
// the clock), through addresses that it remembers: memory whose slot is gone it must leave alone.
#include <array>
#include <cerrno>
#include <memory>

#include "tests/slot_test.h"

namespace slotzap {
namespace {

constexpr Gpa kGpa = 1_GiB;
constexpr Gpa kAway = 3_GiB;
constexpr uint64_t kSize = 64_KiB;

// Documentation/virt/kvm/x86/msr.rst.
constexpr uint32_t kMsrSystemTime = 0x4b564d01;  // MSR_KVM_SYSTEM_TIME_NEW
constexpr uint32_t kMsrStealTime = 0x4b564d03;   // MSR_KVM_STEAL_TIME
constexpr uint64_t kEnable = 1;

class KvmWrites : public SlotTest {
 protected:
  using Words = std::array<uint64_t, 8>;  // as much as KVM writes, 64 bytes
  static Words At(const GuestMemory& memory, uint64_t offset) {
    Words words = {};
    for (uint64_t i = 0; i < words.size(); i++) words[i] = memory.Load(offset + i * 8);
    return words;
  }

  // KVM writes to the structure that `msr` puts there whenever the vCPU runs after `provoke`.
  // Deletes, replaces and moves its slot.
  template <typename Provoke>
  void FollowTheSlot(uint32_t msr, Provoke provoke) {
    constexpr uint64_t kOffset = 3 * kPageSize;
    TestVm vm(Config());
    MemorySlot slot = vm.AddSlot(kGpa, kSize);
    const KvmStatus status = vm.guest().vcpu().TrySetMsr(msr, (kGpa + kOffset) | kEnable);
    if (status.error() == EINVAL) GTEST_SKIP() << "this KVM has no MSR " << Hex(msr);
    status.OrThrow();
    const auto run = [&] {
      provoke(vm);
      ASSERT_THAT(vm.guest().Nop(), Succeeds());
    };
    const auto writes_to = [&](const GuestMemory& memory) {
      const Words before = At(memory, kOffset);
      run();
      run();
      return At(memory, kOffset) != before;
    };
    ASSERT_TRUE(writes_to(slot.memory())) << "KVM doesn't write to what the guest gave it";

    const std::shared_ptr<GuestMemory> first = slot.config().memory;
    slot.Delete();
    EXPECT_FALSE(writes_to(*first)) << "KVM writes to the memory of a slot that was deleted";
    const auto second = std::make_shared<GuestMemory>(kSize);
    slot.AddWith(second);
    const Words of_first = At(*first, kOffset);
    EXPECT_TRUE(writes_to(*second)) << "KVM doesn't know of the slot that came in its place";
    EXPECT_EQ(At(*first, kOffset), of_first) << "KVM writes to the memory of the former slot";

    slot.MoveTo(kAway);
    EXPECT_FALSE(writes_to(*second)) << "KVM writes to where the slot was before it moved";
    slot.MoveTo(kGpa);
    EXPECT_TRUE(writes_to(*second)) << "KVM doesn't know of the slot that came back";
  }
};

// Whenever a vCPU starts to run.
TEST_P(KvmWrites, StealTime) {
  FollowTheSlot(kMsrStealTime, [](TestVm&) {});
}

// Whenever userspace sets the clock.
TEST_P(KvmWrites, Clock) {
  FollowTheSlot(kMsrSystemTime, [nanoseconds = uint64_t{1} << 40](TestVm& vm) mutable {
    kvm_clock_data clock = {};
    clock.clock = nanoseconds += 1'000'000'000;
    SLOTZAP_IOCTL(vm.vm().fd(), KVM_SET_CLOCK, &clock, "").OrThrow();
  });
}

SLOTZAP_INSTANTIATE(KvmWrites);

}  // namespace
}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "kvm/coalesced_mmio.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kvm/uapi.h"

namespace slotzap {
namespace {

using testing::ElementsAre;

class FakeCoalescedMmio : public testing::Test {
 protected:
  // KVM_COALESCED_MMIO_MAX
  static constexpr uint32_t kEntries =
      (kPageSize - sizeof(kvm_coalesced_mmio_ring)) / sizeof(kvm_coalesced_mmio);

  FakeCoalescedMmio()
      : file_(MemoryFile(kPageSize)), kvm_(Mapping::Shared(file_.get(), kPageSize)) {}
  Mapping OurPage() const { return Mapping::Shared(file_.get(), kPageSize); }
  void Push(Gpa gpa, uint32_t size, uint8_t byte) const {
    auto* ring = kvm_.at<kvm_coalesced_mmio_ring>(0);
    auto* entry = kvm_.at<kvm_coalesced_mmio>(sizeof(kvm_coalesced_mmio_ring) +
                                              ring->last * sizeof(kvm_coalesced_mmio));
    *entry = {};
    entry->phys_addr = gpa;
    entry->len = size;
    for (uint8_t& data : entry->data) data = byte;
    ring->last = (ring->last + 1) % kEntries;
  }

  FileDescriptor file_;
  Mapping kvm_;
};

TEST_F(FakeCoalescedMmio, GivesEachWriteOnce) {
  CoalescedMmioRing ring(OurPage());
  EXPECT_THAT(ring.Take(), ElementsAre());
  Push(0x1000, 8, 0x11);
  Push(0x2004, 2, 0x22);
  EXPECT_THAT(ring.Take(), ElementsAre(CoalescedWrite{0x1000, 8, 0x1111111111111111},
                                       CoalescedWrite{0x2004, 2, 0x2222}));
  EXPECT_THAT(ring.Take(), ElementsAre());
}

TEST_F(FakeCoalescedMmio, WrapsAround) {
  CoalescedMmioRing ring(OurPage());
  for (uint64_t i = 0; i < kEntries + 2; i++) {
    Push(i * 8, 1, static_cast<uint8_t>(i));
    ASSERT_THAT(ring.Take(), ElementsAre(CoalescedWrite{i * 8, 1, i & 0xff}));
  }
}

}  // namespace
}  // namespace slotzap

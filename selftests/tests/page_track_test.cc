// SPDX-License-Identifier: GPL-2.0-only
// Theme: page tracking.  Whoever write-protects guest pages through KVM (KVMGT does) has to be told
// of every slot that goes, whatever KVM's own MMU does with it.
#include <cerrno>

#include "tests/test_device.h"

namespace slotzap {
namespace {

class PageTrack : public DeviceTest {};

TEST_P(PageTrack, ClientsAreToldOfEverySlotThatGoes) {
  TestVm vm(Config());
  MemorySlot touched = vm.AddSlot(1_GiB, 64_KiB);
  MemorySlot untouched = vm.AddSlot(2_GiB, 128_KiB);
  ASSERT_THAT(vm.guest().TouchWrite({touched.range()}), Succeeds());
  TestDevice device(vm.vm());
  if (const KvmStatus watching = device.TryWatchSlots(); watching.error() == EOPNOTSUPP)
    GTEST_SKIP() << "needs page-track clients: KVM lacks CONFIG_KVM_EXTERNAL_WRITE_TRACKING";
  else
    ASSERT_THAT(watching, IsOk());
  ASSERT_EQ(device.SlotsGone().count, 0u);

  uint64_t expected = 0;
  for (MemorySlot* slot : {&touched, &untouched}) {
    GpaRange range = slot->range();
    // Linux 6.12 refuses instead, while there are clients.
    if (const KvmStatus moved = slot->TryMoveTo(range.start + 1_MiB); moved.ok()) {
      EXPECT_EQ(device.SlotsGone().count, ++expected);
      EXPECT_EQ(device.SlotsGone().base_gfn, range.first_gfn());
      EXPECT_EQ(device.SlotsGone().npages, range.pages());
    } else {
      EXPECT_THAT(moved, FailsWith(EINVAL));
      EXPECT_EQ(device.SlotsGone().count, expected);
    }

    range = slot->range();
    slot->Delete();
    EXPECT_EQ(device.SlotsGone().count, ++expected);
    EXPECT_EQ(device.SlotsGone().base_gfn, range.first_gfn());

    slot->Add();
    EXPECT_EQ(device.SlotsGone().count, expected) << "a slot that comes is none that goes";
  }
}

SLOTZAP_INSTANTIATE(PageTrack);

}  // namespace
}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "kvm/dirty_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>

namespace slotzap {
namespace {

using testing::ElementsAre;

TEST(DirtyBitmap, NamesThePagesThatAreSet) {
  DirtyBitmap bitmap(130);
  for (const uint64_t page : {0u, 63u, 64u, 129u}) bitmap.set(page);
  EXPECT_THAT(bitmap.Set(), ElementsAre(0, 63, 64, 129));
  EXPECT_FALSE(bitmap.test(1));
  EXPECT_EQ(bitmap.data()[1], 1u);
  EXPECT_THROW(bitmap.set(192), std::out_of_range);
}

TEST(DirtyBitmap, IgnoresBitsBeyondTheLastPage) {
  DirtyBitmap bitmap(3);
  bitmap.data()[0] = ~0ull;
  EXPECT_THAT(bitmap.Set(), ElementsAre(0, 1, 2));
}

// A ring as KVM fills it.
class FakeRing : public testing::Test {
 protected:
  static constexpr uint64_t kEntries = 4096 / sizeof(kvm_dirty_gfn);

  FakeRing() : file_(MemoryFile(4096)), kvm_(Mapping::Shared(file_.get(), 4096)) {}
  kvm_dirty_gfn* entry(uint64_t i) const {
    return kvm_.at<kvm_dirty_gfn>(i % kEntries * sizeof(kvm_dirty_gfn));
  }
  void Push(uint64_t i, uint32_t slot, uint64_t page) const {
    *entry(i) = {KVM_DIRTY_GFN_F_DIRTY, slot, page};
  }

  FileDescriptor file_;
  Mapping kvm_;
};

TEST_F(FakeRing, IsCollectedInOrderAndOnce) {
  DirtyRing ring(Mapping::Shared(file_.get(), 4096));
  EXPECT_THAT(ring.Collect(), ElementsAre());
  Push(0, 3, 17);
  Push(1, 1u << 16 | 2, 5);
  EXPECT_THAT(ring.Collect(), ElementsAre(DirtyPage{0, 3, 17}, DirtyPage{1, 2, 5}));
  EXPECT_EQ(entry(1)->flags, static_cast<unsigned>(KVM_DIRTY_GFN_F_RESET));
  EXPECT_THAT(ring.Collect(), ElementsAre());
  Push(2, 3, 18);
  EXPECT_THAT(ring.Collect(), ElementsAre(DirtyPage{0, 3, 18}));
}

TEST_F(FakeRing, WrapsAround) {
  DirtyRing ring(Mapping::Shared(file_.get(), 4096));
  for (uint64_t i = 0; i < 2 * kEntries + 3; i++) {
    Push(i, 1, i);
    ASSERT_THAT(ring.Collect(), ElementsAre(DirtyPage{0, 1, i}));
    entry(i)->flags = 0;  // as KVM_RESET_DIRTY_RINGS does
  }
}

}  // namespace
}  // namespace slotzap

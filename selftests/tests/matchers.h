// SPDX-License-Identifier: GPL-2.0-only
// GoogleMock matchers over what a guest saw and what KVM zapped.  Each is shown with a use, and
// with what it prints when it fails.  Those of what the guest saw, and of ioctls, are about the
// contract, those of what was zapped about precision (harness/precision.h).
#pragma once

#include <gmock/gmock.h>

#include <iosfwd>
#include <string>
#include <vector>

#include "base/range.h"
#include "guest/guest.h"
#include "host/kvm_module.h"
#include "kvm/memory_slot.h"
#include "oracle/spt_order.h"
#include "oracle/zap_watch.h"

namespace slotzap {

// So that GoogleTest prints them in words.
std::ostream& operator<<(std::ostream& os, const MmioAccess& access);
std::ostream& operator<<(std::ostream& os, const Outcome& outcome);
void PrintTo(const KvmStatus& status, std::ostream* os);

// The ioctl succeeded.
//   EXPECT_THAT(slot.TryDelete(), IsOk());
//     which is KVM_SET_USER_MEMORY_REGION(... slot 2 ...): Invalid argument (errno 22)
testing::Matcher<const KvmStatus&> IsOk();

// The ioctl failed with this errno.
testing::Matcher<const KvmStatus&> FailsWith(int error);

// The command was carried out, without a single access to where no memslot is.
//   EXPECT_THAT(guest.TouchRead({slot.range()}), Succeeds());
//     which did not finish: KVM_EXIT_SHUTDOWN
testing::Matcher<const Outcome&> Succeeds();

// As Succeeds(), with this result.
testing::Matcher<const Outcome&> Returns(uint64_t value);

// A read of 8 bytes that reached no memory, as userspace saw it: KVM_EXIT_MMIO.
//   EXPECT_THAT(guest.Read(slot.page(0)), IsMmioReadAt(slot.page(0)));
//     which returned 0x1badcafe, with 0 MMIO accesses
testing::Matcher<const Outcome&> IsMmioReadAt(Gpa gpa);

// A write of these 8 bytes that reached no memory.
testing::Matcher<const Outcome&> IsMmioWriteAt(Gpa gpa, uint64_t value);

// The vCPU could not go on: its code or its page tables were not there.
testing::Matcher<const Outcome&> IsStuck();

// Verify found the pattern in every word.
//   EXPECT_THAT(guest.Verify({pattern}), SeesPattern());
//     which saw 512 words: 0 right, 512 absent, 0 wrong
testing::Matcher<const Outcome&> SeesPattern();

// TouchRead of `range` found no memory in any page.
//   EXPECT_THAT(guest.TouchRead({slot.range()}), FindsNothingIn(slot.range()));
//     which returned 0, with 3 MMIO accesses, the first a read of 8 bytes at 0x40001000: ...
testing::Matcher<const Outcome&> FindsNothingIn(GpaRange range);

// Where leaf SPTEs are expected to be: `pages` of the size, one after the other.
struct LeafRange {
  GpaRange range;
  Backing size = Backing::k4K;
};

// Exactly the leaves in `expected` were zapped, by the statistics of any MMU and, in the TDP MMU,
// one by one by the tracepoint; and nothing else: no root, no shadow page, no page table but those
// that were left empty.  If anything was zapped, the TLBs were flushed.
//   EXPECT_THAT(watch.Stop(), ZappedOnly({victim.range()}));
//     where 3 leaves of 4 KiB were zapped, not 4
// The mode is the one that KVM is in.
testing::Matcher<const ZapReport&> ZappedOnly(std::vector<LeafRange> expected, MmuMode mode,
                                              int address_space = 0);

// Everything was invalidated: kvm_mmu_zap_all_fast() ran, no leaf SPTE is left.
testing::Matcher<const ZapReport&> ZappedEverything();

// The TDP MMU's leaves were zapped one by one in `expected`, and nowhere else.
testing::Matcher<const ZapReport&> TracedLeavesAre(const std::vector<LeafRange>& expected);

// The order that TDX's Secure-EPT imposes was kept: the root was not replaced, and no table was
// removed while an entry below it was present.
//   EXPECT_THAT(watch.End(), KeptSecureEptOrder());
//     where 1 table was removed out of order, first address space 0: the level 2 entry of gfn
//     0x40000 was cleared (SPTE 0x107907 -> 0x0) while the level 1 entry of gfn 0x40003 below it
//     was present (SPTE 0x60000010cc5bb77) where the root was replaced: all roots were made
//     obsolete (kvm_mmu_zap_all_fast)
testing::Matcher<const SptOrderReport&> KeptSecureEptOrder();

// All leaves in `ranges` were removed, at least one in each, and nothing elsewhere.  Tables in the
// ranges may be gone or stay.  Recording has to have begun before the VM mapped anything.
//   EXPECT_THAT(watch.End(), RemovedLeavesOnlyIn({victim.range()}));
//     where a leaf outside of the ranges was removed: gfn 0x40200 level 1 of address space 0
//     where a leaf is left: gfn 0x40003 level 1 of address space 0
testing::Matcher<const SptOrderReport&> RemovedLeavesOnlyIn(std::vector<GpaRange> ranges,
                                                            int address_space = 0);

// The tables that were removed, in order or not, map something of `ranges`, each of them: they are
// those that what is in the ranges left empty.
//   EXPECT_THAT(watch.End(), RemovedTablesOnlyOf({victim.range()}));
//     where a table was removed: address space 0: the level 2 entry of gfn 0x40000 was cleared ...
testing::Matcher<const SptOrderReport&> RemovedTablesOnlyOf(std::vector<GpaRange> ranges,
                                                            int address_space = 0);

}  // namespace slotzap

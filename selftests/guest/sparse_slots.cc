// SPDX-License-Identifier: GPL-2.0-only
#include "guest/sparse_slots.h"

#include <algorithm>
#include <stdexcept>

namespace slotzap {
namespace {

constexpr uint64_t kSeed = 0x5ba5e;

void Check(const Outcome& outcome) {
  if (!outcome.done || outcome.mmio_count != 0)
    throw std::runtime_error("the guest could not touch its memory: " + outcome.exit_text);
}

}  // namespace

SparseSlots::SparseSlots(GuestVm& vm, Gpa end)
    : vm_(vm),
      start_(GuestVm::k2MMappedEnd),
      end_(std::min(end, Gpa{1} << vm.vm().kvm().PhysicalAddressBits())) {
  if (vm.mapped_end() < guest::kMappedEnd) {
    start_ = 4ull << 30;
    end_ = std::min(end_, vm.mapped_end());
  } else if (end_ > guest::kMappedEnd) {
    vm.tables().MapIdentity({guest::kMappedEnd, end_ - guest::kMappedEnd}, GuestPageSize::k1G);
  }
  memory_ = std::make_shared<GuestMemory>(kMaxSize);
  // Its id is used again and again: there are far fewer ids than rounds.
  MemorySlot first = vm.vm().AddSlot({.gpa = start_, .memory = memory_});
  slot_id_ = first.id();
  first.Delete();
}

void SparseSlots::Rounds(uint64_t n) {
  for (const uint64_t last = next_ + n; next_ < last; next_++) {
    const uint64_t size =
        (guest::PatternWord(kSeed, 2 * next_) % (kMaxSize / kPageSize) + 1) * kPageSize;
    const uint64_t places = (end_ - start_ - size) / kPageSize;
    const Gpa gpa = start_ + guest::PatternWord(kSeed, 2 * next_ + 1) % places * kPageSize;
    MemorySlot slot(vm_.vm(), slot_id_, {.gpa = gpa, .memory = memory_, .size = size});
    slot.Add();
    const auto middle = static_cast<int64_t>(size / kPageSize / 2);
    Check(vm_.guest().TouchWrite(
        {{slot.page(0), kPageSize}, {slot.page(middle), kPageSize}, {slot.page(-1), kPageSize}}));
    slot.Delete();
  }
}

}  // namespace slotzap

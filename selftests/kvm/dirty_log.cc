// SPDX-License-Identifier: GPL-2.0-only
#include "kvm/dirty_log.h"

#include <ostream>

namespace slotzap {

std::vector<uint64_t> DirtyBitmap::Set() const {
  std::vector<uint64_t> set;
  for (uint64_t page = 0; page < pages_; page++)
    if (test(page)) set.push_back(page);
  return set;
}

std::ostream& operator<<(std::ostream& os, const DirtyPage& page) {
  return os << "address space " << page.address_space << " slot " << page.slot << " page "
            << page.page;
}

std::vector<DirtyPage> DirtyRing::Collect() {
  std::vector<DirtyPage> pages;
  const uint64_t entries = ring_.size() / sizeof(kvm_dirty_gfn);
  for (;; next_ = (next_ + 1) % entries) {
    auto* entry = ring_.at<kvm_dirty_gfn>(next_ * sizeof(kvm_dirty_gfn));
    // KVM sets the flag after the rest of the entry, and reads ours before it takes it back.
    if (__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY) return pages;
    pages.push_back({static_cast<uint16_t>(entry->slot >> 16),
                     static_cast<uint16_t>(entry->slot & 0xffff), entry->offset});
    __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
  }
}

}  // namespace slotzap

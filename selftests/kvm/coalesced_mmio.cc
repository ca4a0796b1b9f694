// SPDX-License-Identifier: GPL-2.0-only
#include "kvm/coalesced_mmio.h"

#include <cstring>

#include "kvm/uapi.h"

namespace slotzap {

std::vector<CoalescedWrite> CoalescedMmioRing::Take() {
  constexpr uint32_t kEntries =
      (kPageSize - sizeof(kvm_coalesced_mmio_ring)) / sizeof(kvm_coalesced_mmio);
  std::vector<CoalescedWrite> writes;
  auto* ring = page_.at<kvm_coalesced_mmio_ring>(0);
  while (ring->first != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE)) {
    const auto* entry = page_.at<kvm_coalesced_mmio>(sizeof(kvm_coalesced_mmio_ring) +
                                                     ring->first * sizeof(kvm_coalesced_mmio));
    CoalescedWrite write = {entry->phys_addr, entry->len, 0};
    std::memcpy(&write.value, entry->data, entry->len);
    writes.push_back(write);
    __atomic_store_n(&ring->first, (ring->first + 1) % kEntries, __ATOMIC_RELEASE);
  }
  return writes;
}

}  // namespace slotzap

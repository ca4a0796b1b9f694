// SPDX-License-Identifier: GPL-2.0-only
// Writes to where no memory is that KVM collects, so that not each of them is an exit
// (KVM_REGISTER_COALESCED_MMIO; virt/kvm/coalesced_mmio.c).
#pragma once

#include <cstdint>
#include <vector>

#include "base/mapping.h"
#include "base/range.h"

namespace slotzap {

struct CoalescedWrite {
  Gpa gpa = 0;
  unsigned size = 0;  // bytes
  uint64_t value = 0;
  bool operator==(const CoalescedWrite&) const = default;
};

// A VM's ring of such writes.  Each of its vCPUs has it in its kvm_run pages.
class CoalescedMmioRing {
 public:
  // `page` is the page that is shared with KVM: a kvm_coalesced_mmio_ring.
  explicit CoalescedMmioRing(Mapping page) : page_(std::move(page)) {}

  // Takes what is in it, oldest first.
  std::vector<CoalescedWrite> Take();

 private:
  Mapping page_;
};

}  // namespace slotzap

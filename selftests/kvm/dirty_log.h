// SPDX-License-Identifier: GPL-2.0-only
// Which pages of a memslot were written to: KVM_GET_DIRTY_LOG's bitmap, and the dirty rings that a
// VM can have in its place (Documentation/virt/kvm/api.rst, KVM_CAP_DIRTY_LOG_RING).
#pragma once

#include <cstdint>
#include <iosfwd>
#include <vector>

#include "base/mapping.h"
#include "kvm/uapi.h"

namespace slotzap {

// A bit for each page of a memslot, page 0 first.
class DirtyBitmap {
 public:
  explicit DirtyBitmap(uint64_t pages) : pages_(pages), words_((pages + 63) / 64) {}

  uint64_t pages() const { return pages_; }
  bool test(uint64_t page) const { return (words_.at(page / 64) >> page % 64 & 1) != 0; }
  void set(uint64_t page) { words_.at(page / 64) |= 1ull << page % 64; }
  // The numbers of the pages whose bits are set, ascending.
  std::vector<uint64_t> Set() const;

  // As the ioctls take it.
  uint64_t* data() { return words_.data(); }
  const uint64_t* data() const { return words_.data(); }

 private:
  uint64_t pages_;
  std::vector<uint64_t> words_;
};

// An entry of a dirty ring: a page that a vCPU wrote to for the first time since the last reset.
struct DirtyPage {
  uint16_t address_space = 0;
  uint16_t slot = 0;  // MemorySlot::id()
  uint64_t page = 0;  // in the memslot, from 0
  bool operator==(const DirtyPage&) const = default;
};
std::ostream& operator<<(std::ostream& os, const DirtyPage& page);

// The dirty ring of a vCPU, of this process's side.
class DirtyRing {
 public:
  // `ring` is the array of kvm_dirty_gfn that is shared with KVM.
  explicit DirtyRing(Mapping ring) : ring_(std::move(ring)) {}

  // Takes all entries that KVM has made since the last call, oldest first.  They are the process's
  // until Vm::ResetDirtyRings() gives them back, which also makes the pages' next writes show.
  std::vector<DirtyPage> Collect();

 private:
  Mapping ring_;
  uint64_t next_ = 0;
};

}  // namespace slotzap

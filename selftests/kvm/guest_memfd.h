// SPDX-License-Identifier: GPL-2.0-only
// Memory that a guest has and the host has not: guest_memfd.  KVM takes a memslot's pages from it
// wherever the VM's memory attributes say "private" (virt/kvm/guest_memfd.c).
#pragma once

#include <cstdint>

#include "base/file_descriptor.h"
#include "kvm/status.h"

namespace slotzap {

// Owns the file.  While it is open, the VM lives; when it closes, its memory is gone for the guest,
// also where memslots still refer to it.
class GuestMemfd {
 public:
  // `fd` is what KVM_CREATE_GUEST_MEMFD returned; see Vm::CreateGuestMemfd().
  GuestMemfd(FileDescriptor fd, uint64_t size) : fd_(std::move(fd)), size_(size) {}
  GuestMemfd(const GuestMemfd&) = delete;
  GuestMemfd& operator=(const GuestMemfd&) = delete;

  int fd() const { return fd_.get(); }
  uint64_t size() const { return size_; }

  // fallocate(2) with FALLOC_FL_PUNCH_HOLE: gives the pages back, and takes them from the guest.
  // It gets new ones, which are zero, when it touches them again.  Offset and size in bytes,
  // multiples of the page size (EINVAL otherwise).
  void PunchHole(uint64_t offset, uint64_t size) const { TryPunchHole(offset, size).OrThrow(); }
  KvmStatus TryPunchHole(uint64_t offset, uint64_t size) const;

  // fallocate(2): the pages that are not there yet.
  void Allocate(uint64_t offset, uint64_t size) const { TryAllocate(offset, size).OrThrow(); }
  KvmStatus TryAllocate(uint64_t offset, uint64_t size) const;

 private:
  KvmStatus Fallocate(const char* what, int mode, uint64_t offset, uint64_t size) const;

  FileDescriptor fd_;
  uint64_t size_;
};

}  // namespace slotzap

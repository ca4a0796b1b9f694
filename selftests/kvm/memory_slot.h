// SPDX-License-Identifier: GPL-2.0-only
// Memslots, and the memory behind them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/mapping.h"
#include "base/range.h"
#include "kvm/dirty_log.h"
#include "kvm/guest_memfd.h"
#include "kvm/status.h"

namespace slotzap {

class Vm;

// Memory that can be given to a guest: a memory file, mapped here, all pages allocated, so that a
// guest's fault never waits for, or is blurred by, the host's own.  Outlives its memslots.
class GuestMemory {
 public:
  // The mapping is aligned to `align`, by default to the backing's page size.  KVM uses a large
  // page only where guest physical and host virtual address agree in the offset into it.
  explicit GuestMemory(uint64_t size, Backing backing = Backing::k4K, uint64_t align = 0);
  // Address space that takes no memory until touched, for slots larger than the machine.
  static std::shared_ptr<GuestMemory> Sparse(uint64_t size);
  // A memory file none of whose pages is allocated, for a test that decides when they come, or
  // where from.
  static std::shared_ptr<GuestMemory> Unpopulated(uint64_t size, Backing backing = Backing::k4K);
  // Private anonymous memory, in pages of 4 KiB.
  static std::shared_ptr<GuestMemory> Anonymous(uint64_t size);
  // The same, aligned to 2 MiB, in transparent huge pages if the kernel has some: see
  // TransparentHugeBytes().
  static std::shared_ptr<GuestMemory> TransparentHuge(uint64_t size);

  // Private anonymous memory, aligned to 2 MiB, in pages of 4 KiB, which TryCollapse() can join.
  static std::shared_ptr<GuestMemory> Collapsible(uint64_t size);
  // The first `size` bytes of a file that exists, shared with whoever else has it.
  static std::shared_ptr<GuestMemory> OfFile(FileDescriptor file, uint64_t size);
  // What a device has at one of its BARs, mapped by VFIO.
  static std::shared_ptr<GuestMemory> OfDevice(Mapping mapping);

  uint64_t size() const { return mapping_.size(); }
  uint64_t address() const { return mapping_.address(); }
  std::byte* data() const { return mapping_.data(); }
  const Mapping& mapping() const { return mapping_; }
  // The file, whose start is that of the mapping; -1 for anonymous memory.
  int file() const { return file_.get(); }
  // The 8 bytes at `offset`, as a guest would see them.
  uint64_t Load(uint64_t offset) const;
  void Store(uint64_t offset, uint64_t value) const;
  void Write(uint64_t offset, std::span<const std::byte> bytes) const;
  std::span<const std::byte> bytes() const { return {data(), size()}; }

  // madvise(MADV_COLLAPSE), since Linux 6.1: moves all to transparent huge pages.  Returns errno:
  // if there are pages that the kernel may not move, because they are pinned, EINVAL, or, of late,
  // EAGAIN.
  int TryCollapse() const;

  // madvise(MADV_DONTNEED): unmaps pages from this process, and so from every guest.  What is in
  // the memory file stays.
  void Unmap(uint64_t offset, uint64_t size) const;
  // madvise(MADV_REMOVE): the same, and the pages of the memory file are freed.  The next access
  // gets new ones, with zeroes.
  void Free(uint64_t offset, uint64_t size) const;

 private:
  void Advise(uint64_t offset, uint64_t size, int advice, const char* what) const;
  void Populate() const;

  explicit GuestMemory(Mapping mapping, FileDescriptor file = {})
      : file_(std::move(file)), mapping_(std::move(mapping)) {}

  FileDescriptor file_;
  Mapping mapping_;
};

struct SlotConfig {
  Gpa gpa = 0;
  std::shared_ptr<GuestMemory> memory;
  uint64_t offset = 0;         // into `memory`
  uint64_t size = 0;           // 0: from `offset` to the end of `memory`
  uint32_t flags = 0;          // KVM_MEM_*
  uint16_t address_space = 0;  // 1: SMM
  // Where the guest's private pages come from, if it can have any.
  std::shared_ptr<GuestMemfd> memfd = nullptr;
  uint64_t memfd_offset = 0;  // into `memfd`
};

// One memslot of one VM.  A handle: destroying it leaves the memslot alone.  The VM has to
// outlive it.
class MemorySlot {
 public:
  MemorySlot(Vm& vm, uint16_t id, SlotConfig config);

  uint16_t id() const { return id_; }
  GpaRange range() const { return {config_.gpa, config_.size}; }
  // The i-th page's guest physical address; page(-1) is the last one's.
  Gpa page(int64_t i) const;
  const SlotConfig& config() const { return config_; }
  GuestMemory& memory() const { return *config_.memory; }
  // The 8 bytes behind a guest physical address in this slot.
  uint64_t Load(Gpa gpa) const;
  void Store(Gpa gpa, uint64_t value) const;

  // KVM_SET_USER_MEMORY_REGION, or KVM_SET_USER_MEMORY_REGION2 if there is a guest_memfd; a memslot
  // with one can't be moved, nor get other flags (EINVAL).  Add() creates the memslot, after
  // Delete() again with the same memory at the same address, or with `memory` (of at least the same
  // size) in its place.
  void Add() { TryAdd().OrThrow(); }
  KvmStatus TryAdd() { return Set(config_.size); }
  void AddWith(std::shared_ptr<GuestMemory> memory, uint64_t offset = 0);

  void Delete() { TryDelete().OrThrow(); }
  KvmStatus TryDelete() { return Set(0); }

  void MoveTo(Gpa gpa) { TryMoveTo(gpa).OrThrow(); }
  KvmStatus TryMoveTo(Gpa gpa);

  void SetFlags(uint32_t flags) { TrySetFlags(flags).OrThrow(); }
  KvmStatus TrySetFlags(uint32_t flags);

  // KVM_GET_DIRTY_LOG: the pages that were written to.  Clears the log, and write-protects them so
  // that the next write shows again, unless KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 leaves that to
  // ClearDirtyLog().  ENOENT if the memslot doesn't exist or has no KVM_MEM_LOG_DIRTY_PAGES, ENXIO
  // if the VM has dirty rings instead.
  DirtyBitmap GetDirtyLog() const;
  KvmStatus TryGetDirtyLog(DirtyBitmap& bitmap) const;
  // KVM_CLEAR_DIRTY_LOG: for those pages of [first, first + bitmap.pages()) whose bits are set.
  // `first` is a multiple of 64, and so is the number of pages, except at the memslot's end.
  void ClearDirtyLog(const DirtyBitmap& bitmap, uint64_t first = 0) const {
    TryClearDirtyLog(bitmap, first).OrThrow();
  }
  KvmStatus TryClearDirtyLog(const DirtyBitmap& bitmap, uint64_t first = 0) const;

 private:
  KvmStatus Set(uint64_t size);
  // Address space and id, as KVM takes them.
  uint32_t FullId() const { return static_cast<uint32_t>(config_.address_space) << 16 | id_; }

  Vm* vm_;
  uint16_t id_;
  SlotConfig config_;
};

}  // namespace slotzap

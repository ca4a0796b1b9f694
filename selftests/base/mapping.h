// SPDX-License-Identifier: GPL-2.0-only
// Memory of this process, as mmap(2) gives it, and the files that back guest memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/file_descriptor.h"

namespace slotzap {

// Owns a memory mapping; unmaps it when destroyed.  Move-only.
class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& o) noexcept
      : data_(std::exchange(o.data_, nullptr)), size_(std::exchange(o.size_, 0)) {}
  Mapping& operator=(Mapping&& o) noexcept;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { Unmap(); }

  // A private anonymous mapping, start aligned to `align` (a power of two, at least a page).
  static Mapping Anonymous(uint64_t size, uint64_t align = 4096);
  // A shared mapping of [offset, offset + size) of `fd`, start aligned to `align`.
  static Mapping Shared(int fd, uint64_t size, uint64_t offset = 0, uint64_t align = 4096);

  // What the host can do to its memory, and MMU notifiers tell KVM of.  Offset and size in bytes,
  // multiples of the page size.  All throw std::out_of_range if it isn't in the mapping,
  // std::system_error if the kernel refuses.
  //
  // mprotect(2).
  void Protect(uint64_t offset, uint64_t size, int protection) const;
  // madvise(MADV_DONTNEED): private anonymous memory reads as zero from then on.
  void Discard(uint64_t offset, uint64_t size) const;
  // munmap(2); what was there is out of reach, but the address range stays this mapping's.
  void UnmapPart(uint64_t offset, uint64_t size) const;
  // mremap(2) with MREMAP_DONTUNMAP: the pages turn up elsewhere, in what is returned, and private
  // anonymous memory reads as zero where they were.
  Mapping MoveAway(uint64_t offset, uint64_t size) const;
  // madvise(MADV_DONTFORK): processes that are forked off from now on have nothing there, so that
  // fork(2) leaves the memory alone.
  void KeepFromChildren(uint64_t offset, uint64_t size) const;

  std::byte* data() const { return static_cast<std::byte*>(data_); }
  uint64_t size() const { return size_; }
  uint64_t address() const { return reinterpret_cast<uint64_t>(data_); }
  bool valid() const { return data_ != nullptr; }

  // The object at `offset` bytes.  Throws std::out_of_range if it doesn't fit.
  template <typename T>
  T* at(uint64_t offset) const {
    CheckFits(offset, sizeof(T));
    return reinterpret_cast<T*>(data() + offset);
  }

 private:
  static Mapping Map(uint64_t size, uint64_t align, int flags, int fd, uint64_t offset);
  void CheckFits(uint64_t offset, uint64_t bytes) const;
  void Unmap() noexcept;

  void* data_ = nullptr;
  uint64_t size_ = 0;
};

// What page size backs a memory file: 4 KiB shmem pages, or hugetlb pages of the size named.
enum class Backing { k4K, k2M, k1G };

constexpr uint64_t BackingPageSize(Backing backing) {
  switch (backing) {
    case Backing::k2M:
      return 2ull << 20;
    case Backing::k1G:
      return 1ull << 30;
    case Backing::k4K:
      break;
  }
  return 4096;
}

// memfd_create(2) of `size` bytes.  Hugetlb pages come out of the machine's pool; if that has
// too few, mapping the file throws.
FileDescriptor MemoryFile(uint64_t size, Backing backing = Backing::k4K);

// ftruncate(2): pages beyond the end are freed, and accesses there get SIGBUS, in the kernel
// EFAULT.
void ResizeFile(int fd, uint64_t size);
// fallocate(2): the pages of [offset, offset + size) of such a file are freed, whoever has them
// mapped, and read as zero.  Parts of pages are zeroed.  Throws std::system_error.
void PunchHole(int fd, uint64_t offset, uint64_t size);

}  // namespace slotzap

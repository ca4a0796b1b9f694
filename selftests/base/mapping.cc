// SPDX-License-Identifier: GPL-2.0-only
#include "base/mapping.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <stdexcept>

#include "base/range.h"

namespace slotzap {

Mapping& Mapping::operator=(Mapping&& o) noexcept {
  if (this != &o) {
    Unmap();
    data_ = std::exchange(o.data_, nullptr);
    size_ = std::exchange(o.size_, 0);
  }
  return *this;
}

void Mapping::Unmap() noexcept {
  if (data_ != nullptr) munmap(data_, size_);
  data_ = nullptr;
}

void Mapping::CheckFits(uint64_t offset, uint64_t bytes) const {
  if (offset > size_ || bytes > size_ - offset)
    throw std::out_of_range("offset " + Hex(offset) + " + " + std::to_string(bytes) +
                            " bytes is beyond a mapping of " + Hex(size_) + " bytes");
}

// Reserves enough address space to place the mapping at an aligned address, maps it there, and
// gives back what is left over on both sides.
Mapping Mapping::Map(uint64_t size, uint64_t align, int flags, int fd, uint64_t offset) {
  if (size == 0 || size % kPageSize != 0 || align < kPageSize || (align & (align - 1)) != 0)
    throw std::invalid_argument("mapping of " + Hex(size) + " bytes aligned to " + Hex(align) +
                                ": the size has to be a multiple of the page size, the alignment "
                                "a power of two and at least a page");
  const uint64_t reserved = size + align;
  void* area =
      mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (area == MAP_FAILED) ThrowErrno("reserve " + SizeString(reserved) + " of address space");

  const auto begin = reinterpret_cast<uint64_t>(area);
  const uint64_t start = (begin + align - 1) & ~(align - 1);
  void* data = mmap(reinterpret_cast<void*>(start), size, PROT_READ | PROT_WRITE, flags | MAP_FIXED,
                    fd, static_cast<off_t>(offset));
  if (data == MAP_FAILED) {
    const int error = errno;
    munmap(area, reserved);
    errno = error;
    ThrowErrno("map " + SizeString(size) + " of memory");
  }
  if (start > begin) munmap(area, start - begin);
  const uint64_t tail = begin + reserved - (start + size);
  if (tail > 0) munmap(reinterpret_cast<void*>(start + size), tail);

  Mapping mapping;
  mapping.data_ = data;
  mapping.size_ = size;
  return mapping;
}

Mapping Mapping::Anonymous(uint64_t size, uint64_t align) {
  return Map(size, align, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

Mapping Mapping::Shared(int fd, uint64_t size, uint64_t offset, uint64_t align) {
  return Map(size, align, MAP_SHARED, fd, offset);
}

void Mapping::Protect(uint64_t offset, uint64_t size, int protection) const {
  CheckFits(offset, size);
  if (mprotect(data() + offset, size, protection) != 0) ThrowErrno("mprotect " + SizeString(size));
}

void Mapping::Discard(uint64_t offset, uint64_t size) const {
  CheckFits(offset, size);
  if (madvise(data() + offset, size, MADV_DONTNEED) != 0)
    ThrowErrno("madvise " + SizeString(size) + " with MADV_DONTNEED");
}

void Mapping::UnmapPart(uint64_t offset, uint64_t size) const {
  CheckFits(offset, size);
  // Mapping something else over it unmaps it, without leaving a hole for others to use.
  if (mmap(data() + offset, size, PROT_NONE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
    ThrowErrno("unmap " + SizeString(size));
}

Mapping Mapping::MoveAway(uint64_t offset, uint64_t size) const {
  CheckFits(offset, size);
  Mapping place = Anonymous(size);
  if (mremap(data() + offset, size, size, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP,
             place.data()) == MAP_FAILED)
    ThrowErrno("mremap " + SizeString(size));
  return place;
}

void Mapping::KeepFromChildren(uint64_t offset, uint64_t size) const {
  CheckFits(offset, size);
  if (madvise(data() + offset, size, MADV_DONTFORK) != 0)
    ThrowErrno("madvise " + SizeString(size) + " with MADV_DONTFORK");
}

FileDescriptor MemoryFile(uint64_t size, Backing backing) {
  unsigned flags = MFD_CLOEXEC;
  if (backing == Backing::k2M) flags |= MFD_HUGETLB | MFD_HUGE_2MB;
  if (backing == Backing::k1G) flags |= MFD_HUGETLB | MFD_HUGE_1GB;
  FileDescriptor fd(memfd_create("slotzap", flags));
  if (!fd.valid()) ThrowErrno("memfd_create with pages of " + SizeString(BackingPageSize(backing)));
  ResizeFile(fd.get(), size);
  return fd;
}

void ResizeFile(int fd, uint64_t size) {
  if (ftruncate(fd, static_cast<off_t>(size)) != 0)
    ThrowErrno("ftruncate a memory file to " + SizeString(size));
}

void PunchHole(int fd, uint64_t offset, uint64_t size) {
  if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                static_cast<off_t>(size)) != 0)
    ThrowErrno("punch a hole of " + SizeString(size) + " at " + Hex(offset));
}

}  // namespace slotzap

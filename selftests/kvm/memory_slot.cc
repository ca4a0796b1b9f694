// SPDX-License-Identifier: GPL-2.0-only
#include "kvm/memory_slot.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "kvm/uapi.h"
#include "kvm/vm.h"

namespace slotzap {

GuestMemory::GuestMemory(uint64_t size, Backing backing, uint64_t align)
    : file_(MemoryFile(size, backing)),
      mapping_(
          Mapping::Shared(file_.get(), size, 0, align != 0 ? align : BackingPageSize(backing))) {
  if (madvise(mapping_.data(), size, MADV_POPULATE_WRITE) != 0)
    ThrowErrno("allocate " + SizeString(size) + " of guest memory in pages of " +
               SizeString(BackingPageSize(backing)));
}

void GuestMemory::Populate() const {
  if (madvise(data(), size(), MADV_POPULATE_WRITE) != 0)
    ThrowErrno("allocate " + SizeString(size()) + " of guest memory");
}

std::shared_ptr<GuestMemory> GuestMemory::Anonymous(uint64_t size) {
  std::shared_ptr<GuestMemory> memory(new GuestMemory(Mapping::Anonymous(size)));
  if (madvise(memory->data(), size, MADV_NOHUGEPAGE) != 0)
    ThrowErrno("madvise " + SizeString(size) + " with MADV_NOHUGEPAGE");
  memory->Populate();
  return memory;
}

std::shared_ptr<GuestMemory> GuestMemory::TransparentHuge(uint64_t size) {
  std::shared_ptr<GuestMemory> memory(new GuestMemory(Mapping::Anonymous(size, 2ull << 20)));
  // Refused (EINVAL) by a kernel without transparent huge pages: small ones, then.
  if (madvise(memory->data(), size, MADV_HUGEPAGE) != 0 && errno != EINVAL)
    ThrowErrno("madvise " + SizeString(size) + " with MADV_HUGEPAGE");
  memory->Populate();
  return memory;
}

std::shared_ptr<GuestMemory> GuestMemory::Collapsible(uint64_t size) {
  std::shared_ptr<GuestMemory> memory(new GuestMemory(Mapping::Anonymous(size, 2ull << 20)));
  // Nor may the kernel join them by itself.
  if (madvise(memory->data(), size, MADV_NOHUGEPAGE) != 0)
    ThrowErrno("madvise " + SizeString(size) + " with MADV_NOHUGEPAGE");
  memory->Populate();
  return memory;
}

std::shared_ptr<GuestMemory> GuestMemory::OfFile(FileDescriptor file, uint64_t size) {
  Mapping mapping = Mapping::Shared(file.get(), size);
  return std::shared_ptr<GuestMemory>(new GuestMemory(std::move(mapping), std::move(file)));
}

std::shared_ptr<GuestMemory> GuestMemory::OfDevice(Mapping mapping) {
  return std::shared_ptr<GuestMemory>(new GuestMemory(std::move(mapping)));
}

int GuestMemory::TryCollapse() const {
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
  // It is refused where huge pages are.
  Advise(0, size(), MADV_HUGEPAGE, "allow huge pages in ");
  const int error = madvise(data(), size(), MADV_COLLAPSE) == 0 ? 0 : errno;
  Advise(0, size(), MADV_NOHUGEPAGE, "forbid huge pages in ");
  return error;
}

std::shared_ptr<GuestMemory> GuestMemory::Sparse(uint64_t size) {
  return std::shared_ptr<GuestMemory>(new GuestMemory(Mapping::Anonymous(size, 1ull << 30)));
}

std::shared_ptr<GuestMemory> GuestMemory::Unpopulated(uint64_t size, Backing backing) {
  FileDescriptor file = MemoryFile(size, backing);
  Mapping mapping = Mapping::Shared(file.get(), size, 0, BackingPageSize(backing));
  return std::shared_ptr<GuestMemory>(new GuestMemory(std::move(mapping), std::move(file)));
}

uint64_t GuestMemory::Load(uint64_t offset) const {
  return __atomic_load_n(mapping_.at<uint64_t>(offset), __ATOMIC_ACQUIRE);
}

void GuestMemory::Store(uint64_t offset, uint64_t value) const {
  __atomic_store_n(mapping_.at<uint64_t>(offset), value, __ATOMIC_RELEASE);
}

void GuestMemory::Write(uint64_t offset, std::span<const std::byte> bytes) const {
  if (bytes.size() > size() || offset > size() - bytes.size())
    throw std::out_of_range("write beyond the end of guest memory");
  std::memcpy(data() + offset, bytes.data(), bytes.size());
}

void GuestMemory::Unmap(uint64_t offset, uint64_t size) const {
  Advise(offset, size, MADV_DONTNEED, "unmap ");
}

void GuestMemory::Free(uint64_t offset, uint64_t size) const {
  Advise(offset, size, MADV_REMOVE, "free ");
}

void GuestMemory::Advise(uint64_t offset, uint64_t size, int advice, const char* what) const {
  const std::string text = what + SizeString(size) + " of guest memory";
  if (size > this->size() || offset > this->size() - size)
    throw std::out_of_range(text + " beyond its end");
  if (madvise(data() + offset, size, advice) != 0) ThrowErrno(text);
}

MemorySlot::MemorySlot(Vm& vm, uint16_t id, SlotConfig config)
    : vm_(&vm), id_(id), config_(std::move(config)) {
  if (config_.size == 0) config_.size = config_.memory->size() - config_.offset;
}

Gpa MemorySlot::page(int64_t i) const {
  const auto pages = static_cast<int64_t>(range().pages());
  const int64_t index = i < 0 ? pages + i : i;
  if (index < 0 || index >= pages)
    throw std::out_of_range("slot " + std::to_string(id_) + " has no page " + std::to_string(i));
  return config_.gpa + static_cast<uint64_t>(index) * kPageSize;
}

uint64_t MemorySlot::Load(Gpa gpa) const {
  return config_.memory->Load(config_.offset + (gpa - config_.gpa));
}

void MemorySlot::Store(Gpa gpa, uint64_t value) const {
  config_.memory->Store(config_.offset + (gpa - config_.gpa), value);
}

void MemorySlot::AddWith(std::shared_ptr<GuestMemory> memory, uint64_t offset) {
  config_.memory = std::move(memory);
  config_.offset = offset;
  Add();
}

KvmStatus MemorySlot::TryMoveTo(Gpa gpa) {
  const Gpa old = std::exchange(config_.gpa, gpa);
  KvmStatus status = Set(config_.size);
  if (!status.ok()) config_.gpa = old;
  return status;
}

KvmStatus MemorySlot::TrySetFlags(uint32_t flags) {
  const uint32_t old = std::exchange(config_.flags, flags);
  KvmStatus status = Set(config_.size);
  if (!status.ok()) config_.flags = old;
  return status;
}

DirtyBitmap MemorySlot::GetDirtyLog() const {
  DirtyBitmap bitmap(range().pages());
  TryGetDirtyLog(bitmap).OrThrow();
  return bitmap;
}

KvmStatus MemorySlot::TryGetDirtyLog(DirtyBitmap& bitmap) const {
  kvm_dirty_log log = {};
  log.slot = FullId();
  log.dirty_bitmap = bitmap.data();
  return SLOTZAP_IOCTL(vm_->fd(), KVM_GET_DIRTY_LOG, &log, "slot " + Hex(FullId()));
}

KvmStatus MemorySlot::TryClearDirtyLog(const DirtyBitmap& bitmap, uint64_t first) const {
  kvm_clear_dirty_log log = {};
  log.slot = FullId();
  log.first_page = first;
  log.num_pages = static_cast<uint32_t>(bitmap.pages());
  DirtyBitmap copy = bitmap;  // KVM only reads it, but takes no const
  log.dirty_bitmap = copy.data();
  return SLOTZAP_IOCTL(vm_->fd(), KVM_CLEAR_DIRTY_LOG, &log,
                       "slot " + Hex(FullId()) + ", pages " + std::to_string(first) + " + " +
                           std::to_string(bitmap.pages()));
}

KvmStatus MemorySlot::Set(uint64_t size) {
  // The older struct is the beginning of this one.
  kvm_userspace_memory_region2 region = {};
  region.slot = FullId();
  region.flags = config_.flags;
  region.guest_phys_addr = config_.gpa;
  region.memory_size = size;
  region.userspace_addr = config_.memory->address() + config_.offset;
  if (config_.memfd) {
    region.flags |= KVM_MEM_GUEST_MEMFD;
    region.guest_memfd = static_cast<uint32_t>(config_.memfd->fd());
    region.guest_memfd_offset = config_.memfd_offset;
  }
  const std::string args = "address space " + std::to_string(config_.address_space) + ", slot " +
                           std::to_string(id_) + ", flags " + Hex(region.flags) + ", gpa " +
                           Hex(region.guest_phys_addr) + ", size " + Hex(size);
  return config_.memfd ? SLOTZAP_IOCTL(vm_->fd(), KVM_SET_USER_MEMORY_REGION2, &region, args)
                       : SLOTZAP_IOCTL(vm_->fd(), KVM_SET_USER_MEMORY_REGION, &region, args);
}

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "kvm/vm.h"

#include "base/range.h"

namespace slotzap {

Vm::Vm(const Kvm& kvm, VmType type)
    : kvm_(kvm), type_(type), fd_(kvm.CreateVm(type)), stats_(OpenStats()) {}

Stats Vm::OpenStats() const {
  return Stats(FileDescriptor(SLOTZAP_IOCTL(fd(), KVM_GET_STATS_FD, 0).OrThrow()));
}

int Vm::CheckExtension(int capability) const {
  return SLOTZAP_IOCTL(fd(), KVM_CHECK_EXTENSION, static_cast<unsigned long>(capability)).OrThrow();
}

KvmStatus Vm::TryEnableCap(uint32_t capability, uint64_t arg0) {
  kvm_enable_cap cap = {};
  cap.cap = capability;
  cap.args[0] = arg0;
  return SLOTZAP_IOCTL(fd(), KVM_ENABLE_CAP, &cap,
                       "capability " + std::to_string(capability) + ", " + Hex(arg0));
}

MemorySlot Vm::AddSlot(SlotConfig config) {
  MemorySlot slot(*this, next_slot_++, std::move(config));
  slot.Add();
  return slot;
}

MemorySlot Vm::AddSlot(Gpa gpa, uint64_t size, Backing backing) {
  return AddSlot({.gpa = gpa, .memory = std::make_shared<GuestMemory>(size, backing)});
}

std::shared_ptr<GuestMemfd> Vm::CreateGuestMemfd(uint64_t size) {
  kvm_create_guest_memfd args = {};
  args.size = size;
  FileDescriptor file(
      SLOTZAP_IOCTL(fd(), KVM_CREATE_GUEST_MEMFD, &args, "size " + Hex(size)).OrThrow());
  return std::make_shared<GuestMemfd>(std::move(file), size);
}

KvmStatus Vm::TrySetMemoryAttributes(GpaRange range, uint64_t attributes) {
  kvm_memory_attributes args = {};
  args.address = range.start;
  args.size = range.size;
  args.attributes = attributes;
  return SLOTZAP_IOCTL(
      fd(), KVM_SET_MEMORY_ATTRIBUTES, &args,
      "gpa " + Hex(range.start) + ", size " + Hex(range.size) + ", attributes " + Hex(attributes));
}

KvmStatus Vm::TryMakePrivate(GpaRange range) {
  return TrySetMemoryAttributes(range, KVM_MEMORY_ATTRIBUTE_PRIVATE);
}

KvmStatus Vm::TryMakeShared(GpaRange range) { return TrySetMemoryAttributes(range, 0); }

std::unique_ptr<Vcpu> Vm::AddVcpu() {
  const unsigned id = next_vcpu_++;
  return std::make_unique<Vcpu>(
      kvm_, FileDescriptor(SLOTZAP_IOCTL(fd(), KVM_CREATE_VCPU, id).OrThrow()), id);
}

void Vm::SetIoEventFd(Gpa gpa, uint32_t size, int event_fd, uint32_t flags) {
  kvm_ioeventfd args = {};
  args.addr = gpa;
  args.len = size;
  args.fd = event_fd;
  args.flags = flags;
  SLOTZAP_IOCTL(fd(), KVM_IOEVENTFD, &args,
                "gpa " + Hex(gpa) + ", size " + std::to_string(size) + ", flags " + Hex(flags))
      .OrThrow();
}

void Vm::AssignIoEventFd(Gpa gpa, uint32_t size, int event_fd) {
  SetIoEventFd(gpa, size, event_fd, 0);
}

void Vm::DeassignIoEventFd(Gpa gpa, uint32_t size, int event_fd) {
  SetIoEventFd(gpa, size, event_fd, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

void Vm::RegisterCoalescedMmio(GpaRange range) {
  kvm_coalesced_mmio_zone zone = {};
  zone.addr = range.start;
  zone.size = static_cast<uint32_t>(range.size);
  SLOTZAP_IOCTL(fd(), KVM_REGISTER_COALESCED_MMIO, &zone, ToString(range)).OrThrow();
}

void Vm::UnregisterCoalescedMmio(GpaRange range) {
  kvm_coalesced_mmio_zone zone = {};
  zone.addr = range.start;
  zone.size = static_cast<uint32_t>(range.size);
  SLOTZAP_IOCTL(fd(), KVM_UNREGISTER_COALESCED_MMIO, &zone, ToString(range)).OrThrow();
}

unsigned Vm::ResetDirtyRings() {
  return static_cast<unsigned>(SLOTZAP_IOCTL(fd(), KVM_RESET_DIRTY_RINGS, 0).OrThrow());
}

void Vm::SetMmuPageLimit(uint32_t pages) {
  SLOTZAP_IOCTL(fd(), KVM_SET_NR_MMU_PAGES, pages).OrThrow();
}

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "kvm/kvm_vfio.h"

#include "kvm/uapi.h"

namespace slotzap {

KvmVfio::KvmVfio(const Vm& vm) { TryCreate(vm, fd_).OrThrow(); }

KvmStatus KvmVfio::TryCreate(const Vm& vm, FileDescriptor& device) {
  kvm_create_device args = {};
  args.type = KVM_DEV_TYPE_VFIO;
  KvmStatus status = SLOTZAP_IOCTL(vm.fd(), KVM_CREATE_DEVICE, &args, "KVM_DEV_TYPE_VFIO");
  if (status.ok()) device = FileDescriptor(static_cast<int>(args.fd));
  return status;
}

KvmStatus KvmVfio::Set(uint64_t attribute, const char* name, int group_fd) {
  kvm_device_attr attr = {};
  // Linux 6.6 calls it KVM_DEV_VFIO_FILE, with the same numbers, and takes devices' files, too.
  attr.group = KVM_DEV_VFIO_GROUP;
  attr.attr = attribute;
  attr.addr = reinterpret_cast<uint64_t>(&group_fd);
  return SLOTZAP_IOCTL(fd_.get(), KVM_SET_DEVICE_ATTR, &attr,
                       std::string(name) + ", file " + std::to_string(group_fd));
}

KvmStatus KvmVfio::TryAddGroup(int group_fd) {
  return Set(KVM_DEV_VFIO_GROUP_ADD, "KVM_DEV_VFIO_GROUP_ADD", group_fd);
}

KvmStatus KvmVfio::TryRemoveGroup(int group_fd) {
  return Set(KVM_DEV_VFIO_GROUP_DEL, "KVM_DEV_VFIO_GROUP_DEL", group_fd);
}

}  // namespace slotzap

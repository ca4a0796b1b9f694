// SPDX-License-Identifier: GPL-2.0-only
// KVM's pseudo device that a VMM tells of the VFIO groups whose devices a VM has
// (Documentation/virt/kvm/devices/vfio.rst).  By it KVM knows whether their DMA is coherent.
#pragma once

#include "base/file_descriptor.h"
#include "kvm/status.h"
#include "kvm/vm.h"

namespace slotzap {

// The device of one VM, which can have no second one (EBUSY).  KVM keeps the VM until it is
// destroyed.
class KvmVfio {
 public:
  // KVM_CREATE_DEVICE.
  explicit KvmVfio(const Vm& vm);
  static KvmStatus TryCreate(const Vm& vm, FileDescriptor& device);

  // KVM_DEV_VFIO_GROUP_ADD: the VM has devices of this group from now on.  EEXIST if the group was
  // added before, EINVAL if the file is none of VFIO's, EBADF if it is none at all.
  void AddGroup(int group_fd) { TryAddGroup(group_fd).OrThrow(); }
  KvmStatus TryAddGroup(int group_fd);
  // KVM_DEV_VFIO_GROUP_DEL.  ENOENT if it was not added.
  void RemoveGroup(int group_fd) { TryRemoveGroup(group_fd).OrThrow(); }
  KvmStatus TryRemoveGroup(int group_fd);

 private:
  KvmStatus Set(uint64_t attribute, const char* name, int group_fd);

  FileDescriptor fd_;
};

}  // namespace slotzap

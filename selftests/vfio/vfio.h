// SPDX-License-Identifier: GPL-2.0-only
// Typed VFIO, as far as a VMM uses it to assign a PCI device: a container, which is an IOMMU
// address space, the group in it, the device in that (Documentation/driver-api/vfio.rst of the
// kernel, <linux/vfio.h>).  Outcomes are those of kvm/status.h.
//
// The kernel keeps what is below a file descriptor for as long as something above needs it: all may
// be closed in any order.  A container's mappings go with its last group, or with itself.
#pragma once

#include <cstdint>
#include <string>

#include "base/file_descriptor.h"
#include "base/mapping.h"
#include "kvm/status.h"
#include "vfio/pci.h"

namespace slotzap {

class VfioGroup {
 public:
  // Opens /dev/vfio/NUMBER.  Throws KvmError (EBUSY) if one of the group's devices still has a
  // driver that VFIO knows nothing of.
  explicit VfioGroup(unsigned number);

  int fd() const { return fd_.get(); }
  void Close() { fd_.Close(); }

 private:
  FileDescriptor fd_;
};

class VfioContainer {
 public:
  // Opens /dev/vfio/vfio.  Throws if it can't be opened, speaks another API version than 0, or has
  // no type 1 IOMMU (version 2).
  VfioContainer();

  int fd() const { return fd_.get(); }
  void Close() { fd_.Close(); }

  // VFIO_GROUP_SET_CONTAINER, and VFIO_SET_IOMMU to VFIO_TYPE1v2_IOMMU: for the first, and only,
  // group.
  void Attach(const VfioGroup& group);

  // VFIO_CHECK_EXTENSION.
  int CheckExtension(unsigned long extension) const;
  // Whether all DMA snoops the caches, whatever the device asks for (VFIO_DMA_CC_IOMMU).
  bool EnforcesCoherency() const;

  // VFIO_IOMMU_MAP_DMA: from now on the device reads and writes [iova, iova + size) where this
  // process has `address`.  Pins the pages.  All are multiples of the page size.
  void MapDma(uint64_t iova, uint64_t address, uint64_t size) {
    TryMapDma(iova, address, size).OrThrow();
  }
  KvmStatus TryMapDma(uint64_t iova, uint64_t address, uint64_t size);
  // VFIO_IOMMU_UNMAP_DMA, of mappings that are wholly in [iova, iova + size).  Unpins the pages.
  // Returns how many bytes were mapped.
  uint64_t UnmapDma(uint64_t iova, uint64_t size);
  KvmStatus TryUnmapDma(uint64_t iova, uint64_t size, uint64_t& unmapped);

  // How many more mappings the container takes (VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL).
  uint32_t MappingsLeft() const;

 private:
  FileDescriptor fd_;
};

class VfioDevice {
 public:
  // VFIO_GROUP_GET_DEVICE_FD.  The group has to be in a container.
  VfioDevice(const VfioGroup& group, const PciAddress& address);

  int fd() const { return fd_.get(); }
  void Close() { fd_.Close(); }

  struct Region {
    uint64_t size = 0;    // 0: there is none
    uint64_t offset = 0;  // into the device's file
    bool can_map = false;
  };
  // VFIO_DEVICE_GET_REGION_INFO, of VFIO_PCI_*_REGION_INDEX.
  Region GetRegion(uint32_t index) const;
  // The whole region.  Throws std::runtime_error if it can't be mapped.
  Mapping Map(uint32_t index) const;

  // The 16 bits at `offset` in the device's configuration space.
  uint16_t ReadConfig(uint64_t offset) const;
  void WriteConfig(uint64_t offset, uint16_t value) const;
  // Lets the device answer at its BARs, or no longer.  VFIO then unmaps them from wherever they are
  // mapped, and accesses there get SIGBUS, in the kernel EFAULT.
  void EnableMemory() const;
  void DisableMemory() const;
  // Lets it do DMA, which VFIO forbids a device that it opens.
  void EnableBusMaster() const;

 private:
  void SetCommand(uint16_t bits, bool on) const;

  FileDescriptor fd_;
};

// A device that this process has, with an IOMMU address space of its own.  It answers at its BARs,
// and does no DMA yet.
struct AssignedDevice {
  explicit AssignedDevice(const PciDevice& pci);

  VfioContainer container;
  VfioGroup group;
  VfioDevice device;

 private:
  // In between the group's being opened and the device's.
  static const VfioGroup& Attached(VfioContainer& container, const VfioGroup& group) {
    container.Attach(group);
    return group;
  }
};

}  // namespace slotzap

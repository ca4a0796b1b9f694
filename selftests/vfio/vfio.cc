// SPDX-License-Identifier: GPL-2.0-only
#include "vfio/vfio.h"

#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "base/range.h"

namespace slotzap {

VfioGroup::VfioGroup(unsigned number)
    : fd_(FileDescriptor::Open("/dev/vfio/" + std::to_string(number), O_RDWR)) {
  vfio_group_status status = {};
  status.argsz = sizeof(status);
  SLOTZAP_IOCTL(fd(), VFIO_GROUP_GET_STATUS, &status, "group " + std::to_string(number)).OrThrow();
  if ((status.flags & VFIO_GROUP_FLAGS_VIABLE) == 0)
    throw KvmError("VFIO group " + std::to_string(number) +
                       " is not viable: all of its devices have to be bound to vfio-pci",
                   EBUSY);
}

VfioContainer::VfioContainer() : fd_(FileDescriptor::Open("/dev/vfio/vfio", O_RDWR)) {
  const int version = SLOTZAP_IOCTL(fd(), VFIO_GET_API_VERSION, 0).OrThrow();
  if (version != VFIO_API_VERSION)
    throw KvmError("/dev/vfio/vfio speaks API version " + std::to_string(version) + ", not " +
                       std::to_string(VFIO_API_VERSION),
                   EPROTO);
  if (CheckExtension(VFIO_TYPE1v2_IOMMU) == 0)
    throw KvmError("VFIO has no type 1 IOMMU: the module vfio_iommu_type1 is not loaded", ENODEV);
}

void VfioContainer::Attach(const VfioGroup& group) {
  int container = fd();
  SLOTZAP_IOCTL(group.fd(), VFIO_GROUP_SET_CONTAINER, &container, "").OrThrow();
  SLOTZAP_IOCTL(fd(), VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU).OrThrow();
}

int VfioContainer::CheckExtension(unsigned long extension) const {
  return SLOTZAP_IOCTL(fd(), VFIO_CHECK_EXTENSION, extension).OrThrow();
}

bool VfioContainer::EnforcesCoherency() const { return CheckExtension(VFIO_DMA_CC_IOMMU) != 0; }

KvmStatus VfioContainer::TryMapDma(uint64_t iova, uint64_t address, uint64_t size) {
  vfio_iommu_type1_dma_map map = {};
  map.argsz = sizeof(map);
  map.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
  map.vaddr = address;
  map.iova = iova;
  map.size = size;
  return SLOTZAP_IOCTL(fd(), VFIO_IOMMU_MAP_DMA, &map,
                       "iova " + Hex(iova) + ", address " + Hex(address) + ", size " + Hex(size));
}

uint64_t VfioContainer::UnmapDma(uint64_t iova, uint64_t size) {
  uint64_t unmapped = 0;
  TryUnmapDma(iova, size, unmapped).OrThrow();
  return unmapped;
}

KvmStatus VfioContainer::TryUnmapDma(uint64_t iova, uint64_t size, uint64_t& unmapped) {
  vfio_iommu_type1_dma_unmap unmap = {};
  unmap.argsz = sizeof(unmap);
  unmap.iova = iova;
  unmap.size = size;
  KvmStatus status = SLOTZAP_IOCTL(fd(), VFIO_IOMMU_UNMAP_DMA, &unmap,
                                   "iova " + Hex(iova) + ", size " + Hex(size));
  unmapped = unmap.size;
  return status;
}

uint32_t VfioContainer::MappingsLeft() const {
  // What there is to tell is behind the struct, as a chain of capabilities.
  std::vector<uint64_t> buffer(512);
  auto* info = reinterpret_cast<vfio_iommu_type1_info*>(buffer.data());
  info->argsz = static_cast<uint32_t>(buffer.size() * sizeof(uint64_t));
  SLOTZAP_IOCTL(fd(), VFIO_IOMMU_GET_INFO, info, "").OrThrow();
  const auto* bytes = reinterpret_cast<const std::byte*>(info);
  uint32_t next = (info->flags & VFIO_IOMMU_INFO_CAPS) != 0 ? info->cap_offset : 0;
  while (next != 0) {
    vfio_iommu_type1_info_dma_avail cap = {};
    if (next > info->argsz - sizeof(cap)) break;
    std::memcpy(&cap, bytes + next, sizeof(cap));
    if (cap.header.id == VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL) return cap.avail;
    next = cap.header.next;
  }
  throw std::runtime_error("VFIO_IOMMU_GET_INFO does not say how many mappings are left");
}

VfioDevice::VfioDevice(const VfioGroup& group, const PciAddress& address)
    : fd_(SLOTZAP_IOCTL(group.fd(), VFIO_GROUP_GET_DEVICE_FD, ToString(address).c_str(),
                        ToString(address))
              .OrThrow()) {}

VfioDevice::Region VfioDevice::GetRegion(uint32_t index) const {
  vfio_region_info info = {};
  info.argsz = sizeof(info);
  info.index = index;
  SLOTZAP_IOCTL(fd(), VFIO_DEVICE_GET_REGION_INFO, &info, "region " + std::to_string(index))
      .OrThrow();
  return {.size = info.size,
          .offset = info.offset,
          .can_map = (info.flags & VFIO_REGION_INFO_FLAG_MMAP) != 0};
}

Mapping VfioDevice::Map(uint32_t index) const {
  const Region region = GetRegion(index);
  if (!region.can_map)
    throw std::runtime_error("region " + std::to_string(index) + " of the device can't be mapped");
  return Mapping::Shared(fd(), region.size, region.offset);
}

uint16_t VfioDevice::ReadConfig(uint64_t offset) const {
  uint16_t value = 0;
  const auto at = static_cast<off_t>(GetRegion(VFIO_PCI_CONFIG_REGION_INDEX).offset + offset);
  if (pread(fd(), &value, sizeof(value), at) != sizeof(value))
    ThrowErrno("read " + Hex(offset) + " of the device's configuration space");
  return value;
}

void VfioDevice::WriteConfig(uint64_t offset, uint16_t value) const {
  const auto at = static_cast<off_t>(GetRegion(VFIO_PCI_CONFIG_REGION_INDEX).offset + offset);
  if (pwrite(fd(), &value, sizeof(value), at) != sizeof(value))
    ThrowErrno("write " + Hex(value) + " to " + Hex(offset) +
               " of the device's configuration space");
}

void VfioDevice::SetCommand(uint16_t bits, bool on) const {
  const uint16_t command = ReadConfig(PCI_COMMAND);
  WriteConfig(PCI_COMMAND, static_cast<uint16_t>(on ? command | bits : command & ~bits));
}

void VfioDevice::EnableMemory() const { SetCommand(PCI_COMMAND_MEMORY, true); }

void VfioDevice::DisableMemory() const { SetCommand(PCI_COMMAND_MEMORY, false); }

void VfioDevice::EnableBusMaster() const { SetCommand(PCI_COMMAND_MASTER, true); }

AssignedDevice::AssignedDevice(const PciDevice& pci)
    : group(pci.iommu_group.value()), device(Attached(container, group), pci.address) {
  device.EnableMemory();
}

}  // namespace slotzap

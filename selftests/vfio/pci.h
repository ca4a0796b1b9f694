// SPDX-License-Identifier: GPL-2.0-only
// PCI devices as sysfs shows them, and which of them the tests may have.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace slotzap {

struct PciAddress {
  unsigned domain = 0;
  unsigned bus = 0;
  unsigned device = 0;
  unsigned function = 0;
  bool operator==(const PciAddress&) const = default;
};

std::string ToString(const PciAddress& address);  // "0000:01:00.0"

// Of "0000:01:00.0" or, in domain 0, "01:00.0".  Throws std::invalid_argument.
PciAddress ParsePciAddress(const std::string& text);

struct PciDevice {
  PciAddress address;
  uint16_t vendor = 0;
  uint16_t device = 0;
  std::string driver;                   // that it is bound to; empty: none
  std::optional<unsigned> iommu_group;  // none without an IOMMU

  std::string Ids() const;  // "1234:11e8"
};

// Throws std::runtime_error if there is no such device.
PciDevice FindPciDevice(const PciAddress& address, const std::string& sysfs = "/sys");

// In the order of their addresses.
std::vector<PciDevice> PciDevicesOf(const std::string& driver, const std::string& sysfs = "/sys");

// What VFIO offers the tests: a device, or why there is none.  It is an error if one was asked for
// and can't be had.
struct VfioChoice {
  std::optional<PciDevice> device;
  std::string unavailable;
  std::string error;
};

// The device that the user chose by its address, `wanted`; nothing else is touched, lest it be one
// that somebody needs.  If that is empty: QEMU's edu device, which nobody needs, if there is one
// and it is bound to vfio-pci.
VfioChoice ChooseVfioDevice(const std::string& wanted, const std::string& sysfs = "/sys");

}  // namespace slotzap

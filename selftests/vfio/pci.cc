// SPDX-License-Identifier: GPL-2.0-only
#include "vfio/pci.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <regex>
#include <stdexcept>

#include "base/file_descriptor.h"
#include "vfio/edu.h"

namespace slotzap {
namespace {

constexpr char kVfioDriver[] = "vfio-pci";

unsigned FromHex(const std::string& text) {
  return static_cast<unsigned>(std::stoul(text, nullptr, 16));
}

// The last part of what a symbolic link points to; empty if it is none.
std::string LinkedName(const std::string& link) {
  std::error_code error;
  return std::filesystem::read_symlink(link, error).filename().string();
}

}  // namespace

std::string ToString(const PciAddress& address) {
  char text[32];
  std::snprintf(text, sizeof(text), "%04x:%02x:%02x.%x", address.domain, address.bus,
                address.device, address.function);
  return text;
}

PciAddress ParsePciAddress(const std::string& text) {
  static const std::regex form("(?:([0-9a-f]{4}):)?([0-9a-f]{2}):([01][0-9a-f])\\.([0-7])");
  std::smatch part;
  if (!std::regex_match(text, part, form))
    throw std::invalid_argument("'" + text + "' is not a PCI address, as in 0000:01:00.0");
  return {part[1].matched ? FromHex(part[1]) : 0, FromHex(part[2]), FromHex(part[3]),
          FromHex(part[4])};
}

std::string PciDevice::Ids() const {
  char text[16];
  std::snprintf(text, sizeof(text), "%04x:%04x", vendor, device);
  return text;
}

PciDevice FindPciDevice(const PciAddress& address, const std::string& sysfs) {
  const std::string folder = sysfs + "/bus/pci/devices/" + ToString(address);
  if (!FileExists(folder)) throw std::runtime_error("there is no PCI device " + ToString(address));
  PciDevice device = {.address = address,
                      .vendor = static_cast<uint16_t>(FromHex(ReadLine(folder + "/vendor"))),
                      .device = static_cast<uint16_t>(FromHex(ReadLine(folder + "/device"))),
                      .driver = LinkedName(folder + "/driver"),
                      .iommu_group = std::nullopt};
  if (const std::string group = LinkedName(folder + "/iommu_group"); !group.empty())
    device.iommu_group = static_cast<unsigned>(std::stoul(group));
  return device;
}

std::vector<PciDevice> PciDevicesOf(const std::string& driver, const std::string& sysfs) {
  std::vector<PciDevice> devices;
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::path(sysfs) / "bus/pci/drivers" / driver;
  // Beside its devices, a driver's folder has files to control it with.
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    try {
      devices.push_back(FindPciDevice(ParsePciAddress(entry.path().filename().string()), sysfs));
    } catch (const std::invalid_argument&) {
      continue;
    }
  }
  std::sort(devices.begin(), devices.end(), [](const PciDevice& a, const PciDevice& b) {
    return ToString(a.address) < ToString(b.address);
  });
  return devices;
}

VfioChoice ChooseVfioDevice(const std::string& wanted, const std::string& sysfs) {
  VfioChoice choice;
  if (wanted.empty()) {
    for (const PciDevice& device : PciDevicesOf(kVfioDriver, sysfs))
      if (!choice.device && Edu::Drives(device) && device.iommu_group) choice.device = device;
    if (!choice.device)
      choice.unavailable =
          "needs a device to assign: QEMU's edu (1234:11e8), bound to vfio-pci, or VFIO_DEVICE=";
    return choice;
  }
  try {
    const PciDevice device = FindPciDevice(ParsePciAddress(wanted), sysfs);
    if (device.driver != kVfioDriver)
      choice.error = ToString(device.address) + " (" + device.Ids() + ") is bound to " +
                     (device.driver.empty() ? "no driver" : device.driver) + ", not to " +
                     kVfioDriver;
    else if (!device.iommu_group)
      choice.error = ToString(device.address) + " (" + device.Ids() +
                     ") is in no IOMMU group: this machine has no IOMMU, or does not use it";
    else
      choice.device = device;
  } catch (const std::exception& e) {
    choice.error = e.what();
  }
  if (!choice.error.empty()) choice.error = "VFIO_DEVICE=" + wanted + ": " + choice.error;
  return choice;
}

}  // namespace slotzap

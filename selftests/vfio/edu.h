// SPDX-License-Identifier: GPL-2.0-only
// QEMU's educational PCI device, "edu": a register that answers, and a DMA engine
// (docs/specs/edu.rst of QEMU, hw/misc/edu.c).
//
// It is there for who writes drivers, and needs none of its own: BAR 0 has its registers, which
// take accesses of 4 bytes, from kDmaSource on also of 8.  Its DMA engine copies between addresses
// as its IOMMU has them and a buffer inside of the device.  A transfer is done as a whole, 100 ms
// after it was told to begin: until then the engine says that it is busy, and takes no other.
#pragma once

#include <cstdint>
#include <vector>

#include "base/mapping.h"
#include "vfio/pci.h"

namespace slotzap {

// What a driver has to write where, in its order.
struct RegisterWrite {
  uint64_t offset;  // into the BAR
  uint64_t value;
  unsigned size;  // bytes
  bool operator==(const RegisterWrite&) const = default;
};

struct EduTransfer {
  enum class Direction { kToDevice, kFromDevice };
  Direction direction;
  uint64_t iova;    // the address that the device uses
  uint64_t bytes;   // up to Edu::kMaxTransfer
  uint64_t offset;  // into the device's buffer
};

class Edu {
 public:
  static constexpr uint64_t kId = 0x0;        // read-only
  static constexpr uint64_t kLiveness = 0x4;  // reads as the complement of what was written
  static constexpr uint64_t kDmaSource = 0x80;
  static constexpr uint64_t kDmaTarget = 0x88;
  static constexpr uint64_t kDmaBytes = 0x90;
  static constexpr uint64_t kDmaCommand = 0x98;

  static constexpr uint32_t kIdValue = 0x010000ed;  // version 1.0, 0xed
  static constexpr uint64_t kDmaRun = 1;            // of kDmaCommand: begin; is not done yet
  static constexpr uint64_t kDmaFromDevice = 2;     // else to the device

  // The engine's own address of its buffer, and the buffer's size.  QEMU 7.2 ends if a transfer
  // touches the last byte (edu_check_range()).
  static constexpr uint64_t kBuffer = 0x40000;
  static constexpr uint64_t kMaxTransfer = 4095;
  // The engine's addresses have 28 bits, unless QEMU is told otherwise (property dma_mask).
  static constexpr uint64_t kIovaEnd = 1ull << 28;

  static bool Drives(const PciDevice& device) {
    return device.vendor == 0x1234 && device.device == 0x11e8;
  }

  // Throws std::out_of_range if the device could not do that.
  static std::vector<RegisterWrite> Program(const EduTransfer& transfer);

  // The device whose BAR 0 is mapped at `bar`, which has to outlive this.  Throws
  // std::runtime_error if it does not say that it is an edu.
  explicit Edu(const Mapping& bar);

  uint32_t id() const { return Read(kId); }
  uint32_t liveness() const { return Read(kLiveness); }
  void SetLiveness(uint32_t value) { Write({kLiveness, value, 4}); }

  void Start(const EduTransfer& transfer);
  bool busy() const { return (Read(kDmaCommand) & kDmaRun) != 0; }
  // Returns when the engine has done its transfer.
  void WaitUntilIdle() const;

 private:
  uint32_t Read(uint64_t offset) const;
  void Write(const RegisterWrite& write) const;

  const Mapping& bar_;
};

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "vfio/edu.h"

#include <sched.h>

#include <stdexcept>

#include "base/range.h"

namespace slotzap {

std::vector<RegisterWrite> Edu::Program(const EduTransfer& transfer) {
  if (transfer.bytes == 0 || transfer.bytes > kMaxTransfer ||
      transfer.offset > kMaxTransfer - transfer.bytes)
    throw std::out_of_range(std::to_string(transfer.bytes) + " bytes at " + Hex(transfer.offset) +
                            " are beyond the buffer of an edu device");
  if (transfer.iova > kIovaEnd - transfer.bytes)
    throw std::out_of_range("an edu device does no DMA at " + Hex(transfer.iova));
  const uint64_t buffer = kBuffer + transfer.offset;
  const bool from = transfer.direction == EduTransfer::Direction::kFromDevice;
  return {{kDmaSource, from ? buffer : transfer.iova, 8},
          {kDmaTarget, from ? transfer.iova : buffer, 8},
          {kDmaBytes, transfer.bytes, 8},
          {kDmaCommand, kDmaRun | (from ? kDmaFromDevice : 0), 8}};
}

Edu::Edu(const Mapping& bar) : bar_(bar) {
  if (id() != kIdValue)
    throw std::runtime_error("this is no edu device: its first register is " + Hex(id()));
}

void Edu::Start(const EduTransfer& transfer) {
  for (const RegisterWrite& write : Program(transfer)) Write(write);
}

void Edu::WaitUntilIdle() const {
  while (busy()) sched_yield();
}

uint32_t Edu::Read(uint64_t offset) const {
  return *static_cast<volatile uint32_t*>(bar_.at<uint32_t>(offset));
}

void Edu::Write(const RegisterWrite& write) const {
  if (write.size == 8)
    *static_cast<volatile uint64_t*>(bar_.at<uint64_t>(write.offset)) = write.value;
  else
    *static_cast<volatile uint32_t*>(bar_.at<uint32_t>(write.offset)) =
        static_cast<uint32_t>(write.value);
}

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "vfio/memory_image.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "base/range.h"

namespace slotzap {

std::span<const std::byte> MemoryImage::Part(uint64_t offset, uint64_t size) const {
  if (offset > bytes_.size() || size > bytes_.size() - offset)
    throw std::out_of_range(Hex(offset) + " + " + std::to_string(size) +
                            " bytes are beyond an image of " + Hex(bytes_.size()) + " bytes");
  return std::span(bytes_).subspan(offset, size);
}

void MemoryImage::Write(uint64_t offset, std::span<const std::byte> bytes) {
  Part(offset, bytes.size());
  std::copy(bytes.begin(), bytes.end(), bytes_.begin() + static_cast<ptrdiff_t>(offset));
}

uint64_t MemoryImage::Load(uint64_t offset) const {
  uint64_t word = 0;
  std::memcpy(&word, Part(offset, sizeof(word)).data(), sizeof(word));
  return word;
}

std::string MemoryImage::DifferencesOf(std::span<const std::byte> bytes) const {
  if (bytes.size() != bytes_.size())
    return Hex(bytes.size()) + " bytes instead of " + Hex(bytes_.size());
  if (std::memcmp(bytes.data(), bytes_.data(), bytes.size()) == 0) return "";
  uint64_t count = 0;
  uint64_t first = 0;
  uint64_t last = 0;
  for (uint64_t i = 0; i < bytes.size(); i++) {
    if (bytes[i] == bytes_[i]) continue;
    if (count++ == 0) first = i;
    last = i;
  }
  return std::to_string(count) + " bytes differ, the first at " + Hex(first) + ": " +
         Hex(static_cast<uint64_t>(bytes[first])) + " instead of " +
         Hex(static_cast<uint64_t>(bytes_[first])) + ", the last at " + Hex(last);
}

}  // namespace slotzap

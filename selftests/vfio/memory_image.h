// SPDX-License-Identifier: GPL-2.0-only
// What memory should hold: a copy that a test changes as it expects the memory to change.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace slotzap {

class MemoryImage {
 public:
  // Of what `bytes` hold now.
  explicit MemoryImage(std::span<const std::byte> bytes) : bytes_(bytes.begin(), bytes.end()) {}

  uint64_t size() const { return bytes_.size(); }
  // Both throw std::out_of_range beyond the end.
  void Write(uint64_t offset, std::span<const std::byte> bytes);
  std::span<const std::byte> Part(uint64_t offset, uint64_t size) const;
  // The 8 bytes at `offset`, as a guest would see them.
  uint64_t Load(uint64_t offset) const;

  // Which bytes differ, or an empty string: "3 bytes differ, the first at 0x10: 0x5 instead of 0x4,
  // the last at 0x20".
  std::string DifferencesOf(std::span<const std::byte> bytes) const;

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace slotzap

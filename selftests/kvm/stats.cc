// SPDX-License-Identifier: GPL-2.0-only
#include "kvm/stats.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "kvm/uapi.h"

namespace slotzap {

uint64_t StatsSnapshot::operator[](const std::string& name) const {
  const auto it = values_.find(name);
  if (it == values_.end()) throw std::out_of_range("this kernel has no KVM statistic " + name);
  return it->second;
}

Stats::Stats(FileDescriptor fd) : fd_(std::move(fd)) {
  kvm_stats_header header;
  const std::vector<std::byte> raw = ReadAt(0, sizeof(header));
  std::memcpy(&header, raw.data(), sizeof(header));

  // A descriptor is followed by its name, in a field of name_size bytes.
  const uint64_t stride = sizeof(kvm_stats_desc) + header.name_size;
  const std::vector<std::byte> descriptors = ReadAt(header.desc_offset, stride * header.num_desc);
  data_offset_ = header.data_offset;
  for (uint32_t i = 0; i < header.num_desc; i++) {
    kvm_stats_desc desc;
    std::memcpy(&desc, descriptors.data() + i * stride, sizeof(desc));
    const auto* name =
        reinterpret_cast<const char*>(descriptors.data() + i * stride + sizeof(desc));
    entries_.push_back({std::string(name, strnlen(name, header.name_size)), desc.offset});
    data_size_ = std::max(data_size_, desc.offset + desc.size * sizeof(uint64_t));
  }
}

std::vector<std::byte> Stats::ReadAt(uint64_t offset, uint64_t size) const {
  std::vector<std::byte> bytes(size);
  const ssize_t n = pread(fd_.get(), bytes.data(), size, static_cast<off_t>(offset));
  if (n < 0) ThrowErrno("read KVM statistics");
  if (static_cast<uint64_t>(n) != size) throw std::runtime_error("KVM statistics end early");
  return bytes;
}

StatsSnapshot Stats::Read() const {
  const std::vector<std::byte> data = ReadAt(data_offset_, data_size_);
  std::map<std::string, uint64_t> values;
  for (const Entry& entry : entries_) {
    uint64_t value = 0;
    std::memcpy(&value, data.data() + entry.offset, sizeof(value));
    values[entry.name] = value;
  }
  return StatsSnapshot(std::move(values));
}

}  // namespace slotzap

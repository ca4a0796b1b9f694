// SPDX-License-Identifier: GPL-2.0-only
#include "kvm/stats.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/mapping.h"
#include "kvm/uapi.h"

namespace slotzap {
namespace {

struct Entry {
  std::string name;
  std::vector<uint64_t> values;
};

// A file laid out as KVM_GET_STATS_FD's is (Documentation/virt/kvm/api.rst, 4.133): the header, an
// id, the descriptors, the data.
FileDescriptor StatsFile(const std::vector<Entry>& entries) {
  constexpr uint32_t kNameSize = 48;
  constexpr uint32_t kStride = sizeof(kvm_stats_desc) + kNameSize;
  kvm_stats_header header = {};
  header.name_size = kNameSize;
  header.num_desc = static_cast<uint32_t>(entries.size());
  header.id_offset = sizeof(header);
  header.desc_offset = header.id_offset + kNameSize;
  header.data_offset = header.desc_offset + kStride * header.num_desc;

  std::string descriptors;
  std::string data;
  for (const Entry& entry : entries) {
    kvm_stats_desc desc = {};
    desc.size = static_cast<uint16_t>(entry.values.size());
    desc.offset = static_cast<uint32_t>(data.size());
    descriptors.append(reinterpret_cast<const char*>(&desc), sizeof(desc));
    std::string name = entry.name;
    name.resize(kNameSize);
    descriptors += name;
    data.append(reinterpret_cast<const char*>(entry.values.data()), entry.values.size() * 8);
  }
  const std::string file = std::string(reinterpret_cast<const char*>(&header), sizeof(header)) +
                           std::string(kNameSize, '\0') + descriptors + data;
  FileDescriptor fd = MemoryFile(0);
  EXPECT_EQ(write(fd.get(), file.data(), file.size()), static_cast<ssize_t>(file.size()));
  return fd;
}

TEST(Stats, ReadsValuesByName) {
  const Stats stats(StatsFile({{"pages_4k", {17}}, {"histogram", {1, 2, 3}}, {"pf_fixed", {42}}}));
  const StatsSnapshot snapshot = stats.Read();
  EXPECT_EQ(snapshot["pages_4k"], 17u);
  EXPECT_EQ(snapshot["pf_fixed"], 42u);
  EXPECT_EQ(stats.Read("pf_fixed"), 42u);
}

TEST(Stats, NamesTheStatisticThatIsNotThere) {
  const Stats stats(StatsFile({{"pages_4k", {17}}}));
  EXPECT_FALSE(stats.Read().has("pages_2m"));
  try {
    stats.Read("pages_2m");
    FAIL() << "found it";
  } catch (const std::out_of_range& e) {
    EXPECT_THAT(e.what(), testing::HasSubstr("pages_2m"));
  }
}

TEST(Stats, RefusesAFileThatEndsEarly) {
  FileDescriptor fd = StatsFile({{"pages_4k", {17}}});
  ASSERT_EQ(ftruncate(fd.get(), 40), 0);
  EXPECT_THROW(Stats(std::move(fd)), std::runtime_error);
}

}  // namespace
}  // namespace slotzap

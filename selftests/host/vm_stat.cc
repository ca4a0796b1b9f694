// SPDX-License-Identifier: GPL-2.0-only
#include "host/vm_stat.h"

#include <fstream>
#include <sstream>
#include <stdexcept>

#include "base/file_descriptor.h"

namespace slotzap {

uint64_t VmStat(const std::string& name, const std::string& path) {
  std::ifstream file(path);
  std::string found;
  uint64_t value = 0;
  while (file >> found >> value)
    if (found == name) return value;
  throw std::runtime_error(path + " has no " + name);
}

void RefreshVmStat(const std::string& path) { WriteFile(path, "1"); }

uint64_t AvailableMemory(const std::string& path) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    uint64_t kilobytes = 0;
    if (words >> name >> kilobytes && name == "MemAvailable:") return kilobytes * 1024;
  }
  throw std::runtime_error(path + " has no MemAvailable");
}

uint64_t SecondaryPageTablePages() {
  RefreshVmStat();
  return VmStat("nr_sec_page_table_pages");
}

}  // namespace slotzap

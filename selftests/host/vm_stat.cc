// SPDX-License-Identifier: GPL-2.0-only
#include "host/vm_stat.h"

#include <fstream>
#include <stdexcept>

namespace slotzap {

uint64_t VmStat(const std::string& name, const std::string& path) {
  std::ifstream file(path);
  std::string found;
  uint64_t value = 0;
  while (file >> found >> value)
    if (found == name) return value;
  throw std::runtime_error(path + " has no " + name);
}

}  // namespace slotzap

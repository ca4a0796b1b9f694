// SPDX-License-Identifier: GPL-2.0-only
#include "vfio/accounting.h"

#include <sstream>
#include <stdexcept>

#include "base/file_descriptor.h"
#include "host/vm_stat.h"

namespace slotzap {

uint64_t LockedBytes(const std::string& status) {
  std::istringstream lines(ReadFile(status));
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("VmLck:")) return std::stoull(line.substr(6)) << 10;
  throw std::runtime_error(status + " has no line VmLck");
}

uint64_t PinnedPages(const std::string& vmstat) {
  return VmStat("nr_foll_pin_acquired", vmstat) - VmStat("nr_foll_pin_released", vmstat);
}

}  // namespace slotzap

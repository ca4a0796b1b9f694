// SPDX-License-Identifier: GPL-2.0-only
#include "host/pins.h"

#include <fstream>
#include <sstream>
#include <stdexcept>

#include "host/vm_stat.h"

namespace slotzap {

uint64_t PinnedBytes(const std::string& status) {
  std::ifstream file(status);
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string name;
    uint64_t kib = 0;
    if (words >> name >> kib && name == "VmPin:") return kib << 10;
  }
  throw std::runtime_error(status + " has no VmPin");
}

int64_t OutstandingPins() {
  RefreshVmStat();
  return static_cast<int64_t>(VmStat("nr_foll_pin_acquired") - VmStat("nr_foll_pin_released"));
}

}  // namespace slotzap

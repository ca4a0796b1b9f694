// SPDX-License-Identifier: GPL-2.0-only
#include "host/pins.h"

#include <fstream>
#include <sstream>
#include <stdexcept>

#include "host/vm_stat.h"

namespace slotzap {
namespace {

// The line "KEY: N kB", in bytes.
uint64_t StatusBytes(const std::string& status, const std::string& key) {
  std::ifstream file(status);
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string name;
    uint64_t kib = 0;
    if (words >> name >> kib && name == key + ":") return kib << 10;
  }
  throw std::runtime_error(status + " has no " + key);
}

}  // namespace

uint64_t PinnedBytes(const std::string& status) { return StatusBytes(status, "VmPin"); }

uint64_t LockedBytes(const std::string& status) { return StatusBytes(status, "VmLck"); }

int64_t OutstandingPins() {
  RefreshVmStat();
  return static_cast<int64_t>(VmStat("nr_foll_pin_acquired") - VmStat("nr_foll_pin_released"));
}

}  // namespace slotzap

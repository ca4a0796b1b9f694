// SPDX-License-Identifier: GPL-2.0-only
#include "host/sw_rmp.h"

#include "base/file_descriptor.h"

namespace slotzap {

std::string SwRmp::Unavailable(const std::string& parameters) {
  return FileExists(parameters + "/sw_rmp") ? "" : "this kernel has no software RMP (kvm.sw_rmp)";
}

SwRmp::SwRmp(std::string parameters)
    : parameters_(std::move(parameters)),
      was_(ReadLine(parameters_ + "/sw_rmp")),
      refused_before_(Number("refused")) {
  Write("sw_rmp", "Y");
}

SwRmp::~SwRmp() {
  try {
    ReleaseWindow();
    Write("sw_rmp_fail_after", "-1");
    Write("sw_rmp", was_);
  } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): nothing left to be done
  }
}

uint64_t SwRmp::Number(const std::string& name) const {
  return std::stoull(ReadLine(parameters_ + "/sw_rmp_" + name));
}

void SwRmp::Write(const std::string& parameter, const std::string& value) const {
  WriteFile(parameters_ + "/" + parameter, value);
}

}  // namespace slotzap

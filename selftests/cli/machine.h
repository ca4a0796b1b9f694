// SPDX-License-Identifier: GPL-2.0-only
// The machine that figures were taken on, for their headings.
#pragma once

#include <string>

namespace slotzap {

struct Machine {
  std::string kernel;  // uname -r
  std::string vendor;  // "svm", "vmx"
  std::string mode;    // "tdp", "legacy", "shadow"
  std::string host;    // "emulated by QEMU's TCG", "emulated by Bochs", "not emulated"
};

// Throws std::runtime_error if no KVM is loaded.
Machine DescribeMachine();

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "harness/main.h"

int main(int argc, char** argv) {
  return slotzap::HarnessMain(argc, argv, {.needs_kvm = false, .kernel_log_gate = false});
}

// SPDX-License-Identifier: GPL-2.0-only
#include "cli/machine.h"

#include <sys/utsname.h>

#include "host/kvm_module.h"

namespace slotzap {

Machine DescribeMachine() {
  Machine machine;
  const KvmModule module = DetectKvmModule();
  machine.vendor = module.vendor;
  machine.mode = ToString(module.mode);
  utsname uts = {};
  if (uname(&uts) == 0) machine.kernel = uts.release;
  const std::string emulator = CpuEmulator();
  machine.host = emulator == "tcg"     ? "emulated by QEMU's TCG"
                 : emulator == "bochs" ? "emulated by Bochs"
                                       : "not emulated";
  return machine;
}

}  // namespace slotzap

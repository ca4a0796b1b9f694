// SPDX-License-Identifier: GPL-2.0-only
#include "kvm/vcpu.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>

namespace slotzap {
namespace {

// A kvm_run page after KVM_EXIT_MEMORY_FAULT, as the kernel lays it out.
kvm_run MemoryFaultRun(uint64_t flags, uint64_t gpa, uint64_t size) {
  kvm_run run = {};
  run.exit_reason = KVM_EXIT_MEMORY_FAULT;
  const uint64_t fields[] = {flags, gpa, size};
  constexpr size_t kUnionOffset = 32;  // behind request_interrupt_window ... apic_base
  std::memcpy(reinterpret_cast<std::byte*>(&run) + kUnionOffset, fields, sizeof(fields));
  return run;
}

TEST(ExitText, NamesTheExitAndWhatItWasAbout) {
  kvm_run run = {};
  run.exit_reason = KVM_EXIT_MMIO;
  run.mmio.phys_addr = 0x1000;
  run.mmio.len = 8;
  EXPECT_EQ(ExitText(run), "KVM_EXIT_MMIO (read of 8 bytes at 0x1000)");
  run = {};
  run.exit_reason = KVM_EXIT_IO;
  run.io.port = 0x510;
  EXPECT_EQ(ExitText(run), "KVM_EXIT_IO (port 0x510)");
  run.exit_reason = 77;
  EXPECT_EQ(ExitText(run), "exit reason 77");
}

TEST(ExitText, TellsPrivateFromSharedAccesses) {
  EXPECT_EQ(ExitText(MemoryFaultRun(KVM_MEMORY_EXIT_FLAG_PRIVATE, 0x40000000, 0x1000)),
            "KVM_EXIT_MEMORY_FAULT (private access of 0x1000 bytes at 0x40000000)");
  EXPECT_EQ(ExitText(MemoryFaultRun(0, 0x40000000, 0x200000)),
            "KVM_EXIT_MEMORY_FAULT (shared access of 0x200000 bytes at 0x40000000)");
}

TEST(MemoryFault, IsFoundInTheRunPage) {
  const MemoryFault expected = {KVM_MEMORY_EXIT_FLAG_PRIVATE, 0x40000000, 0x1000};
  const MemoryFault fault = MemoryFaultIn(MemoryFaultRun(8, 0x40000000, 0x1000));
  EXPECT_EQ(fault, expected);
  EXPECT_TRUE(fault.is_private());
  EXPECT_FALSE(MemoryFaultIn(MemoryFaultRun(0, 0x40000000, 0x1000)).is_private());
}

TEST(VmType, HasANameAndTheKernelsNumber) {
  EXPECT_EQ(ToString(VmType::kDefault), "default");
  EXPECT_EQ(ToString(VmType::kSwProtected), "sw-protected");
  EXPECT_EQ(static_cast<unsigned>(VmType::kSwProtected), 1u);
}

}  // namespace
}  // namespace slotzap

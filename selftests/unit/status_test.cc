// SPDX-License-Identifier: GPL-2.0-only
#include "kvm/status.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <string>

#include "kvm/uapi.h"

namespace slotzap {
namespace {

TEST(KvmStatus, TellsTheCallAndTheError) {
  const KvmStatus failed("KVM_FOO(slot 3)", -1, EINVAL);
  EXPECT_FALSE(failed.ok());
  EXPECT_EQ(failed.ToString(), "KVM_FOO(slot 3): Invalid argument (errno 22)");
  const KvmStatus worked("KVM_FOO(slot 3)", 7, 0);
  EXPECT_TRUE(worked.ok());
  EXPECT_EQ(worked.ToString(), "KVM_FOO(slot 3) = 7");
  EXPECT_EQ(worked.OrThrow(), 7);
}

TEST(KvmStatus, ThrowsWhatItSays) {
  try {
    KvmStatus("KVM_FOO(slot 3)", -1, EEXIST).OrThrow();
    FAIL() << "did not throw";
  } catch (const KvmError& e) {
    EXPECT_EQ(e.error(), EEXIST);
    EXPECT_STREQ(e.what(), "KVM_FOO(slot 3): File exists (errno 17)");
  }
}

TEST(KvmStatus, IoctlReportsABadDescriptor) {
  const KvmStatus status = SLOTZAP_IOCTL(-1, KVM_GET_API_VERSION, 0);
  EXPECT_EQ(status.error(), EBADF);
  EXPECT_EQ(status.ToString(), "KVM_GET_API_VERSION(0): Bad file descriptor (errno 9)");
}

// Numbers that the kernel knows; see kvm/uapi.h for how they could be wrong in C++.
TEST(KvmUapi, IoctlNumbersAreTheKernels) {
  EXPECT_EQ(KVM_GET_SUPPORTED_CPUID, 0xc008ae05u);
  EXPECT_EQ(KVM_SET_CPUID2, 0x4008ae90u);
  EXPECT_EQ(KVM_SET_USER_MEMORY_REGION, 0x4020ae46u);
  EXPECT_EQ(KVM_SET_USER_MEMORY_REGION2, 0x40a0ae49u);
  EXPECT_EQ(KVM_SET_MEMORY_ATTRIBUTES, 0x4020aed2u);
  EXPECT_EQ(KVM_CREATE_GUEST_MEMFD, 0xc040aed4u);
}

}  // namespace
}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "host/task.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <stdexcept>
#include <system_error>
#include <vector>

#include "base/file_descriptor.h"
#include "unit/temp_dir.h"

namespace slotzap {
namespace {

using testing::ElementsAre;

constexpr char kStack[] =
    "[<0>] __synchronize_srcu.part.0+0x7c/0xa0\n"
    "[<0>] kvm_swap_active_memslots+0x15e/0x200 [kvm]\n"
    "[<0>] kvm_set_memslot.constprop.0.isra.0+0x1/0x2 [kvm]\n"
    "[<0>] entry_SYSCALL_64_after_hwframe+0x6e/0xd8\n";

TEST(KernelStack, IsTakenApart) {
  EXPECT_THAT(ParseKernelStack(kStack),
              ElementsAre("__synchronize_srcu", "kvm_swap_active_memslots", "kvm_set_memslot",
                          "entry_SYSCALL_64_after_hwframe"));
  EXPECT_THAT(ParseKernelStack(""), ElementsAre());
  EXPECT_THAT(ParseKernelStack("no stack\n[<0>] \n[<0>] last"), ElementsAre("last"));
}

TEST(KernelStack, IsInsideLooksAtTheOrder) {
  const KernelStack stack = {"a", "b", "c"};
  EXPECT_TRUE(IsInside(stack, {}));
  EXPECT_TRUE(IsInside(stack, {"b"}));
  EXPECT_TRUE(IsInside(stack, {"a", "c"}));
  EXPECT_FALSE(IsInside(stack, {"c", "a"}));
  EXPECT_FALSE(IsInside(stack, {"a", "a"}));
  EXPECT_FALSE(IsInside({}, {"a"}));
  EXPECT_EQ(ToString(stack), "a < b < c");
}

TEST(KernelStack, OfAThread) {
  const TempDir dir;
  dir.Write("17/stack", kStack);
  EXPECT_EQ(KernelStackOf(17, dir.path()).size(), 4u);
  EXPECT_TRUE(KernelStackOf(18, dir.path()).empty()) << "there is no such thread";
}

TEST(ThreadState, ComesAfterTheName) {
  const TempDir dir;
  dir.Write("17/stat", "17 (a) D (b) S 1 2 3\n");
  dir.Write("18/stat", "18 (a) \n");
  EXPECT_EQ(ThreadStateOf(17, dir.path()), 'S');
  EXPECT_EQ(ThreadStateOf(18, dir.path()), '\n');
  EXPECT_EQ(ThreadStateOf(19, dir.path()), '\0') << "there is no such thread";
  EXPECT_EQ(ThreadStateOf(gettid()), 'R');
}

TEST(WaitsForMutexIn, ASleepWithoutAFunctionThatSleeps) {
  const TempDir dir;
  dir.Write("17/stat", "17 (a) D 1");
  dir.Write("17/stack", "[<0>] kvm_vm_ioctl+0x1/0x2 [kvm]\n[<0>] __x64_sys_ioctl+0x1/0x2\n");
  EXPECT_TRUE(WaitsForMutexIn("kvm_", 17, dir.path()));
  EXPECT_FALSE(WaitsForMutexIn("__x64", 17, dir.path())) << "it's not at the top";
  dir.Write("17/stat", "17 (a) R 1");
  EXPECT_FALSE(WaitsForMutexIn("kvm_", 17, dir.path()));
  dir.Write("17/stat", "17 (a) D 1");
  dir.Write("17/stack", kStack);
  EXPECT_FALSE(WaitsForMutexIn("kvm_", 17, dir.path())) << "it waits for readers";
  EXPECT_FALSE(WaitsForMutexIn("kvm_", 18, dir.path()));
}

TEST(CpuPin, LastsAsLongAsItLives) {
  const std::vector<int> before = AllowedCpus();
  ASSERT_FALSE(before.empty());
  {
    const CpuPin pin(before.back());
    EXPECT_THAT(AllowedCpus(), ElementsAre(before.back()));
    BackgroundCall<std::vector<int>> child(AllowedCpus);
    EXPECT_THAT(child.Join(), ElementsAre(before.back())) << "it is inherited";
  }
  EXPECT_EQ(AllowedCpus(), before);
  EXPECT_THROW(CpuPin(1023), std::system_error) << "there is no such CPU";
  EXPECT_EQ(AllowedCpus(), before);
}

TEST(BackgroundCall, ReturnsWhatTheCallReturned) {
  BackgroundCall<int> call([] { return 42; });
  EXPECT_EQ(call.Join(), 42);
  EXPECT_TRUE(call.ended());
  EXPECT_EQ(call.Join(), 42) << "once more";
}

TEST(BackgroundCall, ThrowsWhatTheCallThrew) {
  BackgroundCall<int> call([]() -> int { throw std::out_of_range("of what"); });
  EXPECT_THROW(call.Join(), std::out_of_range);
}

TEST(BackgroundCall, TheKernelSaysWhereItSleeps) {
  if (const std::string reason = KernelStackUnavailable(); !reason.empty()) GTEST_SKIP() << reason;
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const FileDescriptor reading(ends[0]);
  FileDescriptor writing(ends[1]);
  BackgroundCall<ssize_t> call([&] {
    char byte;
    return read(reading.get(), &byte, 1);
  });
  EXPECT_NE(call.thread(), gettid());
  while (!IsInside(KernelStackOf(call.thread()), {"vfs_read", "ksys_read"}))
    std::this_thread::yield();
  EXPECT_FALSE(call.ended());
  writing.Close();
  EXPECT_EQ(call.Join(), 0);
}

}  // namespace
}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "host/user_faults.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace slotzap {
namespace {

constexpr uint64_t kPage = 4096;

int Open() { return static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC)); }

}  // namespace

std::string UserFaults::Unavailable() {
  const FileDescriptor fd(Open());
  return fd.valid() ? "" : "no userfaultfd(2): " + std::generic_category().message(errno);
}

UserFaults::UserFaults(std::byte* data, uint64_t size)
    : fd_(Open()), address_(reinterpret_cast<uint64_t>(data)), size_(size) {
  if (!fd_.valid()) ThrowErrno("userfaultfd");
  uffdio_api api = {};
  api.api = UFFD_API;
  if (ioctl(fd_.get(), UFFDIO_API, &api) != 0) ThrowErrno("UFFDIO_API");
  uffdio_register registration = {};
  registration.range = {address_, size_};
  registration.mode = UFFDIO_REGISTER_MODE_MISSING;
  if (ioctl(fd_.get(), UFFDIO_REGISTER, &registration) != 0) ThrowErrno("UFFDIO_REGISTER");
}

uint64_t UserFaults::WaitForFault() {
  uffd_msg message = {};
  ssize_t got = 0;
  do {
    got = read(fd_.get(), &message, sizeof(message));
  } while (got < 0 && errno == EINTR);
  if (got != sizeof(message) || message.event != UFFD_EVENT_PAGEFAULT)
    ThrowErrno("read a page fault from userfaultfd");
  return message.arg.pagefault.address & ~(kPage - 1);
}

void UserFaults::Resolve() noexcept {
  // Of a range that isn't registered any more, this does nothing.
  uffdio_zeropage zero = {};
  zero.range = {address_, size_};
  ioctl(fd_.get(), UFFDIO_ZEROPAGE, &zero);
  uffdio_range range = {address_, size_};
  ioctl(fd_.get(), UFFDIO_UNREGISTER, &range);
}

}  // namespace slotzap

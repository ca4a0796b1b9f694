// SPDX-License-Identifier: GPL-2.0-only
#include "host/userfaultfd.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "base/range.h"

namespace slotzap {
namespace {

// Without UFFD_USER_MODE_ONLY, since KVM faults in the kernel.
FileDescriptor Open() {
  return FileDescriptor(
      static_cast<int>(syscall(SYS_userfaultfd, static_cast<long>(O_CLOEXEC | O_NONBLOCK))));
}

std::error_code Error(int error) { return {error, std::generic_category()}; }

template <typename Arg>
std::error_code TryIoctl(int fd, unsigned long request, Arg& arg) {
  return Error(ioctl(fd, request, &arg) == 0 ? 0 : errno);
}

std::error_code Handshake(int fd) {
  uffdio_api api = {};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_MISSING_SHMEM;
  return TryIoctl(fd, UFFDIO_API, api);
}

void OrThrow(const std::error_code& error, const char* request, uint64_t address, uint64_t size) {
  if (error)
    throw std::system_error(
        error, std::string(request) + " of " + SizeString(size) + " at " + Hex(address));
}

}  // namespace

std::string Userfaultfd::Unavailable() {
  const FileDescriptor fd = Open();
  if (!fd.valid()) return "no userfaultfd for faults in the kernel: " + Error(errno).message();
  if (const std::error_code error = Handshake(fd.get()))
    return "this userfaultfd can't name the thread that faults: " + error.message();
  return "";
}

Userfaultfd::Userfaultfd() : fd_(Open()) {
  if (!fd_.valid()) ThrowErrno("userfaultfd");
  if (const std::error_code error = Handshake(fd_.get()))
    throw std::system_error(error, "UFFDIO_API");
}

std::error_code Userfaultfd::TryRegister(uint64_t address, uint64_t size) {
  uffdio_register args = {};
  args.range = {.start = address, .len = size};
  args.mode = UFFDIO_REGISTER_MODE_MISSING;
  return TryIoctl(fd_.get(), UFFDIO_REGISTER, args);
}

std::optional<UserFault> Userfaultfd::TakeFault() {
  uffd_msg message = {};
  const ssize_t n = read(fd_.get(), &message, sizeof(message));
  if (n < 0 && errno == EAGAIN) return std::nullopt;
  if (n != sizeof(message)) ThrowErrno("read a userfaultfd");
  // No other event was asked for.
  if (message.event != UFFD_EVENT_PAGEFAULT)
    throw std::runtime_error("userfaultfd event " + std::to_string(message.event));
  return UserFault{.address = message.arg.pagefault.address & ~(kPageSize - 1),
                   .write = (message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0,
                   .thread = static_cast<pid_t>(message.arg.pagefault.feat.ptid)};
}

std::error_code Userfaultfd::TryCopy(uint64_t address, std::span<const std::byte> contents) {
  uffdio_copy args = {};
  args.dst = address;
  args.src = reinterpret_cast<uint64_t>(contents.data());
  args.len = contents.size();
  return TryIoctl(fd_.get(), UFFDIO_COPY, args);
}

std::error_code Userfaultfd::TryZero(uint64_t address, uint64_t size) {
  uffdio_zeropage args = {};
  args.range = {.start = address, .len = size};
  return TryIoctl(fd_.get(), UFFDIO_ZEROPAGE, args);
}

std::error_code Userfaultfd::TryWake(uint64_t address, uint64_t size) {
  uffdio_range args = {.start = address, .len = size};
  return TryIoctl(fd_.get(), UFFDIO_WAKE, args);
}

void Userfaultfd::Register(uint64_t address, uint64_t size) {
  OrThrow(TryRegister(address, size), "UFFDIO_REGISTER", address, size);
}

void Userfaultfd::Copy(uint64_t address, std::span<const std::byte> contents) {
  OrThrow(TryCopy(address, contents), "UFFDIO_COPY", address, contents.size());
}

void Userfaultfd::Zero(uint64_t address, uint64_t size) {
  OrThrow(TryZero(address, size), "UFFDIO_ZEROPAGE", address, size);
}

void Userfaultfd::Wake(uint64_t address, uint64_t size) {
  OrThrow(TryWake(address, size), "UFFDIO_WAKE", address, size);
}

}  // namespace slotzap

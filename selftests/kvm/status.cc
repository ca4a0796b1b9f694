// SPDX-License-Identifier: GPL-2.0-only
#include "kvm/status.h"

#include <sys/ioctl.h>

#include <cerrno>
#include <system_error>

namespace slotzap {
namespace {

template <typename Arg>
KvmStatus DoIoctl(int fd, unsigned long request, std::string call, Arg arg) {
  int value = -1;
  do {
    value = ioctl(fd, request, arg);
  } while (value < 0 && errno == EINTR);
  return {std::move(call), value, value < 0 ? errno : 0};
}

}  // namespace

std::string KvmStatus::ToString() const {
  if (ok()) return call_ + " = " + std::to_string(value_);
  return call_ + ": " + std::generic_category().message(error_) + " (errno " +
         std::to_string(error_) + ")";
}

int KvmStatus::OrThrow() const {
  if (!ok()) throw KvmError(ToString(), error_);
  return value_;
}

KvmStatus Ioctl(int fd, unsigned long request, const char* name, const void* arg,
                const std::string& args) {
  return DoIoctl(fd, request, std::string(name) + "(" + args + ")", arg);
}

KvmStatus Ioctl(int fd, unsigned long request, const char* name, unsigned long arg) {
  return DoIoctl(fd, request, std::string(name) + "(" + std::to_string(arg) + ")", arg);
}

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
// The outcome of an ioctl.
//
// Wrappers come in pairs: TryFoo() returns a KvmStatus, for a caller that expects, or wants to look
// at, an error; Foo() throws KvmError.  Both say which ioctl it was, with which arguments.
#pragma once

#include <stdexcept>
#include <string>

namespace slotzap {

// Thrown by the wrappers that have no "Try" in their name.
class KvmError : public std::runtime_error {
 public:
  KvmError(const std::string& what, int error) : std::runtime_error(what), error_(error) {}
  int error() const { return error_; }  // errno

 private:
  int error_;
};

class [[nodiscard]] KvmStatus {
 public:
  // `call` is the ioctl and its arguments, e.g. "KVM_SET_USER_MEMORY_REGION(slot 3, ...)".
  KvmStatus(std::string call, int value, int error)
      : call_(std::move(call)), value_(value), error_(error) {}

  bool ok() const { return error_ == 0; }
  int value() const { return value_; }  // what the ioctl returned
  int error() const { return error_; }  // errno, 0 if it succeeded
  // "KVM_FOO(args): Invalid argument (errno 22)", or "KVM_FOO(args) = 0".
  std::string ToString() const;
  // The returned value; throws KvmError if the ioctl failed.
  int OrThrow() const;

 private:
  std::string call_;
  int value_;
  int error_;
};

// ioctl(2), restarted if a signal interrupts it before it did anything.  `name` is the request's
// name, `args` the arguments as a person would read them.
KvmStatus Ioctl(int fd, unsigned long request, const char* name, const void* arg,
                const std::string& args);
KvmStatus Ioctl(int fd, unsigned long request, const char* name, unsigned long arg);

}  // namespace slotzap

// Names the request after the constant it is made with.
#define SLOTZAP_IOCTL(fd, request, ...) ::slotzap::Ioctl(fd, request, #request, __VA_ARGS__)

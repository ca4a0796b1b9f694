// SPDX-License-Identifier: GPL-2.0-only
// An owned file descriptor, and reading and writing small files such as those of sysfs.
#pragma once

#include <string>
#include <string_view>
#include <utility>

namespace slotzap {

// Owns a file descriptor; closes it when destroyed.  Move-only.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() { Close(); }

  // open(2) with O_CLOEXEC.  Throws std::system_error naming the path.
  static FileDescriptor Open(const std::string& path, int flags, unsigned mode = 0);

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  void Close() noexcept;

 private:
  int fd_ = -1;
};

// The whole file as text.  Throws std::system_error naming the path.
std::string ReadFile(const std::string& path);

// The file's text without trailing white space, e.g. of a module parameter.
std::string ReadLine(const std::string& path);

// One write(2) of `text` to an existing file.  Throws std::system_error naming the path.
void WriteFile(const std::string& path, std::string_view text);

bool FileExists(const std::string& path);

// std::system_error from errno, saying `what`.
[[noreturn]] void ThrowErrno(const std::string& what);

}  // namespace slotzap

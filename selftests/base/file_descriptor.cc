// SPDX-License-Identifier: GPL-2.0-only
#include "base/file_descriptor.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace slotzap {

void ThrowErrno(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  if (this != &other) {
    Close();
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

FileDescriptor FileDescriptor::Open(const std::string& path, int flags, unsigned mode) {
  FileDescriptor fd(open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd.valid()) ThrowErrno("open " + path);
  return fd;
}

void FileDescriptor::Close() noexcept {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

std::string ReadFile(const std::string& path) {
  const FileDescriptor fd = FileDescriptor::Open(path, O_RDONLY);
  std::string text;
  char buffer[16384];
  for (;;) {
    const ssize_t n = read(fd.get(), buffer, sizeof(buffer));
    if (n == 0) return text;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) ThrowErrno("read " + path);
    text.append(buffer, static_cast<size_t>(n));
  }
}

std::string ReadLine(const std::string& path) {
  std::string text = ReadFile(path);
  const size_t end = text.find_last_not_of(" \t\r\n");
  text.resize(end == std::string::npos ? 0 : end + 1);
  return text;
}

void WriteFile(const std::string& path, std::string_view text) {
  const FileDescriptor fd = FileDescriptor::Open(path, O_WRONLY | O_TRUNC);
  const ssize_t n = write(fd.get(), text.data(), text.size());
  if (n != static_cast<ssize_t>(text.size()))
    ThrowErrno("write '" + std::string(text) + "' to " + path);
}

bool FileExists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "base/channel.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <string>

#include "base/range.h"

namespace slotzap {
namespace {

Channel Sockets(int type) {
  int ends[2];
  if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) != 0) ThrowErrno("socketpair");
  return {FileDescriptor(ends[0]), FileDescriptor(ends[1])};
}

}  // namespace

Channel Channel::Pipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) ThrowErrno("pipe2");
  return {FileDescriptor(ends[0]), FileDescriptor(ends[1])};
}

Channel Channel::Pipe(uint64_t capacity) {
  Channel pipe = Pipe();
  const int got = fcntl(pipe.writer.get(), F_SETPIPE_SZ, static_cast<int>(capacity));
  if (got >= 0 && static_cast<uint64_t>(got) != capacity) errno = EINVAL;
  if (static_cast<uint64_t>(got) != capacity) ThrowErrno("a pipe of " + SizeString(capacity));
  return pipe;
}

Channel Channel::Stream() { return Sockets(SOCK_STREAM); }
Channel Channel::Messages() { return Sockets(SOCK_SEQPACKET); }

Listener::Listener() : fd_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  if (!fd_.valid()) ThrowErrno("socket");
  // No more than the family: the kernel picks a name that nobody has.
  const sockaddr_un any = {.sun_family = AF_UNIX, .sun_path = {}};
  if (bind(fd(), reinterpret_cast<const sockaddr*>(&any), sizeof(any.sun_family)) != 0)
    ThrowErrno("bind");
  if (listen(fd(), SOMAXCONN) != 0) ThrowErrno("listen");
}

FileDescriptor Listener::Connect() const {
  sockaddr_un name = {};
  socklen_t size = sizeof(name);
  if (getsockname(fd(), reinterpret_cast<sockaddr*>(&name), &size) != 0) ThrowErrno("getsockname");
  FileDescriptor end(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!end.valid()) ThrowErrno("socket");
  if (connect(end.get(), reinterpret_cast<const sockaddr*>(&name), size) != 0)
    ThrowErrno("connect");
  return end;
}

uint64_t FillUp(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) ThrowErrno("fcntl");
  const std::vector<std::byte> zeroes(kPageSize);
  uint64_t bytes = 0;
  ssize_t n = 0;
  while ((n = write(fd, zeroes.data(), zeroes.size())) > 0) bytes += static_cast<uint64_t>(n);
  if (errno != EAGAIN) ThrowErrno("write until there is no more room");
  if (fcntl(fd, F_SETFL, flags) != 0) ThrowErrno("fcntl");
  return bytes;
}

void WriteAll(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) ThrowErrno("write " + SizeString(bytes.size()));
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

std::vector<std::byte> ReadAll(int fd, uint64_t size) {
  std::vector<std::byte> bytes(size);
  for (uint64_t done = 0; done < size;) {
    const ssize_t n = read(fd, bytes.data() + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) ThrowErrno("read " + SizeString(size));
    if (n == 0)
      throw std::runtime_error("the writer is gone after " + std::to_string(done) + " of " +
                               std::to_string(size) + " bytes");
    done += static_cast<uint64_t>(n);
  }
  return bytes;
}

}  // namespace slotzap

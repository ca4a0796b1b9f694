// SPDX-License-Identifier: GPL-2.0-only
// Pipes and sockets within this process: data that comes when the writer says so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/file_descriptor.h"

namespace slotzap {

// Two ends that block.
struct Channel {
  FileDescriptor reader, writer;

  // pipe(2).
  static Channel Pipe();
  // pipe(2) that holds no more than this many bytes, a multiple of the page size.  Throws
  // std::system_error if the kernel makes it another size.
  static Channel Pipe(uint64_t capacity);
  // socketpair(2) of UNIX sockets: a stream, or with messages that keep their bounds.
  static Channel Stream();
  static Channel Messages();
};

// A UNIX socket that others connect to, of streams.
class Listener {
 public:
  Listener();

  int fd() const { return fd_.get(); }
  // A connection to it: the end of who asked.  It is there at once, whoever accepts it and when.
  FileDescriptor Connect() const;

 private:
  FileDescriptor fd_;
};

// Writes as many zeroes as there is room for, and returns how many bytes that was.  The next write
// has to wait.  Throws std::system_error.
uint64_t FillUp(int fd);

// Writes, or reads, all of it.  Both throw std::system_error, ReadAll() std::runtime_error if the
// writer is gone.
void WriteAll(int fd, std::span<const std::byte> bytes);
std::vector<std::byte> ReadAll(int fd, uint64_t size);

}  // namespace slotzap

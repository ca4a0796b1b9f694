// SPDX-License-Identifier: GPL-2.0-only
// io_uring(7), by liburing: reads and writes that are under way while this process does something
// else, to and from memory that the kernel has pinned for them.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

struct io_uring;
struct io_uring_buf_ring;
struct io_uring_sqe;

namespace slotzap {

// Memory of this process, in bytes.
struct IoBuffer {
  uint64_t address = 0;
  uint64_t size = 0;
};

// What became of a request.
struct Completion {
  uint64_t tag = 0;                  // of the request
  int32_t result = 0;                // what the system call would have returned, or minus its errno
  bool more = false;                 // IORING_CQE_F_MORE: a multishot request goes on
  std::optional<uint16_t> provided;  // which of the provided buffers the data is in
  bool operator==(const Completion&) const = default;
};
std::ostream& operator<<(std::ostream& os, const Completion& completion);

// A ring, to be used by one thread.  Requests are under way from Submit() until their completion
// is there.  Calls of the kernel come in pairs where a test may expect an error: TryFoo() returns
// it, Foo() throws std::system_error.
class IoRing {
 public:
  // For files that have no position, such as pipes and sockets.
  static constexpr uint64_t kNoOffset = ~0ull;

  // kNext: the request that is queued next begins only when this one is done (IOSQE_IO_LINK).  If
  // it fails, or is short, those after it are cancelled.
  enum class Link { kNone, kNext };

  // Why there are no rings here, or an empty string: an older kernel, kernel.io_uring_disabled, a
  // seccomp filter.
  static std::string Unavailable();

  // Takes `entries` requests between two calls of Submit().
  explicit IoRing(unsigned entries = 64);
  IoRing(const IoRing&) = delete;
  IoRing& operator=(const IoRing&) = delete;
  // Cancels what is under way, which the kernel does in its own time.
  ~IoRing();

  // IORING_REGISTER_BUFFERS: the kernel pins the pages for long (FOLL_PIN | FOLL_LONGTERM), as it
  // does for a device that is assigned to a VM, until UnregisterBuffers().  There is one set at a
  // time (EBUSY).
  void RegisterBuffers(const std::vector<IoBuffer>& buffers);
  std::error_code TryRegisterBuffers(const std::vector<IoBuffer>& buffers);
  // IORING_UNREGISTER_BUFFERS: waits for the requests that use them.
  void UnregisterBuffers();

  // Each queues a request, which Submit() starts.  `memory` lies in the registered buffer with this
  // index, or the request fails with EFAULT; the file descriptor has to stay open.
  void ReadFixed(uint64_t tag, int fd, IoBuffer memory, unsigned index, uint64_t offset,
                 Link link = Link::kNone);
  void WriteFixed(uint64_t tag, int fd, IoBuffer memory, unsigned index, uint64_t offset,
                  Link link = Link::kNone);
  // Done when there is something to read.  Multishot: each time, until cancelled.
  void PollIn(uint64_t tag, int fd, Link link = Link::kNone);
  void PollInMultishot(uint64_t tag, int fd);
  // Each message goes to a buffer of its own of those that Provide() had; until cancelled, or there
  // is no buffer left (ENOBUFS).  Since Linux 6.0.
  void ReceiveMultishot(uint64_t tag, int fd);
  // Each connection to the socket `fd`, which listens, is a new file descriptor: the result.  Until
  // cancelled.
  void AcceptMultishot(uint64_t tag, int fd);
  // Cancels the request with the tag `target`, whose completion says ECANCELED.
  void Cancel(uint64_t tag, uint64_t target);

  // IORING_REGISTER_PBUF_RING: buffers for requests that pick one when they have data.  Which they
  // are is in a ring of `entries` (a power of two) of 16 bytes each, at a page of this process that
  // the kernel pins.
  void RegisterProvidedBuffers(uint64_t address, unsigned entries);
  void UnregisterProvidedBuffers();
  void Provide(IoBuffer memory, uint16_t id);

  // Starts what is queued.  Throws std::runtime_error if the kernel takes less than all.
  void Submit();
  // The next completion, if there is one.
  std::optional<Completion> Take();
  Completion Wait();

 private:
  io_uring_sqe* Next(uint64_t tag, Link link);

  std::unique_ptr<io_uring> ring_;
  io_uring_buf_ring* provided_ = nullptr;
  int provided_mask_ = 0;
};

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "host/io_ring.h"

#include <liburing.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <ostream>
#include <stdexcept>

#include "base/range.h"

namespace slotzap {
namespace {

constexpr int kGroup = 1;  // of provided buffers; a ring has no more than one here

// liburing returns minus errno.
std::error_code Error(int result) { return {result < 0 ? -result : 0, std::generic_category()}; }

void OrThrow(int result, const std::string& what) {
  if (const std::error_code error = Error(result)) throw std::system_error(error, what);
}

void* Pointer(uint64_t address) { return reinterpret_cast<void*>(address); }

}  // namespace

std::ostream& operator<<(std::ostream& os, const Completion& completion) {
  os << "request " << completion.tag << ": ";
  if (completion.result < 0)
    os << Error(completion.result).message();
  else
    os << completion.result;
  if (completion.provided) os << ", in buffer " << *completion.provided;
  return os << (completion.more ? ", more to come" : "");
}

std::string IoRing::Unavailable() {
  io_uring ring = {};
  if (const std::error_code error = Error(io_uring_queue_init(1, &ring, 0)))
    return "no io_uring: " + error.message();
  io_uring_queue_exit(&ring);
  return "";
}

IoRing::IoRing(unsigned entries) : ring_(std::make_unique<io_uring>()) {
  OrThrow(io_uring_queue_init(entries, ring_.get(), 0),
          "io_uring_setup with " + std::to_string(entries) + " entries");
}

IoRing::~IoRing() { io_uring_queue_exit(ring_.get()); }

std::error_code IoRing::TryRegisterBuffers(const std::vector<IoBuffer>& buffers) {
  std::vector<iovec> vectors;
  vectors.reserve(buffers.size());
  for (const IoBuffer& buffer : buffers)
    vectors.push_back({.iov_base = Pointer(buffer.address), .iov_len = buffer.size});
  return Error(io_uring_register_buffers(ring_.get(), vectors.data(),
                                         static_cast<unsigned>(vectors.size())));
}

void IoRing::RegisterBuffers(const std::vector<IoBuffer>& buffers) {
  if (const std::error_code error = TryRegisterBuffers(buffers))
    throw std::system_error(
        error, "IORING_REGISTER_BUFFERS of " + std::to_string(buffers.size()) + " buffers");
}

void IoRing::UnregisterBuffers() {
  OrThrow(io_uring_unregister_buffers(ring_.get()), "IORING_UNREGISTER_BUFFERS");
}

io_uring_sqe* IoRing::Next(uint64_t tag, Link link) {
  io_uring_sqe* const sqe = io_uring_get_sqe(ring_.get());
  if (sqe == nullptr) throw std::length_error("the ring is full of requests: submit them first");
  sqe->user_data = tag;
  sqe->flags = link == Link::kNext ? IOSQE_IO_LINK : 0;
  return sqe;
}

namespace {

// The io_uring_prep_*() clear the flags.
template <typename Prepare>
void Fill(io_uring_sqe* sqe, Prepare prepare) {
  const auto flags = sqe->flags;
  const auto tag = sqe->user_data;
  prepare();
  sqe->flags |= flags;
  sqe->user_data = tag;
}

}  // namespace

void IoRing::ReadFixed(uint64_t tag, int fd, IoBuffer memory, unsigned index, uint64_t offset,
                       Link link) {
  io_uring_sqe* const sqe = Next(tag, link);
  Fill(sqe, [&] {
    io_uring_prep_read_fixed(sqe, fd, Pointer(memory.address), static_cast<unsigned>(memory.size),
                             offset, static_cast<int>(index));
  });
}

void IoRing::WriteFixed(uint64_t tag, int fd, IoBuffer memory, unsigned index, uint64_t offset,
                        Link link) {
  io_uring_sqe* const sqe = Next(tag, link);
  Fill(sqe, [&] {
    io_uring_prep_write_fixed(sqe, fd, Pointer(memory.address), static_cast<unsigned>(memory.size),
                              offset, static_cast<int>(index));
  });
}

void IoRing::PollIn(uint64_t tag, int fd, Link link) {
  io_uring_sqe* const sqe = Next(tag, link);
  Fill(sqe, [&] { io_uring_prep_poll_add(sqe, fd, POLLIN); });
}

void IoRing::PollInMultishot(uint64_t tag, int fd) {
  io_uring_sqe* const sqe = Next(tag, Link::kNone);
  Fill(sqe, [&] { io_uring_prep_poll_multishot(sqe, fd, POLLIN); });
}

void IoRing::ReceiveMultishot(uint64_t tag, int fd) {
  io_uring_sqe* const sqe = Next(tag, Link::kNone);
  Fill(sqe, [&] { io_uring_prep_recv_multishot(sqe, fd, nullptr, 0, 0); });
  sqe->flags |= IOSQE_BUFFER_SELECT;
  sqe->buf_group = kGroup;
}

void IoRing::AcceptMultishot(uint64_t tag, int fd) {
  io_uring_sqe* const sqe = Next(tag, Link::kNone);
  Fill(sqe, [&] { io_uring_prep_multishot_accept(sqe, fd, nullptr, nullptr, SOCK_CLOEXEC); });
}

void IoRing::Cancel(uint64_t tag, uint64_t target) {
  io_uring_sqe* const sqe = Next(tag, Link::kNone);
  Fill(sqe, [&] { io_uring_prep_cancel64(sqe, target, 0); });
}

void IoRing::RegisterProvidedBuffers(uint64_t address, unsigned entries) {
  io_uring_buf_reg reg = {};
  reg.ring_addr = address;
  reg.ring_entries = entries;
  reg.bgid = kGroup;
  OrThrow(io_uring_register_buf_ring(ring_.get(), &reg, 0),
          "IORING_REGISTER_PBUF_RING at " + Hex(address));
  provided_ = static_cast<io_uring_buf_ring*>(Pointer(address));
  provided_mask_ = io_uring_buf_ring_mask(entries);
  io_uring_buf_ring_init(provided_);
}

void IoRing::UnregisterProvidedBuffers() {
  OrThrow(io_uring_unregister_buf_ring(ring_.get(), kGroup), "IORING_UNREGISTER_PBUF_RING");
  provided_ = nullptr;
}

void IoRing::Provide(IoBuffer memory, uint16_t id) {
  if (provided_ == nullptr) throw std::logic_error("no ring of provided buffers is registered");
  io_uring_buf_ring_add(provided_, Pointer(memory.address), static_cast<unsigned>(memory.size), id,
                        provided_mask_, 0);
  io_uring_buf_ring_advance(provided_, 1);
}

void IoRing::Submit() {
  const unsigned queued = io_uring_sq_ready(ring_.get());
  const int taken = io_uring_submit(ring_.get());
  OrThrow(taken, "submit " + std::to_string(queued) + " requests");
  if (static_cast<unsigned>(taken) != queued)
    throw std::runtime_error("the kernel took " + std::to_string(taken) + " of " +
                             std::to_string(queued) + " requests");
}

std::optional<Completion> IoRing::Take() {
  io_uring_cqe* cqe = nullptr;
  // Some completions are made only when the task asks for them.
  OrThrow(io_uring_get_events(ring_.get()), "io_uring_enter");
  if (io_uring_peek_cqe(ring_.get(), &cqe) != 0) return std::nullopt;
  Completion completion = {.tag = cqe->user_data,
                           .result = cqe->res,
                           .more = (cqe->flags & IORING_CQE_F_MORE) != 0,
                           .provided = std::nullopt};
  if ((cqe->flags & IORING_CQE_F_BUFFER) != 0)
    completion.provided = static_cast<uint16_t>(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
  io_uring_cqe_seen(ring_.get(), cqe);
  return completion;
}

Completion IoRing::Wait() {
  for (;;) {
    if (const std::optional<Completion> completion = Take()) return *completion;
    io_uring_cqe* cqe = nullptr;
    if (const int error = io_uring_wait_cqe(ring_.get(), &cqe); error != -EINTR)
      OrThrow(error, "wait for a completion");
  }
}

}  // namespace slotzap

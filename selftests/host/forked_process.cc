// SPDX-License-Identifier: GPL-2.0-only
#include "host/forked_process.h"

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <exception>
#include <span>
#include <stdexcept>

namespace slotzap {
namespace {

struct Answer {
  uint64_t value;
  uint64_t failed;
};

template <typename T>
void Send(int fd, const T& object) {
  WriteAll(fd, std::as_bytes(std::span(&object, 1)));
}

template <typename T>
T Receive(int fd) {
  T object;
  std::memcpy(&object, ReadAll(fd, sizeof(object)).data(), sizeof(object));
  return object;
}

}  // namespace

ForkedProcess::ForkedProcess(const std::function<uint64_t(uint64_t)>& serve) {
  Channel channel = Channel::Stream();
  pid_ = fork();
  if (pid_ < 0) ThrowErrno("fork");
  if (pid_ == 0) {
    channel.writer.Close();
    Serve(serve, channel.reader.get());
  }
  end_ = std::move(channel.writer);
}

// Ends when the other side closes its end, or is gone.
void ForkedProcess::Serve(const std::function<uint64_t(uint64_t)>& serve, int fd) {
  try {
    for (;;) {
      const auto argument = Receive<uint64_t>(fd);
      Answer answer = {};
      try {
        answer.value = serve(argument);
      } catch (const std::exception&) {
        answer.failed = 1;
      }
      Send(fd, answer);
    }
  } catch (const std::exception&) {
    _exit(0);
  }
}

uint64_t ForkedProcess::Do(uint64_t argument) {
  Send(end_.get(), argument);
  const auto answer = Receive<Answer>(end_.get());
  if (answer.failed != 0)
    throw std::runtime_error("process " + std::to_string(pid_) + " failed to do " +
                             std::to_string(argument));
  return answer.value;
}

void ForkedProcess::End() noexcept {
  if (pid_ <= 0) return;
  end_.Close();
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  pid_ = 0;
}

}  // namespace slotzap

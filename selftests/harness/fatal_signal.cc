// SPDX-License-Identifier: GPL-2.0-only
#include "harness/fatal_signal.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

namespace slotzap {
namespace {

// The handler may only touch what was prepared for it.
std::array<char, 512> line_text;
std::atomic<size_t> line_size = 0;
pid_t tests_pid = 0;

void OnFatalSignal(int signal) {
  // A child that a test forked is the test's business.
  if (getpid() == tests_pid) {
    std::array<char, line_text.size() + 32> text;
    size_t n = line_size;
    std::memcpy(text.data(), line_text.data(), n);
    constexpr std::array<char, 19> kRemark = {" # died of signal "};
    std::memcpy(text.data() + n, kRemark.data(), kRemark.size() - 1);
    n += kRemark.size() - 1;
    if (signal >= 10) text[n++] = static_cast<char>('0' + signal / 10);
    text[n++] = static_cast<char>('0' + signal % 10);
    text[n++] = '\n';
    // A failure to write can't be reported: the process is dying.
    if (write(STDOUT_FILENO, text.data(), n) < 0) {
    }
  }
  // SA_RESETHAND has restored the default, which this does once the handler returns.
  raise(signal);
}

}  // namespace

void InstallFatalSignalHandler() {
  tests_pid = getpid();
  struct sigaction action = {};
  action.sa_handler = OnFatalSignal;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (const int signal : {SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE})
    sigaction(signal, &action, nullptr);
}

void SetFatalSignalLine(std::string_view line) {
  line_size = 0;
  const size_t n = std::min(line.size(), line_text.size());
  std::memcpy(line_text.data(), line.data(), n);
  line_size = n;
}

}  // namespace slotzap

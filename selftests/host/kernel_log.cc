// SPDX-License-Identifier: GPL-2.0-only
#include "host/kernel_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <utility>

namespace slotzap {
namespace {

constexpr std::string_view kCutHere = "[ cut here ]";
constexpr std::string_view kEndTrace = "---[ end trace";
constexpr std::string_view kCanary = "WARNING: slotzap canary ";

// How long the text between "cut here" and the line that names the splat may get.
constexpr size_t kMaxPreamble = 8;

bool Contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// Drivers also print "WARNING: " about the machine.  A WARN() says where in the source it is.
bool IsRemarkOnMachine(std::string_view message) {
  constexpr std::array<std::string_view, 5> kTopics = {"mitigation", "vulnerable", "firmware",
                                                       "deprecated", "BIOS"};
  return !Contains(message, " at ") &&
         std::any_of(kTopics.begin(), kTopics.end(),
                     [&](std::string_view topic) { return Contains(message, topic); });
}

// "invalid opcode: 0000 [#1] PREEMPT SMP": the header of every oops counts them.
bool HasOopsCounter(std::string_view message) {
  const size_t at = message.find(" [#");
  return at != std::string_view::npos && at + 3 < message.size() &&
         std::isdigit(static_cast<unsigned char>(message[at + 3])) != 0;
}

// Undoes the kernel's \xNN escapes of what isn't printable.
std::string Unescape(std::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); i++) {
    unsigned char byte = 0;
    if (text.substr(i, 2) == "\\x" && i + 4 <= text.size() &&
        std::from_chars(text.data() + i + 2, text.data() + i + 4, byte, 16).ptr ==
            text.data() + i + 4) {
      plain += static_cast<char>(byte);
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

// "4,1234,5678901,-;message" -> "message".  A line without that header is a message by itself.
std::string_view MessageOf(std::string_view record) {
  const size_t end = record.find(';');
  const std::string_view header = record.substr(0, end);
  const bool is_header = end != std::string_view::npos && !header.empty() &&
                         std::isdigit(static_cast<unsigned char>(header.front())) != 0 &&
                         std::count(header.begin(), header.end(), ',') >= 3 &&
                         !Contains(header, " ");
  return is_header ? record.substr(end + 1) : record;
}

}  // namespace

bool IsSplat(std::string_view message) {
  if (message.starts_with("WARNING: ")) return !IsRemarkOnMachine(message);
  if (message.starts_with("BUG ")) return Contains(message, "): ");  // of the slab allocator
  constexpr std::array<std::string_view, 12> kStarts = {
      "BUG: ",     "[ BUG: ",    "Oops:",  "general protection fault", "kernel BUG at",
      "KASAN: ",   "UBSAN: ",    "KCSAN:", "INFO: trying to register", "list_add ",
      "list_del ", "refcount_t:"};
  // Many of these also come with a "WARNING: " or "BUG: ", but not in every version and option.
  constexpr std::array<std::string_view, 17> kParts = {
      "use-after-free",
      "possible circular locking",
      "possible recursive locking",
      "inconsistent lock state",
      "suspicious RCU usage",
      "Bad page state",
      "Bad page map",
      "Bad rss-counter",
      "BUG: soft lockup",
      "detected hard LOCKUP",
      "blocked for more than",
      "detected stalls on",
      "detected expedited stalls",
      "self-detected stall",
      "unable to handle page fault",
      "unable to handle kernel",
      "KVM_BUG",
  };
  return std::any_of(kStarts.begin(), kStarts.end(),
                     [&](std::string_view start) { return message.starts_with(start); }) ||
         std::any_of(kParts.begin(), kParts.end(),
                     [&](std::string_view part) { return Contains(message, part); }) ||
         HasOopsCounter(message);
}

std::string ToString(const Splat& splat) {
  std::string text = splat.headline;
  for (const std::string& line : splat.lines)
    if (line != splat.headline) text += "\n    " + line;
  return text;
}

void SplatScanner::AddMessage(std::string_view message) {
  if (Contains(message, kCutHere)) {
    in_report_ = false;
    in_preamble_ = true;
    preamble_ = {std::string(message)};
  } else if (in_report_) {
    std::vector<std::string>& lines = found_.back().lines;
    lines.emplace_back(message);
    in_report_ = lines.size() < Splat::kMaxLines && !Contains(message, kEndTrace);
  } else if (IsSplat(message)) {
    preamble_.emplace_back(message);
    found_.push_back({std::string(message), std::exchange(preamble_, {})});
    in_preamble_ = false;
    in_report_ = true;
  } else if (in_preamble_) {
    preamble_.emplace_back(message);
    if (preamble_.size() > kMaxPreamble) {
      in_preamble_ = false;
      preamble_.clear();
    }
  }
}

void SplatScanner::AddLost() {
  in_report_ = false;
  found_.push_back({"the kernel log overran its buffer: what was lost may have been a splat", {}});
}

std::vector<Splat> SplatScanner::Take() {
  in_report_ = false;
  return std::exchange(found_, {});
}

KernelLog::KernelLog(const std::string& path)
    : path_(path), fd_(FileDescriptor::Open(path, O_RDONLY | O_NONBLOCK)) {
  if (lseek(fd_.get(), 0, SEEK_END) < 0) ThrowErrno("seek to the end of " + path);
}

// Of /dev/kmsg, each read(2) gives one record: a line, and lines of its attributes which begin
// with a space.
void KernelLog::ReadRecords() {
  char buffer[16384];
  for (;;) {
    const ssize_t n = read(fd_.get(), buffer, sizeof(buffer));
    if (n == 0 || (n < 0 && errno == EAGAIN)) return;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EPIPE) {
      scanner_.AddLost();
      continue;
    }
    if (n < 0) ThrowErrno("read " + path_);
    partial_.append(buffer, static_cast<size_t>(n));
    for (size_t end = partial_.find('\n'); end != std::string::npos; end = partial_.find('\n')) {
      const std::string record = partial_.substr(0, end);
      partial_.erase(0, end + 1);
      if (record.starts_with(' ')) continue;
      const std::string message = Unescape(MessageOf(record));
      for (size_t begin = 0; begin <= message.size();) {
        const size_t newline = std::min(message.find('\n', begin), message.size());
        scanner_.AddMessage(std::string_view(message).substr(begin, newline - begin));
        begin = newline + 1;
      }
    }
  }
}

void KernelLog::Collect() {
  ReadRecords();
  for (Splat& splat : scanner_.Take()) splats_.push_back(std::move(splat));
}

std::vector<Splat> KernelLog::Splats() {
  Collect();
  // A canary may be ours, or that of another run on this machine.
  std::erase_if(splats_, [](const Splat& s) { return s.headline.starts_with(kCanary); });
  return std::exchange(splats_, {});
}

std::string KernelLog::Canary(const std::string& warn_once, const std::string& kallsyms) {
  if (!FileExists(warn_once) && !Contains(ReadFile(kallsyms), " report_bug\n"))
    return "neither " + warn_once + " nor report_bug in " + kallsyms +
           ": this kernel prints no WARN (CONFIG_BUG is off)";

  Collect();
  const size_t known = splats_.size();
  const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
  const std::string line = std::string(kCanary) + std::to_string(getpid()) + "." +
                           std::to_string(now) + ": not a bug, a test of the kernel-log gate";
  const FileDescriptor out = FileDescriptor::Open(path_, O_WRONLY | O_APPEND);
  const std::string record = line + "\n";
  if (write(out.get(), record.data(), record.size()) != static_cast<ssize_t>(record.size()))
    ThrowErrno("write to " + path_);
  Collect();
  for (size_t i = known; i < splats_.size(); i++)
    if (splats_[i].headline == line) return {};
  return "a line that looks like a WARN, written to " + path_ + ", was not found there";
}

bool KernelLog::RearmWarnOnce(const std::string& path) {
  try {
    WriteFile(path, "1");
    return true;
  } catch (const std::system_error&) {
    return false;
  }
}

}  // namespace slotzap

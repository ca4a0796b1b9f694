// SPDX-License-Identifier: GPL-2.0-only
// The kernel log, read for splats: what a kernel prints when it finds a bug in itself.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_descriptor.h"

namespace slotzap {

inline constexpr char kClearWarnOnce[] = "/sys/kernel/debug/clear_warn_once";

// Whether one message of the kernel log is the line that names a splat: WARN, BUG, oops, reports
// of lockdep, KASAN, UBSAN, of corrupted pages, lists and reference counts, stalls and hangs.
bool IsSplat(std::string_view message);

// A report: the line that names it, and that line with what was logged around it.
struct Splat {
  std::string headline;
  std::vector<std::string> lines;  // at most kMaxLines, oldest first
  static constexpr size_t kMaxLines = 40;
};

// The headline, then the other lines indented, for a failure message.
std::string ToString(const Splat& splat);

// Finds the reports in a stream of log messages.  Only lines of one AddMessage() ... Take()
// stretch are gathered in a report; a report cut by Take() is reported by what there was of it.
class SplatScanner {
 public:
  void AddMessage(std::string_view message);
  void AddLost();             // messages were overwritten before they could be read
  std::vector<Splat> Take();  // what was found since the last Take()

 private:
  std::vector<Splat> found_;
  std::vector<std::string> preamble_;  // from "cut here" to the line that names the splat
  bool in_preamble_ = false;
  bool in_report_ = false;
};

// The log's own device, from now on.
class KernelLog {
 public:
  // Opens the log at its end.  Throws std::system_error.  `path` may be a regular file whose
  // lines are those of /dev/kmsg ("priority,sequence,microseconds,flags;message").
  explicit KernelLog(const std::string& path = "/dev/kmsg");

  // The splats that were logged since the last call.  Doesn't wait.  If the log overran its
  // buffer, one of them says so, since what was lost may have been a splat.
  std::vector<Splat> Splats();

  // Proves that a splat would be seen: logs a line that looks like a WARN, and finds it as Splats()
  // would, which won't report it; and that this kernel prints WARNs at all, which one built
  // without CONFIG_BUG does not: it has neither the file `warn_once` nor report_bug in
  // `kallsyms`.  Returns an empty string, or what is wrong.
  std::string Canary(const std::string& warn_once = kClearWarnOnce,
                     const std::string& kallsyms = "/proc/kallsyms");

  // Makes each WARN_ON_ONCE() that already fired fire again, so that it isn't missed because
  // somebody else hit it first.  A module's WARN_ONCE() with a text stays silent until the module
  // is loaded anew.  Returns whether the kernel allows it.
  static bool RearmWarnOnce(const std::string& path = kClearWarnOnce);

 private:
  void ReadRecords();
  void Collect();

  std::string path_;
  FileDescriptor fd_;
  std::string partial_;  // of a regular file: a line that is not complete yet
  SplatScanner scanner_;
  std::vector<Splat> splats_;
};

}  // namespace slotzap

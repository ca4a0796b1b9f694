// SPDX-License-Identifier: GPL-2.0-only
#include "host/task.h"

#include <sched.h>

#include <system_error>

#include "base/file_descriptor.h"

namespace slotzap {

KernelStack ParseKernelStack(std::string_view text) {
  KernelStack stack;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    const size_t name = line.find("] ");
    if (!line.starts_with("[<") || name == std::string_view::npos) continue;
    line.remove_prefix(name + 2);
    line = line.substr(0, line.find_first_of("+. "));
    if (!line.empty()) stack.emplace_back(line);
  }
  return stack;
}

bool IsInside(const KernelStack& stack, const std::vector<std::string>& functions) {
  size_t found = 0;
  for (const std::string& function : stack)
    if (found < functions.size() && function == functions[found]) found++;
  return found == functions.size();
}

std::string ToString(const KernelStack& stack) {
  std::string text;
  for (const std::string& function : stack) text += (text.empty() ? "" : " < ") + function;
  return text;
}

KernelStack KernelStackOf(pid_t thread, const std::string& tasks) {
  try {
    return ParseKernelStack(ReadFile(tasks + "/" + std::to_string(thread) + "/stack"));
  } catch (const std::system_error&) {
    return {};
  }
}

char ThreadStateOf(pid_t thread, const std::string& tasks) {
  try {
    const std::string stat = ReadFile(tasks + "/" + std::to_string(thread) + "/stat");
    // The second field is a name in parentheses, in which there may be anything.
    const size_t name_end = stat.rfind(") ");
    return name_end == std::string::npos || name_end + 2 >= stat.size() ? '\0' : stat[name_end + 2];
  } catch (const std::system_error&) {
    return '\0';
  }
}

bool WaitsForMutexIn(std::string_view prefix, pid_t thread, const std::string& tasks) {
  // Sleeping before and after, it slept, or began to sleep, where its stack says.
  if (ThreadStateOf(thread, tasks) != 'D') return false;
  const KernelStack stack = KernelStackOf(thread, tasks);
  return ThreadStateOf(thread, tasks) == 'D' && !stack.empty() && stack.front().starts_with(prefix);
}

namespace {

bool RunOn(const std::vector<int>& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) CPU_SET(static_cast<size_t>(cpu), &set);
  return sched_setaffinity(0, sizeof(set), &set) == 0;
}

}  // namespace

std::vector<int> AllowedCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) ThrowErrno("sched_getaffinity");
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(static_cast<size_t>(cpu), &set)) cpus.push_back(cpu);
  return cpus;
}

CpuPin::CpuPin(int cpu) : before_(AllowedCpus()) {
  if (!RunOn({cpu})) ThrowErrno("run on CPU " + std::to_string(cpu));
}

CpuPin::~CpuPin() { RunOn(before_); }

std::string KernelStackUnavailable() {
  try {
    // A thread that looks at itself is in the kernel, reading this file.
    if (!ParseKernelStack(ReadFile("/proc/thread-self/stack")).empty()) return "";
    return "the kernel doesn't say where threads sleep";
  } catch (const std::system_error& error) {
    return std::string("the kernel doesn't say where threads sleep: ") + error.what();
  }
}

}  // namespace slotzap

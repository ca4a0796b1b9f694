// SPDX-License-Identifier: GPL-2.0-only
// slotzap order: whether mappings went in the order that TDX's Secure-EPT imposes
// (oracle/spt_order.h), in a trace or while a command runs.  KVM's trace events don't name the VM,
// so only one may be active, and the command must not end it: a VM is torn down roots first.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "cli/comparison.h"
#include "oracle/spt_order.h"

namespace slotzap {

struct OrderOptions {
  std::vector<std::string> ranges;   // START+SIZE, see ParseGpaRange()
  int address_space = 0;             // of the ranges
  std::string trace_path;            // either this,
  std::vector<std::string> command;  // or this
};

struct OrderResult {
  SptOrderReport report;
  std::string command_status;  // "exited with status 0"; empty: none was run
  Verdict verdict;
};

// "0x40000000+0x200000" or "1G+2M": start and size in bytes, hexadecimal or decimal, with the units
// K, M, G and T.  Both are multiples of the page size.  Throws std::invalid_argument that says what
// is wrong and what would be right.
GpaRange ParseGpaRange(std::string_view text);

// The events of a trace's text.  Throws std::runtime_error if it says that events are missing, or
// if no SPTE changed in it.
std::vector<TraceEvent> ReadOrderTrace(std::string_view text);

// Passes if the order was kept and, with `ranges`, what was removed is what is in them.
Verdict JudgeOrder(const SptOrderReport& report, const SptScope& scope);

// Runs a command (argv, found as a shell would) and waits for it.  Returns how it ended: "exited
// with status N", "was ended by signal N".  Throws std::system_error if it can't be started.
std::string RunCommand(const std::vector<std::string>& command);

// All of it.  Throws std::runtime_error or std::invalid_argument on options that make no sense.
OrderResult CheckOrder(const OrderOptions& options);

// The figures, for people; the verdict's sentence is not in it.
std::string Summary(const OrderResult& result);
nlohmann::json ToJson(const OrderResult& result);

}  // namespace slotzap

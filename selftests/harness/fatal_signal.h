// SPDX-License-Identifier: GPL-2.0-only
// A result line for the test that takes the process down by a fatal signal.
#pragma once

#include <string_view>

namespace slotzap {

// From now on, SIGSEGV, SIGBUS, SIGABRT, SIGILL and SIGFPE print the line that was set, then do
// what they do by default.
void InstallFatalSignalHandler();

// "not ok 3 Suite.Name": what the handler prints before " # died of signal 11".  Cut if it is
// longer than about 500 bytes.
void SetFatalSignalLine(std::string_view line);

}  // namespace slotzap

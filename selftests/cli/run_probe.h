// SPDX-License-Identifier: GPL-2.0-only
// Finds out what deleting a memslot zaps on this machine's KVM, patched or not.
#pragma once

#include "cli/probe.h"

namespace slotzap {

// Asks what can be asked.  Then, for each VM type, kind of memory and setting that this KVM has, in
// a VM of its own: has the guest touch a victim and a bystander, deletes the victim, and counts the
// page faults of touching the bystander once more.  What goes wrong there is in the row's `error`.
// Throws if there is no KVM.  Needs no tracefs.
ProbeReport RunProbe();

}  // namespace slotzap

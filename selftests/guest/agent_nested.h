// SPDX-License-Identifier: GPL-2.0-only
// How the agent runs a guest of its own, by SVM or VMX.  Part of the agent: freestanding.
#pragma once

#include "guest/protocol.h"

namespace slotzap::guest {

// Enters an L2 that calls `entry(&mailbox)` in 64-bit mode at CPL 0, with the segments, descriptor
// tables and control registers of the caller, and returns when it has handed control back for good:
// mailbox.nested says how to run it, and then what came of it.
void RunNested(Mailbox& mailbox, void (*entry)(Mailbox*));

// In L2: VMMCALL or VMCALL, which ends RunNested() in L1.
void Hypercall(Virtualization kind);

}  // namespace slotzap::guest

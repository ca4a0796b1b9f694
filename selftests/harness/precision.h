// SPDX-License-Identifier: GPL-2.0-only
// Two kinds of promise.  The contract is what any KVM owes a guest: memory that is deleted is out
// of its reach, nothing else is lost.  Precision is what this project's series promise on top: what
// exactly is zapped, and what is not faulted in again.
#pragma once

namespace slotzap {

// Starts the message of an assertion that is about precision:
//   EXPECT_EQ(refaults, 0u) << kPrecision << "other slots were faulted in again";
// The matchers of tests/matchers.h that are about precision say it themselves.  A test breaks the
// contract if any assertion without it fails.
inline constexpr char kPrecision[] = "[precision] ";

}  // namespace slotzap

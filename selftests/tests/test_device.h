// SPDX-License-Identifier: GPL-2.0-only
// Tests that need the test module slotzap_test.ko.
#pragma once

#include <string>

#include "oracle/test_device.h"
#include "tests/slot_test.h"

namespace slotzap {

// Tests that need the device.
class DeviceTest : public SlotTest {
 protected:
  void SetUp() override {
    SlotTest::SetUp();
    if (IsSkipped()) return;
    if (const std::string reason = TestDevice::Unavailable(); !reason.empty())
      GTEST_SKIP() << reason;
  }
};

}  // namespace slotzap

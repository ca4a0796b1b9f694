// SPDX-License-Identifier: GPL-2.0-only
#include "base/event_fd.h"

#include <gtest/gtest.h>
#include <unistd.h>

namespace slotzap {
namespace {

TEST(EventFd, GivesWhatWasAddedOnce) {
  const EventFd event;
  EXPECT_EQ(event.Take(), 0u);
  for (const uint64_t n : {1ull, 2ull})
    ASSERT_EQ(write(event.fd(), &n, sizeof(n)), static_cast<ssize_t>(sizeof(n)));
  EXPECT_EQ(event.Take(), 3u);
  EXPECT_EQ(event.Take(), 0u);
}

}  // namespace
}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "harness/progress.h"

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>

#include "gtest/gtest.h"

namespace slotzap {
namespace {

std::string Said(std::chrono::seconds interval, const std::function<void(Progress&)>& work) {
  char* text = nullptr;
  size_t size = 0;
  std::FILE* const out = open_memstream(&text, &size);
  Progress progress("updates", 40, interval, out);
  work(progress);
  std::fclose(out);
  std::string said(text, size);
  std::free(text);
  return said;
}

TEST(Progress, SaysHowFarItIs) {
  EXPECT_EQ(Said(std::chrono::seconds(0),
                 [](Progress& progress) {
                   progress.Reached(1);
                   progress.Reached(40);
                 }),
            "# 1 of 40 updates\n# 40 of 40 updates\n");
}

TEST(Progress, SaysNothingBeforeItIsTime) {
  EXPECT_EQ(Said(std::chrono::hours(1), [](Progress& progress) { progress.Reached(1); }), "");
}

}  // namespace
}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "vfio/memory_image.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace slotzap {
namespace {

std::vector<std::byte> Bytes(std::initializer_list<uint8_t> values) {
  std::vector<std::byte> bytes;
  for (const uint8_t value : values) bytes.push_back(std::byte{value});
  return bytes;
}

TEST(MemoryImage, IsWhatItWasMadeOfUntilWrittenTo) {
  const std::vector<std::byte> memory = Bytes({1, 2, 3, 4, 5, 6, 7, 8, 9});
  MemoryImage image(memory);
  EXPECT_EQ(image.size(), 9u);
  EXPECT_EQ(image.DifferencesOf(memory), "");
  EXPECT_EQ(image.Load(0), 0x0807060504030201u);
  EXPECT_EQ(image.Load(1), 0x0908070605040302u);
  image.Write(2, Bytes({0xaa, 0xbb}));
  EXPECT_EQ(image.DifferencesOf(Bytes({1, 2, 0xaa, 0xbb, 5, 6, 7, 8, 9})), "");
  EXPECT_EQ(image.Part(3, 2)[0], std::byte{0xbb});
  EXPECT_EQ(image.Part(9, 0).size(), 0u);
}

TEST(MemoryImage, TellsWhatDiffers) {
  const MemoryImage image(Bytes({1, 2, 3, 4}));
  EXPECT_EQ(image.DifferencesOf(Bytes({1, 2, 3, 5})),
            "1 bytes differ, the first at 0x3: 0x5 instead of 0x4, the last at 0x3");
  EXPECT_EQ(image.DifferencesOf(Bytes({0, 2, 0, 4})),
            "2 bytes differ, the first at 0x0: 0x0 instead of 0x1, the last at 0x2");
  EXPECT_EQ(image.DifferencesOf(Bytes({1, 2, 3})), "0x3 bytes instead of 0x4");
}

TEST(MemoryImage, HasNothingBeyondItsEnd) {
  MemoryImage image(Bytes({1, 2, 3, 4}));
  EXPECT_THROW(image.Write(3, Bytes({1, 2})), std::out_of_range);
  EXPECT_THROW(image.Part(5, 0), std::out_of_range);
  EXPECT_THROW(image.Part(1, ~0ull), std::out_of_range);
  EXPECT_THROW(image.Load(0), std::out_of_range);
}

}  // namespace
}  // namespace slotzap

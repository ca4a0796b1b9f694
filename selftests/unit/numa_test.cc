// SPDX-License-Identifier: GPL-2.0-only
#include "host/numa.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>

#include "base/mapping.h"
#include "base/range.h"

namespace slotzap {
namespace {

using testing::Each;
using testing::ElementsAre;

// On a machine with one node, everything is about that.
class NumaTest : public testing::Test {
 protected:
  void SetUp() override {
    // Sandboxes may have neither.
    try {
      NodesOf(memory_.address(), kPageSize);
      BindMemory(memory_.address(), kPageSize, nodes_.front());
    } catch (const std::system_error& e) {
      GTEST_SKIP() << e.what();
    }
  }

  std::vector<int> nodes_ = MemoryNodes();
  Mapping memory_ = Mapping::Anonymous(8 * kPageSize);
};

TEST(NumaNodesTest, ThereIsAlwaysOne) {
  ASSERT_FALSE(MemoryNodes().empty());
  EXPECT_EQ(NumaUnavailable(1), "");
  EXPECT_EQ(NumaUnavailable(1000),
            "needs 1000 NUMA nodes with memory, has " + std::to_string(MemoryNodes().size()));
}

TEST_F(NumaTest, APageThatIsNotThereIsOnNoNode) {
  std::memset(memory_.data() + kPageSize, 1, kPageSize);
  EXPECT_THAT(NodesOf(memory_.address(), 3 * kPageSize),
              ElementsAre(-ENOENT, testing::AnyOfArray(nodes_), -ENOENT));
}

TEST_F(NumaTest, BoundMemoryComesFromTheNode) {
  for (const int node : nodes_) {
    const Mapping memory = Mapping::Anonymous(4 * kPageSize);
    BindMemory(memory.address(), memory.size(), node);
    std::memset(memory.data(), 1, memory.size());
    EXPECT_THAT(NodesOf(memory.address(), memory.size()), Each(node));
  }
  EXPECT_THROW(BindMemory(memory_.address() + 1, kPageSize, nodes_.front()), std::system_error);
}

TEST_F(NumaTest, InterleavedMemoryComesFromAll) {
  const FileDescriptor file = MemoryFile(8 * kPageSize);
  const Mapping memory = Mapping::Shared(file.get(), 8 * kPageSize);
  InterleaveMemory(memory.address(), memory.size(), nodes_);
  std::memset(memory.data(), 1, memory.size());
  const std::vector<int> where = NodesOf(memory.address(), memory.size());
  for (size_t i = 0; i + 1 < where.size(); i++)
    EXPECT_EQ(where[i] == where[i + 1], nodes_.size() == 1) << "page " << i;
}

TEST_F(NumaTest, PagesMove) {
  std::memset(memory_.data(), 0x5a, memory_.size());
  for (const int node : {nodes_.back(), nodes_.front()}) {
    EXPECT_EQ(MovePages(memory_.address(), memory_.size(), node), 0u);
    EXPECT_THAT(NodesOf(memory_.address(), memory_.size()), Each(node));
    EXPECT_EQ(*memory_.at<char>(5 * kPageSize + 7), 0x5a);
  }
  const uint64_t one[] = {memory_.address() + 2 * kPageSize};
  EXPECT_EQ(MovePages(one, nodes_.back()), 0u);
  EXPECT_EQ(NodesOf(memory_.address(), memory_.size())[2], nodes_.back());
  EXPECT_EQ(NodesOf(memory_.address(), memory_.size())[1], nodes_.front());
  EXPECT_FALSE(TryMoveMemory(memory_.address(), memory_.size(), nodes_.back()));
  EXPECT_THAT(NodesOf(memory_.address(), memory_.size()), Each(nodes_.back()));
  EXPECT_THROW(MovePages(memory_.address(), kPageSize, 1000), std::system_error);
}

}  // namespace
}  // namespace slotzap

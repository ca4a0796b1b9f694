// SPDX-License-Identifier: GPL-2.0-only
#include "host/io_ring.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <sstream>
#include <stdexcept>

#include "base/channel.h"
#include "base/mapping.h"
#include "base/range.h"

namespace slotzap {
namespace {

using Link = IoRing::Link;

class IoRingTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = IoRing::Unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  }
  IoBuffer Page(uint64_t i) const { return {memory_.address() + i * kPageSize, kPageSize}; }
  char At(uint64_t page) const { return *memory_.at<char>(page * kPageSize); }
  static void Send(const Channel& channel, char c) {
    WriteAll(channel.writer.get(), std::as_bytes(std::span(&c, 1)));
  }
  static Completion Done(uint64_t tag, int result) {
    return {.tag = tag, .result = result, .more = false, .provided = {}};
  }

  Mapping memory_ = Mapping::Anonymous(8 * kPageSize);
  Channel pipe_ = Channel::Pipe();
};

TEST_F(IoRingTest, AReadIsInFlightUntilThereIsData) {
  IoRing ring;
  ring.RegisterBuffers({Page(0), Page(3)});
  ring.ReadFixed(7, pipe_.reader.get(), Page(3), 1, IoRing::kNoOffset);
  EXPECT_EQ(ring.Take(), std::nullopt) << "it was not submitted yet";
  ring.Submit();
  EXPECT_EQ(ring.Take(), std::nullopt);
  Send(pipe_, 'x');
  EXPECT_EQ(ring.Wait(), Done(7, 1));
  EXPECT_EQ(At(3), 'x');
  EXPECT_EQ(At(0), '\0');
  EXPECT_EQ(ring.Take(), std::nullopt);
}

TEST_F(IoRingTest, AWriteTakesWhatIsInMemory) {
  IoRing ring;
  ring.RegisterBuffers({Page(1)});
  *memory_.at<char>(kPageSize) = 'w';
  ring.WriteFixed(1, pipe_.writer.get(), {Page(1).address, 1}, 0, IoRing::kNoOffset);
  ring.Submit();
  EXPECT_EQ(ring.Wait(), Done(1, 1));
  EXPECT_EQ(ReadAll(pipe_.reader.get(), 1)[0], std::byte{'w'});
}

TEST_F(IoRingTest, OnlyRegisteredMemory) {
  IoRing ring;
  ring.RegisterBuffers({Page(1)});
  ring.WriteFixed(1, pipe_.writer.get(), Page(2), 0, IoRing::kNoOffset);
  ring.WriteFixed(2, pipe_.writer.get(), Page(1), 1, IoRing::kNoOffset);
  ring.Submit();
  EXPECT_EQ(ring.Wait().result, -EFAULT);
  EXPECT_EQ(ring.Wait().result, -EFAULT);
  EXPECT_EQ(ring.TryRegisterBuffers({Page(2)}), std::errc::device_or_resource_busy);
  ring.UnregisterBuffers();
  EXPECT_THROW(ring.UnregisterBuffers(), std::system_error);
  memory_.UnmapPart(2 * kPageSize, kPageSize);
  EXPECT_EQ(ring.TryRegisterBuffers({Page(2)}), std::errc::bad_address);
  EXPECT_THROW(ring.RegisterBuffers({Page(2)}), std::system_error);
}

TEST_F(IoRingTest, LinkedRequestsComeOneAfterTheOther) {
  IoRing ring;
  ring.RegisterBuffers({Page(0), Page(1)});
  const Channel other = Channel::Stream();
  ring.PollIn(1, pipe_.reader.get(), Link::kNext);
  ring.ReadFixed(2, pipe_.reader.get(), {Page(0).address, 1}, 0, IoRing::kNoOffset, Link::kNext);
  ring.WriteFixed(3, other.writer.get(), {Page(0).address, 1}, 0, IoRing::kNoOffset);
  ring.Submit();
  EXPECT_EQ(ring.Take(), std::nullopt);
  Send(pipe_, 'l');
  EXPECT_EQ(ring.Wait().tag, 1u);
  EXPECT_EQ(ring.Wait(), Done(2, 1));
  EXPECT_EQ(ring.Wait(), Done(3, 1));
  EXPECT_EQ(ReadAll(other.reader.get(), 1)[0], std::byte{'l'});
}

TEST_F(IoRingTest, MultishotPollGoesOnUntilCancelled) {
  IoRing ring;
  ring.PollInMultishot(5, pipe_.reader.get());
  ring.Submit();
  for (int i = 0; i < 3; i++) {
    Send(pipe_, 'p');
    const Completion event = ring.Wait();
    EXPECT_EQ(event.tag, 5u);
    EXPECT_TRUE(event.more);
    ReadAll(pipe_.reader.get(), 1);
  }
  ring.Cancel(6, 5);
  ring.Submit();
  Completion first = ring.Wait();
  Completion second = ring.Wait();
  if (first.tag != 5) std::swap(first, second);
  EXPECT_EQ(first, Done(5, -ECANCELED));
  EXPECT_EQ(second, Done(6, 0));
}

TEST_F(IoRingTest, MultishotAcceptGoesOnUntilCancelled) {
  IoRing ring;
  const Listener listener;
  ring.AcceptMultishot(5, listener.fd());
  ring.Submit();
  EXPECT_EQ(ring.Take(), std::nullopt);
  for (int i = 0; i < 2; i++) {
    const FileDescriptor end = listener.Connect();
    const Completion connection = ring.Wait();
    EXPECT_EQ(connection.tag, 5u);
    EXPECT_TRUE(connection.more);
    const FileDescriptor accepted(connection.result);
    const std::byte byte[1] = {std::byte{'c'}};
    WriteAll(end.get(), byte);
    EXPECT_EQ(ReadAll(accepted.get(), 1)[0], byte[0]);
  }
  ring.Cancel(6, 5);
  ring.Submit();
  Completion first = ring.Wait();
  Completion second = ring.Wait();
  if (first.tag != 5) std::swap(first, second);
  EXPECT_EQ(first, Done(5, -ECANCELED));
  EXPECT_EQ(second, Done(6, 0));
}

TEST_F(IoRingTest, MessagesGoToProvidedBuffers) {
  IoRing ring;
  EXPECT_THROW(ring.Provide(Page(1), 1), std::logic_error);
  try {
    ring.RegisterProvidedBuffers(memory_.address(), 4);
  } catch (const std::system_error& e) {
    GTEST_SKIP() << e.what();
  }
  ring.Provide(Page(3), 30);
  ring.Provide(Page(5), 50);
  const Channel messages = Channel::Messages();
  ring.ReceiveMultishot(9, messages.reader.get());
  ring.Submit();
  Send(messages, 'a');
  EXPECT_EQ(ring.Wait(), (Completion{.tag = 9, .result = 1, .more = true, .provided = 30}));
  Send(messages, 'b');
  EXPECT_EQ(ring.Wait(), (Completion{.tag = 9, .result = 1, .more = true, .provided = 50}));
  EXPECT_EQ(At(3), 'a');
  EXPECT_EQ(At(5), 'b');
  Send(messages, 'c');
  EXPECT_EQ(ring.Wait(), Done(9, -ENOBUFS));
  ring.UnregisterProvidedBuffers();
}

TEST_F(IoRingTest, ARingHasItsSize) {
  IoRing ring(2);
  ring.PollIn(1, pipe_.reader.get());
  ring.PollIn(2, pipe_.reader.get());
  EXPECT_THROW(ring.PollIn(3, pipe_.reader.get()), std::length_error);
  EXPECT_THROW(IoRing(0), std::system_error);
}

TEST(CompletionTest, InWords) {
  const auto text = [](const Completion& completion) {
    std::ostringstream os;
    os << completion;
    return os.str();
  };
  EXPECT_EQ(text({.tag = 3, .result = 12, .more = true, .provided = 4}),
            "request 3: 12, in buffer 4, more to come");
  EXPECT_EQ(text({.tag = 3, .result = -EBADF, .more = false, .provided = {}}),
            "request 3: Bad file descriptor");
}

}  // namespace
}  // namespace slotzap

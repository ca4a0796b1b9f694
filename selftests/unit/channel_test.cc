// SPDX-License-Identifier: GPL-2.0-only
#include "base/channel.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <system_error>

#include "base/range.h"

namespace slotzap {
namespace {

std::vector<std::byte> Bytes(uint64_t size) {
  std::vector<std::byte> bytes(size);
  for (uint64_t i = 0; i < size; i++) bytes[i] = static_cast<std::byte>(i * 7);
  return bytes;
}

TEST(ChannelTest, WhatIsWrittenComesOut) {
  using Open = Channel (*)();
  const Open kinds[] = {Channel::Pipe, Channel::Stream, Channel::Messages};
  for (const Open open : kinds) {
    const Channel channel = open();
    WriteAll(channel.writer.get(), Bytes(100));
    EXPECT_EQ(ReadAll(channel.reader.get(), 100), Bytes(100));
  }
}

TEST(ChannelTest, StreamsHaveNoBounds) {
  const Channel stream = Channel::Stream();
  WriteAll(stream.writer.get(), Bytes(3));
  WriteAll(stream.writer.get(), Bytes(5));
  EXPECT_EQ(ReadAll(stream.reader.get(), 8).size(), 8u);
}

TEST(ChannelTest, MessagesHave) {
  const Channel messages = Channel::Messages();
  WriteAll(messages.writer.get(), Bytes(3));
  WriteAll(messages.writer.get(), Bytes(5));
  std::byte buffer[8];
  EXPECT_EQ(recv(messages.reader.get(), buffer, sizeof(buffer), 0), 3);
}

TEST(ChannelTest, APipeHoldsWhatItWasMadeFor) {
  const Channel pipe = Channel::Pipe(kPageSize);
  WriteAll(pipe.writer.get(), Bytes(kPageSize));
  pollfd full = {.fd = pipe.writer.get(), .events = POLLOUT, .revents = 0};
  EXPECT_EQ(poll(&full, 1, 0), 0) << "there is room for more";
  EXPECT_EQ(ReadAll(pipe.reader.get(), kPageSize), Bytes(kPageSize));
  EXPECT_EQ(poll(&full, 1, 0), 1);
  EXPECT_THROW(Channel::Pipe(3), std::system_error) << "the kernel rounds up";
}

TEST(ChannelTest, FilledUpThereIsNoRoom) {
  using Open = Channel (*)();
  const Open kinds[] = {Channel::Pipe, Channel::Stream};
  for (const Open open : kinds) {
    const Channel channel = open();
    const uint64_t bytes = FillUp(channel.writer.get());
    EXPECT_GE(bytes, kPageSize);
    pollfd full = {.fd = channel.writer.get(), .events = POLLOUT, .revents = 0};
    EXPECT_EQ(poll(&full, 1, 0), 0) << "there is room for more";
    EXPECT_EQ(FillUp(channel.writer.get()), 0u);
    EXPECT_EQ(ReadAll(channel.reader.get(), bytes), std::vector<std::byte>(bytes));
    EXPECT_EQ(poll(&full, 1, 0), 1);
    EXPECT_EQ(fcntl(channel.writer.get(), F_GETFL) & O_NONBLOCK, 0) << "it is to block, as before";
  }
}

TEST(ChannelTest, ConnectionsAreStreams) {
  const Listener listener;
  const FileDescriptor ends[] = {listener.Connect(), listener.Connect()};
  for (const FileDescriptor& end : ends) {
    const FileDescriptor accepted(accept(listener.fd(), nullptr, nullptr));
    ASSERT_TRUE(accepted.valid());
    WriteAll(end.get(), Bytes(3));
    EXPECT_EQ(ReadAll(accepted.get(), 3), Bytes(3));
    WriteAll(accepted.get(), Bytes(5));
    EXPECT_EQ(ReadAll(end.get(), 5), Bytes(5));
  }
}

TEST(ChannelTest, AWriterThatIsGoneIsNoticed) {
  Channel pipe = Channel::Pipe();
  WriteAll(pipe.writer.get(), Bytes(3));
  pipe.writer.Close();
  EXPECT_THROW(ReadAll(pipe.reader.get(), 4), std::runtime_error);
  EXPECT_THROW(ReadAll(-1, 1), std::system_error);
  EXPECT_THROW(WriteAll(-1, Bytes(1)), std::system_error);
}

}  // namespace
}  // namespace slotzap

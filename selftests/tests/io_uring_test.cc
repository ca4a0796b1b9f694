// SPDX-License-Identifier: GPL-2.0-only
// Theme: DMA, as far as it takes no device.  io_uring's registered buffers are guest memory that
// the kernel has pinned as it does for an assigned device, and reads and writes on its own, while
// slots over it go, move and come back.  A request that waits for data is in flight for as long as
// the test likes.
//
// Whatever happens to the slot: the data is in the page that was meant, the guest reads it there
// when the slot is back, and nothing else has changed, in that page or in any other.
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "base/channel.h"
#include "guest/page_contents.h"
#include "host/forked_process.h"
#include "host/io_ring.h"
#include "host/page_flags.h"
#include "host/pins.h"
#include "host/scratch_file.h"
#include "host/task.h"
#include "tests/slot_test.h"

namespace slotzap {
namespace {

using Link = IoRing::Link;

constexpr uint64_t kSeed = 0x10b;   // of the memory at first
constexpr uint64_t kData = 0xda7a;  // of what comes in; added to for each piece
constexpr Gpa kGpa = 1_GiB;
constexpr Gpa kAway = 3_GiB;
constexpr uint64_t kPages = 64;
constexpr uint64_t kSize = kPages * kPageSize;
constexpr uint64_t kStream = IoRing::kNoOffset;

// What the requests read from: nothing is in it at first.
struct Source {
  const char* name;
  Channel (*open)();
};
constexpr Source kSources[] = {{"pipe", [] { return Channel::Pipe(); }},
                               {"socket", [] { return Channel::Stream(); }}};

// What a slot goes through while requests are in flight.  It is not back before Return().
struct Absence {
  const char* name;
  void (*leave)(MemorySlot&);
  void (*come_back)(MemorySlot&);
};
constexpr Absence kAbsences[] = {
    {"deleted", [](MemorySlot& slot) { slot.Delete(); }, [](MemorySlot& slot) { slot.Add(); }},
    {"moved", [](MemorySlot& slot) { slot.MoveTo(kAway); },
     [](MemorySlot& slot) { slot.MoveTo(kGpa); }},
};

class IoUring : public SlotTest {
 protected:
  void SetUp() override {
    SlotTest::SetUp();
    if (IsSkipped()) return;
    if (const std::string reason = IoRing::Unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  }

  // A slot all of which the guest has mapped, next to one that stays, and what is in it.
  struct Scene {
    Scene(TestVm& v, bool zap_all, std::shared_ptr<GuestMemory> memory = nullptr)
        : vm(v),
          leaf_only(!zap_all),
          slot(v.vm().AddSlot(
              {.gpa = kGpa,
               .memory = memory ? std::move(memory) : std::make_shared<GuestMemory>(kSize)})),
          other(v.AddFilledSlot(kGpa + kSize, kSize, kSeed + 1)) {
      contents.Store(slot.memory());
      EXPECT_THAT(contents.VerifyBy(vm.guest(), kGpa), SeesPattern());
      EXPECT_THAT(vm.guest().Verify({PatternOf(other, kSeed + 1)}), SeesPattern());
    }

    IoBuffer All() const { return Part(0, kPages); }
    IoBuffer Part(uint64_t page, uint64_t pages) const {
      return {slot.memory().address() + page * kPageSize, pages * kPageSize};
    }
    void Register(IoRing& ring) const { ring.RegisterBuffers({All()}); }

    // The guest finds nothing where the slot was.  The one that stays is as it was and, with the
    // quirk disabled, still mapped.
    void ExpectGone() {
      EXPECT_THAT(vm.guest().TouchRead({{kGpa, kSize}}), FindsNothingIn({kGpa, kSize}));
      const uint64_t faults = vm.FixedFaults();
      EXPECT_THAT(vm.guest().Verify({PatternOf(other, kSeed + 1)}), SeesPattern());
      if (leaf_only) {
        EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision << "another slot was faulted in again";
      }
    }
    // Host and guest see what is expected in every byte of the slot, and of the one that stays.
    void ExpectContents(Gpa gpa = kGpa) {
      EXPECT_EQ(contents.ProblemIn(slot.memory()), "") << "as the host sees it";
      EXPECT_THAT(contents.VerifyBy(vm.guest(), gpa), SeesPattern());
      EXPECT_THAT(vm.guest().Verify({PatternOf(other, kSeed + 1)}), SeesPattern());
    }

    TestVm& vm;
    bool leaf_only;
    MemorySlot slot;
    MemorySlot other;
    PageContents contents{kPages, kSeed};
  };
};

// What a request says that is done with so many bytes, or failed with minus an errno.
Completion Done(uint64_t tag, int64_t result) {
  return {.tag = tag, .result = static_cast<int32_t>(result), .more = false, .provided = {}};
}

// A multishot request goes on until it is cancelled, and no longer.
void ExpectCancelled(IoRing& ring, uint64_t tag) {
  ASSERT_EQ(ring.Take(), std::nullopt) << "nothing was left to be told";
  ring.Cancel(tag + 1, tag);
  ring.Submit();
  std::vector<Completion> ends = {ring.Wait(), ring.Wait()};
  if (ends[0].tag != tag) std::swap(ends[0], ends[1]);
  EXPECT_EQ(ends[0], Done(tag, -ECANCELED));
  EXPECT_EQ(ends[1], Done(tag + 1, 0));
}

// The heart of it: reads that are in flight when the slot goes, and done before it is back.
TEST_P(IoUring, ReadsEndWhileTheSlotIsAway) {
  constexpr uint64_t kTargets[] = {0, 3, 17, kPages - 2};
  for (const Source& source : kSources) {
    for (const Absence& absence : kAbsences) {
      SCOPED_TRACE(std::string(source.name) + ", " + absence.name);
      TestVm vm(Config());
      Scene scene(vm, slot_zap_all());
      IoRing ring;
      scene.Register(ring);
      std::vector<Channel> channels;
      for (const uint64_t page : kTargets) {
        channels.push_back(source.open());
        ring.ReadFixed(page, channels.back().reader.get(), scene.Part(page, 2), 0, kStream);
      }
      ring.Submit();
      absence.leave(scene.slot);
      scene.ExpectGone();
      ASSERT_EQ(ring.Take(), std::nullopt) << "there was nothing to read yet";

      // Not in the order in which they were submitted.
      for (size_t i = std::size(kTargets); i-- > 0;) {
        const uint64_t page = kTargets[i];
        scene.contents.Fill(page, 2, kData + page);
        WriteAll(channels[i].writer.get(), scene.contents.Bytes(page, 2));
        EXPECT_EQ(ring.Wait(), Done(page, 2 * kPageSize));
      }
      scene.ExpectGone();
      absence.come_back(scene.slot);
      scene.ExpectContents();
      ring.UnregisterBuffers();
    }
  }
}

// The same when the slot is back first, at another address: the data follows the memory, not the
// address that the slot had.
TEST_P(IoUring, ReadsEndWhenTheSlotIsElsewhere) {
  TestVm vm(Config());
  Scene scene(vm, slot_zap_all());
  IoRing ring;
  scene.Register(ring);
  Channel pipe = Channel::Pipe();
  ring.ReadFixed(1, pipe.reader.get(), scene.Part(5, 3), 0, kStream);
  ring.Submit();
  scene.slot.MoveTo(kAway);
  EXPECT_THAT(scene.contents.VerifyBy(vm.guest(), kAway), SeesPattern()) << "mapped there now";
  ASSERT_EQ(ring.Take(), std::nullopt);
  scene.contents.Fill(5, 3, kData);
  WriteAll(pipe.writer.get(), scene.contents.Bytes(5, 3));
  EXPECT_EQ(ring.Wait(), Done(1, 3 * kPageSize));
  scene.ExpectContents(kAway);
  scene.ExpectGone();
  ring.UnregisterBuffers();
}

// Meanwhile the slot came back with other memory: what is in flight has nothing to do with that.
TEST_P(IoUring, ReadsReachTheMemoryThatTheSlotHad) {
  TestVm vm(Config());
  Scene scene(vm, slot_zap_all());
  const std::shared_ptr<GuestMemory> old = scene.slot.config().memory;
  IoRing ring;
  scene.Register(ring);
  Channel pipe = Channel::Pipe();
  ring.ReadFixed(1, pipe.reader.get(), scene.Part(9, 2), 0, kStream);
  ring.Submit();
  scene.slot.Delete();
  const PageContents replacement(kPages, kSeed + 2);
  scene.slot.AddWith(std::make_shared<GuestMemory>(kSize));
  replacement.Store(scene.slot.memory());
  EXPECT_THAT(replacement.VerifyBy(vm.guest(), kGpa), SeesPattern());
  ASSERT_EQ(ring.Take(), std::nullopt);
  PageContents expected = scene.contents;
  expected.Fill(9, 2, kData);
  WriteAll(pipe.writer.get(), expected.Bytes(9, 2));
  EXPECT_EQ(ring.Wait(), Done(1, 2 * kPageSize));
  EXPECT_EQ(expected.ProblemIn(*old), "");
  EXPECT_EQ(replacement.ProblemIn(scene.slot.memory()), "");
  EXPECT_THAT(replacement.VerifyBy(vm.guest(), kGpa), SeesPattern());
  scene.slot.Delete();
  scene.slot.AddWith(old);
  EXPECT_THAT(expected.VerifyBy(vm.guest(), kGpa), SeesPattern());
  ring.UnregisterBuffers();
}

// Not whole pages: neither a byte before nor one after changes.
TEST_P(IoUring, ReadsOfAFewBytes) {
  TestVm vm(Config());
  Scene scene(vm, slot_zap_all());
  IoRing ring;
  scene.Register(ring);
  // The last word of a page and the first two of the next.
  const uint64_t offset = 7 * kPageSize - 8;
  const uint64_t words[] = {0x1111, 0x2222, 0x3333};
  Channel pipe = Channel::Pipe();
  ring.ReadFixed(1, pipe.reader.get(), {scene.slot.memory().address() + offset, sizeof(words)}, 0,
                 kStream);
  ring.Submit();
  scene.slot.Delete();
  ASSERT_EQ(ring.Take(), std::nullopt);
  WriteAll(pipe.writer.get(), std::as_bytes(std::span(words)));
  EXPECT_EQ(ring.Wait(), Done(1, sizeof(words)));
  scene.slot.Add();
  for (uint64_t i = 0; i < 3; i++) {
    EXPECT_THAT(vm.guest().Read(kGpa + offset + i * 8), Returns(words[i]));
    scene.slot.Store(kGpa + offset + i * 8, guest::PatternWord(kSeed, offset / 8 + i));
  }
  scene.ExpectContents();
  ring.UnregisterBuffers();
}

// The other way round: what the guest has written goes out although its slot is gone.
TEST_P(IoUring, WritesEndWhileTheSlotIsAway) {
  for (const Source& sink : kSources) {
    for (const Absence& absence : kAbsences) {
      SCOPED_TRACE(std::string(sink.name) + ", " + absence.name);
      TestVm vm(Config());
      Scene scene(vm, slot_zap_all());
      IoRing ring;
      scene.Register(ring);
      // It is full, until somebody reads from it.
      Channel channel = sink.open();
      const std::vector<std::byte> plug(FillUp(channel.writer.get()));
      scene.contents.Fill(20, 1, kData);
      ASSERT_THAT(vm.guest().Fill({{.range = {scene.slot.page(20), kPageSize}, .seed = kData}}),
                  Succeeds());
      ring.WriteFixed(1, channel.writer.get(), scene.Part(20, 1), 0, kStream);
      ring.Submit();
      absence.leave(scene.slot);
      scene.ExpectGone();
      ASSERT_EQ(ring.Take(), std::nullopt) << "there was no room yet";
      EXPECT_EQ(ReadAll(channel.reader.get(), plug.size()), plug);
      EXPECT_EQ(ReadAll(channel.reader.get(), kPageSize), scene.contents.Bytes(20, 1));
      EXPECT_EQ(ring.Wait(), Done(1, kPageSize));
      absence.come_back(scene.slot);
      scene.ExpectContents();
      ring.UnregisterBuffers();
    }
  }
}

// A chain: data comes in, goes to a socket from where it is, and from there to another page.  Each
// request begins when the one before it is done, so all of that while the slot is gone.
TEST_P(IoUring, LinkedRequests) {
  for (const Absence& absence : kAbsences) {
    SCOPED_TRACE(absence.name);
    TestVm vm(Config());
    Scene scene(vm, slot_zap_all());
    IoRing ring;
    scene.Register(ring);
    Channel in = Channel::Pipe();
    Channel through = Channel::Stream();
    ring.ReadFixed(1, in.reader.get(), scene.Part(3, 2), 0, kStream, Link::kNext);
    ring.WriteFixed(2, through.writer.get(), scene.Part(3, 2), 0, kStream, Link::kNext);
    ring.ReadFixed(3, through.reader.get(), scene.Part(40, 2), 0, kStream);
    ring.Submit();
    absence.leave(scene.slot);
    ASSERT_EQ(ring.Take(), std::nullopt);
    scene.contents.Fill(3, 2, kData);
    scene.contents.Fill(40, 2, kData);
    WriteAll(in.writer.get(), scene.contents.Bytes(3, 2));
    for (const uint64_t tag : {1u, 2u, 3u}) EXPECT_EQ(ring.Wait(), Done(tag, 2 * kPageSize));
    scene.ExpectGone();
    absence.come_back(scene.slot);
    scene.ExpectContents();
    ring.UnregisterBuffers();
  }
}

// A disk that does DMA to and from guest memory: all of a slot goes out while it is gone, and comes
// into another one that is gone, too.  The requests are held back by one that they are linked to.
TEST_P(IoUring, DirectIoToADisk) {
  if (const std::string reason = DirectIoUnavailable(); !reason.empty()) GTEST_SKIP() << reason;
  constexpr uint64_t kPiece = 16 * kPageSize;
  TestVm vm(Config());
  Scene scene(vm, slot_zap_all());
  MemorySlot target = vm.AddFilledSlot(2_GiB, kSize, kSeed + 3);
  ASSERT_THAT(vm.guest().Verify({PatternOf(target, kSeed + 3)}), SeesPattern());
  const FileDescriptor file = DirectFile(kSize);
  IoRing ring;
  ring.RegisterBuffers({scene.All(), {target.memory().address(), kSize}});

  // What the guest wrote last is what has to be on the disk.
  scene.contents.Fill(0, kPages, kData);
  ASSERT_THAT(vm.guest().Fill({PatternOf(scene.slot, kData)}), Succeeds());
  Channel gate = Channel::Pipe();
  const std::byte go[1] = {};
  ring.PollIn(100, gate.reader.get(), Link::kNext);
  for (uint64_t offset = 0; offset < kSize; offset += kPiece)
    ring.WriteFixed(offset, file.get(), {scene.slot.memory().address() + offset, kPiece}, 0, offset,
                    offset + kPiece < kSize ? Link::kNext : Link::kNone);
  ring.Submit();
  scene.slot.Delete();
  ASSERT_EQ(ring.Take(), std::nullopt);
  WriteAll(gate.writer.get(), go);
  EXPECT_EQ(ring.Wait().tag, 100u);
  for (uint64_t offset = 0; offset < kSize; offset += kPiece)
    EXPECT_EQ(ring.Wait(), Done(offset, kPiece));
  scene.ExpectGone();
  ReadAll(gate.reader.get(), 1);

  ring.PollIn(101, gate.reader.get(), Link::kNext);
  // Backwards, so that each piece is where it should be only if it is the right one.
  for (uint64_t offset = kSize; offset != 0; offset -= kPiece)
    ring.ReadFixed(offset, file.get(), {target.memory().address() + offset - kPiece, kPiece}, 1,
                   offset - kPiece, offset != kPiece ? Link::kNext : Link::kNone);
  ring.Submit();
  target.Delete();
  ASSERT_EQ(ring.Take(), std::nullopt);
  WriteAll(gate.writer.get(), go);
  EXPECT_EQ(ring.Wait().tag, 101u);
  for (uint64_t offset = kSize; offset != 0; offset -= kPiece)
    EXPECT_EQ(ring.Wait(), Done(offset, kPiece));
  EXPECT_THAT(vm.guest().TouchRead({target.range()}), FindsNothingIn(target.range()));

  scene.slot.Add();
  target.Add();
  scene.ExpectContents();
  EXPECT_THAT(vm.guest().Verify({PatternOf(target, kData)}), SeesPattern());
  ring.UnregisterBuffers();
}

// A file that is in the page cache: it is copied from, and to, and not by the disk.  What the
// requests are linked to holds them back until the slot is gone.
TEST_P(IoUring, BufferedFile) {
  for (const Absence& absence : kAbsences) {
    SCOPED_TRACE(absence.name);
    TestVm vm(Config());
    Scene scene(vm, slot_zap_all());
    const FileDescriptor file = MemoryFile(kSize);
    IoRing ring;
    scene.Register(ring);
    Channel gate = Channel::Pipe();
    const std::byte go[1] = {};
    scene.contents.Fill(8, 4, kData);
    ASSERT_THAT(vm.guest().Fill({{.range = {scene.slot.page(8), 4 * kPageSize}, .seed = kData}}),
                Succeeds());
    // Out of the slot, and elsewhere into it, by no multiple of a page.
    constexpr uint64_t kBytes = 4 * kPageSize;
    constexpr uint64_t kOffset = 3 * kPageSize + 24;
    ring.PollIn(100, gate.reader.get(), Link::kNext);
    ring.WriteFixed(1, file.get(), scene.Part(8, 4), 0, kOffset, Link::kNext);
    ring.ReadFixed(2, file.get(), scene.Part(50, 4), 0, kOffset);
    ring.Submit();
    absence.leave(scene.slot);
    ASSERT_EQ(ring.Take(), std::nullopt);
    WriteAll(gate.writer.get(), go);
    EXPECT_EQ(ring.Wait().tag, 100u);
    EXPECT_EQ(ring.Wait(), Done(1, kBytes));
    EXPECT_EQ(ring.Wait(), Done(2, kBytes));
    scene.ExpectGone();
    scene.contents.Fill(50, 4, kData);
    absence.come_back(scene.slot);
    scene.ExpectContents();
    ring.UnregisterBuffers();
  }
}

// Many reads of a disk at a time, all over the slot, by nothing held back, while the slot goes and
// comes and another vCPU reads what stays.  Not each delete overlaps with a read, so in each round
// it is deleted until one does.
TEST_P(IoUring, DirectIoWhileSlotsComeAndGo) {
  constexpr uint64_t kAtATime = 4;
  constexpr int kDeletes = 100;  // at most, in a round
  if (const std::string reason = DirectIoUnavailable(); !reason.empty()) GTEST_SKIP() << reason;
  TestVm vm(Config(2));
  Scene scene(vm, slot_zap_all());
  const FileDescriptor file = DirectFile(kSize);
  IoRing ring(128);
  scene.Register(ring);
  for (uint64_t page = 0; page < kPages; page++)
    ring.WriteFixed(page, file.get(), scene.Part(page, 1), 0, (kPages - 1 - page) * kPageSize);
  ring.Submit();
  for (uint64_t page = 0; page < kPages; page++) EXPECT_EQ(ring.Wait().result, int{kPageSize});

  ASSERT_THAT(vm.guest(1).Verify({PatternOf(scene.other, kSeed + 1)}), SeesPattern());
  const uint64_t faults = vm.guest(1).vcpu().stats().Read("pf_fixed");
  VerifyLoop always(vm.guest(1), {PatternOf(scene.other, kSeed + 1)});
  always.WaitForPasses(1);
  std::atomic<uint64_t> submitted = 0;  // reads
  std::atomic<uint64_t> done = 0;
  uint64_t deletes = 0;
  uint64_t overlapped = 0;
  for (uint64_t round = 0; round < 8; round++) {
    std::atomic<bool> stop = false;
    // With each pass the pages change places, as the file has them the other way round.
    BackgroundCall<uint64_t> reader([&] {
      uint64_t passes = 0;
      do {
        for (uint64_t first = 0; first < kPages; first += kAtATime) {
          for (uint64_t page = first; page < first + kAtATime; page++)
            ring.ReadFixed(page, file.get(), scene.Part(page, 1), 0,
                           (passes % 2 == 0 ? page : kPages - 1 - page) * kPageSize);
          ring.Submit();
          submitted += kAtATime;
          std::vector<bool> seen(kAtATime);
          for (uint64_t i = 0; i < kAtATime; i++, done++) {
            const Completion completion = ring.Wait();
            EXPECT_EQ(completion, Done(completion.tag, kPageSize));
            seen.at(completion.tag - first) = true;
          }
          EXPECT_EQ(std::count(seen.begin(), seen.end(), true), std::ptrdiff_t{kAtATime});
        }
        passes++;
      } while (!stop);
      return passes;
    });
    const uint64_t before = done;
    while (done == before && !reader.ended()) std::this_thread::yield();
    bool overlaps = false;
    for (int i = 0; i < kDeletes && !overlaps; i++) {
      if (i != 0) scene.slot.Add();
      const uint64_t begun = done;
      const bool waiting = submitted > begun;
      scene.slot.Delete();
      const uint64_t during = done - begun;
      // Some may have waited to be counted, but of more than can be at a time, some began since.
      // Or the disk is slow, and the reader still sleeps for what it waited for before.
      overlaps = during > kAtATime ||
                 (waiting && during == 0 && ThreadStateOf(reader.thread()) == 'S' && done == begun);
      deletes++;
    }
    overlapped += overlaps ? 1 : 0;
    if (round % 4 < 2) scene.slot.Add();
    stop = true;
    const uint64_t passes = reader.Join();
    if (round % 4 >= 2) scene.slot.Add();
    for (uint64_t page = 0; page < kPages; page++) {
      const uint64_t from = passes % 2 == 1 ? kPages - 1 - page : page;
      scene.contents.Fill(page, 1, kSeed, from * kPageSize / 8);
    }
    EXPECT_THAT(scene.contents.VerifyBy(vm.guest(), kGpa), SeesPattern()) << "round " << round;
  }
  std::cout << "# " << overlapped << " of " << deletes << " deletes overlapped with a read\n";
  EXPECT_GT(overlapped, 0u) << "no delete took as long as a read, or the other way round";
  const Outcome& outcome = always.Stop();
  EXPECT_TRUE(outcome.done) << outcome.exit_text;
  EXPECT_EQ(outcome.verdict.matches, outcome.verdict.words) << outcome;
  if (!slot_zap_all()) {
    EXPECT_EQ(vm.guest(1).vcpu().stats().Read("pf_fixed"), faults)
        << kPrecision << "what stays was faulted in again";
  }
  scene.ExpectContents();
  ring.UnregisterBuffers();
}

// A request that goes on: each event is told, wherever the slot is meanwhile, and the page that is
// read to when it is told gets the data.
TEST_P(IoUring, MultishotPoll) {
  TestVm vm(Config());
  Scene scene(vm, slot_zap_all());
  IoRing ring;
  scene.Register(ring);
  Channel stream = Channel::Stream();
  ring.PollInMultishot(100, stream.reader.get());
  ring.Submit();
  for (uint64_t round = 0; round < 6; round++) {
    const Absence& absence = kAbsences[round % 2];
    absence.leave(scene.slot);
    ASSERT_EQ(ring.Take(), std::nullopt);
    const uint64_t page = 10 * round;
    scene.contents.Fill(page, 1, kData + round);
    WriteAll(stream.writer.get(), scene.contents.Bytes(page, 1));
    const Completion event = ring.Wait();
    EXPECT_EQ(event.tag, 100u);
    EXPECT_GT(event.result, 0);
    EXPECT_TRUE(event.more) << "it was the last one";
    ring.ReadFixed(page, stream.reader.get(), scene.Part(page, 1), 0, kStream);
    ring.Submit();
    EXPECT_EQ(ring.Wait(), Done(page, kPageSize));
    scene.ExpectGone();
    absence.come_back(scene.slot);
    scene.ExpectContents();
  }
  ExpectCancelled(ring, 100);
  ring.UnregisterBuffers();
}

// As a backend that others connect to: each connection is told, wherever the slot is meanwhile, and
// what comes by it goes to a page of its own.
TEST_P(IoUring, MultishotAccept) {
  TestVm vm(Config());
  Scene scene(vm, slot_zap_all());
  IoRing ring;
  scene.Register(ring);
  const Listener listener;
  std::vector<FileDescriptor> ends;
  ring.AcceptMultishot(100, listener.fd());
  ring.Submit();
  for (uint64_t round = 0; round < 6; round++) {
    const Absence& absence = kAbsences[round % 2];
    absence.leave(scene.slot);
    ASSERT_EQ(ring.Take(), std::nullopt) << "nobody has connected";
    const FileDescriptor& client = ends.emplace_back(listener.Connect());
    const Completion connection = ring.Wait();
    EXPECT_EQ(connection.tag, 100u);
    EXPECT_TRUE(connection.more) << "it was the last one";
    ASSERT_GE(connection.result, 0) << connection;
    const FileDescriptor accepted(connection.result);
    const uint64_t page = 10 * round;
    ring.ReadFixed(page, accepted.get(), scene.Part(page, 2), 0, kStream);
    ring.Submit();
    ASSERT_EQ(ring.Take(), std::nullopt) << "there was nothing to read yet";
    scene.contents.Fill(page, 2, kData + round);
    WriteAll(client.get(), scene.contents.Bytes(page, 2));
    EXPECT_EQ(ring.Wait(), Done(page, 2 * kPageSize));
    scene.ExpectGone();
    absence.come_back(scene.slot);
    scene.ExpectContents();
  }
  ExpectCancelled(ring, 100);
  const FileDescriptor late = listener.Connect();
  EXPECT_EQ(ring.Take(), std::nullopt) << "nobody accepts it";
  ring.UnregisterBuffers();
}

// As a virtio-net device would: the guest's memory holds the ring of buffers, which the kernel
// pins, and the buffers, into which messages go one after the other, while the slot is there, gone
// and elsewhere.
TEST_P(IoUring, MultishotReceiveToProvidedBuffers) {
  constexpr uint64_t kRingPage = 30;
  constexpr uint16_t kBuffers = 16;
  TestVm vm(Config());
  Scene scene(vm, slot_zap_all());
  scene.contents.Zero(kRingPage, 1);
  scene.contents.Store(scene.slot.memory());
  IoRing ring;
  ring.RegisterProvidedBuffers(scene.Part(kRingPage, 1).address, kBuffers);
  for (uint16_t id = 0; id < kBuffers; id++) ring.Provide(scene.Part(uint64_t{id} * 2, 1), id);
  Channel messages = Channel::Messages();
  ring.ReceiveMultishot(100, messages.reader.get());
  ring.Submit();
  for (uint16_t id = 0; id + 1 < kBuffers; id++) {
    const uint64_t page = uint64_t{id} * 2;
    const unsigned state = id % 3;  // there, deleted, moved
    if (state != 0) kAbsences[state - 1].leave(scene.slot);
    ASSERT_EQ(ring.Take(), std::nullopt);
    scene.contents.Fill(page, 1, kData + id);
    WriteAll(messages.writer.get(), scene.contents.Bytes(page, 1));
    const Completion completion = ring.Wait();
    EXPECT_EQ(completion,
              (Completion{.tag = 100, .result = int{kPageSize}, .more = true, .provided = id}));
    if (state != 0) kAbsences[state - 1].come_back(scene.slot);
    EXPECT_THAT(
        vm.guest().Verify({{.range = {kGpa + page * kPageSize, kPageSize}, .seed = kData + id}}),
        SeesPattern());
  }
  // The ring itself is memory of the guest as any other: its first entry is the first buffer.
  EXPECT_THAT(vm.guest().Read(scene.slot.page(kRingPage)), Returns(scene.Part(0, 1).address));
  ExpectCancelled(ring, 100);
  ring.UnregisterProvidedBuffers();
  scene.slot.memory().Write(kRingPage * kPageSize, scene.contents.Bytes(kRingPage, 1));
  scene.ExpectContents();
}

// Buffers that overlap, each page in several of them; what comes last is what stays.
TEST_P(IoUring, OverlappingBuffers) {
  constexpr uint64_t kBuffers = 32;
  constexpr uint64_t kLength = 4;  // pages; each begins one page after the one before it
  TestVm vm(Config());
  Scene scene(vm, slot_zap_all());
  IoRing ring;
  std::vector<IoBuffer> buffers;
  std::vector<Channel> channels;
  for (uint64_t i = 0; i < kBuffers; i++) buffers.push_back(scene.Part(i, kLength));
  const uint64_t pinned = PinnedBytes();
  ring.RegisterBuffers(buffers);
  EXPECT_EQ(PinnedBytes() - pinned, kBuffers * kLength * kPageSize) << "each buffer counts";
  for (uint64_t i = 0; i < kBuffers; i++) {
    channels.push_back(Channel::Pipe());
    ring.ReadFixed(i, channels.back().reader.get(), buffers[i], static_cast<unsigned>(i), kStream);
  }
  ring.Submit();
  scene.slot.Delete();
  ASSERT_EQ(ring.Take(), std::nullopt);
  // 0, 13, 26, 7, ...: each once.
  for (uint64_t i = 0; i < kBuffers; i++) {
    if (i == kBuffers / 2) scene.slot.Add();
    const uint64_t buffer = i * 13 % kBuffers;
    scene.contents.Fill(buffer, kLength, kData + buffer);
    WriteAll(channels[buffer].writer.get(), scene.contents.Bytes(buffer, kLength));
    EXPECT_EQ(ring.Wait(), Done(buffer, kLength * kPageSize));
  }
  scene.ExpectContents();
  ring.UnregisterBuffers();
  EXPECT_EQ(PinnedBytes(), pinned);
}

// Pinned pages stay what they are, however often their slot goes, and every pin is given back.  A
// delete neither takes nor drops one.
TEST_P(IoUring, PinsOutliveTheSlot) {
  if (const std::string reason = PageFlags::Unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  TestVm vm(Config());
  Scene scene(vm, slot_zap_all());
  const std::vector<uint64_t> frames = PageFlags().FramesOf(scene.slot.memory().bytes());
  const uint64_t bytes = PinnedBytes();
  // On a machine that isn't there for this test, others may pin pages meanwhile.
  const bool alone = !CpuEmulator().empty();
  const int64_t pins = OutstandingPins();
  IoRing ring;
  scene.Register(ring);
  const auto expect_pinned = [&](const char* when) {
    EXPECT_EQ(PinnedBytes(), bytes + kSize) << when;
    if (alone) {
      EXPECT_EQ(OutstandingPins(), pins + int64_t{kPages}) << when;
    }
    EXPECT_EQ(PageFlags().FramesOf(scene.slot.memory().bytes()), frames) << when;
  };
  expect_pinned("registered");
  for (int round = 0; round < 3; round++) {
    scene.slot.Delete();
    expect_pinned("deleted");
    // The host may drop its mappings; the pages are the file's, and pinned.
    scene.slot.memory().Unmap(0, kSize);
    scene.slot.Add();
    scene.ExpectContents();
    expect_pinned("added again");
    scene.slot.MoveTo(kAway);
    scene.ExpectContents(kAway);
    scene.slot.MoveTo(kGpa);
    expect_pinned("moved and back");
  }
  scene.slot.Delete();
  ring.UnregisterBuffers();
  EXPECT_EQ(PinnedBytes(), bytes);
  if (alone) {
    EXPECT_EQ(OutstandingPins(), pins) << "a page is still pinned";
  }
  scene.slot.Add();
  scene.ExpectContents();
}

// Registered while the slot is gone, unregistered while it is there, and the other way round: the
// two know nothing of each other.  What a vCPU has mapped stays mapped.
TEST_P(IoUring, RegisteringZapsNothing) {
  TestVm vm(Config());
  Scene scene(vm, slot_zap_all());
  IoRing ring;
  for (const bool gone : {false, true}) {
    SCOPED_TRACE(gone ? "registered while the slot is gone" : "registered while it is there");
    if (gone) scene.slot.Delete();
    ZapWatch watch(vm.vm());
    scene.Register(ring);
    EXPECT_THAT(watch.Stop(), ZappedOnly({}, CurrentMmuMode()));
    if (gone) {
      scene.slot.Add();
      scene.ExpectContents();
    } else {
      ZapWatch unregistering(vm.vm());
      ring.UnregisterBuffers();
      EXPECT_THAT(unregistering.Stop(), ZappedOnly({}, CurrentMmuMode()));
      scene.ExpectContents();
    }
  }
  scene.slot.Delete();
  ring.UnregisterBuffers();
  scene.slot.Add();
  scene.ExpectContents();
}

// With requests in flight, a delete zaps the slot's leaves as without, and nothing else.
TEST_P(IoUring, DeleteZapsAsIfNothingWereInFlight) {
  TestVm vm(Config());
  Scene scene(vm, slot_zap_all());
  IoRing ring;
  scene.Register(ring);
  Channel pipe = Channel::Pipe();
  for (uint64_t page = 0; page < kPages; page += 8)
    ring.ReadFixed(page, pipe.reader.get(), scene.Part(page, 1), 0, kStream);
  ring.Submit();
  ASSERT_EQ(ring.Take(), std::nullopt);
  ASSERT_THAT(vm.guest().TouchWrite({scene.slot.range(), scene.other.range()}), Succeeds());
  const Leaves before = PresentLeaves(vm.vm().stats().Read());
  ZapWatch watch(vm.vm());
  scene.slot.Delete();
  const ZapReport report = watch.Stop();
  if (slot_zap_all()) {
    EXPECT_THAT(report, ZappedEverything());
  } else {
    EXPECT_THAT(report, ZappedOnly({{{kGpa, kSize}}}, CurrentMmuMode()));
    EXPECT_EQ(report.after.k4K, before.k4K - int64_t{kPages}) << kPrecision;
  }
  for (uint64_t page = 0; page < kPages; page += 8) {
    WriteAll(pipe.writer.get(), PageContents(1, kData + page).Bytes(0, 1));
    // Which of them gets it is the pipe's business; the data has to be in that page.
    const Completion completion = ring.Wait();
    EXPECT_EQ(completion, Done(completion.tag, kPageSize));
    scene.contents.Fill(completion.tag, 1, kData + page);
  }
  scene.slot.Add();
  scene.ExpectContents();
  ring.UnregisterBuffers();
}

// The ring is closed with everything in flight, and the slot gone: the requests never touch the
// memory.
TEST_P(IoUring, CancelledWhileTheSlotIsGone) {
  TestVm vm(Config());
  Scene scene(vm, slot_zap_all());
  Channel stream = Channel::Stream();
  const uint64_t pinned = PinnedBytes();
  {
    IoRing ring;
    scene.Register(ring);
    ring.ReadFixed(1, stream.reader.get(), scene.Part(4, 4), 0, kStream);
    ring.ReadFixed(2, stream.reader.get(), scene.Part(12, 4), 0, kStream);
    ring.Submit();
    scene.slot.Delete();
    ASSERT_EQ(ring.Take(), std::nullopt);
    ring.Cancel(3, 1);
    ring.Submit();
    std::vector<Completion> ends = {ring.Wait(), ring.Wait()};
    if (ends[0].tag != 1) std::swap(ends[0], ends[1]);
    EXPECT_EQ(ends[0].tag, 1u);
    EXPECT_TRUE(ends[0].result == -ECANCELED || ends[0].result == -EINTR) << ends[0].result;
    EXPECT_EQ(ends[1], Done(3, 0));
    // The data is for the one that is left.
    scene.contents.Fill(12, 4, kData);
    WriteAll(stream.writer.get(), scene.contents.Bytes(12, 4));
    EXPECT_EQ(ring.Wait(), Done(2, 4 * kPageSize));
    ring.ReadFixed(4, stream.reader.get(), scene.Part(4, 4), 0, kStream);
    ring.Submit();
  }
  // The kernel cleans up in its own time, but it does.
  while (PinnedBytes() != pinned) std::this_thread::yield();
  // Nobody is left to read that, wherever to.
  const std::vector<std::byte> junk = PageContents(4, kData + 1).Bytes(0, 4);
  WriteAll(stream.writer.get(), junk);
  EXPECT_EQ(scene.contents.ProblemIn(scene.slot.memory()), "");
  EXPECT_EQ(ReadAll(stream.reader.get(), junk.size()), junk);
  scene.slot.Add();
  scene.ExpectContents();
}

// Private memory, and the VMM forks while a request is in flight: the page that is pinned stays the
// parent's (page_needs_cow_for_dma()), and so the data comes to the guest.
TEST_P(IoUring, TheVmmForksMeanwhile) {
  TestVm vm(Config());
  Scene scene(vm, slot_zap_all(), GuestMemory::Anonymous(kSize));
  IoRing ring;
  scene.Register(ring);
  Channel pipe = Channel::Pipe();
  ring.ReadFixed(1, pipe.reader.get(), scene.Part(6, 2), 0, kStream);
  ring.Submit();
  scene.slot.Delete();
  const PageContents as_forked = scene.contents;
  const GuestMemory& memory = scene.slot.memory();
  ForkedProcess child([&memory, &as_forked](uint64_t) {
    return as_forked.ProblemIn(memory).empty() ? uint64_t{1} : uint64_t{0};
  });
  ASSERT_EQ(ring.Take(), std::nullopt);
  scene.contents.Fill(6, 2, kData);
  WriteAll(pipe.writer.get(), scene.contents.Bytes(6, 2));
  EXPECT_EQ(ring.Wait(), Done(1, 2 * kPageSize));
  scene.slot.Add();
  scene.ExpectContents();
  EXPECT_EQ(child.Do(0), 1u) << "the child has the memory as it was";
  ring.UnregisterBuffers();
}

SLOTZAP_INSTANTIATE(IoUring);

}  // namespace
}  // namespace slotzap

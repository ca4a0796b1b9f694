// SPDX-License-Identifier: GPL-2.0-only
#include "host/page_flags.h"

#include <fcntl.h>
#include <unistd.h>

#include <stdexcept>

#include "base/file_descriptor.h"
#include "base/range.h"

namespace slotzap {
namespace {

// Both files have 8 bytes for each page.
uint64_t ReadEntry(const std::string& path, uint64_t index) {
  const FileDescriptor file = FileDescriptor::Open(path, O_RDONLY);
  uint64_t entry = 0;
  const ssize_t n =
      pread(file.get(), &entry, sizeof(entry), static_cast<off_t>(index * sizeof(entry)));
  if (n < 0) ThrowErrno("read " + path);
  if (n != sizeof(entry)) throw std::runtime_error(path + " has no entry " + Hex(index));
  return entry;
}

}  // namespace

PageFlags::PageFlags(const std::string& proc_root) : proc_root_(proc_root) {
  for (const char* file : {"/self/pagemap", "/kpageflags"})
    FileDescriptor::Open(proc_root_ + file, O_RDONLY);
}

std::string PageFlags::Unavailable(const std::string& proc_root) {
  try {
    const PageFlags flags(proc_root);
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

uint64_t PageFlags::FrameAt(uint64_t address) const {
  constexpr uint64_t kPresent = 1ull << 63;
  constexpr uint64_t kFrame = (1ull << 55) - 1;
  const uint64_t entry = ReadEntry(proc_root_ + "/self/pagemap", address >> kPageShift);
  if ((entry & kPresent) == 0) throw std::runtime_error("no page is mapped at " + Hex(address));
  if ((entry & kFrame) == 0)
    throw std::runtime_error("the kernel hides page frames from this process");
  return entry & kFrame;
}

std::vector<uint64_t> PageFlags::FramesOf(std::span<const std::byte> pages) const {
  std::vector<uint64_t> frames;
  for (size_t offset = 0; offset < pages.size(); offset += kPageSize)
    frames.push_back(FrameOf(pages.data() + offset));
  return frames;
}

uint64_t PageFlags::Of(uint64_t frame) const {
  return ReadEntry(proc_root_ + "/kpageflags", frame);
}

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
// What the kernel's memory management knows of a page of this process
// (Documentation/admin-guide/mm/pagemap.rst).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace slotzap {

class PageFlags {
 public:
  // The bit of /proc/kpageflags that says that the page has to be written back: PG_dirty.  Whoever
  // gives up a writable mapping of a page that was written to has to set it.
  static constexpr uint64_t kDirty = 1ull << 4;
  // PG_referenced: it was used of late.  Who gives up a mapping that was used has to set it.
  static constexpr uint64_t kReferenced = 1ull << 2;

  // Throws std::system_error if the files can't be opened.
  explicit PageFlags(const std::string& proc_root = "/proc");

  // Why flags can't be read here, or an empty string.  It takes root, and a kernel with
  // CONFIG_PROC_PAGE_MONITOR.
  static std::string Unavailable(const std::string& proc_root = "/proc");

  // The page frame behind an address of this process.  Throws std::runtime_error if none is, or
  // the kernel doesn't tell.
  uint64_t FrameOf(const void* address) const {
    return FrameAt(reinterpret_cast<uint64_t>(address));
  }
  uint64_t FrameAt(uint64_t address) const;
  // The page frames behind whole pages, in their order.
  std::vector<uint64_t> FramesOf(std::span<const std::byte> pages) const;

  // The frame's flags, and whether it is dirty, or referenced.
  uint64_t Of(uint64_t frame) const;
  bool IsDirty(const void* address) const { return (Of(FrameOf(address)) & kDirty) != 0; }
  bool IsReferenced(const void* address) const { return (Of(FrameOf(address)) & kReferenced) != 0; }

 private:
  std::string proc_root_;
};

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "host/scratch_file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cstdlib>
#include <system_error>

#include "base/mapping.h"
#include "base/range.h"

namespace slotzap {

std::string ScratchFolder() {
  const char* folder = std::getenv("TMPDIR");
  return folder != nullptr && *folder != '\0' ? folder : "/tmp";
}

FileDescriptor DirectFile(uint64_t size, const std::string& folder) {
  FileDescriptor file = FileDescriptor::Open(folder, O_TMPFILE | O_RDWR | O_DIRECT, 0600);
  // What has no blocks yet may go through the page cache (ext4_dio_write_iter()).
  const Mapping zeroes = Mapping::Anonymous(size);
  if (pwrite(file.get(), zeroes.data(), size, 0) != static_cast<ssize_t>(size))
    ThrowErrno("write " + SizeString(size) + " to a file in " + folder);
  return file;
}

std::string DirectIoUnavailable(const std::string& folder) {
  struct statfs system = {};
  if (statfs(folder.c_str(), &system) == 0 &&
      (system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC))
    return folder + " is in memory: nothing does DMA to it";
  try {
    DirectFile(kPageSize, folder);
  } catch (const std::system_error& e) {
    return std::string("no O_DIRECT: ") + e.what();
  }
  return "";
}

}  // namespace slotzap

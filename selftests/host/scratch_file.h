// SPDX-License-Identifier: GPL-2.0-only
// A file whose contents go between memory and disk without the page cache.
#pragma once

#include <cstdint>
#include <string>

#include "base/file_descriptor.h"

namespace slotzap {

// Where temporary files go: TMPDIR, or /tmp.
std::string ScratchFolder();

// Why there can't be such a file, or an empty string: tmpfs has no O_DIRECT until Linux 6.5, and
// no disk to go to after that.
std::string DirectIoUnavailable(const std::string& folder = ScratchFolder());

// A file without a name, opened with O_DIRECT, of `size` zero bytes, a multiple of the page size,
// which have their blocks on the disk.  Throws std::system_error.
FileDescriptor DirectFile(uint64_t size, const std::string& folder = ScratchFolder());

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
// Which node of the machine memory is on, and how to have it on another, by libnuma (numa(7)).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <system_error>
#include <vector>

namespace slotzap {

// Nodes that have memory which this process may use, in ascending order.  One on a machine, or a
// kernel, without NUMA.
std::vector<int> MemoryNodes();
// Why there are not `nodes` of these, or an empty string.
std::string NumaUnavailable(unsigned nodes = 2);

// mbind(2): from now on, pages of the range come from this node only, or page by page from each of
// them in turn.  Pages that are there already stay where they are.  Throws std::system_error.
void BindMemory(uint64_t address, uint64_t size, int node);
void InterleaveMemory(uint64_t address, uint64_t size, std::span<const int> nodes);
// Binds, and moves pages that are elsewhere (MPOL_MF_MOVE | MPOL_MF_STRICT).  EIO if some could not
// be moved; the others have been.
std::error_code TryMoveMemory(uint64_t address, uint64_t size, int node);

// The nodes that each page of `page_size` bytes is on, as move_pages(2) tells; of one that isn't
// there, minus the errno: ENOENT, or EFAULT for the page of zeroes and where nothing is mapped.
std::vector<int> NodesOf(uint64_t address, uint64_t size, uint64_t page_size = 4096);

// move_pages(2): moves these pages of this process to the node.  Returns how many stayed where they
// were because somebody else uses them, as one does who has pinned them.  Throws std::system_error.
uint64_t MovePages(std::span<const uint64_t> addresses, int node);
// Every page of the range.
uint64_t MovePages(uint64_t address, uint64_t size, int node, uint64_t page_size = 4096);

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "host/numa.h"

#include <numa.h>
#include <numaif.h>

#include <cerrno>
#include <memory>
#include <utility>

#include "base/file_descriptor.h"
#include "base/range.h"

namespace slotzap {
namespace {

using NodeMask = std::unique_ptr<bitmask, decltype(&numa_bitmask_free)>;

NodeMask MaskOf(std::span<const int> nodes) {
  NodeMask mask(numa_allocate_nodemask(), numa_bitmask_free);
  for (const int node : nodes) numa_bitmask_setbit(mask.get(), static_cast<unsigned>(node));
  return mask;
}

std::error_code TryBind(uint64_t address, uint64_t size, int policy, std::span<const int> nodes,
                        unsigned flags) {
  const NodeMask mask = MaskOf(nodes);
  // The kernel wants to know one bit more than there are.
  if (mbind(reinterpret_cast<void*>(address), size, policy, mask->maskp, mask->size + 1, flags) ==
      0)
    return {};
  return {errno, std::generic_category()};
}

void OrThrow(const std::error_code& error, const char* what, uint64_t address, uint64_t size) {
  if (error)
    throw std::system_error(error,
                            std::string(what) + " of " + SizeString(size) + " at " + Hex(address));
}

std::vector<void*> Pages(uint64_t address, uint64_t size, uint64_t page_size) {
  std::vector<void*> pages;
  for (uint64_t offset = 0; offset < size; offset += page_size)
    pages.push_back(reinterpret_cast<void*>(address + offset));
  return pages;
}

uint64_t Move(std::vector<void*> pages, int node) {
  const std::vector<int> nodes(pages.size(), node);
  std::vector<int> status(pages.size(), node);
  const long left =
      move_pages(0, pages.size(), pages.data(), nodes.data(), status.data(), MPOL_MF_MOVE);
  if (left < 0)
    ThrowErrno("move_pages of " + std::to_string(pages.size()) + " pages to node " +
               std::to_string(node));
  return static_cast<uint64_t>(left);
}

}  // namespace

std::vector<int> MemoryNodes() {
  if (numa_available() < 0) return {0};
  const NodeMask mask(numa_get_mems_allowed(), numa_bitmask_free);
  std::vector<int> nodes;
  for (int node = 0; node <= numa_max_node(); node++)
    if (numa_bitmask_isbitset(mask.get(), static_cast<unsigned>(node)) != 0 &&
        numa_node_size64(node, nullptr) > 0)
      nodes.push_back(node);
  return nodes;
}

std::string NumaUnavailable(unsigned nodes) {
  const size_t have = MemoryNodes().size();
  if (have >= nodes) return "";
  return "needs " + std::to_string(nodes) + " NUMA nodes with memory, has " + std::to_string(have);
}

void BindMemory(uint64_t address, uint64_t size, int node) {
  OrThrow(TryBind(address, size, MPOL_BIND, {&node, 1}, 0), "mbind", address, size);
}

void InterleaveMemory(uint64_t address, uint64_t size, std::span<const int> nodes) {
  OrThrow(TryBind(address, size, MPOL_INTERLEAVE, nodes, 0), "mbind to interleave", address, size);
}

std::error_code TryMoveMemory(uint64_t address, uint64_t size, int node) {
  return TryBind(address, size, MPOL_BIND, {&node, 1}, MPOL_MF_MOVE | MPOL_MF_STRICT);
}

std::vector<int> NodesOf(uint64_t address, uint64_t size, uint64_t page_size) {
  std::vector<void*> pages = Pages(address, size, page_size);
  std::vector<int> status(pages.size(), -EFAULT);
  if (move_pages(0, pages.size(), pages.data(), nullptr, status.data(), 0) != 0)
    ThrowErrno("ask move_pages where " + SizeString(size) + " at " + Hex(address) + " are");
  return status;
}

uint64_t MovePages(std::span<const uint64_t> addresses, int node) {
  std::vector<void*> pages;
  for (const uint64_t address : addresses) pages.push_back(reinterpret_cast<void*>(address));
  return Move(std::move(pages), node);
}

uint64_t MovePages(uint64_t address, uint64_t size, int node, uint64_t page_size) {
  return Move(Pages(address, size, page_size), node);
}

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
// What memory has to hold, page by page, while parts of it change: every page is known, and so is
// every byte that must not have changed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "guest/guest.h"
#include "kvm/memory_slot.h"

namespace slotzap {

class PageContents {
 public:
  // All of it holds the pattern of `seed`, from its first word on: see AddFilledSlot().
  PageContents(uint64_t pages, uint64_t seed);

  uint64_t pages() const { return pages_.size(); }

  // These pages hold the pattern of `seed` from now on, from its word `first_word` on.
  void Fill(uint64_t page, uint64_t pages, uint64_t seed, uint64_t first_word = 0);
  void Zero(uint64_t page, uint64_t pages);

  // The bytes of these pages.
  std::vector<std::byte> Bytes(uint64_t page, uint64_t pages) const;
  // Writes all pages to memory, from `offset` on, from the host's side.
  void Store(const GuestMemory& memory, uint64_t offset = 0) const;
  // What differs from them in memory, as the host sees it, or an empty string.
  std::string ProblemIn(const GuestMemory& memory, uint64_t offset = 0) const;

  // As patterns at this address; as few as possible.
  std::vector<Pattern> At(Gpa gpa) const;
  // Lets the guest compare all pages.  The outcome is that of one command, whatever it takes.
  Outcome VerifyBy(Guest& guest, Gpa gpa) const;

 private:
  struct Page {
    uint64_t seed;
    uint64_t first_word;
    uint64_t period;
  };
  uint64_t WordOf(uint64_t page, uint64_t word) const;

  std::vector<Page> pages_;
};

}  // namespace slotzap

// SPDX-License-Identifier: GPL-2.0-only
#include "guest/page_contents.h"

#include <algorithm>
#include <span>

namespace slotzap {
namespace {

constexpr uint64_t kWords = kPageSize / 8;

// The word of the pattern of seed 0 that is 0, over and over.
constexpr uint64_t kZeroWord = ~0ull;
static_assert(guest::PatternWord(guest::Range{.first_word = kZeroWord, .period = 1}, 5) == 0);

// The first wrong word is described.
void Add(guest::Verdict& sum, const guest::Verdict& one) {
  if (sum.wrong == 0) {
    sum.wrong_gpa = one.wrong_gpa;
    sum.wrong_seen = one.wrong_seen;
    sum.wrong_expected = one.wrong_expected;
  }
  sum.words += one.words;
  sum.matches += one.matches;
  sum.absent += one.absent;
  sum.wrong += one.wrong;
}

}  // namespace

PageContents::PageContents(uint64_t pages, uint64_t seed) : pages_(pages) { Fill(0, pages, seed); }

void PageContents::Fill(uint64_t page, uint64_t pages, uint64_t seed, uint64_t first_word) {
  for (uint64_t i = 0; i < pages; i++)
    pages_.at(page + i) = {.seed = seed, .first_word = first_word + i * kWords, .period = 0};
}

void PageContents::Zero(uint64_t page, uint64_t pages) {
  for (uint64_t i = 0; i < pages; i++)
    pages_.at(page + i) = {.seed = 0, .first_word = kZeroWord, .period = 1};
}

uint64_t PageContents::WordOf(uint64_t page, uint64_t word) const {
  const Page& p = pages_.at(page);
  return guest::PatternWord(
      guest::Range{.seed = p.seed, .first_word = p.first_word, .period = p.period}, word);
}

std::vector<std::byte> PageContents::Bytes(uint64_t page, uint64_t pages) const {
  std::vector<uint64_t> words(pages * kWords);
  for (uint64_t i = 0; i < words.size(); i++) words[i] = WordOf(page + i / kWords, i % kWords);
  const auto bytes = std::as_bytes(std::span(words));
  return {bytes.begin(), bytes.end()};
}

void PageContents::Store(const GuestMemory& memory, uint64_t offset) const {
  memory.Write(offset, Bytes(0, pages()));
}

std::string PageContents::ProblemIn(const GuestMemory& memory, uint64_t offset) const {
  for (uint64_t page = 0; page < pages(); page++) {
    for (uint64_t word = 0; word < kWords; word++) {
      const uint64_t seen = memory.Load(offset + page * kPageSize + word * 8);
      if (seen != WordOf(page, word))
        return "page " + std::to_string(page) + ", word " + std::to_string(word) + ": " +
               Hex(seen) + " instead of " + Hex(WordOf(page, word));
    }
  }
  return "";
}

std::vector<Pattern> PageContents::At(Gpa gpa) const {
  std::vector<Pattern> patterns;
  for (uint64_t i = 0; i < pages(); i++) {
    const Page& page = pages_[i];
    if (!patterns.empty()) {
      Pattern& last = patterns.back();
      const uint64_t next =
          page.period != 0 ? last.first_word : last.first_word + last.range.pages() * kWords;
      if (last.seed == page.seed && last.period == page.period && page.first_word == next) {
        last.range.size += kPageSize;
        continue;
      }
    }
    patterns.push_back({.range = {gpa + i * kPageSize, kPageSize},
                        .seed = page.seed,
                        .first_word = page.first_word,
                        .period = page.period});
  }
  return patterns;
}

Outcome PageContents::VerifyBy(Guest& guest, Gpa gpa) const {
  const std::vector<Pattern> patterns = At(gpa);
  Outcome all;
  for (size_t i = 0; i < patterns.size(); i += guest::kMaxRanges) {
    Outcome one = guest.VerifyAll(
        std::span(patterns).subspan(i, std::min<size_t>(guest::kMaxRanges, patterns.size() - i)));
    if (!one.done) return one;
    all.done = true;
    all.mmio_count += one.mmio_count;
    if (all.mmio.empty()) all.mmio = std::move(one.mmio);
    Add(all.verdict, one.verdict);
  }
  return all;
}

}  // namespace slotzap

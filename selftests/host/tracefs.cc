// SPDX-License-Identifier: GPL-2.0-only
#include "host/tracefs.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <stdexcept>
#include <system_error>

#include "base/file_descriptor.h"

namespace slotzap {
namespace {

constexpr std::string_view kBlank = " \t";

std::string_view Trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

// Cuts the first word off `text`.
std::string_view TakeWord(std::string_view& text) {
  text = text.substr(std::min(text.find_first_not_of(kBlank), text.size()));
  const std::string_view word = text.substr(0, text.find_first_of(kBlank));
  text.remove_prefix(word.size());
  return word;
}

template <typename T>
std::optional<T> ParseInteger(std::string_view text, int base = 10) {
  T value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "   my task-12-345     " or "   my task-345     (    340) ": name and thread id.
bool ParseTask(std::string_view text, TraceEvent& event) {
  text = Trim(text);
  if (text.ends_with(')')) text = Trim(text.substr(0, text.rfind('(')));
  const size_t dash = text.rfind('-');
  if (dash == std::string_view::npos) return false;
  const auto pid = ParseInteger<int>(text.substr(dash + 1));
  if (!pid) return false;
  event.task = text.substr(0, dash);
  event.pid = *pid;
  return true;
}

// " d..1.   123.456789: name: fields", where the flags are optional.
bool ParseTimeAndName(std::string_view text, TraceEvent& event) {
  std::string_view word = TakeWord(text);
  if (!word.ends_with(':')) word = TakeWord(text);
  if (!word.ends_with(':')) return false;
  word.remove_suffix(1);
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), event.seconds);
  if (error != std::errc() || end != word.data() + word.size()) return false;

  text = Trim(text);
  const size_t colon = text.find(':');
  if (colon == 0 || colon == std::string_view::npos) return false;
  event.name = text.substr(0, colon);
  event.fields = Trim(text.substr(colon + 1));
  return event.name.find(' ') == std::string::npos;
}

// The words of an event's fields.
class Fields {
 public:
  explicit Fields(const TraceEvent& event) : event_(event) {
    for (std::string_view rest = event.fields;;) {
      const std::string_view word = TakeWord(rest);
      if (word.empty()) break;
      words_.push_back(word);
    }
  }

  bool Has(std::string_view word) const {
    return std::find(words_.begin(), words_.end(), word) != words_.end();
  }

  template <typename T>
  T NumberAfter(std::string_view key, int base = 10) const {
    const auto it = std::find(words_.begin(), words_.end(), key);
    if (it != words_.end() && it + 1 != words_.end())
      if (const auto value = ParseInteger<T>(*(it + 1), base)) return *value;
    Missing("a number after '" + std::string(key) + "'");
  }

  // The number in the first word that is `prefix` and a number.
  int NumberWithPrefix(char prefix) const {
    for (const std::string_view word : words_)
      if (word.front() == prefix)
        if (const auto value = ParseInteger<int>(word.substr(1))) return *value;
    Missing(std::string("a word that is '") + prefix + "' and a number");
  }

  // The `index`th hexadecimal number that is written with 0x.
  uint64_t HexNumber(size_t index) const {
    for (const std::string_view word : words_)
      if (word.starts_with("0x") && index-- == 0)
        if (const auto value = ParseInteger<uint64_t>(word.substr(2), 16)) return *value;
    Missing("another number that begins with 0x");
  }

 private:
  [[noreturn]] void Missing(const std::string& what) const {
    throw std::runtime_error("trace event " + event_.name + ": expected " + what + " in '" +
                             event_.fields + "'");
  }

  const TraceEvent& event_;
  std::vector<std::string_view> words_;
};

// The number on the line "key: N" of a ring buffer's statistics.
uint64_t StatsValue(const std::string& stats, const std::string& key) {
  const size_t at = ("\n" + stats).find("\n" + key + ": ");
  if (at == std::string::npos) return 0;
  std::string_view rest = std::string_view(stats).substr(at + key.size() + 2);
  rest = rest.substr(0, rest.find('\n'));
  return ParseInteger<uint64_t>(Trim(rest)).value_or(0);
}

}  // namespace

std::optional<TraceEvent> ParseTraceLine(std::string_view line) {
  if (line.starts_with('#')) return std::nullopt;
  // The name of a task may contain anything, so the number of the processor in its brackets is
  // recognised by what stands on both sides of it.
  for (size_t open = line.find(" ["); open != std::string_view::npos;
       open = line.find(" [", open + 1)) {
    const size_t close = line.find(']', open);
    if (close == std::string_view::npos) break;
    TraceEvent event;
    const auto cpu = ParseInteger<int>(line.substr(open + 2, close - open - 2));
    if (cpu && ParseTask(line.substr(0, open), event) &&
        ParseTimeAndName(line.substr(close + 1), event)) {
      event.cpu = *cpu;
      return event;
    }
  }
  return std::nullopt;
}

std::vector<TraceEvent> ParseTrace(std::string_view text) {
  std::vector<TraceEvent> events;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (auto event = ParseTraceLine(line)) events.push_back(std::move(*event));
  }
  return events;
}

std::optional<SpteChanged> DecodeSpteChanged(const TraceEvent& event) {
  if (event.name != "kvm_tdp_mmu_spte_changed") return std::nullopt;
  const Fields fields(event);
  return SpteChanged{.as_id = fields.NumberAfter<int>("id"),
                     .gfn = fields.NumberAfter<uint64_t>("gfn", 16),
                     .level = fields.NumberAfter<int>("level"),
                     .old_spte = fields.NumberAfter<uint64_t>("old_spte", 16),
                     .new_spte = fields.NumberAfter<uint64_t>("new_spte", 16)};
}

std::optional<PreparedZapPage> DecodePreparedZapPage(const TraceEvent& event) {
  if (event.name != "kvm_mmu_prepare_zap_page") return std::nullopt;
  const Fields fields(event);
  return PreparedZapPage{.gfn = fields.NumberAfter<uint64_t>("gfn", 16),
                         .level = fields.NumberWithPrefix('l'),
                         .direct = fields.Has("direct"),
                         .invalid = fields.Has("invalid"),
                         .root_count = fields.NumberAfter<int>("root"),
                         .unsync = fields.Has("unsync")};
}

std::optional<CreatedPage> DecodeCreatedPage(const TraceEvent& event) {
  if (event.name != "kvm_mmu_get_page") return std::nullopt;
  const Fields fields(event);
  if (!fields.Has("new")) return std::nullopt;
  return CreatedPage{.gfn = fields.NumberAfter<uint64_t>("gfn", 16),
                     .level = fields.NumberWithPrefix('l'),
                     .direct = fields.Has("direct")};
}

std::optional<InstalledSpte> DecodeInstalledSpte(const TraceEvent& event) {
  if (event.name != "kvm_mmu_set_spte") return std::nullopt;
  const Fields fields(event);
  return InstalledSpte{.gfn = fields.NumberAfter<uint64_t>("gfn", 16),
                       .spte = fields.NumberAfter<uint64_t>("spte", 16),
                       .level = fields.NumberAfter<int>("level")};
}

std::optional<UnmapHvaRange> DecodeUnmapHvaRange(const TraceEvent& event) {
  if (event.name != "kvm_unmap_hva_range") return std::nullopt;
  const Fields fields(event);
  return UnmapHvaRange{.start = fields.HexNumber(0), .end = fields.HexNumber(1)};
}

std::optional<ZapMemslot> DecodeZapMemslot(const TraceEvent& event) {
  if (event.name != "kvm_mmu_zap_memslot") return std::nullopt;
  const Fields fields(event);
  return ZapMemslot{.slot = fields.NumberAfter<int>("slot"),
                    .as_id = fields.NumberAfter<int>("as_id"),
                    .base_gfn = fields.NumberAfter<uint64_t>("base_gfn", 16),
                    .npages = fields.NumberAfter<uint64_t>("npages", 16),
                    .all = fields.NumberAfter<int>("all") != 0,
                    .leafs = fields.NumberAfter<uint64_t>("leafs"),
                    .pages = fields.NumberAfter<uint64_t>("pages"),
                    .flushes = fields.NumberAfter<uint64_t>("flushes"),
                    .ns = fields.NumberAfter<uint64_t>("ns")};
}

std::optional<MemAttrsStep> DecodeMemAttrsStep(const TraceEvent& event) {
  if (event.name != "kvm_mem_attrs") return std::nullopt;
  const Fields fields(event);
  return MemAttrsStep{.step = event.fields.substr(0, event.fields.find(' ')),
                      .start = fields.NumberAfter<uint64_t>("start", 16),
                      .end = fields.NumberAfter<uint64_t>("end", 16),
                      .attributes = fields.NumberAfter<uint64_t>("attrs", 16),
                      .invalidating = fields.NumberAfter<int>("invalidating") != 0,
                      .error = fields.NumberAfter<int>("error")};
}

bool IsZapAllFast(const TraceEvent& event) { return event.name == "kvm_mmu_zap_all_fast"; }

bool IsMark(const TraceEvent& event, std::string_view text) {
  return event.name == "tracing_mark_write" && event.fields == text;
}

TraceInstance::TraceInstance(const std::string& name, const std::string& root)
    : directory_(root + "/instances/" + name) {
  rmdir(directory_.c_str());
  if (mkdir(directory_.c_str(), 0700) != 0 && errno != EEXIST)
    ThrowErrno("create trace instance " + directory_);
  Stop();
  WriteFile(directory_ + "/events/enable", "0");
  // The default clock differs between processors, and with it the order of their events.
  WriteFile(directory_ + "/trace_clock", "mono");
  Clear();
}

TraceInstance::~TraceInstance() { rmdir(directory_.c_str()); }

std::string TraceInstance::Available(const std::string& root) {
  if (!FileExists(root + "/instances"))
    return "no trace instances in " + root + " (is tracefs mounted there, and readable?)";
  if (access((root + "/instances").c_str(), W_OK) != 0)
    return "no permission to create a trace instance in " + root + " (root has it)";
  for (const char* system : {"kvm", "kvmmmu"})
    if (!FileExists(root + "/events/" + system))
      return std::string("no events of ") + system + " in " + root + " (is KVM loaded?)";
  return {};
}

std::string TraceInstance::EventDirectory(const std::string& event) const {
  std::string path = event;
  std::replace(path.begin(), path.end(), ':', '/');
  return directory_ + "/events/" + path;
}

bool TraceInstance::HasEvent(const std::string& event) const {
  return FileExists(EventDirectory(event) + "/enable");
}

void TraceInstance::Enable(const std::string& event) {
  if (!HasEvent(event))
    throw std::runtime_error("this kernel has no trace event " + event +
                             " (events are named system:event)");
  WriteFile(EventDirectory(event) + "/enable", "1");
}

void TraceInstance::SetBufferKb(unsigned kib_per_cpu) {
  WriteFile(directory_ + "/buffer_size_kb", std::to_string(kib_per_cpu));
}

// Opening the file with O_TRUNC, as WriteFile() does, is what clears it.
void TraceInstance::Clear() { WriteFile(directory_ + "/trace", ""); }
void TraceInstance::Start() { WriteFile(directory_ + "/tracing_on", "1"); }
void TraceInstance::Stop() { WriteFile(directory_ + "/tracing_on", "0"); }

void TraceInstance::Mark(const std::string& text) { WriteFile(directory_ + "/trace_marker", text); }

std::vector<TraceEvent> TraceInstance::Read() const {
  return ParseTrace(ReadFile(directory_ + "/trace"));
}

uint64_t TraceInstance::lost() const {
  constexpr std::array<const char*, 3> kLosses = {"overrun", "commit overrun", "dropped events"};
  uint64_t lost = 0;
  for (const auto& cpu : std::filesystem::directory_iterator(directory_ + "/per_cpu")) {
    const std::string stats = ReadFile(cpu.path().string() + "/stats");
    for (const char* loss : kLosses) lost += StatsValue(stats, loss);
  }
  return lost;
}

}  // namespace slotzap

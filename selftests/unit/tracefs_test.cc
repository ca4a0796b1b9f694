// SPDX-License-Identifier: GPL-2.0-only
#include "host/tracefs.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <stdexcept>

#include "base/file_descriptor.h"
#include "unit/temp_dir.h"

namespace slotzap {
namespace {

TraceEvent Parse(std::string_view line) {
  const auto event = ParseTraceLine(line);
  if (!event) throw std::runtime_error("not an event: " + std::string(line));
  return *event;
}

TraceEvent Event(std::string name, std::string fields) {
  return {.task = "t", .name = std::move(name), .fields = std::move(fields)};
}

TEST(ParseTraceLine, TakesTheDefaultFormatApart) {
  const TraceEvent event = Parse(
      "   slotzap-tests-93      [001] .....    12.345678: kvm_tdp_mmu_spte_changed: as id 0 gfn "
      "c0000 level 1 old_spte 60000010cc5b877 new_spte 0");
  EXPECT_EQ(event.task, "slotzap-tests");
  EXPECT_EQ(event.pid, 93);
  EXPECT_EQ(event.cpu, 1);
  EXPECT_DOUBLE_EQ(event.seconds, 12.345678);
  EXPECT_EQ(event.name, "kvm_tdp_mmu_spte_changed");
  EXPECT_EQ(event.fields, "as id 0 gfn c0000 level 1 old_spte 60000010cc5b877 new_spte 0");
}

TEST(ParseTraceLine, TaskNamesMayContainAnything) {
  EXPECT_EQ(Parse("          <idle>-0       [000] d..1.   1.000001: e: f").task, "<idle>");
  EXPECT_EQ(Parse("    kworker/u4:2-31      [000] .....   1.000001: e: f").task, "kworker/u4:2");
  const TraceEvent event = Parse(" CPU 0/KVM-1 [2]-4711    [013] .....   1.000001: e: f [000] g");
  EXPECT_EQ(event.task, "CPU 0/KVM-1 [2]");
  EXPECT_EQ(event.pid, 4711);
  EXPECT_EQ(event.cpu, 13);
  EXPECT_EQ(event.fields, "f [000] g");
}

TEST(ParseTraceLine, OptionalColumns) {
  EXPECT_DOUBLE_EQ(Parse("  t-5       [000]  7.500000: e: f").seconds, 7.5);  // noirq-info
  EXPECT_EQ(Parse("  t-5       (      4) [000] .....  7.5: e: f").pid, 5);    // record-tgid
  EXPECT_EQ(Parse("  t-5       (-------) [000] .....  7.5: e: f").task, "t");
  EXPECT_EQ(Parse("  t-5       [000] .....  7.5: no_fields:").fields, "");
}

TEST(ParseTraceLine, SkipsWhatIsNoEvent) {
  for (const char* line : {
           "",
           "# tracer: nop",
           "# entries-in-buffer/entries-written: 3/3   #P:2",
           "#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION",
           "CPU:1 [LOST 12 EVENTS]",
           "##### CPU 1 buffer started ####",
       })
    EXPECT_FALSE(ParseTraceLine(line)) << line;
}

TEST(DecodeTraceEvent, SpteChanged) {
  const auto change = DecodeSpteChanged(
      Event("kvm_tdp_mmu_spte_changed",
            "as id 1 gfn c0000 level 2 old_spte 60000010cc5b877 new_spte 5a0 later 7"));
  ASSERT_TRUE(change);
  EXPECT_EQ(change->as_id, 1);
  EXPECT_EQ(change->gfn, 0xc0000u);
  EXPECT_EQ(change->level, 2);
  EXPECT_EQ(change->old_spte, 0x60000010cc5b877u);
  EXPECT_EQ(change->new_spte, 0x5a0u);
}

TEST(DecodeTraceEvent, PreparedZapPage) {
  const auto guest_table = DecodePreparedZapPage(
      Event("kvm_mmu_prepare_zap_page", "sp gen 1 gfn 3f l1 8-byte q0 wux !nxe !ad root 0 unsync"));
  ASSERT_TRUE(guest_table);
  EXPECT_EQ(guest_table->gfn, 0x3fu);
  EXPECT_EQ(guest_table->level, 1);
  EXPECT_FALSE(guest_table->direct);
  EXPECT_FALSE(guest_table->invalid);
  EXPECT_EQ(guest_table->root_count, 0);
  EXPECT_TRUE(guest_table->unsync);

  const auto root = DecodePreparedZapPage(
      Event("kvm_mmu_prepare_zap_page",
            "sp gen 0 gfn 0 l4 8-byte q3 direct wux invalid nxe ad root 2 sync"));
  ASSERT_TRUE(root);
  EXPECT_EQ(root->level, 4);
  EXPECT_TRUE(root->direct);
  EXPECT_TRUE(root->invalid);
  EXPECT_EQ(root->root_count, 2);
  EXPECT_FALSE(root->unsync);
}

TEST(DecodeTraceEvent, CreatedPage) {
  const auto root = DecodeCreatedPage(
      Event("kvm_mmu_get_page", "sp gen 0 gfn 0 l5 8-byte q0 direct wux nxe ad root 0 sync new"));
  ASSERT_TRUE(root);
  EXPECT_EQ(root->gfn, 0u);
  EXPECT_EQ(root->level, 5);
  EXPECT_TRUE(root->direct);
  EXPECT_FALSE(DecodeCreatedPage(
      Event("kvm_mmu_get_page", "sp gen 0 gfn 4f l1 8-byte q0 wux nxe ad root 0 sync existing")));
}

TEST(DecodeTraceEvent, InstalledSpte) {
  const auto installed = DecodeInstalledSpte(
      Event("kvm_mmu_set_spte", "gfn 40001 spte 8600000007a4cf77 (rwx-) level 1 at 1081a4008"));
  ASSERT_TRUE(installed);
  EXPECT_EQ(installed->gfn, 0x40001u);
  EXPECT_EQ(installed->spte, 0x8600000007a4cf77u);
  EXPECT_EQ(installed->level, 1);
}

TEST(DecodeTraceEvent, Marks) {
  const TraceEvent mark = Parse("  t-5  [000] .....  7.5: tracing_mark_write: slotzap: begin");
  EXPECT_TRUE(IsMark(mark, "slotzap: begin"));
  EXPECT_FALSE(IsMark(mark, "begin"));
  EXPECT_FALSE(IsMark(Event("other", "slotzap: begin"), "slotzap: begin"));
}

TEST(DecodeTraceEvent, UnmapHvaRange) {
  const auto range = DecodeUnmapHvaRange(Event(
      "kvm_unmap_hva_range", "mmu notifier unmap range: 0x7f2c40000000 -- 0x00007f2c40001000"));
  ASSERT_TRUE(range);
  EXPECT_EQ(range->start, 0x7f2c40000000u);
  EXPECT_EQ(range->end, 0x7f2c40001000u);
}

TEST(DecodeTraceEvent, ZapAllFast) {
  EXPECT_TRUE(IsZapAllFast(Event("kvm_mmu_zap_all_fast", "kvm-mmu-valid-gen 1 used_pages 5")));
  EXPECT_FALSE(IsZapAllFast(Event("kvm_mmu_prepare_zap_page", "")));
}

TEST(DecodeTraceEvent, OtherEventsAreNotDecoded) {
  const TraceEvent other = Event("kvm_mmu_zap_all_fast", "kvm-mmu-valid-gen 1 used_pages 5");
  EXPECT_FALSE(DecodeSpteChanged(other));
  EXPECT_FALSE(DecodePreparedZapPage(other));
  EXPECT_FALSE(DecodeCreatedPage(other));
  EXPECT_FALSE(DecodeZapMemslot(other));
  EXPECT_FALSE(DecodeInstalledSpte(other));
  EXPECT_FALSE(DecodeUnmapHvaRange(other));
}

TEST(DecodeTraceEvent, AMissingFieldIsAnError) {
  EXPECT_THROW(DecodeSpteChanged(Event("kvm_tdp_mmu_spte_changed", "as id 0 gfn c0000 level")),
               std::runtime_error);
  EXPECT_THROW(DecodePreparedZapPage(Event("kvm_mmu_prepare_zap_page", "sp gen 1 gfn zz")),
               std::runtime_error);
  EXPECT_THROW(DecodeUnmapHvaRange(Event("kvm_unmap_hva_range", "0x1000 -- 2000")),
               std::runtime_error);
}

// A directory with the files that the kernel makes in an instance.
class FakeTracefs : public testing::Test {
 protected:
  FakeTracefs() {
    for (const char* file : {"tracing_on", "trace_clock", "trace", "trace_marker", "buffer_size_kb",
                             "events/enable", "events/kvmmmu/kvm_mmu_zap_all_fast/enable"})
      dir_.Write(std::string("instances/t/") + file, "");
  }
  std::string Content(const std::string& file) const {
    return ReadLine(dir_.path() + "/instances/t/" + file);
  }

  TempDir dir_;
};

TEST_F(FakeTracefs, ATakenOverInstanceIsReset) {
  dir_.Write("instances/t/tracing_on", "1");
  dir_.Write("instances/t/trace", "something old");
  const TraceInstance trace("t", dir_.path());
  EXPECT_EQ(Content("tracing_on"), "0");
  EXPECT_EQ(Content("events/enable"), "0");
  EXPECT_EQ(Content("trace_clock"), "mono");
  EXPECT_EQ(Content("trace"), "");
}

TEST_F(FakeTracefs, ControlsTheRecording) {
  TraceInstance trace("t", dir_.path());
  trace.Enable("kvmmmu:kvm_mmu_zap_all_fast");
  EXPECT_EQ(Content("events/kvmmmu/kvm_mmu_zap_all_fast/enable"), "1");
  trace.SetBufferKb(8192);
  EXPECT_EQ(Content("buffer_size_kb"), "8192");
  trace.Start();
  EXPECT_EQ(Content("tracing_on"), "1");
  trace.Mark("here");
  EXPECT_EQ(Content("trace_marker"), "here");
  trace.Stop();
  EXPECT_EQ(Content("tracing_on"), "0");
}

TEST_F(FakeTracefs, UnknownEventsAreRefused) {
  TraceInstance trace("t", dir_.path());
  EXPECT_FALSE(trace.HasEvent("kvmmmu:nonesuch"));
  EXPECT_THROW(trace.Enable("kvmmmu:nonesuch"), std::runtime_error);
}

TEST_F(FakeTracefs, ReadsEventsInOrder) {
  const TraceInstance trace("t", dir_.path());
  dir_.Write("instances/t/trace",
             "# tracer: nop\n#\n t-1 [000] .....  1.5: a: x\n t-1 [001] .....  1.6: b: y\n");
  const std::vector<TraceEvent> events = trace.Read();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].name, "a");
  EXPECT_EQ(events[1].cpu, 1);
}

TEST_F(FakeTracefs, AddsUpWhatWasLost) {
  const TraceInstance trace("t", dir_.path());
  const std::string rest = "bytes: 52\noldest event ts:  1.0\nnow ts:  2.0\ndropped events: ";
  dir_.Write("instances/t/per_cpu/cpu0/stats",
             "entries: 5\noverrun: 7\ncommit overrun: 20\n" + rest + "300\nread events: 9\n");
  dir_.Write("instances/t/per_cpu/cpu1/stats",
             "entries: 5\noverrun: 0\ncommit overrun: 0\n" + rest + "4000\nread events: 9\n");
  EXPECT_EQ(trace.lost(), 4327u);
}

TEST(TraceInstance, AvailableSaysWhatIsMissing) {
  const TempDir dir;
  EXPECT_NE(TraceInstance::Available(dir.path()).find("no trace instances"), std::string::npos);
  std::filesystem::create_directories(dir.path() + "/instances");
  EXPECT_NE(TraceInstance::Available(dir.path()).find("no events of kvm "), std::string::npos);
  std::filesystem::create_directories(dir.path() + "/events/kvm");
  EXPECT_NE(TraceInstance::Available(dir.path()).find("no events of kvmmmu "), std::string::npos);
  std::filesystem::create_directories(dir.path() + "/events/kvmmmu");
  EXPECT_EQ(TraceInstance::Available(dir.path()), "");
}

TEST(TraceInstance, FailsWhereThereIsNoTracefs) {
  const TempDir dir;
  EXPECT_THROW(TraceInstance("t", dir.path()), std::system_error);
}

TEST(DecodeZapMemslot, AllFields) {
  const auto event = ParseTraceLine(
      " slotzap-tests-77      [001] .....    12.345678: kvm_mmu_zap_memslot: slot 3 as_id 1 "
      "base_gfn 40000 npages 1f all 1 leafs 10 pages 11 flushes 12 ns 1313");
  ASSERT_TRUE(event.has_value());
  const auto zap = DecodeZapMemslot(*event);
  ASSERT_TRUE(zap.has_value());
  EXPECT_EQ(zap->slot, 3);
  EXPECT_EQ(zap->as_id, 1);
  EXPECT_EQ(zap->base_gfn, 0x40000u);
  EXPECT_EQ(zap->npages, 0x1fu);
  EXPECT_TRUE(zap->all);
  EXPECT_EQ(zap->leafs, 10u);
  EXPECT_EQ(zap->pages, 11u);
  EXPECT_EQ(zap->flushes, 12u);
  EXPECT_EQ(zap->ns, 1313u);
  EXPECT_FALSE(DecodeMemAttrsStep(*event).has_value());
}

TEST(DecodeMemAttrsStep, AllFields) {
  const auto event = ParseTraceLine(
      " slotzap-tests-77      [001] .....    12.345678: kvm_mem_attrs: prepare start 40000 end "
      "40200 attrs 8 invalidating 1 error -5");
  ASSERT_TRUE(event.has_value());
  const auto step = DecodeMemAttrsStep(*event);
  ASSERT_TRUE(step.has_value());
  EXPECT_EQ(*step, (MemAttrsStep{"prepare", 0x40000, 0x40200, 8, true, -5}));
}

}  // namespace
}  // namespace slotzap

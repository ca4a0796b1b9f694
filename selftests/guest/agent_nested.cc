// SPDX-License-Identifier: GPL-2.0-only
#include "guest/agent_nested.h"

#include <initializer_list>

namespace slotzap::guest {
namespace {

// Interrupts on, though there are none, for the reason that guest.cc gives.
constexpr uint64_t kL2Rflags = 1 << 9 | 1 << 1;

constexpr uint64_t kPage = 4096;
constexpr uint64_t kPageFaultVector = 14;

// The block, see NestedRun::block.
constexpr uint64_t kControlOffset = 0;     // VMCB, VMCS
constexpr uint64_t kHostOffset = kPage;    // host save area, VMXON region
constexpr uint64_t kStackEnd = 4 * kPage;  // of L2's stack
static_assert(kStackEnd == kNestedBlockSize);

constexpr uint16_t kCodeSelector = 0x08;  // entry.S's GDT
constexpr uint16_t kDataSelector = 0x10;

// In assembly, so that the compiler makes no memset() of a loop: there is none here.
void Store64(uint64_t address, uint64_t value) {
  asm volatile("movq %1, (%0)" : : "r"(address), "r"(value) : "memory");
}

void ClearPage(uint64_t address) {
  for (uint64_t i = 0; i < kPage; i += 8) Store64(address + i, 0);
}

template <typename T>
volatile T& At(uint64_t address) {
  return *reinterpret_cast<volatile T*>(address);
}

uint64_t ReadMsr(uint32_t msr) {
  uint32_t low;
  uint32_t high;
  asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
  return low | static_cast<uint64_t>(high) << 32;
}

void WriteMsr(uint32_t msr, uint64_t value) {
  asm volatile("wrmsr"
               :
               : "c"(msr), "a"(static_cast<uint32_t>(value)),
                 "d"(static_cast<uint32_t>(value >> 32))
               : "memory");
}

uint64_t Cr0() {
  uint64_t value;
  asm volatile("movq %%cr0, %0" : "=r"(value));
  return value;
}

uint64_t Cr3() {
  uint64_t value;
  asm volatile("movq %%cr3, %0" : "=r"(value));
  return value;
}

uint64_t Cr4() {
  uint64_t value;
  asm volatile("movq %%cr4, %0" : "=r"(value));
  return value;
}

struct [[gnu::packed]] DescriptorTable {
  uint16_t limit;
  uint64_t base;
};

DescriptorTable Gdtr() {
  DescriptorTable table;
  asm volatile("sgdt %0" : "=m"(table));
  return table;
}

DescriptorTable Idtr() {
  DescriptorTable table;
  asm volatile("sidt %0" : "=m"(table));
  return table;
}

// L2's stack pointer as if it had been called: 8 below a multiple of 16.
uint64_t StackPointer(const NestedRun& run) { return run.block + kStackEnd - 8; }

namespace svm {

// AMD APM volume 2, appendix B: offsets in the VMCB.
constexpr uint64_t kInterceptExceptions = 0x008;
constexpr uint64_t kIntercept1 = 0x00c;
constexpr uint64_t kIntercept2 = 0x010;
constexpr uint64_t kAsid = 0x058;
constexpr uint64_t kExitCode = 0x070;
constexpr uint64_t kExitInfo1 = 0x078;
constexpr uint64_t kExitInfo2 = 0x080;
constexpr uint64_t kNpEnable = 0x090;
constexpr uint64_t kNestedCr3 = 0x0b0;
constexpr uint64_t kEs = 0x400;
constexpr uint64_t kCs = 0x410;
constexpr uint64_t kSs = 0x420;
constexpr uint64_t kDs = 0x430;
constexpr uint64_t kGdtr = 0x460;
constexpr uint64_t kIdtr = 0x480;
constexpr uint64_t kEfer = 0x4d0;
constexpr uint64_t kCr4 = 0x548;
constexpr uint64_t kCr3 = 0x550;
constexpr uint64_t kCr0 = 0x558;
constexpr uint64_t kDr7 = 0x560;
constexpr uint64_t kDr6 = 0x568;
constexpr uint64_t kRflags = 0x570;
constexpr uint64_t kRip = 0x578;
constexpr uint64_t kRsp = 0x5d8;
constexpr uint64_t kGuestPat = 0x668;

constexpr uint32_t kInterceptShutdown = 1u << 31;  // of kIntercept1
constexpr uint32_t kInterceptVmrun = 1u << 0;      // of kIntercept2
constexpr uint32_t kInterceptVmmcall = 1u << 1;

// Appendix C.
constexpr uint64_t kExitPageFault = 0x40 + kPageFaultVector;
constexpr uint64_t kExitShutdown = 0x7f;
constexpr uint64_t kExitVmmcall = 0x81;
constexpr uint64_t kExitNpf = 0x400;
constexpr uint64_t kExitInvalid = ~0ull;

constexpr uint32_t kMsrEfer = 0xc0000080;
constexpr uint64_t kEferSvme = 1ull << 12;
constexpr uint32_t kMsrPat = 0x277;
constexpr uint32_t kMsrHostSave = 0xc0010117;

void SetSegment(uint64_t address, uint16_t selector, uint16_t attributes) {
  At<uint16_t>(address) = selector;
  At<uint16_t>(address + 2) = attributes;
  At<uint32_t>(address + 4) = 0xffffffff;
  At<uint64_t>(address + 8) = 0;
}

void SetTable(uint64_t address, const DescriptorTable& table) {
  At<uint32_t>(address + 4) = table.limit;
  At<uint64_t>(address + 8) = table.base;
}

void SetUp(const NestedRun& run, void (*entry)(Mailbox*)) {
  WriteMsr(kMsrEfer, ReadMsr(kMsrEfer) | kEferSvme);
  WriteMsr(kMsrHostSave, run.block + kHostOffset);

  const uint64_t vmcb = run.block + kControlOffset;
  ClearPage(vmcb);
  asm volatile("vmsave %%rax" : : "a"(vmcb) : "memory");  // FS, GS, TR, LDTR, system call MSRs
  At<uint32_t>(vmcb + kIntercept1) = kInterceptShutdown;
  At<uint32_t>(vmcb + kIntercept2) = kInterceptVmrun | kInterceptVmmcall;
  At<uint32_t>(vmcb + kAsid) = 1;
  if (run.nested_root != 0) {
    At<uint64_t>(vmcb + kNpEnable) = 1;
    At<uint64_t>(vmcb + kNestedCr3) = run.nested_root;
    At<uint64_t>(vmcb + kGuestPat) = ReadMsr(kMsrPat);
  } else {
    At<uint32_t>(vmcb + kInterceptExceptions) = 1u << kPageFaultVector;
  }
  constexpr uint16_t kCode64 = 0xa9b;  // G, L, present, execute/read, accessed
  constexpr uint16_t kData = 0xc93;
  SetSegment(vmcb + kCs, kCodeSelector, kCode64);
  for (const uint64_t segment : {kEs, kSs, kDs}) SetSegment(vmcb + segment, kDataSelector, kData);
  SetTable(vmcb + kGdtr, Gdtr());
  SetTable(vmcb + kIdtr, Idtr());
  At<uint64_t>(vmcb + kEfer) = ReadMsr(kMsrEfer);
  At<uint64_t>(vmcb + kCr0) = Cr0();
  At<uint64_t>(vmcb + kCr3) = run.cr3;
  At<uint64_t>(vmcb + kCr4) = Cr4();
  At<uint64_t>(vmcb + kDr6) = 0xffff0ff0;
  At<uint64_t>(vmcb + kDr7) = 0x400;
  At<uint64_t>(vmcb + kRflags) = kL2Rflags;
  At<uint64_t>(vmcb + kRip) = reinterpret_cast<uint64_t>(entry);
  At<uint64_t>(vmcb + kRsp) = StackPointer(run);
}

void Enter(uint64_t vmcb, Mailbox* mailbox) {
  // L2 gets RDI, and leaves its own values in all registers but RAX and RSP.
  asm volatile(
      "pushq %%rbp\n\t"
      "clgi\n\t"
      "vmload %%rax\n\t"
      "vmrun %%rax\n\t"
      "stgi\n\t"
      "popq %%rbp"
      : "+a"(vmcb), "+D"(mailbox)
      :
      : "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc",
        "memory");
}

void Run(Mailbox& mailbox, void (*entry)(Mailbox*)) {
  NestedRun& run = mailbox.nested;
  SetUp(run, entry);
  const uint64_t vmcb = run.block + kControlOffset;
  Enter(vmcb, &mailbox);
  run.exit_code = At<uint64_t>(vmcb + kExitCode);
  run.exit_info = At<uint64_t>(vmcb + kExitInfo1);
  run.fault_addr = At<uint64_t>(vmcb + kExitInfo2);
  run.end = run.exit_code == kExitVmmcall                                  ? NestedEnd::kHypercall
            : run.exit_code == kExitNpf || run.exit_code == kExitPageFault ? NestedEnd::kFault
            : run.exit_code == kExitShutdown                               ? NestedEnd::kShutdown
            : run.exit_code == kExitInvalid                                ? NestedEnd::kEntryFailed
                                                                           : NestedEnd::kOther;
}

}  // namespace svm

namespace vmx {

// Intel SDM volume 3, appendix B: encodings of the VMCS's fields.
enum Field : uint64_t {
  kGuestEsSelector = 0x0800,  // followed by CS, SS, DS, FS, GS, LDTR, TR, 2 apart
  kGuestCsSelector = 0x0802,
  kGuestLdtrSelector = 0x080c,
  kGuestTrSelector = 0x080e,
  kHostEsSelector = 0x0c00,
  kHostCsSelector = 0x0c02,
  kHostSsSelector = 0x0c04,
  kHostDsSelector = 0x0c06,
  kHostFsSelector = 0x0c08,
  kHostGsSelector = 0x0c0a,
  kHostTrSelector = 0x0c0c,
  kEptPointer = 0x201a,
  kGuestPhysicalAddress = 0x2400,
  kLinkPointer = 0x2800,
  kGuestDebugctl = 0x2802,
  kPinControls = 0x4000,
  kProcessorControls = 0x4002,
  kExceptionBitmap = 0x4004,
  kPageFaultMask = 0x4006,
  kPageFaultMatch = 0x4008,
  kCr3TargetCount = 0x400a,
  kExitControls = 0x400c,
  kExitMsrStoreCount = 0x400e,
  kExitMsrLoadCount = 0x4010,
  kEntryControls = 0x4012,
  kEntryMsrLoadCount = 0x4014,
  kEntryInterruption = 0x4016,
  kProcessorControls2 = 0x401e,
  kInstructionError = 0x4400,
  kExitReason = 0x4402,
  kExitInterruption = 0x4404,
  kGuestEsLimit = 0x4800,  // in the order of the selectors, then GDTR and IDTR
  kGuestLdtrLimit = 0x480c,
  kGuestTrLimit = 0x480e,
  kGuestGdtrLimit = 0x4810,
  kGuestIdtrLimit = 0x4812,
  kGuestEsRights = 0x4814,  // in the order of the selectors
  kGuestCsRights = 0x4816,
  kGuestLdtrRights = 0x4820,
  kGuestTrRights = 0x4822,
  kGuestInterruptibility = 0x4824,
  kGuestActivity = 0x4826,
  kGuestSysenterCs = 0x482a,
  kHostSysenterCs = 0x4c00,
  kCr0Mask = 0x6000,
  kCr4Mask = 0x6002,
  kCr0Shadow = 0x6004,
  kCr4Shadow = 0x6006,
  kExitQualification = 0x6400,
  kGuestCr0 = 0x6800,
  kGuestCr3 = 0x6802,
  kGuestCr4 = 0x6804,
  kGuestEsBase = 0x6806,  // in the order of the selectors, then GDTR and IDTR
  kGuestGsBase = 0x6810,
  kGuestLdtrBase = 0x6812,
  kGuestTrBase = 0x6814,
  kGuestGdtrBase = 0x6816,
  kGuestIdtrBase = 0x6818,
  kGuestDr7 = 0x681a,
  kGuestRsp = 0x681c,
  kGuestRip = 0x681e,
  kGuestRflags = 0x6820,
  kGuestPendingDebug = 0x6822,
  kGuestSysenterEsp = 0x6824,
  kGuestSysenterEip = 0x6826,
  kHostCr0 = 0x6c00,
  kHostCr3 = 0x6c02,
  kHostCr4 = 0x6c04,
  kHostFsBase = 0x6c06,
  kHostGsBase = 0x6c08,
  kHostTrBase = 0x6c0a,
  kHostGdtrBase = 0x6c0c,
  kHostIdtrBase = 0x6c0e,
  kHostSysenterEsp = 0x6c10,
  kHostSysenterEip = 0x6c12,
  kHostRsp = 0x6c14,
  kHostRip = 0x6c16,
};

// Appendix A: what the controls have to be and may be.
constexpr uint32_t kMsrFeatureControl = 0x3a;
constexpr uint64_t kLocked = 1;
constexpr uint64_t kVmxOutsideSmx = 1 << 2;
constexpr uint32_t kMsrBasic = 0x480;
constexpr uint64_t kHasTrueControls = 1ull << 55;  // of kMsrBasic
constexpr uint32_t kMsrPinControls = 0x481;        // then processor, exit and entry
constexpr uint32_t kMsrTruePinControls = 0x48d;    // likewise
constexpr uint32_t kMsrProcessorControls2 = 0x48b;

constexpr uint64_t kCr4Vmxe = 1 << 13;
constexpr uint32_t kActivateControls2 = 1u << 31;  // of kProcessorControls
constexpr uint32_t kEnableEpt = 1u << 1;           // of kProcessorControls2
constexpr uint32_t kHost64 = 1u << 9;              // of kExitControls
constexpr uint32_t kGuest64 = 1u << 9;             // of kEntryControls

// Appendix C.
constexpr uint64_t kReasonException = 0;
constexpr uint64_t kReasonTripleFault = 2;
constexpr uint64_t kReasonVmcall = 18;
constexpr uint64_t kReasonEptViolation = 48;
constexpr uint64_t kReasonEptMisconfiguration = 49;
constexpr uint64_t kEntryFailure = 1ull << 31;

void Write(uint64_t field, uint64_t value) {
  asm volatile("vmwrite %1, %0" : : "r"(field), "r"(value) : "cc", "memory");
}

uint64_t Read(uint64_t field) {
  uint64_t value;
  asm volatile("vmread %1, %0" : "=r"(value) : "r"(field) : "cc", "memory");
  return value;
}

// `wanted`, with the bits that have to be set, without those that must not be.
uint64_t Allowed(uint32_t msr, uint32_t wanted) {
  const uint64_t limits = ReadMsr(msr);
  return (wanted | static_cast<uint32_t>(limits)) & limits >> 32;
}

// VMX operation, once per vCPU.
void TurnOn(uint64_t region) {
  if ((Cr4() & kCr4Vmxe) != 0) return;
  const uint64_t feature_control = ReadMsr(kMsrFeatureControl);
  if ((feature_control & kLocked) == 0)
    WriteMsr(kMsrFeatureControl, feature_control | kLocked | kVmxOutsideSmx);
  asm volatile("movq %0, %%cr4" : : "r"(Cr4() | kCr4Vmxe) : "memory");
  ClearPage(region);
  At<uint32_t>(region) = static_cast<uint32_t>(ReadMsr(kMsrBasic)) & 0x7fffffff;
  asm volatile("vmxon %0" : : "m"(region) : "cc", "memory");
}

void SetControls(const NestedRun& run) {
  const bool true_controls = (ReadMsr(kMsrBasic) & kHasTrueControls) != 0;
  const uint32_t msr = true_controls ? kMsrTruePinControls : kMsrPinControls;
  const bool ept = run.nested_root != 0;
  Write(kPinControls, Allowed(msr, 0));
  Write(kProcessorControls, Allowed(msr + 1, ept ? kActivateControls2 : 0));
  Write(kExitControls, Allowed(msr + 2, kHost64));
  Write(kEntryControls, Allowed(msr + 3, kGuest64));
  if (ept) {
    Write(kProcessorControls2, Allowed(kMsrProcessorControls2, kEnableEpt));
    Write(kEptPointer, run.nested_root);
  }
  Write(kExceptionBitmap, ept ? 0 : 1u << kPageFaultVector);
  for (const uint64_t field :
       {kPageFaultMask, kPageFaultMatch, kCr3TargetCount, kExitMsrStoreCount, kExitMsrLoadCount,
        kEntryMsrLoadCount, kEntryInterruption, kCr0Mask, kCr4Mask})
    Write(field, 0);
  Write(kCr0Shadow, Cr0());
  Write(kCr4Shadow, Cr4());
}

void SetGuestState(const NestedRun& run, uint64_t gs_base, void (*entry)(Mailbox*)) {
  constexpr uint64_t kCode64 = 0xa09b;  // G, L, present, execute/read, accessed
  constexpr uint64_t kData = 0xc093;
  constexpr uint64_t kBusyTss = 0x8b;
  constexpr uint64_t kUnusable = 0x10000;
  // ES to GS.
  for (uint64_t i = 0; i < 6; i++) {
    const bool code = kGuestEsSelector + i * 2 == kGuestCsSelector;
    Write(kGuestEsSelector + i * 2, code ? kCodeSelector : kDataSelector);
    Write(kGuestEsBase + i * 2, 0);
    Write(kGuestEsLimit + i * 2, 0xffffffff);
    Write(kGuestEsRights + i * 2, code ? kCode64 : kData);
  }
  Write(kGuestGsBase, gs_base);
  Write(kGuestLdtrSelector, 0);
  Write(kGuestLdtrBase, 0);
  Write(kGuestLdtrLimit, 0);
  Write(kGuestLdtrRights, kUnusable);
  Write(kGuestTrSelector, 0x18);
  Write(kGuestTrBase, 0);
  Write(kGuestTrLimit, 0x67);
  Write(kGuestTrRights, kBusyTss);
  const DescriptorTable gdtr = Gdtr();
  const DescriptorTable idtr = Idtr();
  Write(kGuestGdtrBase, gdtr.base);
  Write(kGuestGdtrLimit, gdtr.limit);
  Write(kGuestIdtrBase, idtr.base);
  Write(kGuestIdtrLimit, idtr.limit);
  Write(kGuestCr0, Cr0());
  Write(kGuestCr3, run.cr3);
  Write(kGuestCr4, Cr4());
  Write(kGuestDr7, 0x400);
  Write(kGuestRflags, kL2Rflags);
  Write(kGuestRip, reinterpret_cast<uint64_t>(entry));
  Write(kGuestRsp, StackPointer(run));
  for (const uint64_t field :
       {kGuestDebugctl, kGuestInterruptibility, kGuestActivity, kGuestSysenterCs,
        kGuestPendingDebug, kGuestSysenterEsp, kGuestSysenterEip})
    Write(field, 0);
  Write(kLinkPointer, ~0ull);
}

// What L1 goes on with after an exit.
void SetHostState(uint64_t gs_base) {
  Write(kHostCsSelector, kCodeSelector);
  for (const uint64_t field :
       {kHostEsSelector, kHostSsSelector, kHostDsSelector, kHostFsSelector, kHostGsSelector})
    Write(field, kDataSelector);
  // Must not be 0; an exit doesn't look it up, and L1 has no use for a TSS.
  Write(kHostTrSelector, 0x18);
  Write(kHostTrBase, 0);
  Write(kHostFsBase, 0);
  Write(kHostGsBase, gs_base);
  Write(kHostGdtrBase, Gdtr().base);
  Write(kHostIdtrBase, Idtr().base);
  Write(kHostCr0, Cr0());
  Write(kHostCr3, Cr3());
  Write(kHostCr4, Cr4());
  for (const uint64_t field : {kHostSysenterCs, kHostSysenterEsp, kHostSysenterEip})
    Write(field, 0);
}

// Whether L2 was entered, and has exited.
bool Enter(Mailbox* mailbox) {
  // L2 gets RDI, and leaves its own values in all registers but RSP.  If VMLAUNCH fails (CF or ZF
  // is set), the next instruction is executed.
  uint64_t entered;
  asm volatile(
      "pushq %%rbp\n\t"
      "movl %[host_rsp], %%eax\n\t"
      "vmwrite %%rsp, %%rax\n\t"
      "leaq 1f(%%rip), %%rdx\n\t"
      "movl %[host_rip], %%eax\n\t"
      "vmwrite %%rdx, %%rax\n\t"
      "vmlaunch\n\t"
      "xorl %%eax, %%eax\n\t"
      "jmp 2f\n"
      "1:\tmovl $1, %%eax\n"
      "2:\tpopq %%rbp"
      : "=&a"(entered), "+D"(mailbox)
      : [host_rsp] "i"(kHostRsp), [host_rip] "i"(kHostRip)
      : "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc",
        "memory");
  return entered != 0;
}

NestedEnd Classify(uint64_t reason) {
  if ((reason & kEntryFailure) != 0) return NestedEnd::kEntryFailed;
  switch (reason & 0xffff) {
    case kReasonVmcall:
      return NestedEnd::kHypercall;
    case kReasonEptViolation:
    case kReasonEptMisconfiguration:
      return NestedEnd::kFault;
    case kReasonException:
      return (Read(kExitInterruption) & 0xff) == kPageFaultVector ? NestedEnd::kFault
                                                                  : NestedEnd::kOther;
    case kReasonTripleFault:
      return NestedEnd::kShutdown;
    default:
      return NestedEnd::kOther;
  }
}

void Run(Mailbox& mailbox, void (*entry)(Mailbox*)) {
  NestedRun& run = mailbox.nested;
  const uint64_t vmcs = run.block + kControlOffset;
  TurnOn(run.block + kHostOffset);
  asm volatile("vmclear %0" : : "m"(vmcs) : "cc", "memory");
  ClearPage(vmcs);
  At<uint32_t>(vmcs) = static_cast<uint32_t>(ReadMsr(kMsrBasic)) & 0x7fffffff;
  asm volatile("vmptrld %0" : : "m"(vmcs) : "cc", "memory");
  SetControls(run);
  SetGuestState(run, mailbox.self, entry);
  SetHostState(mailbox.self);

  if (!Enter(&mailbox)) {
    run.instruction_error = static_cast<uint32_t>(Read(kInstructionError));
    run.end = NestedEnd::kEntryFailed;
    return;
  }
  run.exit_code = Read(kExitReason);
  run.exit_info = Read(kExitQualification);
  run.end = Classify(run.exit_code);
  // The address of a page fault is its qualification.
  run.fault_addr = run.nested_root != 0 ? Read(kGuestPhysicalAddress) : run.exit_info;
}

}  // namespace vmx

}  // namespace

void Hypercall(Virtualization kind) {
  if (kind == Virtualization::kSvm)
    asm volatile("vmmcall" : : : "memory");
  else
    asm volatile("vmcall" : : : "memory");
}

void RunNested(Mailbox& mailbox, void (*entry)(Mailbox*)) {
  NestedRun& run = mailbox.nested;
  for (;;) {
    run.entries++;
    if (run.kind == Virtualization::kSvm)
      svm::Run(mailbox, entry);
    else
      vmx::Run(mailbox, entry);
    if (run.end != NestedEnd::kFault && run.end != NestedEnd::kShutdown) return;
    __atomic_store_n(&run.faults, run.faults + 1, __ATOMIC_RELEASE);
    if (run.restart == 0 || __atomic_load_n(&mailbox.stop, __ATOMIC_ACQUIRE) != 0) return;
  }
}

}  // namespace slotzap::guest

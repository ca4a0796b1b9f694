// SPDX-License-Identifier: GPL-2.0-only
// Where a vCPU starts, and where it lands on an exception.  64-bit mode, flat segments, paging on;
// RSP is the vCPU's stack, GS.base and RDI are its mailbox.

	.section .text.entry, "ax"
	.globl agent_entry
agent_entry:
	lgdt	gdt_pointer(%rip)
	lidt	idt_pointer(%rip)
	call	AgentMain
1:	hlt
	jmp	1b

	.text
	// One stub per vector, 16 bytes apart.  Vectors without an error code get a zero, so that
	// the stack looks the same for all: vector, error code, RIP, ...
	.balign	16
	.globl exception_stubs
exception_stubs:
	.set	vector, 0
	.rept	32
	.balign	16
	.if	(vector != 8) && (vector != 10) && (vector != 11) && (vector != 12) && \
		(vector != 13) && (vector != 14) && (vector != 17) && (vector != 21)
	pushq	$0
	.endif
	pushq	$vector
	jmp	exception
	.set	vector, vector + 1
	.endr

exception:
	movq	(%rsp), %rdi
	movq	8(%rsp), %rsi
	movq	16(%rsp), %rdx
	call	AgentException
1:	hlt
	jmp	1b

	.data
	.balign	16
gdt:
	.quad	0
	.quad	0x00af9b000000ffff	// 0x08: 64-bit code
	.quad	0x00cf93000000ffff	// 0x10: data
gdt_pointer:
	.word	. - gdt - 1
	.quad	gdt

	.balign	16
	.globl idt
idt:
	.fill	32 * 2, 8, 0
idt_pointer:
	.word	32 * 16 - 1
	.quad	idt

	.section .note.GNU-stack, "", @progbits

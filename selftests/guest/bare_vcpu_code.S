// SPDX-License-Identifier: GPL-2.0-only
// What a BareVcpu executes: stores EBP, unless it is zero, at the start of each of ECX pages from EBX
// on, and adds up in EDX the 4 bytes that it then reads there.  Instructions that are the same bytes
// in 32-bit and in 64-bit mode, which need neither stack nor descriptor tables.
	.section .rodata
	.globl slotzap_bare_vcpu_code
slotzap_bare_vcpu_code:
	.code32
1:	testl	%ebp, %ebp
	jz	2f
	movl	%ebp, (%ebx)
2:	movl	(%ebx), %eax
	addl	%eax, %edx
	addl	$4096, %ebx
	subl	$1, %ecx
	jnz	1b
	hlt
	.code64
	.globl slotzap_bare_vcpu_code_end
slotzap_bare_vcpu_code_end:
	.section .note.GNU-stack, "", @progbits

// SPDX-License-Identifier: GPL-2.0-only
// What a vCPU runs in System Management Mode: stores 4 bytes, unless they are zero, at the start of
// every page of a range, and reads 8 bytes of each, which it adds up, in 32-bit arithmetic on each
// half.  Loaded at SMBASE + 0x8000, entered in 16-bit mode with flat 4 GiB segments (AMD APM
// volume 2, 10.3.4).  Parameters and result: guest/smm.cc.
	.section .rodata
	.globl slotzap_smm_handler
slotzap_smm_handler:
	.code16
	movl	$0x37000, %esi
	addr32 movl	(%esi), %ebx
	addr32 movl	4(%esi), %ecx
	addr32 movl	16(%esi), %ebp
	xorl	%edx, %edx
	xorl	%edi, %edi
1:	testl	%ebp, %ebp
	jz	2f
	addr32 movl	%ebp, (%ebx)
2:	addr32 movl	(%ebx), %eax
	addl	%eax, %edx
	addr32 movl	4(%ebx), %eax
	addl	%eax, %edi
	addl	$4096, %ebx
	decl	%ecx
	jnz	1b
	addr32 movl	%edx, 8(%esi)
	addr32 movl	%edi, 12(%esi)
	rsm
	.code64
	.globl slotzap_smm_handler_end
slotzap_smm_handler_end:
	.section .note.GNU-stack, "", @progbits

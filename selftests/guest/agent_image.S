// SPDX-License-Identifier: GPL-2.0-only
// The agent's image as data of the host program.
	.section .rodata
	.balign	16
	.globl slotzap_agent_image
slotzap_agent_image:
	.incbin	AGENT_IMAGE
	.globl slotzap_agent_image_end
slotzap_agent_image_end:
	.section .note.GNU-stack, "", @progbits

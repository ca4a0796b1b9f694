/* SPDX-License-Identifier: GPL-2.0-only */
/* The interface of the test module noncoherent.c.  Compiled into the kernel and into the tests. */
#pragma once

#include <linux/ioctl.h>

#define SLOTZAP_NONCOHERENT_NAME "slotzap-noncoherent"

/*
 * The argument is the file descriptor of a VM.  The VM has non-coherent DMA until the file is
 * closed that the ioctl was made on.  Once per open file.
 */
#define SLOTZAP_NONCOHERENT_ATTACH _IO('Z', 0)

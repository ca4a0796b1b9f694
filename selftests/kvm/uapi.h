// SPDX-License-Identifier: GPL-2.0-only
// <linux/kvm.h> for C++.
//
// The kernel's __DECLARE_FLEX_ARRAY puts an empty struct in front of a flexible array.  That takes
// no space in C, but one byte in C++, so that structs, and with them ioctl numbers, come out wrong
// (later headers define the macro for C++ as it is here).
#pragma once

#include <linux/stddef.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#undef __DECLARE_FLEX_ARRAY
// NOLINTNEXTLINE(bugprone-reserved-identifier): the kernel's name
#define __DECLARE_FLEX_ARRAY(type, name) type name[0]
#include <linux/kvm.h>
#pragma GCC diagnostic pop

static_assert(sizeof(kvm_cpuid2) == 8);
static_assert(sizeof(kvm_stats_desc) == 16);

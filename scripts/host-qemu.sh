# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# How host-lib.sh's machines are started with QEMU; sourced after it. MEMORY is theirs, in MiB; CPUS
# how many processors they have.
# shellcheck disable=SC2034,SC2154 # for, and from, host-lib.sh

: "${MEMORY:=4096}" "${CPUS:=2}"
machine_name=QEMU
command_line+=(panic=-1 hugepagesz=1G hugepages=1 hugepagesz=2M hugepages=64)

qemu_with() { # WHAT-EMULATES-THE-PROCESSOR...
	machine_command=(qemu-system-x86_64 -machine q35 "$@" -smp "$CPUS" -m "$MEMORY"
		-nodefaults -display none -nic none -no-reboot
		-serial "file:$out/console.log" -serial "file:$out/stdout.log"
		-serial "file:$out/results.raw"
		-kernel "$kernel" -initrd "$out/initrd" -append "${command_line[*]}")
}

ended_well() { (($1 == 0)); }

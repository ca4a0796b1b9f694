# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# How host-lib.sh's machines are started with QEMU; sourced after it. MEMORY is theirs, in MiB; CPUS
# how many processors they have.
# shellcheck disable=SC2034,SC2154 # for, and from, host-lib.sh

: "${MEMORY:=4096}" "${CPUS:=2}"
machine_name=QEMU
command_line+=(panic=-1 hugepagesz=1G hugepages=1 hugepagesz=2M hugepages=64)
# Left to itself, the kernel would unmap guest memory, to see which node uses it: every count of
# what is zapped would be wrong.
command_line+=(numa_balancing=disable)

# Half of the memory and of the processors each.
two_nodes() {
	local memory=$((MEMORY / 2)) cpus=$((CPUS / 2))
	machine_command+=(
		-object "memory-backend-ram,id=memory0,size=${memory}M"
		-object "memory-backend-ram,id=memory1,size=$((MEMORY - memory))M"
		-numa "node,nodeid=0,memdev=memory0,cpus=0-$((cpus - 1))"
		-numa "node,nodeid=1,memdev=memory1,cpus=$cpus-$((CPUS - 1))")
}

# A disk that does DMA, for tests that need a file system with O_DIRECT; /init makes one.
scratch_disk() {
	truncate -s 64M "$out/disk"
	machine_command+=(-drive "file=$out/disk,if=none,id=disk,format=raw,cache=unsafe"
		-device "nvme,drive=disk,serial=slotzap")
}

# A socket per processor: Linux warns of processors that share a cache, but no node.
qemu_with() { # WHAT-EMULATES-THE-PROCESSOR...
	machine_command=(qemu-system-x86_64 -machine q35 "$@" -smp "$CPUS,sockets=$CPUS" -m "$MEMORY"
		-nodefaults -display none -nic none -no-reboot
		-serial "file:$out/console.log" -serial "file:$out/stdout.log"
		-serial "file:$out/results.raw"
		-kernel "$kernel" -initrd "$out/initrd" -append "${command_line[*]}")
	# One processor is what measures: that host stays as simple as it can be.
	((CPUS == 1)) || two_nodes
	scratch_disk
}

ended_well() { (($1 == 0)); }

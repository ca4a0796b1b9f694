#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
# shellcheck disable=SC2016,SC2154,SC2030,SC2031 # stand-ins are quoted for later; bats and helpers set variables

load helpers

setup() {
	setup_copy
	mkdir -p build/9.9/image-cloud/boot
	touch build/9.9/image-cloud/boot/vmlinuz-9.9 build/9.9/initramfs.cpio.gz
	echo 'echo hello' >job
	export QUIET=60 LIMIT=60
}

# A QEMU that says on its ports what the test wants: $console, $job and $results are their files.
fake_qemu() { # SCRIPT
	stand_in qemu-system-x86_64 '
		printf "%s\n" "$@" >arguments
		ports=($(sed -n "s/^file://p" arguments))
		console=${ports[0]} job=${ports[1]} results=${ports[2]}
		say() { echo "$1" >>"$console"; }
		'"$1"
}

host() { scripts/host-svm tdp job out; }

@test "a host that does its job hands back output, results and status" {
	mkdir r
	echo fine >r/file
	tar -czf r.tgz -C r .
	fake_qemu 'say "slotzap-host: ready after 1.00 s"; echo hello >"$job"
		{ sha256sum <r.tgz; cat r.tgz; } >"$results"
		say "slotzap-host: done status 0"'
	host
	[[ $(<out/results/file) == fine && $(<out/status) == 0 && $(<out/stdout.log) == hello ]]
	[[ ! -e out/error ]]
}

@test "the status of a job that fails is kept" {
	mkdir r
	tar -czf r.tgz -C r .
	fake_qemu '{ sha256sum <r.tgz; cat r.tgz; } >"$results"; say "slotzap-host: done status 7"'
	run host
	[[ $status -ne 0 && $(<out/status) == 7 ]]
}

@test "a panic is named" {
	fake_qemu 'say "[    1.5] Kernel panic - not syncing: Fatal exception"'
	refuses "kernel died" "Kernel panic - not syncing: Fatal exception" -- host
	[[ -s out/error ]]
}

@test "the test that a host died in is named, if there was one" {
	fake_qemu 'printf "1..2\n# running A.x\nok 1 A.x # 1 s\n# running A.y\n# half\n" >"$job"
		say "[    1.5] Kernel panic - not syncing: x"'
	refuses "kernel died in A.y: " -- host
	fake_qemu 'printf "# running A.x\nok 1 A.x # 1 s\n" >"$job"; say "[    1.5] Kernel panic - not syncing: x"'
	refuses "kernel died: " -- host
	fake_qemu 'echo "# running A.x" >"$job"; exec tail -f /dev/null'
	QUIET=2 refuses "hangs in A.x, silent for 2 s" -- host
	LIMIT=2 refuses "not finished after 2 s in A.x; " -- host
	fake_qemu 'echo "# running A.x" >"$job"'
	refuses "stopped in A.x before the job was done" -- host
}

@test "a host that panics and stays is ended" {
	fake_qemu 'say "Kernel panic - not syncing: x"; say "---[ end Kernel panic - not syncing: x ]---"
		echo $$ >pid; exec tail -f /dev/null'
	refuses "kernel died" "Kernel panic - not syncing: x" -- host
	run ! kill -0 "$(<pid)"
}

@test "the processor's threads are as asked for" {
	fake_qemu 'exit 1'
	run host
	grep -qx tcg,thread=single arguments
	TCG_THREAD=multi run host
	grep -qx tcg,thread=multi arguments
	TCG_THREAD=both refuses "TCG_THREAD=both: not known; right values: single multi" -- host
}

@test "there is a device to assign, behind the IOMMU that was asked for" {
	fake_qemu 'exit 1'
	run host
	grep -qx 'intel-iommu,intremap=on,snoop-control=on' arguments
	grep -qx edu arguments
	grep -q 'IOMMU=coherent ' out/job/run
	IOMMU=noncoherent run host
	grep -qx 'intel-iommu,intremap=on,snoop-control=off' arguments
	grep -q 'IOMMU=noncoherent ' out/job/run
}

@test "memory and processors are on two nodes" {
	fake_qemu 'exit 1'
	MEMORY=1001 CPUS=3 run host
	[[ $(grep -x -A 1 -e -smp arguments) == *3,sockets=3 && $(grep -x -A 1 -e -m arguments) == *1001 ]]
	[[ $(grep -x -A 1 -e -object arguments | grep memory | xargs) == "memory-backend-ram,id=memory0,size=500M "'memory-backend-ram,id=memory1,size=501M' ]]
	[[ $(grep -x -A 1 -e -numa arguments | grep node | xargs) == "node,nodeid=0,memdev=memory0,cpus=0-0 "'node,nodeid=1,memdev=memory1,cpus=1-2' ]]
	grep -q 'numa_balancing=disable' arguments
}

@test "a host with one processor has one node" {
	fake_qemu 'exit 1'
	ICOUNT=1 run host
	[[ $(grep -x -A 1 -e -smp arguments) == *1,sockets=1 ]]
	run ! grep -x -e -numa arguments
}

@test "the disk is there while the host runs" {
	fake_qemu 'stat -c %s out/disk >size; exit 1'
	run host
	[[ $(<size) == $((64 << 20)) && ! -e out/disk ]]
	grep -qx 'file=out/disk,if=none,id=disk,format=raw,cache=unsafe' arguments
}

@test "a host that is silent is ended" {
	fake_qemu 'say "booting"; echo $$ >pid; exec tail -f /dev/null'
	export QUIET=2
	refuses "silent for 2 s" "Last line: booting" -- host
	run ! kill -0 "$(<pid)"
}

@test "how far the job is is said now and then" {
	fake_qemu 'printf "1..7\n# running A.x\nok 1 A.x # 1 s\nnot ok 2 A.y\n" >"$job"; exec tail -f /dev/null'
	export QUIET=3 TELL=1
	run --separate-stderr host
	[[ $stderr == *" s, 2 of 7 tests"* ]]
	fake_qemu 'printf "row/size:4KiB/iterations:5/manual_time 1 ns\n" >"$job"; exec tail -f /dev/null'
	run --separate-stderr host
	[[ $stderr == *" s, 1 measured"* ]]
}

@test "a host that talks for too long is ended" {
	fake_qemu 'while :; do say "still here"; done'
	export LIMIT=4
	refuses "not finished after 4 s" -- host
}

@test "a QEMU that does not start is named" {
	fake_qemu 'echo "qemu: no such machine" >&2; exit 1'
	refuses "QEMU ended with status 1: qemu: no such machine" -- host
}

@test "a QEMU that ends early is noticed" {
	fake_qemu 'say "booting"'
	refuses "stopped before the job was done" -- host
}

@test "a module that does not load is named" {
	fake_qemu 'say "slotzap-host: cannot load kvm_amd"; say "slotzap-host: done status 1"'
	refuses "cannot load kvm_amd" -- host
}

@test "an MMU mode that is not in effect is named" {
	fake_qemu 'say "slotzap-host: kvm.tdp_mmu is N instead of Y"; say "slotzap-host: done status 1"'
	refuses "kvm.tdp_mmu is N instead of Y" -- host
}

@test "results that do not arrive whole are noticed" {
	fake_qemu 'echo "0123  -" >"$results"; echo half >>"$results"; say "slotzap-host: done status 0"'
	refuses "did not arrive whole" -- host
}

@test "being interrupted ends QEMU" {
	mkfifo started
	fake_qemu 'echo $$ >started; exec tail -f /dev/null'
	scripts/host-svm tdp job out 3>&- &
	local pid=$! qemu
	read -r qemu <started
	kill -TERM "$pid"
	wait "$pid" || true
	run ! kill -0 "$qemu"
}

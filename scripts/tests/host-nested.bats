#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
# shellcheck disable=SC2016,SC2154 # stand-ins are quoted for later; bats and helpers set variables

load helpers

# What host-lib.sh does for every machine is tested with QEMU's emulation, see host-svm.bats. This
# machine's own processor and KVM are stand-ins.
setup() {
	setup_copy
	mkdir -p build/9.9/image-cloud/boot r
	touch build/9.9/image-cloud/boot/vmlinuz-9.9 build/9.9/initramfs.cpio.gz kvm
	tar -czf r.tgz -C r .
	echo 'echo hello' >job
	export QUIET=60 LIMIT=60 SYS_MODULE=$BATS_TEST_TMPDIR/module DEV_KVM=$copy/kvm
	this_machine svm kvm_amd 1
	stand_in qemu-system-x86_64 '
		printf "%s\n" "$@" >arguments
		ports=($(sed -n "s/^file://p" arguments))
		{ sha256sum <r.tgz; cat r.tgz; } >"${ports[2]}"
		echo "slotzap-host: done status 0" >>"${ports[0]}"'
}

this_machine() { # FLAG MODULE NESTED
	stand_in grep '[[ "$*" != *"svm|vmx"* ]] || exec echo '"$1"'; exec /usr/bin/grep "$@"'
	rm -rf "$SYS_MODULE"
	mkdir -p "$SYS_MODULE/$2/parameters"
	echo "$3" >"$SYS_MODULE/$2/parameters/nested"
}

host() { scripts/host-nested legacy job out; }

after() { /usr/bin/grep -x -A 1 -e "$1" arguments | tail -n 1; } # OPTION

@test "it is a VM with this machine's processor, and the job loads its vendor's module" {
	host
	[[ $(<out/status) == 0 && $(after -accel) == kvm && $(after -cpu) == host ]]
	[[ $(<out/job/vendor) == kvm_amd && $(<out/job/params) == "kvm tdp_mmu=N"$'\n'"kvm_amd npt=Y" ]]
	this_machine vmx kvm_intel Y
	host
	[[ $(<out/job/vendor) == kvm_intel && $(<out/job/params) == *"kvm_intel ept=Y" ]]
}

@test "a processor that virtualises, with a KVM that keeps it for itself, is not enough" {
	for nested in N 0; do
		this_machine vmx kvm_intel "$nested"
		refuses "ON=nested: this machine's KVM does not offer nested virtualisation" \
			"kvm_intel/parameters/nested is not Y" -- host
	done
	rm -r "$SYS_MODULE"
	refuses "does not offer nested virtualisation" -- make check ON=nested
	[[ ! -e arguments ]]
}

@test "a KVM that may not be used is named" {
	rm kvm
	refuses "ON=nested: no access to $copy/kvm" -- host
	refuses "ON=nested: no access to $copy/kvm" -- make check ON=nested
	[[ ! -e arguments ]]
}

@test "a processor that does not virtualise is named, once" {
	stand_in grep '[[ "$*" != *"svm|vmx"* ]] || exit 1; exec /usr/bin/grep "$@"'
	refuses "this machine's processor offers neither svm nor vmx" -- host
}

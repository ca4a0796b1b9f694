#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
# shellcheck disable=SC2016,SC2154 # stand-ins are quoted for later; bats and helpers set variables

load helpers

# What host-lib.sh does for every machine is tested with QEMU, see host-svm.bats.
setup() {
	setup_copy
	mkdir -p build/9.9/image-cloud/boot
	touch build/9.9/image-cloud/boot/vmlinuz-9.9 build/9.9/initramfs.cpio.gz
	echo 'echo hello' >job
	export QUIET=20 LIMIT=20
	stand_in cp '[[ $1 == /usr/lib/* ]] || exec /usr/bin/cp "$@"'
	stand_in xorriso 'find out/boot/tree -type f >disk; cat out/boot/tree/isolinux/isolinux.cfg >>disk'
}

fake_bochs() { # SCRIPT
	stand_in bochs '
		port() { sed -n "s/^com$1:.*dev=//p" out/boot/bochsrc; }
		say() { echo "$1" >>"$(port 1)"; }
		[[ $(<out/boot/commands) == c ]] || exit 9
		'"$1"
}

host() { scripts/host-vmx shadow job out; }

@test "the disk has kernel and initrd, the job loads kvm_intel, and status 1 is how Bochs ends well" {
	mkdir r
	tar -czf r.tgz -C r .
	fake_bochs '{ sha256sum <r.tgz; cat r.tgz; } >"$(port 3)"; say "slotzap-host: done status 0"; exit 1'
	host
	[[ $(<out/status) == 0 && ! -e out/boot ]]
	[[ $(<disk) == *out/boot/tree/vmlinuz* && $(<disk) == *out/boot/tree/initrd* ]]
	[[ $(<disk) == *"append initrd=/initrd console=ttyS0"* ]]
	[[ $(<out/job/vendor) == kvm_intel && $(<out/job/params) == *"kvm_intel ept=N"* ]]
}

@test "a Bochs that fails is named" {
	fake_bochs 'echo "no such CPU model" >&2; exit 2'
	refuses "Bochs ended with status 2: no such CPU model" -- host
}

@test "a disk that cannot be made is named" {
	stand_in xorriso 'echo "no space" >&2; exit 1'
	refuses "cannot make a boot disk: no space" -- host
}

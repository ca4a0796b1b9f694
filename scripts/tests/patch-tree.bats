#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
# shellcheck disable=SC2016,SC2154 # stand-ins are quoted for later; bats and helpers set variables

load helpers

setup() {
	setup_copy
	tree=$BATS_TEST_TMPDIR/linux
	make_tree "$tree"
	before=$(fingerprint "$tree")
}

untouched() { [[ $(fingerprint "$tree") == "$before" ]]; }

refuses_and_leaves_alone() {
	refuses "$@" && untouched
}

@test "apply changes the files, revert gives back every byte and mode" {
	chmod 755 "$tree/virt/kvm/kvm_main.c"
	before=$(fingerprint "$tree")
	scripts/patch-tree apply "$tree"
	grep -qx ten "$tree/arch/x86/kvm/mmu/mmu.c"
	grep -qx thirty "$tree/virt/kvm/kvm_main.c"
	grep -qx new "$tree/virt/kvm/new.c"
	[[ $(stat -c %a "$tree/virt/kvm/kvm_main.c") == 755 ]]
	[[ $(find "$tree" -type f | wc -l) == 4 ]]
	scripts/patch-tree revert "$tree"
	untouched
}

@test "make patch and make unpatch take KSRC, relative too" {
	make patch KSRC=../linux
	grep -qx ten "$tree/arch/x86/kvm/mmu/mmu.c"
	make unpatch KSRC=../linux
	untouched
}

@test "a git tree: only the files change, not the index nor the commits" {
	local git=(git -C "$tree" -c user.name=t -c user.email=t@localhost)
	"${git[@]}" init -q
	"${git[@]}" add .
	"${git[@]}" commit -qm base
	head=$("${git[@]}" rev-parse HEAD)
	scripts/patch-tree apply "$tree"
	[[ $("${git[@]}" rev-parse HEAD) == "$head" ]]
	"${git[@]}" diff --cached --quiet
	[[ $("${git[@]}" status --porcelain | wc -l) == 3 ]]
	scripts/patch-tree revert "$tree"
	[[ -z $("${git[@]}" status --porcelain) ]]
}

@test "refuses without KSRC" {
	refuses "KSRC is not set" -- make patch
}

@test "refuses a KSRC that does not exist" {
	refuses "/nowhere: no such folder" -- scripts/patch-tree apply /nowhere
}

@test "refuses a KSRC that is a file" {
	refuses "not a folder" -- scripts/patch-tree apply "$tree/Makefile"
}

@test "refuses a folder that is no kernel tree" {
	rm -r "$tree/arch"
	refuses "not a kernel source tree" -- scripts/patch-tree apply "$tree"
}

@test "refuses a version without a series, and lists those there are" {
	sed -i 's/^PATCHLEVEL.*/PATCHLEVEL = 8/' "$tree/Makefile"
	refuses "holds Linux 9.8" "there is: 9.9" -- scripts/patch-tree apply "$tree"
}

@test "refuses to patch twice" {
	scripts/patch-tree apply "$tree"
	before=$(fingerprint "$tree")
	refuses_and_leaves_alone "patched already" -- scripts/patch-tree apply "$tree"
}

@test "refuses to take back what is not there" {
	refuses_and_leaves_alone "is not patched" -- scripts/patch-tree revert "$tree"
}

@test "refuses a partly patched tree, either way" {
	patch -s -d "$tree" -p1 <kernel/9.9/0001-first.patch
	before=$(fingerprint "$tree")
	refuses_and_leaves_alone "partly patched (1 of 2" -- scripts/patch-tree apply "$tree"
	refuses_and_leaves_alone "partly patched (1 of 2" -- scripts/patch-tree revert "$tree"
}

@test "refuses a tree that the series does not fit; names patch, file and hunk" {
	sed -i 's/^12$/twelve/' "$tree/arch/x86/kvm/mmu/mmu.c"
	before=$(fingerprint "$tree")
	refuses_and_leaves_alone "0001-first.patch: arch/x86/kvm/mmu/mmu.c, hunk #1" -- \
		scripts/patch-tree apply "$tree"
}

@test "refuses when only the last patch does not fit" {
	sed -i 's/^31$/x/' "$tree/virt/kvm/kvm_main.c"
	before=$(fingerprint "$tree")
	refuses_and_leaves_alone "0002-second.patch: virt/kvm/kvm_main.c, hunk #1" -- \
		scripts/patch-tree apply "$tree"
}

@test "refuses a tree that lacks a file" {
	rm "$tree/virt/kvm/kvm_main.c"
	before=$(fingerprint "$tree")
	refuses_and_leaves_alone "0002-second.patch: a file it changes is missing" -- \
		scripts/patch-tree apply "$tree"
}

@test "a file that cannot be written leaves the tree as it was" {
	local as_user=()
	((EUID)) || {
		as_user=(setpriv --reuid=65534 --regid=65534 --clear-groups)
		chown -R 65534:65534 "$tree"
		# A user must get through to here.
		chmod -R o+rX "$BATS_RUN_TMPDIR"
	}
	chmod 444 "$tree/virt/kvm/kvm_main.c"
	before=$(fingerprint "$tree")
	refuses_and_leaves_alone "cannot write" "kvm_main.c" -- \
		"${as_user[@]}" scripts/patch-tree apply "$tree"
}

@test "a full disk leaves the tree as it was" {
	stand_in cp 'for last; do :; done
		[[ $last != *kvm_main.c.slotzap-new ]] || exit 1
		exec /bin/cp "$@"'
	refuses_and_leaves_alone "cannot write" "disk full?" -- scripts/patch-tree apply "$tree"
}

@test "a rename that fails half way is undone" {
	stand_in mv '[[ $2 != *kvm_main.c.slotzap-new ]] || exit 1
		exec /bin/mv "$@"'
	run scripts/patch-tree apply "$tree"
	((status))
	untouched
}

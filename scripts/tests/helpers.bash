# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# shellcheck disable=SC2154 # set by bats
#
# A copy of the scripts beside a tiny series for a tiny Linux 9.9, and stand-ins for the
# programs that would touch the machine. Each test may break what it likes.

bats_require_minimum_version 1.5.0

setup_copy() {
	local here=$BATS_TEST_DIRNAME/../..
	copy=$BATS_TEST_TMPDIR/copy
	mkdir -p "$copy" "$BATS_TEST_TMPDIR/bin"
	cp -r "$here/scripts" "$here/Makefile" "$copy/"
	export PATH=$BATS_TEST_TMPDIR/bin:$PATH
	unset BASE FLAVOUR ON MODES FILTER PATCHES ALL KSRC KDIR JOBS SLOTZAP_CALLED
	unset IOMMU VFIO_DEVICE
	unset GTEST_TOTAL_SHARDS GTEST_SHARD_INDEX TCG_THREAD
	export BASE=9.9
	stand_in dpkg-query 'echo install ok installed'
	stand_in sudo 'exec "$@"'
	stand_in uname 'if [[ $* == -r ]]; then echo 9.9.1-cloud; else exec /usr/bin/uname "$@"; fi'
	make_series
	cd "$copy" || return
}

stand_in() { # PROGRAM SCRIPT
	printf '#!/usr/bin/env bash\n%s\n' "$2" >"$BATS_TEST_TMPDIR/bin/$1"
	chmod +x "$BATS_TEST_TMPDIR/bin/$1"
}

make_tree() { # DIR
	mkdir -p "$1/arch/x86/kvm/mmu" "$1/virt/kvm"
	printf 'VERSION = 9\nPATCHLEVEL = 9\nSUBLEVEL = 3\n' >"$1/Makefile"
	seq 1 40 >"$1/arch/x86/kvm/mmu/mmu.c"
	seq 1 40 >"$1/virt/kvm/kvm_main.c"
}

# Two patches: the first also makes a file, the second builds on the first.
make_series() {
	local series=$copy/kernel/9.9 a=$BATS_TEST_TMPDIR/a b=$BATS_TEST_TMPDIR/b
	mkdir -p "$series"
	printf '0001-first.patch\n0002-second.patch\n' >"$series/series"
	make_tree "$a"
	cp -r "$a" "$b"
	sed -i 's/^10$/ten/' "$b/arch/x86/kvm/mmu/mmu.c"
	echo 'new' >"$b/virt/kvm/new.c"
	make_patch first >"$series/0001-first.patch"
	rm -r "$a"
	cp -r "$b" "$a"
	sed -i 's/^11$/eleven/' "$b/arch/x86/kvm/mmu/mmu.c"
	sed -i 's/^30$/thirty/' "$b/virt/kvm/kvm_main.c"
	make_patch second >"$series/0002-second.patch"
	rm -r "$a" "$b"
}

make_patch() { # SUBJECT
	printf 'From: A <a@example.org>\nSubject: [PATCH] %s\n\n---\n' "$1"
	(cd "$BATS_TEST_TMPDIR" && diff -Nru a b | grep -v '^diff' |
		sed -E 's,^(---|\+\+\+) ([^\t]*).*,\1 \2,' |
		sed 's,^--- a/virt/kvm/new.c,--- /dev/null,')
	printf -- '-- \n2.39\n'
}

fingerprint() { # DIR: contents, names and modes
	(cd "$1" && find . -path ./.git -prune -o -printf '%p %m %y\n' -type f -exec sha256sum {} + | sort)
}

# Fails with one line, which holds every given text.
refuses() { # TEXT... -- COMMAND...
	local texts=()
	while [[ $1 != -- ]]; do
		texts+=("$1")
		shift
	done
	shift
	run --separate-stderr "$@"
	local text errors
	errors=$(grep -c '^slotzap: error: ' <<<"$stderr") || true
	echo "status $status, stderr: $stderr"
	[[ $status -ne 0 && $errors -eq 1 ]] || return 1
	for text in "${texts[@]}"; do
		grep '^slotzap: error: ' <<<"$stderr" | grep -qF -- "$text" || return 1
	done
}

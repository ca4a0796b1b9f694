#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
# shellcheck disable=SC2016,SC2154 # stand-ins are quoted for later; bats and helpers set variables

load helpers

setup() { setup_copy; }

@test "a wrong BASE lists the right ones" {
	refuses "BASE=1.0: not known" "right values: 9.9" -- make run BASE=1.0
	refuses "BASE=1.0: not known" "right values: 9.9" -- make check BASE=1.0
}

@test "a wrong ON lists the right ones" {
	refuses "ON=arm: not known" "right values: svm vmx nested host" -- make run ON=arm
}

@test "a machine of its own for ON=nested has to be there" {
	stand_in grep '[[ "$*" == *"svm|vmx"* ]] && exit 1; exec /usr/bin/grep "$@"'
	refuses "ON=nested: this machine's processor offers neither svm nor vmx" -- make check ON=nested
}

@test "wrong PATCHES and ALL say what they should be" {
	refuses "PATCHES=some: not known" "right values: all none" -- make check PATCHES=some
	refuses "ALL=2: not known" "right values: 1" -- make check ALL=2
}

@test "a wrong IOMMU says what it should be, and where" {
	refuses "IOMMU=no: not known" "right values: coherent noncoherent" -- make check IOMMU=no
	refuses "IOMMU=noncoherent is for the IOMMU of ON=svm" -- make check IOMMU=noncoherent ON=vmx
}

@test "a wrong VFIO_DEVICE says what it should be, and where" {
	refuses "VFIO_DEVICE=gpu: not a PCI address, as in 0000:01:00.0" -- make check ON=host VFIO_DEVICE=gpu
	refuses "VFIO_DEVICE=01:00.0 is for ON=host" -- make check ON=svm VFIO_DEVICE=01:00.0
}

@test "a wrong MODES lists the right ones" {
	refuses "MODES=fast: not known" "tdp legacy shadow" -- make run MODES="tdp fast"
	refuses "MODES is empty" "tdp legacy shadow" -- env MODES=" " scripts/run
}

@test "a wrong FLAVOUR lists the right ones" {
	refuses "FLAVOUR=rt: not known" "cloud amd64" -- make modules FLAVOUR=rt
}

@test "a wrong JOBS says what it should be" {
	refuses "JOBS=many: not a number above zero" -- make modules JOBS=many
	refuses "JOBS=0" -- make modules JOBS=0
}

@test "a wrong KDIR says what it should be" {
	refuses "KDIR=/nowhere: not a folder of kernel headers" -- make modules KDIR=/nowhere
}

@test "a wrong KSRC says what is wrong with it" {
	refuses "KSRC=/nowhere: no such folder" -- make modules KSRC=/nowhere
	make_tree "$BATS_TEST_TMPDIR/linux"
	sed -i 's/= 9$/= 8/' "$BATS_TEST_TMPDIR/linux/Makefile"
	refuses "holds Linux 8.8, but BASE=9.9" -- make modules KSRC="$BATS_TEST_TMPDIR/linux"
}

@test "without BASE it is 6.1, and the others are listed" {
	mkdir kernel/6.1
	touch kernel/6.1/series
	run --separate-stderr env -u BASE make
	[[ $output == *"BASE=6.1"*"there is: 6.1 9.9."* ]]
}

@test "make lists every target and the defaults" {
	run --separate-stderr make BASE=9.9
	[[ $status -eq 0 ]]
	for word in run check matrix modules patch unpatch mutants clean distclean BASE=9.9 FLAVOUR=cloud \
		ON=svm 'MODES="tdp legacy shadow"' FILTER= PATCHES=all IOMMU=coherent VFIO_DEVICE= ALL= KSRC= KDIR= JOBS=; do
		[[ $output == *"$word"* ]]
	done
}

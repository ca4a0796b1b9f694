#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
# shellcheck disable=SC2016,SC2154 # stand-ins are quoted for later; bats and helpers set variables

load helpers

# Two bases, and stand-ins for the scripts that do the work.
setup() {
	setup_copy
	cp -r kernel/9.9 kernel/9.10
	mkdir -p build/selftests
	for script in suite initramfs; do
		replace "scripts/$script" ''
	done
	replace scripts/matrix 'echo "the matrix"'
	replace scripts/fetch 'folder=build/$BASE/source/arch/x86/include/uapi/asm
		mkdir -p "$folder"
		[[ $BASE == 9.9 ]] || echo KVM_X86_QUIRK_SLOT_ZAP_ALL >"$folder/kvm.h"
		touch "$folder/kvm.h"'
	replace scripts/modules 'echo "$BASE $PATCHES $FLAVOUR" >>built'
	for script in scripts/check-series scripts/style build/selftests/slotzap-unit; do
		replace "$script" 'echo 1..1; echo "ok 1 - $BASE"'
	done
	replace build/selftests/slotzap-tests 'printf "Theme.\n  Test\n"'
	for script in svm vmx nested host; do
		replace "scripts/host-$script" 'echo "$BASE ${0##*host-} $1 $4" >>hosts
			echo "$TCG_THREAD" >>threads
			mkdir -p "$3/results"
			echo "{}" >"$3/results/results.json"
			printf "1..1\nok 1 Theme.Test\n" >"$3/stdout.log"
			echo "$TCG_THREAD: $IOMMU: $(<"$2")" >"$3/job"
			echo 0 >"$3/status"'
	done
	stand_in bats 'echo 1..1; echo ok 1'
}

replace() { # FILE SCRIPT
	printf '#!/usr/bin/env bash\n%s\n' "$2" >"$1"
	chmod +x "$1"
}

check() { run --separate-stderr env "$@" scripts/check; }

parts() { sed -nE 's/^(not )?ok [0-9]+ - //p' <<<"$output" | xargs; }

@test "without BASE, every base is checked, and what none matters to once" {
	check -u BASE
	[[ $status -eq 0 && $stderr == *"BASE: all of 9.9 9.10 (default)"* ]]
	[[ $(parts) == "build-9.9 build-9.10 scripts unit series-9.9 series-9.10 style "* ]]
	hosts=({9.9,9.10}{-svm-tdp,-svm-legacy,-svm-shadow,-vmx-tdp,-vmx-legacy,-vmx-shadow,.noncoherent-svm-tdp})
	[[ $(parts) == *" style ${hosts[*]}" ]]
	[[ ${lines[1]} == 1..21 && ${lines[-1]} == "21 passed, 0 failed, 0 skipped" ]]
	[[ $output == *$'\n'"the matrix"$'\n'* ]]
	[[ $(<build/results/series-9.10.ktap) == *"ok 1 - 9.10"* ]]
	grep -qx '9.10 svm tdp build/9.10/initramfs.cpio.gz' hosts
	grep -qx '9.9 vmx shadow build/9.9/initramfs.cpio.gz' hosts
	[[ $(<build/host/check/9.9-svm-tdp/job) == *"--gtest_filter=\\* "* ]]
	[[ $(<build/host/check/9.9-vmx-tdp/job) != *"--gtest_filter=\\* "* ]]
}

@test "with BASE, only that one" {
	check BASE=9.10 MODES="tdp shadow"
	[[ $status -eq 0 && $stderr == *'BASE="9.10" (given)'* ]]
	[[ $(parts) == "build-9.10 scripts unit series-9.10 style $(echo 9.10-{svm,vmx}-{tdp,shadow}) 9.10.noncoherent-svm-tdp" ]]
	[[ ${lines[1]} == 1..10 && $(sort -u built) == "9.10 all cloud" ]]
}

@test "with FILTER, the suite on every base" {
	check -u BASE FILTER=Theme.Test MODES=tdp
	[[ $status -eq 0 && ${lines[1]} == 1..6 ]]
	[[ $(parts) == "build-9.9 build-9.10 $(echo {9.9,9.10}-{svm,vmx}-tdp)" ]]
}

@test "with ON, the whole suite there and nothing else" {
	check ON=vmx MODES=tdp
	[[ $status -eq 0 && $(parts) == "build-9.9 9.9-vmx-tdp" ]]
	[[ $(<build/host/check/9.9-vmx-tdp/job) == *"--gtest_filter=\\* "* ]]
	rm built
	check ON=host MODES=tdp
	[[ $status -eq 0 && $(parts) == "build-9.9 9.9-host-tdp" && ! -e built ]]
}

@test "with ON=host, the kernel that runs, whether there is a series for it or not" {
	check -u BASE ON=host MODES="tdp shadow"
	[[ $status -eq 0 && $(parts) == "build-9.9 9.9-host-tdp 9.9-host-shadow" && $(wc -l <hosts) == 2 ]]
	[[ $output == *"# again make check BASE=9.9 ON=host MODES=tdp FILTER="* ]]
	stand_in uname 'echo 10.21.0-rc3+'
	check -u BASE ON=host MODES=tdp
	[[ $status -eq 0 && $stderr == *'BASE="10.21" (default)'* && $(parts) == "build-10.21 10.21-host-tdp" ]]
	refuses "BASE=9.9: ON=host takes the kernel that runs on this machine, which is Linux 10.21.0-rc3+" -- \
		make check ON=host BASE=9.9
}

@test "with PATCHES=none, the suite on the kernel as it comes" {
	check PATCHES=none MODES=tdp ON=svm
	[[ $(parts) == "build-9.9.unpatched 9.9.unpatched-svm-tdp" && $(<built) == "9.9 none cloud" ]]
	[[ $output == *"# again make check BASE=9.9 ON=svm MODES=tdp PATCHES=none FILTER="* ]]
	grep -qx '9.9 svm tdp build/9.9/unpatched/initramfs.cpio.gz' hosts
}

@test "with ALL=1, everything everywhere" {
	check -u BASE ALL=1 MODES=tdp
	[[ $(parts) == *" 9.9-svm-tdp 9.9-vmx-tdp 9.9.noncoherent-svm-tdp 9.9.multi-svm-tdp 9.9.amd64-svm-tdp "* ]]
	[[ $(parts) == *" 9.9.amd64-svm-tdp 9.10-svm-tdp "* ]]
	[[ $(parts) == *" 9.10.amd64-svm-tdp 9.10.unpatched-svm-tdp" && $(parts) != *9.9.unpatched* ]]
	[[ $(<build/host/check/9.9-vmx-tdp/job) == *"--gtest_filter=\\* "* ]]
	[[ $(<build/host/check/9.9.multi-svm-tdp/job) == "multi: coherent: "*Race*" --hold-vm" ]]
	grep -qx '9.10 amd64' <(cut -d ' ' -f 1,3 built)
	[[ $output == *"# again make modules BASE=9.10 FLAVOUR=amd64"$'\n'* ]]
	[[ $output == *"# again make modules BASE=9.10 PATCHES=none"$'\n'* ]]
	grep -qx '9.10 svm tdp build/9.10/amd64/initramfs.cpio.gz' hosts
}

@test "the tests of VFIO run behind a non-coherent IOMMU, too, in one mode or, with ALL=1, in each" {
	check BASE=9.9 MODES="legacy shadow"
	[[ $(parts) == *" 9.9-vmx-shadow 9.9.noncoherent-svm-legacy" ]]
	[[ $(<build/host/check/9.9.noncoherent-svm-legacy/job) == "single: noncoherent: "*'--gtest_filter=\*Vfio\* '* ]]
	[[ $(<build/host/check/9.9-svm-legacy/job) == "single: coherent: "* ]]
	[[ $output == *"# again make check BASE=9.9 ON=svm MODES=legacy IOMMU=noncoherent FILTER="* ]]
	check BASE=9.9 ALL=1 MODES="legacy shadow"
	[[ $(parts) == *" 9.9.noncoherent-svm-legacy 9.9.noncoherent-svm-shadow "* ]]
	check ON=svm IOMMU=noncoherent MODES=tdp
	[[ $(parts) == "build-9.9 9.9-svm-tdp" ]]
	[[ $(<build/host/check/9.9-svm-tdp/job) == "single: noncoherent: "* ]]
	refuses "IOMMU=noncoherent takes ON=svm" -- make check IOMMU=noncoherent
}

@test "a thread per processor takes a VM that is held" {
	check ON=svm MODES=tdp TCG_THREAD=multi
	[[ $(<build/host/check/9.9-svm-tdp/job) == "multi: "*" --hold-vm" ]]
	[[ $output == *"# again TCG_THREAD=multi make check BASE=9.9 ON=svm MODES=tdp FILTER="* ]]
}

@test "shards are GoogleTest's own" {
	check ON=svm MODES=tdp GTEST_TOTAL_SHARDS=4 GTEST_SHARD_INDEX=2
	[[ $(<build/host/check/9.9-svm-tdp/job) == *"export GTEST_TOTAL_SHARDS=4"*"export GTEST_SHARD_INDEX=2"* ]]
}

@test "shards leave each other's results alone, and the matrix has all of them" {
	replace build/selftests/slotzap 'printf "%s\n" "${@:4}"; touch "$3"; echo; echo "N passed"'
	cp "$BATS_TEST_DIRNAME/../matrix" scripts/matrix
	check ON=svm MODES=tdp GTEST_TOTAL_SHARDS=2 GTEST_SHARD_INDEX=0
	check ON=svm MODES=tdp GTEST_TOTAL_SHARDS=2 GTEST_SHARD_INDEX=1
	both=$'\n'build/results/shard-0-of-2/9.9-svm-tdp.json$'\n'build/results/shard-1-of-2/9.9-svm-tdp.json$'\n'
	[[ $status -eq 0 && $(parts) == "build-9.9 9.9-svm-tdp" && $output == *"$both"* ]]
	[[ ! -e build/results/9.9-svm-tdp.json ]]
	check ON=svm MODES="tdp shadow" GTEST_TOTAL_SHARDS=2 GTEST_SHARD_INDEX=1
	check ON=svm MODES=tdp GTEST_TOTAL_SHARDS=2 GTEST_SHARD_INDEX=1
	[[ $output == *"$both"* && $output != *shadow* ]]
	check ON=svm MODES=tdp GTEST_TOTAL_SHARDS=3 GTEST_SHARD_INDEX=1
	[[ $(echo build/results/shard-*) == build/results/shard-1-of-3 ]]
	check ON=svm MODES=tdp
	[[ $(find build/results -name '*.json') == build/results/9.9-svm-tdp.json && ! -e build/results/shard-1-of-3 ]]
	check ON=svm MODES=tdp GTEST_TOTAL_SHARDS=2 GTEST_SHARD_INDEX=0
	[[ $(find build/results -name '*.json') == build/results/shard-0-of-2/9.9-svm-tdp.json ]]
}

@test "wrong shards say what they should be" {
	refuses "GTEST_TOTAL_SHARDS=2, GTEST_SHARD_INDEX=2: not a number, and one below it" -- \
		make check GTEST_TOTAL_SHARDS=2 GTEST_SHARD_INDEX=2
	refuses "GTEST_TOTAL_SHARDS=2, GTEST_SHARD_INDEX=: not" -- make check GTEST_TOTAL_SHARDS=2
	refuses "GTEST_TOTAL_SHARDS=, GTEST_SHARD_INDEX=1: not" -- make check GTEST_SHARD_INDEX=1
}

@test "a tree or headers of the user's own are of one base" {
	mkdir -p kernel/6.1 "$BATS_TEST_TMPDIR/headers/include/config"
	touch kernel/6.1/series "$BATS_TEST_TMPDIR/headers/include/config/auto.conf"
	check -u BASE MODES=tdp KDIR="$BATS_TEST_TMPDIR/headers"
	[[ $stderr == *'BASE="6.1" (default)'* ]]
	[[ $(parts) == *" 6.1-svm-tdp 6.1-vmx-tdp 6.1.noncoherent-svm-tdp" ]]
	[[ $(sort -u built) == "6.1 all cloud" ]]
}

@test "a base that does not build has no hosts, the other one has" {
	replace scripts/modules '[[ $BASE == 9.10 ]]'
	check -u BASE MODES=tdp
	[[ $status -eq 1 && $(sort -u hosts | cut -d ' ' -f 1,2,3 | xargs) == "9.10 svm tdp 9.10 vmx tdp" ]]
	[[ $output == *"not ok "*" - build-9.9"* && $output == *"not ok "*" - 9.9-svm-tdp"* ]]
	[[ $output == *"again: make modules BASE=9.9"* && $output == *"the host was not built"* ]]
	[[ $output == *$'\n'"ok "*" - 9.10-svm-tdp"* ]]
}

@test "one pool of two runs all hosts, whatever their bases" {
	stand_in xargs "echo \"\$*\" >>pools; exec $(command -v xargs) \"\$@\""
	check -u BASE JOBS=8
	# The other pool is that of hosts with a thread per processor, of which there are none.
	[[ $(grep -o -- '--max-procs=.' pools | xargs) == "--max-procs=2 --max-procs=1" ]]
	[[ $(uniq -c threads | xargs) == "14 single" && $(wc -l <hosts) == 14 ]]
}

@test "hosts with a thread per processor run one at a time, after all others" {
	stand_in xargs "echo \"\$*\" >>pools; exec $(command -v xargs) \"\$@\""
	check -u BASE JOBS=8 ALL=1 MODES=tdp
	[[ $(grep -o -- '--max-procs=.' pools | xargs) == "--max-procs=2 --max-procs=1" ]]
	[[ $(uniq -c threads | xargs) == "9 single 2 multi" ]]
}

@test "hosts without results are tallied, and shown in the matrix" {
	replace scripts/host-svm 'mkdir -p "$3"; printf "it \"hangs\" at C:\\\\\033[0m \377\n" >"$3/error"; exit 1'
	replace scripts/host-vmx 'mkdir -p "$3"; echo 3 >"$3/status"; exit 1'
	check BASE=9.9 MODES=tdp
	[[ $status -eq 1 && $output == *$'\n'"the matrix"$'\n'* ]]
	[[ ${lines[-1]} == "5 passed, 3 failed, 0 skipped" && $output == *'it "hangs" at'* ]]
	grep -F '"theme": "host", "outcome": "failed", "seconds": 0, "message": "it \"hangs\" at C:\\[0m "}' \
		build/results/9.9-svm-tdp.json
	grep -F '"message": "its job ended with status 3"' build/results/9.9-vmx-tdp.json
	perl -MJSON::PP -0 -ne 'JSON::PP->new->decode($_)' build/results/9.9-{svm,vmx}-tdp.json
}

@test "that a test starts is no news once it has ended, unless it has more to say" {
	replace scripts/host-svm 'mkdir -p "$3/results"; echo "{}" >"$3/results/results.json"; echo 0 >"$3/status"
		printf "%s\n" 1..4 "# running A.1" "ok 1 A.1" "# running A.2" "ok 2 A.2" "# running A.3" "# hm" \
			"not ok 3 A.3" "# running A.4" >"$3/stdout.log"'
	check ON=svm MODES=tdp
	[[ $(sed '/^# status/,$d' build/results/9.9-svm-tdp.ktap | paste -s -d ,) == \
		"1..4,ok 1 A.1,ok 2 A.2,# running A.3,# hm,not ok 3 A.3,# running A.4" ]]
}

@test "without a host there is no matrix, for what makes it may be what does not build" {
	replace scripts/modules false
	check BASE=9.9 MODES=tdp
	[[ $status -eq 1 && $output != *"the matrix"* && ${lines[-1]} == *" failed, 0 skipped" ]]
	grep -F '"message": "the host was not built"' build/results/9.9-svm-tdp.json
}

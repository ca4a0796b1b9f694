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
	replace scripts/modules 'echo "$BASE" >>built'
	for script in scripts/check-series scripts/style build/selftests/slotzap-unit; do
		replace "$script" 'echo 1..1; echo "ok 1 - $BASE"'
	done
	replace build/selftests/slotzap-tests 'printf "Theme.\n  Test\n"'
	replace scripts/host-svm 'echo "$BASE $1 $4" >>hosts
		mkdir -p "$3"
		printf "1..1\nok 1 Theme.Test\n" >"$3/stdout.log"
		echo 0 >"$3/status"'
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
	[[ $(parts) == *" style $(echo {9.9,9.10}-svm-{tdp,legacy,shadow})" ]]
	[[ ${lines[1]} == 1..13 && ${lines[-1]} == "13 passed, 0 failed, 0 skipped" ]]
	[[ $(<build/results/series-9.10.ktap) == *"ok 1 - 9.10"* ]]
	grep -qx '9.10 tdp build/9.10/initramfs.cpio.gz' hosts
	grep -qx '9.9 shadow build/9.9/initramfs.cpio.gz' hosts
}

@test "with BASE, only that one" {
	check BASE=9.10 MODES="tdp shadow"
	[[ $status -eq 0 && $stderr == *'BASE="9.10" (given)'* ]]
	[[ $(parts) == "build-9.10 scripts unit series-9.10 style 9.10-svm-tdp 9.10-svm-shadow" ]]
	[[ ${lines[1]} == 1..7 && $(<built) == 9.10 ]]
}

@test "with FILTER, the suite on every base" {
	check -u BASE FILTER=Theme.Test MODES=tdp
	[[ $status -eq 0 && ${lines[1]} == 1..2 && $(parts) == "9.9-svm-tdp 9.10-svm-tdp" ]]
}

@test "a tree or headers of the user's own are of one base" {
	mkdir -p kernel/6.1 "$BATS_TEST_TMPDIR/headers/include/config"
	touch kernel/6.1/series "$BATS_TEST_TMPDIR/headers/include/config/auto.conf"
	check -u BASE MODES=tdp KDIR="$BATS_TEST_TMPDIR/headers"
	[[ $stderr == *'BASE="6.1" (default)'* && $(parts) == *" 6.1-svm-tdp" && $(<built) == 6.1 ]]
}

@test "a base that does not build has no hosts, the other one has" {
	replace scripts/modules '[[ $BASE == 9.10 ]]'
	check -u BASE MODES=tdp
	[[ $status -eq 1 && $(<hosts) == "9.10 tdp build/9.10/initramfs.cpio.gz" ]]
	[[ $output == *"not ok "*" - build-9.9"* && $output == *"not ok "*" - 9.9-svm-tdp"* ]]
	[[ $output == *"again: make modules BASE=9.9"* && $output == *"the host was not built"* ]]
	[[ $output == *$'\n'"ok "*" - 9.10-svm-tdp"* ]]
}

@test "one pool of two runs all hosts, whatever their bases" {
	stand_in xargs "echo \"\$*\" >>pools; exec $(command -v xargs) \"\$@\""
	check -u BASE JOBS=8
	[[ $(grep -c -- --max-procs=2 pools) == 1 && $(grep -c -- --max-procs pools) == 1 ]]
	[[ $(wc -l <hosts) == 6 ]]
}

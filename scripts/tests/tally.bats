#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
# shellcheck disable=SC2016,SC2154 # stand-ins are quoted for later; bats and helpers set variables

load helpers

setup() {
	setup_copy
	cd "$BATS_TEST_TMPDIR" || return
}

tally() { run --separate-stderr "$copy/scripts/tally" "$@"; }

@test "passes, failures and skips of all parts add up" {
	printf '%s\n' 'KTAP version 1' 1..3 'ok 1 A.x' 'ok 2 - A.y # SKIP no pages' 'not ok 3 A.z' \
		'# seconds 1.5' '# status 1' '# again make check FILTER=' >one.ktap
	printf '%s\n' '1..1' 'ok 1 - b' >two.ktap
	tally one.ktap two.ktap
	[[ $status -eq 1 ]]
	[[ ${lines[-1]} == "2 passed, 1 failed, 1 skipped" ]]
	[[ $output == *"one: A.y: no pages"* ]]
	[[ $output == *"one: A.z"*"again: make check FILTER=A.z"* ]]
}

@test "what a kernel does not promise is neither passed nor failed" {
	printf '%s\n' 1..3 'ok 1 A.x' 'not ok 2 A.y # TODO precision, not promised here' 'not ok 3 A.z # 1 s' >one.ktap
	tally one.ktap
	[[ $status -eq 1 && ${lines[-1]} == "1 passed, 1 failed, 0 skipped" ]]
	[[ ${lines[-2]} == "1 imprecise, on kernels that do not promise precision: neither passed nor failed" ]]
	[[ $output == *"imprecise: 1"* && $output != *"one: A.y"* ]]
	printf '%s\n' 1..1 'not ok 1 A.y # TODO precision, not promised here' >one.ktap
	tally one.ktap
	[[ $status -eq 0 && ${lines[-1]} == "0 passed, 0 failed, 0 skipped" ]]
}

@test "tests that are skipped for the same reason share a line" {
	printf '%s\n' 1..4 'ok 1 A.x # SKIP no pages' 'ok 2 A.y # SKIP no pages' 'ok 3 B.z # SKIP no pages' \
		'ok 4 B.w # SKIP too slow' >one.ktap
	tally one.ktap
	[[ $status -eq 4 ]]
	[[ $output == *"one: 3 tests: no pages"*"A.*, B.*"*"one: B.w: too slow"* ]]
	[[ ${lines[-1]} == "0 passed, 0 failed, 4 skipped" ]]
}

@test "a test that was planned and never reported has failed" {
	printf '%s\n' 1..5 'ok 1 a' 'ok 2 b' '# died kernel died: BUG' '# again make check MODES=tdp FILTER=' >x.ktap
	tally x.ktap
	[[ $status -eq 1 ]]
	[[ ${lines[-1]} == "2 passed, 3 failed, 0 skipped" ]]
	[[ $output == *"3 of 5 tests never reported (kernel died: BUG)"* ]]
	[[ ${lines[-2]} == *"again: make check MODES=tdp" ]]
}

@test "a part without a plan has failed" {
	echo '# died QEMU ended with status 1' >x.ktap
	tally x.ktap
	[[ $status -eq 1 && ${lines[-1]} == "0 passed, 1 failed, 0 skipped" ]]
}

@test "a part without a test has failed" {
	echo '1..0' >x.ktap
	tally x.ktap
	[[ $status -eq 1 && ${lines[-1]} == "0 passed, 1 failed, 0 skipped" ]]
}

@test "more tests than planned is a failure" {
	printf '%s\n' 1..1 'ok 1 a' 'ok 2 b' >x.ktap
	tally x.ktap
	[[ $status -eq 1 && ${lines[-1]} == "2 passed, 1 failed, 0 skipped" ]]
}

@test "a command that fails although its tests pass is a failure" {
	printf '%s\n' 1..1 'ok 1 a' '# status 139' >x.ktap
	tally x.ktap
	[[ $status -eq 1 && $output == *"ended with status 139"* ]]
}

@test "everything skipped is status 4" {
	printf '%s\n' 1..1 'ok 1 a # SKIP none here' '# status 4' >x.ktap
	printf '%s\n' '1..0 # SKIP no tool' >y.ktap
	tally x.ktap y.ktap
	[[ $status -eq 4 && ${lines[-1]} == "0 passed, 0 failed, 2 skipped" ]]
	[[ $output == *"y: all of it: no tool"* ]]
}

@test "subtests count once, by their parent" {
	printf '%s\n' 1..1 '  1..2' '  ok 1 a' '  ok 2 b' 'ok 1 parent' >x.ktap
	tally x.ktap
	[[ $status -eq 0 && ${lines[-1]} == "1 passed, 0 failed, 0 skipped" ]]
}

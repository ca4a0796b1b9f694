#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
# scripts/suite, with CMake itself and a project of one file
# shellcheck disable=SC2154 # set by bats and by helpers

load helpers

setup() {
	setup_copy
	mkdir selftests
	cat >selftests/CMakeLists.txt <<-'EOF'
		cmake_minimum_required(VERSION 3.25)
		project(tiny NONE)
		file(WRITE ${CMAKE_BINARY_DIR}/built-from "${CMAKE_SOURCE_DIR}")
	EOF
}

@test "a repository that was moved is built from where it is" {
	scripts/suite
	[[ $(<build/selftests/built-from) == "$copy/selftests" ]]
	mv "$copy" "$copy-moved"
	cd "$copy-moved"
	scripts/suite
	[[ $(<build/selftests/built-from) == "$copy-moved/selftests" ]]
}

@test "a repository that stayed keeps what was built" {
	scripts/suite
	touch build/selftests/CMakeFiles/kept
	scripts/suite
	[[ -e build/selftests/CMakeFiles/kept ]]
}

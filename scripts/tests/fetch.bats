#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
# shellcheck disable=SC2016,SC2154 # stand-ins are quoted for later; bats and helpers set variables

load helpers

setup() {
	setup_copy
	stand_in apt-get 'exit 100'
	stand_in apt-cache 'case $1 in
		pkgnames) printf "%s\n" linux-headers-9.9.0-2-cloud-amd64 linux-image-9.9.0-2-cloud-amd64 ;;
		madison) printf "%s | 9.9.5-1 | here\n" linux-source-9.9 linux-headers-9.9.0-2-cloud-amd64 \
			linux-image-9.9.0-2-cloud-amd64 busybox-static ;;
		esac'
}

@test "takes the newest version of which there is source, headers and image" {
	stand_in apt-cache 'case $1 in
		pkgnames) printf "%s\n" linux-headers-9.9.0-{1,2,3}-cloud-amd64 linux-image-9.9.0-{1,2}-cloud-amd64 \
			linux-image-9.9.0-2-amd64 ;;
		madison)
			shift
			for package; do
				case $package in
				linux-source-9.9) printf "$package | 9.9.%s-1 | here\n" 10 9 8 ;;
				linux-*-1-*) echo "$package | 9.9.8-1 | here" ;;
				linux-*-2-*) echo "$package | 9.9.9-1 | here" ;;
				linux-*-3-*) echo "$package | 9.9.10-1 | here" ;;
				busybox-static) echo "$package | 1:1.0 | here" ;;
				esac
			done ;;
		esac'
	scripts/fetch
	[[ $(<downloads/9.9-cloud) == "9.9.9-1 9.9.0-2-cloud-amd64 1:1.0" ]]
}

@test "a backport's package names have no ABI number, and flavours are told apart" {
	stand_in apt-cache 'case $1 in
		pkgnames) printf "%s\n" linux-{headers,image}-9.9.{7,9}+deb12{,-cloud,-rt}-amd64 \
			linux-headers-9.9.9+deb12-common linux-image-9.9.9+deb12-{,cloud-}amd64-unsigned ;;
		madison)
			shift
			for package; do
				case $package in
				linux-source-9.9) printf "$package | 9.9.%s-1~deb12u1 | here\n" 9 7 ;;
				linux-*-9.9.[79]+deb12-cloud-amd64 | linux-*-9.9.[79]+deb12-amd64)
					version=${package#*-*-}
					echo "$package | ${version%%+*}-1~deb12u1 | here" ;;
				busybox-static) echo "$package | 1:1.0 | here" ;;
				*) echo "$package was not to be asked for" >&2 && touch wrong ;;
				esac
			done ;;
		esac'
	scripts/fetch
	[[ $(<downloads/9.9-cloud) == "9.9.9-1~deb12u1 9.9.9+deb12-cloud-amd64 1:1.0" ]]
	FLAVOUR=amd64 scripts/fetch
	[[ $(<downloads/9.9-amd64) == "9.9.9-1~deb12u1 9.9.9+deb12-amd64 1:1.0" ]]
	[[ ! -e wrong ]]
}

@test "a release that apt does not have is one line" {
	stand_in apt-cache 'exit 0'
	refuses "apt offers no linux-source-9.9" -- scripts/fetch source
}

@test "a download that fails is one line, and half of it does not count" {
	stand_in apt-get '[[ $1 != download ]] || echo half >linux-source-9.9_9.9.5-1_all.deb; exit 100'
	refuses "downloading linux-source-9.9 9.9.5-1: failed with status 100" -- scripts/fetch source
	[[ -z $(find downloads -maxdepth 1 -name '*.deb') ]]
}

@test "without network, what is in downloads/ is enough" {
	scripts/fetch
	stand_in apt-cache 'exit 0'
	touch -d '1 year ago' downloads/9.9-cloud
	run --separate-stderr scripts/fetch
	[[ $status -eq 0 && $stderr == *"warning: apt offers no"* && $stderr == *"Linux 9.9.5-1"* ]]
}

@test "too little disk space is one line" {
	stand_in df 'printf "Avail\n100\n"'
	refuses "not enough disk space" "MiB needed, 100 MiB free" -- scripts/fetch source
}

@test "a disk that fills up on the way is one line" {
	stand_in df 'printf "Avail\n%s\n" "$([[ -e full ]] && echo 3 || echo 9999)"'
	stand_in apt-get '[[ $1 != download ]] || touch ../../full; exit 100'
	refuses "no space left on the disk" -- scripts/fetch source
}

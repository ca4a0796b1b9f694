#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
# shellcheck disable=SC2016,SC2154 # stand-ins are quoted for later; bats and helpers set variables

load helpers

# A machine whose KVM is a folder, and a modprobe that acts on it; loaded says with what.
setup() {
	setup_copy
	((EUID == 0)) || skip "only root may use ON=host"
	export SYS_MODULE=$BATS_TEST_TMPDIR/module
	stand_in dmesg 'exec tail -f /dev/null'
	stand_in modprobe '
		echo "$*" >>loaded
		if [[ $1 == -r ]]; then
			[[ ! -e busy ]] || { echo "modprobe: FATAL: Module $2 is in use." >&2; exit 1; }
			rm -rf "$SYS_MODULE/$2"
			exit
		fi
		[[ ! -e "broken-$1" ]] || { rm "broken-$1"; exit 1; }
		[[ $* != *"not required"* ]] || exit 1
		mkdir -p "$SYS_MODULE/$1/parameters" "$SYS_MODULE/kvm/holders"
		cd "$SYS_MODULE/$1/parameters"
		if [[ $1 == kvm ]]; then echo Y >tdp_mmu; echo 60 >halt; else echo Y >npt; echo Y >nested; echo not required >flush; fi
		for word in "${@:2}"; do echo "${word#*=}" >"${word%%=*}"; done
		chmod 444 tdp_mmu npt nested 2>/dev/null || true'
	modprobe kvm
	modprobe kvm_amd
	rm loaded
	echo 'cat "$SYS_MODULE"/*/parameters/{npt,tdp_mmu} 2>/dev/null | xargs; echo "$MODE" >"$RESULTS/mode"' >job
}

parameters() { (cd "$SYS_MODULE" && grep -r . -- */parameters | sort); }

@test "a mode that KVM is in needs no loading" {
	scripts/host-host tdp job out
	[[ ! -e loaded && $(<out/stdout.log) == "Y Y" && $(<out/results/mode) == tdp && $(<out/status) == 0 ]]
}

@test "the device that the user gave reaches the job, and nothing is said of the IOMMU" {
	echo 'echo "$VFIO_DEVICE,$IOMMU"; echo "$SLOTZAP_AGAIN"' >job
	VFIO_DEVICE=0000:01:00.0 scripts/host-host tdp job out
	[[ $(head -n 1 out/stdout.log) == "0000:01:00.0," ]]
	[[ $(tail -n 1 out/stdout.log) == *" ON=host MODES=tdp VFIO_DEVICE=0000:01:00.0" ]]
	scripts/host-host tdp job out
	[[ $(head -n 1 out/stdout.log) == , ]]
}

@test "another mode is loaded, and what was before is restored" {
	echo 70 >"$SYS_MODULE/kvm/parameters/halt"
	local before
	before=$(parameters)
	scripts/host-host shadow job out
	[[ $(<out/stdout.log) == "N Y" && $(parameters) == "$before" ]]
	scripts/host-host legacy job out
	[[ $(<out/stdout.log) == "Y N" && $(parameters) == "$before" ]]
}

@test "what the job changes and what it ends with are undone too" {
	local before
	before=$(parameters)
	echo 'echo 99 >"$SYS_MODULE/kvm/parameters/halt"; exit 3' >job
	for mode in tdp shadow; do
		run scripts/host-host "$mode" job out
		[[ $status -ne 0 && $(<out/status) == 3 && $(parameters) == "$before" ]]
	done
}

@test "parameters that cannot be restored are named" {
	echo 'cd "$SYS_MODULE/kvm/parameters"; rm halt; mkdir halt' >job
	refuses "module parameters are not as they were, which was: kvm halt 60" -- \
		scripts/host-host tdp job out
}

@test "parameters that cannot be written are loaded with" {
	rm "$SYS_MODULE/kvm_amd/parameters/nested"
	modprobe kvm_amd nested=N
	local before
	before=$(parameters)
	rm loaded
	scripts/host-host legacy job out
	[[ $(parameters) == "$before" ]]
}

@test "what sets the mode is loaded as it was, also if it only happens to be so" {
	rm -r "$SYS_MODULE"
	modprobe kvm tdp_mmu=N
	modprobe kvm_amd npt=N
	local before
	before=$(parameters)
	scripts/host-host legacy job out
	[[ $(<out/stdout.log) == "Y N" && $(parameters) == "$before" ]]
	# Root may write to these files, so what they hold then proves nothing.
	[[ $(tail -n 2 loaded) == "kvm tdp_mmu=N"$'\n'"kvm_amd npt=N"* ]]
}

@test "a module that does not load is loaded as it was" {
	echo sometimes >"$SYS_MODULE/kvm_amd/parameters/flush"
	local before
	before=$(parameters)
	touch broken-kvm_amd
	refuses "cannot load kvm_amd npt=N" -- scripts/host-host shadow job out
	[[ $(parameters) == "$before" ]]
	# KVM says "not required", and does not take it.
	echo not required >"$SYS_MODULE/kvm_amd/parameters/flush"
	before=$(parameters)
	touch broken-kvm_amd
	refuses "cannot load kvm_amd npt=N" -- scripts/host-host shadow job out
	[[ $(parameters) == "$before" ]]
}

@test "a KVM that is in use is named and left alone" {
	touch busy
	local before
	before=$(parameters)
	refuses "cannot unload KVM, a VM may be running" "Module kvm_amd is in use" -- \
		scripts/host-host shadow job out
	[[ $(parameters) == "$before" && -s out/error ]]
	rm busy
	mkdir "$SYS_MODULE/kvm/holders/kvmgt"
	refuses "kvm is used by kvmgt" -- scripts/host-host shadow job out
}

@test "a machine without KVM is named" {
	rm -r "$SYS_MODULE"
	refuses "no KVM is loaded" -- scripts/host-host tdp job out
}

@test "being interrupted restores too" {
	local before pid
	before=$(parameters)
	mkfifo started
	echo 'echo >started; exec tail -f /dev/null' >job
	scripts/host-host legacy job out 3>&- &
	pid=$!
	read -r _ <started
	[[ $(<"$SYS_MODULE/kvm/parameters/tdp_mmu") == N ]]
	kill -TERM "$pid"
	wait "$pid" || true
	[[ $(parameters) == "$before" ]]
}

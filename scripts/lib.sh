# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# What every script shares: how to speak, how to fail, the variables, the layout.
# Sourced first by each script; leaves the shell in the top folder.

set -euo pipefail

# The kernel's own make must not inherit BASE=, JOBS= and the like from ours.
unset MAKEFLAGS MFLAGS MAKELEVEL

me=${0##*/}
said=

say() { echo "slotzap: $*" >&2; }
die() {
	said=1
	echo "slotzap: error: $*" >&2
	exit 1
}

# Runs one of our own scripts, which says itself what is wrong.
call() {
	local status=0
	SLOTZAP_CALLED=1 "$@" || status=$?
	((status == 0)) && return
	said=1
	exit "$status"
}

# What a script has to undo however it ends; for scripts to define.
clean_up() { :; }

# Whatever ends a script, the last line says why.
explain_exit() {
	local status=$? command=$BASH_COMMAND
	((status == 0)) || [[ $said ]] && return 0
	if (($(free_mib "$root") < 32)); then
		say "error: $me: no space left on the disk that holds $root"
	else
		say "error: $me: stopped with status $status at: ${command%%$'\n'*}"
	fi
}

free_mib() { df --output=avail --block-size=1M -- "$1" | tail -n 1; }

need_space() { # DIR MIB
	local free
	free=$(free_mib "$1")
	((free >= $2)) || die "not enough disk space for $1: $2 MiB needed, $((free)) MiB free"
}

# Runs a command that takes a while: its output goes to a log, which is shown if it fails.
step() { # WHAT COMMAND...
	local what=$1 log status began=$EPOCHREALTIME
	shift
	mkdir -p build/log
	log=build/log/${what//[^A-Za-z0-9._-]/_}.log
	say "$what ..."
	# Not in a condition: that would switch off the command's own "set -e".
	set +e
	(
		set -e
		"$@"
	) >"$log" 2>&1 </dev/null
	status=$?
	set -e
	if ((status)); then
		# What compilers complain of may be far above the end.
		{ grep -m 5 -A 5 'error: ' "$log" || tail -n 25 "$log"; } >&2
		(($(free_mib "$root") >= 32)) || die "$what: no space left on the disk that holds $root"
		die "$what: failed with status $status, the whole output is in $log"
	fi
	say "$what: $(since "$began") s"
}

since() { awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.1f", to - from }'; }

need_packages() {
	local package missing=()
	command -v dpkg-query >/dev/null ||
		die "this is not Debian or Ubuntu; please install what provides: $* (then continue by hand)"
	for package; do
		[[ $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) == *" installed" ]] ||
			missing+=("$package")
	done
	((${#missing[@]} == 0)) && return
	step "installing ${missing[*]}" install_packages "${missing[@]}"
}

install_packages() {
	as_root apt-get install -y --no-install-recommends "$@" && return
	# The package lists may be absent or older than the archive.
	as_root apt-get update
	as_root apt-get install -y --no-install-recommends "$@"
}

as_root() {
	if ((EUID == 0)); then
		DEBIAN_FRONTEND=noninteractive "$@"
	else
		command -v sudo >/dev/null || die "neither root nor sudo to run: $*"
		sudo DEBIAN_FRONTEND=noninteractive "$@"
	fi
}

# --- variables -----------------------------------------------------------------------------------

chosen=
choose() { # NAME DEFAULT
	local why=given
	if [[ -z ${!1:-} ]]; then
		why=default
		printf -v "$1" '%s' "$2"
	fi
	export "${1?}"
	[[ -z ${!1} ]] || chosen+=" $1=\"${!1}\" ($why)"
}

one_of() { # NAME VALUE RIGHT-VALUES...
	local name=$1 value=$2 right
	shift 2
	for right; do
		[[ $value != "$right" ]] || return 0
	done
	die "$name=$value: not known; right values: $*"
}

bases() {
	local series
	for series in kernel/*/series; do
		[[ ! -f $series ]] || basename "$(dirname "$series")"
	done | sort -V
}

# The kernel that runs on this machine, as bases are called.
running_base() { uname -r | sed -E 's/^([0-9]+\.[0-9]+).*/\1/'; }

# What a script goes through: the base that is chosen or, if it sets each_base and the user does
# not say which, all of them, unless the user's own tree or headers can only be of one. BASE is
# the base at hand. With ON=host that is the kernel that runs, whether there is a series for it or not.
choose_bases() {
	mapfile -t chosen_bases < <(bases)
	if [[ ${ON:-} == host ]]; then
		choose BASE "$(running_base)"
		chosen_bases=("$BASE")
	elif [[ ${each_base:-} && -z ${BASE:-}${KSRC:-}${KDIR:-} ]] && ((${#chosen_bases[@]})); then
		export BASE=${chosen_bases[0]}
		chosen+=" BASE: all of ${chosen_bases[*]} (default)"
	else
		choose BASE 6.1
		chosen_bases=("$BASE")
	fi
}

# Relative folders are meant from where the user stands.
for folder in KSRC KDIR; do
	[[ -z ${!folder:-} ]] || printf -v "$folder" '%s' "$(realpath -m -- "${!folder}")"
done
root=$(realpath -- "$(dirname -- "${BASH_SOURCE[0]}")/..")
cd "$root"
trap 'explain_exit; clean_up' EXIT
trap 'said=1; say "$me: interrupted"; exit 130' INT TERM

choose_bases
choose FLAVOUR cloud
choose ON svm
choose MODES "tdp legacy shadow"
choose FILTER ""
choose PATCHES all
choose ALL ""
choose IOMMU coherent
choose VFIO_DEVICE ""
choose KDIR ""
choose KSRC ""
choose JOBS "$(nproc)"

check_variables() {
	local mode
	mapfile -t known < <(bases)
	one_of ON "$ON" svm vmx nested host
	[[ $ON == host ]] || one_of BASE "$BASE" "${known[@]}"
	[[ $ON != host || $BASE == "$(running_base)" ]] ||
		die "BASE=$BASE: ON=host takes the kernel that runs on this machine, which is Linux $(uname -r)"
	one_of FLAVOUR "$FLAVOUR" cloud amd64
	[[ $ON != nested ]] || own_vendor >/dev/null
	one_of PATCHES "$PATCHES" all none
	[[ -z $ALL ]] || one_of ALL "$ALL" 1
	one_of IOMMU "$IOMMU" coherent noncoherent
	[[ $IOMMU == coherent || $ON == svm ]] ||
		die "IOMMU=$IOMMU is for the IOMMU of ON=svm, which is emulated; ON=$ON has its own, or none"
	[[ -z $VFIO_DEVICE || $VFIO_DEVICE =~ ^([0-9a-f]{4}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$ ]] ||
		die "VFIO_DEVICE=$VFIO_DEVICE: not a PCI address, as in 0000:01:00.0"
	[[ -z $VFIO_DEVICE || $ON == host ]] ||
		die "VFIO_DEVICE=$VFIO_DEVICE is for ON=host, whose device it is; ON=$ON has none, or its own"
	for mode in $MODES; do
		one_of MODES "$mode" tdp legacy shadow
	done
	[[ ${MODES// /} ]] || die "MODES is empty; right values: tdp legacy shadow"
	[[ $JOBS =~ ^[1-9][0-9]*$ ]] || die "JOBS=$JOBS: not a number above zero"
	[[ -z $KDIR || -f $KDIR/include/config/auto.conf ]] ||
		die "KDIR=$KDIR: not a folder of kernel headers (for example /lib/modules/\$(uname -r)/build)"
	if [[ $KSRC ]]; then
		check_tree "$KSRC"
		[[ $(version_of_tree "$KSRC") == "$BASE" ]] ||
			die "KSRC=$KSRC holds Linux $(version_of_tree "$KSRC"), but BASE=$BASE"
	fi
	# Only the script that the user called says what was chosen.
	[[ ${SLOTZAP_CALLED:-} ]] || say "$me:$chosen"
}

# --- kernel trees and series ---------------------------------------------------------------------

check_tree() { # DIR
	[[ -e $1 ]] || die "KSRC=$1: no such folder"
	[[ -d $1 ]] || die "KSRC=$1: not a folder"
	[[ -f $1/Makefile && -d $1/arch/x86/kvm && -d $1/virt/kvm ]] ||
		die "KSRC=$1: not a kernel source tree (it lacks Makefile, arch/x86/kvm or virt/kvm)"
}

version_of_tree() { # DIR
	awk '$2 == "=" && $1 ~ /^(VERSION|PATCHLEVEL)$/ { part[$1] = $3 }
	     END { print part["VERSION"] "." part["PATCHLEVEL"] }' "$1/Makefile"
}

series_of() { # BASE
	sed -n "s,^[^#[:space:]][^[:space:]]*,$root/kernel/$1/&,p" "kernel/$1/series"
}

# The files that patches change, make or remove.
touched_by() { # PATCH...
	(($# == 0)) || sed -n 's,^\(---\|+++\) [ab]/\([^\t]*\).*,\2,p' "$@" | sort -u
}

# The files that patches change or remove, so those that a pristine tree must have.
changed_by() { # PATCH...
	comm -23 <(touched_by "$@") \
		<(sed -n '/^--- \/dev\/null/ { n; s,^+++ b/\([^\t]*\).*,\1,p }' /dev/null "$@" | sort -u)
}

apply_patch() { # DIR PATCH [-R]
	patch --directory="$1" --strip=1 --fuzz=0 --force --no-backup-if-mismatch --reject-file=- \
		"${@:3}" <"$2"
}

# Whether the base has the quirk without the series.
has_quirk() { # BASE
	call env BASE="$1" scripts/fetch source
	grep -q KVM_X86_QUIRK_SLOT_ZAP_ALL "build/$1/source/arch/x86/include/uapi/asm/kvm.h"
}

# --- hosts -------------------------------------------------------------------------------------------

: "${SYS_MODULE:=/sys/module}" "${DEV_KVM:=/dev/kvm}"

# Whether this machine's processor virtualises, by AMD's way (svm) or Intel's (vmx), and its KVM
# lets VMs do so too. That /dev/kvm opens proves neither.
own_vendor() {
	local vendor module
	vendor=$(grep -m 1 -owE 'svm|vmx' /proc/cpuinfo) ||
		die "ON=nested: this machine's processor offers neither svm nor vmx (see /proc/cpuinfo)"
	module=kvm_intel
	[[ $vendor == vmx ]] || module=kvm_amd
	[[ $(cat "$SYS_MODULE/$module/parameters/nested" 2>/dev/null) == [Y1] ]] ||
		die "ON=nested: this machine's KVM does not offer nested virtualisation:" \
			"$SYS_MODULE/$module/parameters/nested is not Y"
	[[ -r $DEV_KVM && -w $DEV_KVM ]] || die "ON=nested: no access to $DEV_KVM"
	echo "$vendor"
}

# What the hosts of ON need besides the modules.
need_host() {
	case $ON in
	svm | nested) need_packages qemu-system-x86 ;;
	vmx) need_packages bochs bochsbios vgabios isolinux syslinux-common xorriso ;;
	esac
	call scripts/suite
}

# The folder with the modules and the initramfs of BASE: as the series makes them for FLAVOUR or,
# with PATCHES=none, as the kernel comes.
host_folder() {
	local folder=build/$BASE
	[[ $PATCHES == all ]] || folder+=/unpatched
	[[ $FLAVOUR == cloud ]] || folder+=/$FLAVOUR
	echo "$folder"
}

# As build_host, for hosts that run slotzap-bench; says where their initramfs is.
bench_host() {
	local folder
	need_host
	folder=$(host_folder)
	OUT=$folder call scripts/modules
	MODULES=$folder call scripts/initramfs "$folder/bench.cpio.gz" build/selftests/slotzap-bench
}

# All that the hosts of ON need, for BASE.
build_host() {
	local folder
	need_host
	[[ $ON != host ]] || return 0
	folder=$(host_folder)
	OUT=$folder call scripts/modules
	MODULES=$folder call scripts/initramfs "$folder/initramfs.cpio.gz" \
		build/selftests/slotzap-tests build/selftests/slotzap
}

# The command that runs the suite again, as it ran in a host in this mode.
again() { # MODE
	local text="make check BASE=$BASE ON=$ON MODES=$1"
	[[ $FLAVOUR == cloud ]] || text+=" FLAVOUR=$FLAVOUR"
	[[ $PATCHES == all ]] || text+=" PATCHES=$PATCHES"
	[[ $IOMMU == coherent ]] || text+=" IOMMU=$IOMMU"
	[[ -z $VFIO_DEVICE ]] || text+=" VFIO_DEVICE=$VFIO_DEVICE"
	[[ ${TCG_THREAD:-single} == single ]] || text="TCG_THREAD=$TCG_THREAD $text"
	echo "$text"
}

# Runs a job in a host per mode, with the results in OUT-DIR/BASE-ON-MODE.
run_modes() { # JOB OUT-DIR [INITRAMFS]
	local mode
	for mode in $MODES; do
		host_line "$1" "$2/$BASE-$ON-$mode" "$mode" "${3:-}"
	done | run_hosts
}

# A host for run_hosts.
host_line() { # JOB OUT-DIR MODE [INITRAMFS]
	echo "BASE=$BASE FLAVOUR=$FLAVOUR PATCHES=$PATCHES TCG_THREAD=${TCG_THREAD:-single} IOMMU=$IOMMU" \
		"scripts/host-$ON $3 $1 $2 ${4:-$(host_folder)/initramfs.cpio.gz}"
}

# Runs the hosts on standard input, at most two at a time; this machine itself only once.
run_hosts() {
	local most=$((JOBS < 2 ? JOBS : 2))
	[[ $ON != host ]] || most=1
	SLOTZAP_CALLED=1 xargs --no-run-if-empty --max-lines=1 --max-procs="$most" env
}

# The job that runs the suite's tests. GoogleTest's own variables for sharding reach them.
suite_job() { # FILTER [ARGUMENT...]
	local variable
	for variable in GTEST_TOTAL_SHARDS GTEST_SHARD_INDEX; do
		[[ -z ${!variable:-} ]] || printf 'export %s=%q\n' "$variable" "${!variable}"
	done
	# shellcheck disable=SC2016 # RESULTS and MODE are the host's to expand
	printf 'export SLOTZAP_RESULTS=$RESULTS\nexec slotzap-tests --mode="$MODE" --gtest_filter=%q %s\n' \
		"$1" "${*:2}"
}

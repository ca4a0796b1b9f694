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

# What a script goes through: the base that is chosen or, if it sets each_base and the user does
# not say which, all of them, unless the user's own tree or headers can only be of one. BASE is
# the base at hand.
choose_bases() {
	mapfile -t chosen_bases < <(bases)
	if [[ ${each_base:-} && -z ${BASE:-}${KSRC:-}${KDIR:-} ]] && ((${#chosen_bases[@]})); then
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
choose KDIR ""
choose KSRC ""
choose JOBS "$(nproc)"

check_variables() {
	local mode
	mapfile -t known < <(bases)
	one_of BASE "$BASE" "${known[@]}"
	one_of FLAVOUR "$FLAVOUR" cloud amd64
	case $ON in
	svm) ;;
	vmx | nested | host) die "ON=$ON: not covered yet; covered: svm" ;;
	*) one_of ON "$ON" svm ;;
	esac
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

# --- emulated hosts ------------------------------------------------------------------------------

# All that an emulated host needs.
build_host() {
	need_packages qemu-system-x86
	call scripts/modules
	call scripts/suite
	call scripts/initramfs "build/$BASE/initramfs.cpio.gz" \
		build/selftests/slotzap-tests build/selftests/slotzap
}

# Runs a job in a host per base and mode, at most two at a time, with the results in
# OUT-DIR/BASE-ON-MODE.
run_hosts() { # JOB OUT-DIR [INITRAMFS [BASE...]]
	local base mode bases=("${@:4}")
	for base in "${bases[@]:-$BASE}"; do
		for mode in $MODES; do
			printf '%s\0' "BASE=$base" scripts/host-svm "$mode" "$1" "$2/$base-$ON-$mode" \
				"${3:-build/$base/initramfs.cpio.gz}"
		done
	done | SLOTZAP_CALLED=1 xargs --null --max-args=6 --max-procs="$((JOBS < 2 ? JOBS : 2))" env
}

# The job that runs the suite's tests.
suite_job() { # FILTER
	# shellcheck disable=SC2016 # MODE is the host's to expand
	printf 'export SLOTZAP_RESULTS=/results\nexec slotzap-tests --mode="$MODE" --gtest_filter=%q\n' "$1"
}

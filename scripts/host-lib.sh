# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# What all machines that the suite boots have in common; sourced by scripts/host-svm, host-vmx and
# host-nested, after lib.sh. Each of those is used as
#
#   scripts/host-X MODE JOB OUT-DIR [INITRAMFS]
#
# and boots a host whose KVM has its MMU in MODE (tdp, legacy or shadow), which runs the shell
# script JOB. OUT-DIR receives
#   console.log   the kernel log                  stdout.log   what the job printed
#   results/      what the job put in /results    status       the job's exit status
# The job finds MODE, IOMMU, and RESULTS for /results, in its environment. A host that panics, is silent for QUIET seconds, or takes
# longer than LIMIT seconds in all is ended, and OUT-DIR/error says why. Each TELL seconds it is said how
# far the job is.
#
# Before it calls run_job, a script defines
#   vendor            svm or vmx: which of KVM's vendor modules is loaded
#   machine_name      what runs it, for messages
#   command_line      array: the kernel's command line
#   prepare_machine   makes what it needs, and sets the array machine_command: how to start it
#                     with the kernel $kernel and $out/initrd; its serial ports are
#                     $out/console.log, $out/stdout.log and $out/results.raw
#   ended_well STATUS whether it ended by itself as it should

# shellcheck disable=SC2034,SC2154 # for, and from, the script that sources this

: "${QUIET:=120}" "${LIMIT:=900}" "${TELL:=60}"

out=
machine=
command_line=(console=ttyS0 loglevel=6 oops=panic mitigations=off transparent_hugepage=madvise)

run_job() { # MODE JOB OUT-DIR [INITRAMFS]
	local mode=$1 job=$2 initramfs=${4:-$(host_folder)/initramfs.cpio.gz}
	check_variables
	one_of MODE "$mode" tdp legacy shadow
	out=$3
	name=$(basename "$out")
	rm -rf "$out"
	mkdir -p "$out/job"
	start=$EPOCHREALTIME
	pack_job "$mode" "$job" "$initramfs"
	run_machine
	unpack_results
}

# The kernel takes several archives in one initrd; the job is the last.
pack_job() { # MODE JOB INITRAMFS
	local tdp_mmu=Y paging=Y vendor_module
	case $1 in
	legacy) tdp_mmu=N ;;
	shadow) paging=N ;;
	esac
	case $vendor in
	svm) vendor_module=kvm_amd nested_paging=npt ;;
	vmx) vendor_module=kvm_intel nested_paging=ept ;;
	esac
	echo "$vendor_module" >"$out/job/vendor"
	printf '%s\n' "kvm tdp_mmu=$tdp_mmu" "$vendor_module $nested_paging=$paging" >"$out/job/params"
	# Without nested paging there is no TDP MMU, whatever its parameter says.
	[[ $1 == shadow ]] || echo "kvm tdp_mmu $tdp_mmu" >"$out/job/expect"
	echo "$vendor_module $nested_paging $paging" >>"$out/job/expect"
	{
		echo "export MODE=$1 RESULTS=/results IOMMU=$IOMMU SLOTZAP_AGAIN='$(again "$1")'"
		cat "$2"
	} >"$out/job/run"
	(cd "$out" && find job | sort | cpio --quiet -o -H newc --owner=0:0) | gzip -1 |
		cat "$3" - >"$out/initrd"
}

run_machine() {
	local status=0 began=$SECONDS quiet_since=$SECONDS told=$SECONDS said=0 now=0 ready='' alive
	kernel=$(echo "build/$BASE/image-$FLAVOUR"/boot/vmlinuz-*)
	touch "$out"/{console.log,stdout.log}
	prepare_machine
	# The machine keeps this pipe open as long as it lives, and never writes to it.
	mkfifo "$out/alive"
	"${machine_command[@]}" >"$out/machine.log" 2>&1 </dev/null 9>"$out/alive" &
	machine=$!
	exec {alive}<"$out/alive"
	while ! ended_within_a_second "$alive"; do
		((SECONDS - began < LIMIT)) || fail "not finished after $LIMIT s$(in_test); ended. $(last_words)"
		now=$(stat -c %s "$out/console.log" "$out/stdout.log" | paste -s)
		if [[ $now != "$said" ]]; then
			said=$now quiet_since=$SECONDS
		elif ((SECONDS - quiet_since >= QUIET)); then
			fail "hangs$(in_test), silent for $QUIET s; ended. $(last_words)"
		fi
		if [[ ! $ready ]] && grep -qa 'slotzap-host: ready' "$out/console.log"; then
			ready=$(since "$start")
			say "host $name: first line of the job about $ready s after start"
		fi
		if ((SECONDS - told >= TELL)); then
			told=$SECONDS
			say "host $name: $((SECONDS - began)) s$(so_far)"
		fi
		# Not every machine ends then.
		! grep -qa -e '---\[ end Kernel panic' "$out/console.log" || break
	done
	judge_console
	wait "$machine" || status=$?
	machine=
	ended_well "$status" ||
		fail "$machine_name ended with status $status: $(tail -n 1 "$out/machine.log")"
	grep -qa 'slotzap-host: done status' "$out/console.log" ||
		fail "stopped$(in_test) before the job was done. $(last_words)"
	since "$start" >"$out/seconds"
	say "host $name: finished in $(<"$out/seconds") s"
}

ended_within_a_second() { # PIPE
	local status=0
	IFS= read -r -t 1 -u "$1" || status=$?
	((status <= 128))
}

fail() {
	echo "$*" >"$out/error"
	since "$start" >"$out/seconds"
	die "host $name: $*"
}

clean_up() {
	if [[ $machine ]]; then
		kill -KILL "$machine" 2>/dev/null || true
		wait "$machine" 2>/dev/null || true
	fi
	[[ -z $out ]] || rm -rf "${out:?}"/{alive,initrd,boot,disk}
}

last_words() { echo "Last line: $(tail -qn 1 "$out/stdout.log" "$out/console.log" 2>/dev/null | grep -m 1 .)"; }

# How much is done, if the job says so: the suite has a plan, slotzap-bench has a line per case.
so_far() {
	LC_ALL=C awk '
		/^1\.\.[0-9]/ { plan = substr($1, 4) }
		/^(not )?ok / { tests++ }
		/\/iterations:/ { cases++ }
		END {
			if (plan) printf ", %d of %d tests", tests, plan
			else if (cases) printf ", %d measured", cases
		}' "$out/stdout.log"
}

# Where the job was, if it is the suite: its tests say when they start.
in_test() {
	LC_ALL=C awk '/^# running / { test = " in " $3 } /^(not )?ok / { test = "" } END { print test }' \
		"$out/stdout.log"
}

judge_console() {
	local panic
	panic=$(grep -m 1 -aE 'Kernel panic|BUG: |Oops: |general protection fault' "$out/console.log" |
		tr -d '\r') || true
	[[ ! $panic ]] || fail "kernel died$(in_test): $panic (see $out/console.log)"
}

unpack_results() {
	local sum complaint
	complaint=$(sed -n 's/.*slotzap-host: \(cannot load .*\|.* is .* instead of .*\)/\1/p' \
		"$out/console.log" | tr -d '\r' | sed -n 1p)
	[[ ! $complaint ]] || fail "$complaint (see $out/console.log)"
	sum=$(head -n 1 "$out/results.raw" | cut -d ' ' -f 1)
	tail -n +2 "$out/results.raw" >"$out/results.tgz"
	[[ $sum == "$(sha256sum <"$out/results.tgz" | cut -d ' ' -f 1)" ]] ||
		fail "the results did not arrive whole ($(stat -c %s "$out/results.tgz") bytes)"
	mkdir "$out/results"
	tar -xzf "$out/results.tgz" -C "$out/results" --no-same-owner
	rm -f "$out/results.raw" "$out/results.tgz"
	sed -n 's/.*slotzap-host: done status \([0-9]*\).*/\1/p' "$out/console.log" | tail -n 1 >"$out/status"
	[[ $(<"$out/status") == 0 ]] || call false
}

# SPDX-License-Identifier: GPL-2.0-only
#
# The front door: one line a target, each calls a script. Variables given on make's command
# line reach the scripts through the environment.

.DEFAULT_GOAL := help
.PHONY: help run bench check matrix modules patch unpatch mutants clean distclean
.NOTPARALLEL:

help:		## this list
	@scripts/help
run:		## build the patched KVM and the suite, compare the quirk on and off in an emulated host
	@scripts/run
bench:		## measure what deleting a slot costs, with the series and without, against targets
	@scripts/bench
check:		## everything CI runs, for every base; ALL=1: everything there is; FILTER=, ON=: some of the suite
	@scripts/check
modules:	## patched kvm.ko, kvm-amd.ko and kvm-intel.ko in build/BASE/
	@scripts/modules
patch:		## apply the series to the kernel source tree KSRC: all of it or nothing
	@scripts/patch-tree apply
unpatch:	## take the series back from the kernel source tree KSRC
	@scripts/patch-tree revert
matrix:		## what the last check found, by kernel, machine, MMU mode and theme
	@scripts/matrix
mutants:	## kill matrix: deliberately broken kernels against the suite
	@scripts/mutants
clean:		## remove what was built
	@rm -rf build
distclean: clean ## remove downloads too
	@rm -rf downloads

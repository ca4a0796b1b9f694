#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
# shellcheck disable=SC2016,SC2154 # stand-ins are quoted for later; bats and helpers set variables

load helpers

setup() {
	setup_copy
	printf '#!/usr/bin/env bash\n' >scripts/fetch
	lib=build/9.9/image-cloud/lib/modules/9.9.0-2-cloud-amd64/kernel
	mkdir -p "$lib" build/busybox/bin
	touch build/busybox/bin/busybox
	for module in kvm kvm-amd kvm-intel slotzap_test; do
		echo "built $module" >"build/9.9/$module.ko"
	done
	echo "stock kvm" >"$lib/kvm.ko"
	for module in vfio vfio_iommu_type1 vfio-pci-core vfio-pci; do
		echo "signed $module" >"$lib/$module.ko"
	done
	stand_in modinfo 'case $2,$3 in
		vermagic,*) echo "9.9.0-2-cloud-amd64 SMP" ;;
		depends,*/kvm-amd.ko) echo kvm,ccp ;;
		depends,*/kvm-intel.ko) echo kvm ;;
		depends,*/kvm.ko) echo irqbypass ;;
		depends,*/slotzap_test.ko) echo kvm ;;
		depends,*/vfio_iommu_type1.ko) echo vfio ;;
		depends,*/vfio-pci-core.ko) echo vfio,irqbypass ;;
		depends,*/vfio-pci.ko) echo vfio-pci-core,vfio ;;
		esac'
	stand_in strip 'sed s/built/stripped/ "$4" >"$3"'
}

unpack() {
	scripts/initramfs image.cpio.gz
	mkdir unpacked
	(cd unpacked && gzip -dc ../image.cpio.gz | cpio --quiet -id)
	cd unpacked/modules || return
}

@test "takes the modules that were built, and what they need from the image, in order" {
	echo "signed irqbypass" >"$lib/irqbypass.ko"
	echo "signed ccp" >"$lib/ccp.ko"
	unpack
	[[ $(xargs <order) == "/modules/irqbypass.ko /modules/kvm.ko /modules/ccp.ko "'/modules/kvm-amd.ko /modules/kvm-intel.ko /modules/slotzap_test.ko' ]]
	[[ $(<kvm.ko) == "stripped kvm" && $(<kvm-amd.ko) == "stripped kvm-amd" ]]
	[[ $(<irqbypass.ko) == "signed irqbypass" && $(<ccp.ko) == "signed ccp" ]]
	[[ $(xargs <order-vfio) == "/modules/vfio.ko /modules/vfio_iommu_type1.ko "'/modules/vfio-pci-core.ko /modules/vfio-pci.ko' ]]
	[[ $(<vfio-pci.ko) == "signed vfio-pci" ]]
}

@test "an image whose modules are compressed" {
	echo "signed irqbypass" | xz >"$lib/irqbypass.ko.xz"
	echo "signed ccp" | xz >"$lib/ccp.ko.xz"
	unpack
	[[ $(<irqbypass.ko) == "signed irqbypass" && $(<ccp.ko) == "signed ccp" ]]
}

@test "a module that is nowhere is named" {
	refuses "no module irqbypass" -- scripts/initramfs image.cpio.gz
}

@test "modules that were built for another kernel are refused" {
	mv "${lib%/kernel}" "${lib%/*/kernel}/9.9.0-3-cloud-amd64"
	refuses "built for Linux 9.9.0-2-cloud-amd64, but the host boots 9.9.0-3-cloud-amd64" -- \
		scripts/initramfs image.cpio.gz
}

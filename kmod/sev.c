// SPDX-License-Identifier: GPL-2.0
/*
 * Whether a VM of an ordinary type is a SEV guest: KVM_SEV_INIT and
 * KVM_CAP_VM_COPY_ENC_CONTEXT_FROM make one of it, which kvm-amd notes in a
 * struct of its own and nowhere else. The struct is in the kernel's source, and
 * there only if the kernel has SEV.
 */
#include <linux/kvm_host.h>

#include "shim.h"

#if !defined(CONFIG_KVM_AMD_SEV)

bool fdbox_vm_is_sev(void *vm)
{
	return false;
}

#elif __has_include("svm/svm.h")

#include "svm/svm.h"

bool fdbox_vm_is_sev(void *vm)
{
	/* Else the VM is one of kvm-intel's, which has no such struct. */
	return boot_cpu_has(X86_FEATURE_SVM) &&
	       READ_ONCE(to_kvm_sev_info((struct kvm *)vm)->active);
}

#else
#error "KVM has SEV: to tell encrypted VMs takes the kernel's source, not its headers alone"
#endif

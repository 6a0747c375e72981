/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Functions that may be missing: those of modules that are loaded after
 * fdbox.ko or never (KVM, iommufd, VFIO), and those that kmod/patches adds.
 * With an ordinary reference fdbox.ko could not be loaded without them, and a
 * weak reference would stay NULL. So each is bound when it is called, and its
 * module is held during the call. A file that a call returns holds the module
 * itself.
 *
 * Macros with the names of the functions do this.
 */
#ifndef _FDBOX_OPTIONAL_H
#define _FDBOX_OPTIONAL_H

#include <linux/err.h>
#include <linux/fdbox_lease.h>
#include <linux/iommufd.h>
#include <linux/kvm_host.h>
#include <linux/module.h>
#include <linux/vfio.h>

#if __has_include("linux/pci-keep.h")
#include <linux/pci-keep.h>

/* As patch 0024 declares it: a kernel may have only those before it. */
int amd_iommu_keep(struct pci_dev *pdev,
		   int (*visit)(phys_addr_t table, void *data), void *data);
#endif

static inline void fdbox_unbind(const char *symbol)
{
#ifdef CONFIG_MODULE_UNLOAD
	__symbol_put(symbol);
#endif
}

/* Whether @fn is available now. */
#define fdbox_has(fn)						\
({								\
	bool __has = symbol_get(fn);				\
								\
	if (__has)						\
		fdbox_unbind(__stringify(fn));			\
	__has;							\
})

/* @fn(...), or @absent if it is not available. */
#define fdbox_call(absent, fn, ...)				\
({								\
	__auto_type __fn = symbol_get(fn);			\
	typeof(fn(__VA_ARGS__)) __result = absent;		\
								\
	if (__fn) {						\
		__result = __fn(__VA_ARGS__);			\
		fdbox_unbind(__stringify(fn));			\
	}							\
	__result;						\
})

/* The same for a function that returns nothing. */
#define fdbox_call_void(fn, ...)				\
({								\
	__auto_type __fn = symbol_get(fn);			\
								\
	if (__fn) {						\
		__fn(__VA_ARGS__);				\
		fdbox_unbind(__stringify(fn));			\
	}							\
})

#define FDBOX_ABSENT_FILE ((struct file *)ERR_PTR(-EOPNOTSUPP))

/* kvm.ko. A kernel without the patches has no declarations. */
struct kvm *kvm_file_vm(struct file *file);
struct file *kvm_create_vm_file(unsigned long type, const char *name);
bool kvm_vm_is_encrypted(struct kvm *kvm);
struct kvm *kvm_gmem_file_vm(struct file *file);
u64 kvm_gmem_file_flags(struct file *file);
int kvm_gmem_fill(struct file *file, loff_t offset, loff_t len);
int kvm_gmem_freeze(struct file *file);
void kvm_gmem_thaw(struct file *file);
struct file *kvm_gmem_create_file(struct kvm *kvm, loff_t size, u64 flags);
struct file *kvm_gmem_link_file(struct file *file, struct kvm *kvm);

#define kvm_file_vm(...) \
	fdbox_call(NULL, kvm_file_vm, __VA_ARGS__)
#define kvm_create_vm_file(...) \
	fdbox_call(FDBOX_ABSENT_FILE, kvm_create_vm_file, __VA_ARGS__)
#define kvm_vm_is_encrypted(...) \
	fdbox_call(true, kvm_vm_is_encrypted, __VA_ARGS__)
#define kvm_gmem_file_vm(...) \
	fdbox_call(NULL, kvm_gmem_file_vm, __VA_ARGS__)
#define kvm_gmem_file_flags(...) \
	fdbox_call(0, kvm_gmem_file_flags, __VA_ARGS__)
#define kvm_gmem_fill(...) \
	fdbox_call(-EOPNOTSUPP, kvm_gmem_fill, __VA_ARGS__)
#define kvm_gmem_freeze(...) \
	fdbox_call(-EOPNOTSUPP, kvm_gmem_freeze, __VA_ARGS__)
#define kvm_gmem_thaw(...) \
	fdbox_call_void(kvm_gmem_thaw, __VA_ARGS__)
#define kvm_gmem_create_file(...) \
	fdbox_call(FDBOX_ABSENT_FILE, kvm_gmem_create_file, __VA_ARGS__)
#define kvm_gmem_link_file(...) \
	fdbox_call(FDBOX_ABSENT_FILE, kvm_gmem_link_file, __VA_ARGS__)

/* vfio.ko. */
#define vfio_file_is_valid(...) \
	fdbox_call(false, vfio_file_is_valid, __VA_ARGS__)
#define vfio_device_file_device(...) \
	fdbox_call(NULL, vfio_device_file_device, __VA_ARGS__)
#define vfio_iommufd_device_ictx(...) \
	fdbox_call(NULL, vfio_iommufd_device_ictx, __VA_ARGS__)
#define vfio_device_open_bound(...) \
	fdbox_call(FDBOX_ABSENT_FILE, vfio_device_open_bound, __VA_ARGS__)

/* iommufd.ko. */
#define iommufd_create(...) \
	fdbox_call(FDBOX_ABSENT_FILE, iommufd_create, __VA_ARGS__)
#define iommufd_file_ctx(...) \
	fdbox_call(NULL, iommufd_file_ctx, __VA_ARGS__)
#define iommufd_ctx_freeze(...) \
	fdbox_call(-EOPNOTSUPP, iommufd_ctx_freeze, __VA_ARGS__)
#define iommufd_ctx_thaw(...) \
	fdbox_call_void(iommufd_ctx_thaw, __VA_ARGS__)
#define iommufd_ctx_visit(...) \
	fdbox_call(-EOPNOTSUPP, iommufd_ctx_visit, __VA_ARGS__)
#define iommufd_device_attachment(...) \
	fdbox_call(-EOPNOTSUPP, iommufd_device_attachment, __VA_ARGS__)
#define iommufd_restore_id(...) \
	fdbox_call_void(iommufd_restore_id, __VA_ARGS__)
#define iommufd_restore_ioas(...) \
	fdbox_call(-EOPNOTSUPP, iommufd_restore_ioas, __VA_ARGS__)
#define iommufd_restore_map(...) \
	fdbox_call(-EOPNOTSUPP, iommufd_restore_map, __VA_ARGS__)
#define iommufd_restore_hwpt(...) \
	fdbox_call(-EOPNOTSUPP, iommufd_restore_hwpt, __VA_ARGS__)

/* fdbox-boat.ko. */
#define fdbox_boat_lease(...) \
	fdbox_call(-ENXIO, fdbox_boat_lease, __VA_ARGS__)
#define fdbox_boat_set_root(...) \
	fdbox_call_void(fdbox_boat_set_root, __VA_ARGS__)
#define fdbox_boat_root(...) \
	fdbox_call(0, fdbox_boat_root, __VA_ARGS__)

/* What the patches add to the kernel itself. */
#define pci_keep(...) \
	fdbox_call(-EOPNOTSUPP, pci_keep, __VA_ARGS__)
#define pci_unkeep(...) \
	fdbox_call_void(pci_unkeep, __VA_ARGS__)
#define pci_adopt(...) \
	fdbox_call(-EOPNOTSUPP, pci_adopt, __VA_ARGS__)
#define pci_adopt_done(...) \
	fdbox_call_void(pci_adopt_done, __VA_ARGS__)
#define pci_dev_waits(...) \
	fdbox_call(false, pci_dev_waits, __VA_ARGS__)
#define pci_stop_arrived(...) \
	fdbox_call(-EOPNOTSUPP, pci_stop_arrived, __VA_ARGS__)
#define intel_iommu_keep(...) \
	fdbox_call(-EOPNOTSUPP, intel_iommu_keep, __VA_ARGS__)
#define amd_iommu_keep(...) \
	fdbox_call(-EOPNOTSUPP, amd_iommu_keep, __VA_ARGS__)

#endif /* _FDBOX_OPTIONAL_H */

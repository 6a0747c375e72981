// SPDX-License-Identifier: GPL-2.0
/*
 * KVM VMs and guest_memfd, through functions that kmod/patches exports. Those
 * of KVM are bound when they are called, because kvm.ko may be loaded after
 * this module. Those of the core kernel are weak, and NULL in an unpatched
 * kernel.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/dcache.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/kvm_host.h>
#include <linux/pagemap.h>

#include "optional.h"
#include "room.h"
#include "shim.h"

unsigned long filemap_add_runs(struct address_space *mapping, pgoff_t index,
			       const struct folio_run *runs, unsigned int nr_runs,
			       gfp_t gfp) __weak;

enum fdbox_lacks fdbox_shim_kvm_vm_lacks(void)
{
	if (!fdbox_has(kvm_get_kvm))
		return FDBOX_LACKS_MODULE;
	if (!fdbox_has(kvm_file_vm) || !fdbox_has(kvm_create_vm_file) ||
	    !fdbox_has(kvm_vm_is_encrypted))
		return FDBOX_LACKS_PATCH;
	return FDBOX_LACKS_NOTHING;
}

enum fdbox_lacks fdbox_shim_gmem_lacks(void)
{
	if (!fdbox_has(kvm_get_kvm))
		return FDBOX_LACKS_MODULE;
	if (!filemap_add_runs ||
	    !fdbox_has(kvm_gmem_file_vm) || !fdbox_has(kvm_gmem_file_flags) ||
	    !fdbox_has(kvm_gmem_fill) || !fdbox_has(kvm_gmem_freeze) ||
	    !fdbox_has(kvm_gmem_thaw) || !fdbox_has(kvm_gmem_create_file) ||
	    !fdbox_has(kvm_gmem_link_file))
		return FDBOX_LACKS_PATCH;
	return fdbox_shim_kvm_vm_lacks();
}

/*
 * For a kernel without the patches: recognises a file by its name, so that the
 * log can say what is missing.
 */
bool fdbox_shim_is_named(struct file *file, const char *name)
{
	struct name_snapshot snapshot;
	bool is;

	take_dentry_name_snapshot(&snapshot, file->f_path.dentry);
	is = !strcmp(snapshot.name.name, name);
	release_dentry_name_snapshot(&snapshot);
	return is;
}

void *fdbox_shim_vm_of(struct file *file)
{
	return kvm_file_vm(file);
}

/* Whether the last task of that process is gone. */
bool fdbox_shim_vm_is_left(void *vm)
{
	return !atomic_read(&((struct kvm *)vm)->mm->mm_users);
}

u64 fdbox_shim_vm_type(void *vm)
{
	return ((struct kvm *)vm)->arch.vm_type;
}

/*
 * What encrypts the VM's memory or its vCPUs' state, or hides them from the
 * host; NULL for a VM that the host can read. KVM_SEV_INIT turns even a VM of
 * an ordinary type into a SEV guest.
 */
const char *fdbox_shim_vm_encrypted(void *vm)
{
	struct kvm *kvm = vm;

	switch (kvm->arch.vm_type) {
	case KVM_X86_DEFAULT_VM:
		break;
	case KVM_X86_SW_PROTECTED_VM:
		return "KVM_X86_SW_PROTECTED_VM";
	case KVM_X86_SEV_VM:
		return "SEV";
	case KVM_X86_SEV_ES_VM:
		return "SEV-ES";
	case KVM_X86_SNP_VM:
		return "SEV-SNP";
	case KVM_X86_TDX_VM:
		return "TDX";
	default:
		return "a type of VM that this module does not know";
	}
	if (kvm->arch.has_protected_state)
		return "protected state";
	if (kvm_arch_has_private_mem(kvm))
		return "private memory";
	return kvm_vm_is_encrypted(kvm) ? "SEV" : NULL;
}

/* KVM serves only the process whose address space the VM was created in. */
bool fdbox_shim_vm_is_mine(void *vm)
{
	return ((struct kvm *)vm)->mm == current->mm;
}

struct file *fdbox_shim_vm_create(u64 type, unsigned int fd)
{
	struct file *file;
	char name[16];

	snprintf(name, sizeof(name), "%u", fd);
	file = kvm_create_vm_file(type, name);
	/* kvm.ko is loaded, its vendor module is not. ENODEV has another meaning for the caller. */
	if (file == ERR_PTR(-ENODEV)) {
		pr_warn_ratelimited("a VM needs kvm-amd or kvm-intel beside kvm: load it, and get the VM again\n");
		return ERR_PTR(-EOPNOTSUPP);
	}
	return file;
}

void *fdbox_shim_gmem_vm_of(struct file *file)
{
	return kvm_gmem_file_vm(file);
}

u64 fdbox_shim_gmem_flags(struct file *file)
{
	return kvm_gmem_file_flags(file);
}

/*
 * Fills the holes among @pages pages from @index on. guest_memfd allocates with
 * its usual flags and NUMA policy, so the memory is probed first.
 */
int fdbox_shim_gmem_fill(struct file *file, u64 index, u64 pages, struct fdbox_step *step)
{
	struct fdbox_survey survey;
	int err;

	fdbox_shim_survey(file, index, index + pages - 1, &survey);
	*step = (struct fdbox_step) { .failed_at = index };
	step->filled = pages - min(survey.cached, pages);
	step->taken = step->filled;
	err = fdbox_may_take(step->taken, true);
	if (err || !step->filled)
		return err;
	err = kvm_gmem_fill(file, index << PAGE_SHIFT, pages << PAGE_SHIFT);
	cond_resched();
	return err;
}

/*
 * Frees memory that holes were filled with and that was not used: such folios are
 * not up to date. guest_memfd checks that with the folio locked, and looks the
 * folio up again after it has got the lock.
 */
void fdbox_shim_gmem_give_back(struct file *file)
{
	struct address_space *mapping = file->f_mapping;
	struct folio_batch batch;
	pgoff_t start = 0;
	unsigned int i;

	folio_batch_init(&batch);
	while (filemap_get_folios(mapping, &start, ULONG_MAX, &batch)) {
		for (i = 0; i < folio_batch_count(&batch); i++) {
			struct folio *folio = batch.folios[i];

			folio_lock(folio);
			if (folio->mapping == mapping && !folio_test_uptodate(folio))
				generic_error_remove_folio(mapping, folio);
			folio_unlock(folio);
		}
		folio_batch_release(&batch);
		cond_resched();
	}
}

int fdbox_shim_gmem_freeze(struct file *file)
{
	return kvm_gmem_freeze(file);
}

void fdbox_shim_gmem_thaw(struct file *file)
{
	kvm_gmem_thaw(file);
}

/*
 * The folio at @index of a frozen file, with content and one reference.
 * guest_memfd clears a page on its first use. The next kernel will not know
 * which pages were never used, so such a page is cleared here. In this kernel
 * it stays @unused, and is cleared again on its first use.
 */
int fdbox_shim_gmem_folio(struct file *file, u64 index, struct folio **out, bool *unused)
{
	struct folio *folio = filemap_get_folio(file->f_mapping, index);

	if (IS_ERR(folio))
		return PTR_ERR(folio);
	if (fdbox_is_poisoned(folio, &index)) {
		folio_put(folio);
		return -EHWPOISON;
	}
	*unused = !folio_test_uptodate(folio);
	if (*unused) {
		folio_lock(folio);
		if (!folio_test_uptodate(folio))
			folio_zero_range(folio, 0, folio_size(folio));
		folio_unlock(folio);
	}
	*out = folio;
	return 0;
}

struct file *fdbox_shim_gmem_create(void *vm, u64 size, u64 flags)
{
	return kvm_gmem_create_file(vm, size, flags);
}

struct file *fdbox_shim_gmem_link(struct file *file, void *vm)
{
	return kvm_gmem_link_file(file, vm);
}

/* guest_memfd is unevictable, but memory failure handling needs folios on an LRU list. */
u64 fdbox_shim_gmem_add(struct file *file, u64 index, const struct folio_run *runs,
			unsigned int nr)
{
	struct address_space *mapping = file->f_mapping;

	return filemap_add_runs(mapping, index, runs, nr, mapping_gfp_mask(mapping));
}

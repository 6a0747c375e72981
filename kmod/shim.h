/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The interface between C and Rust in fdbox.ko. bindgen generates Rust's
 * declarations of it when the module is built; see ffi.rs.
 */
#ifndef _FDBOX_SHIM_H
#define _FDBOX_SHIM_H

#include <linux/fdbox.h>
#include <linux/fdbox_lease.h>
#include <linux/types.h>

struct file;
struct file_operations;
struct folio;
struct module;

/* node.c: the device node of a box. */
struct fdbox_node;
u32 fdbox_shim_max_boxes(void);
u32 fdbox_shim_max_fds(void);
int fdbox_shim_nodes_init(void);
void fdbox_shim_nodes_exit(void);
struct fdbox_node *fdbox_shim_node_create(const char *name, void *box,
					  u32 mode, u32 uid, u32 gid);
void fdbox_shim_node_destroy(struct fdbox_node *node);
struct fdbox_node *fdbox_shim_node_of(struct file *filp);
bool fdbox_shim_ignore_labels(void);

/* access.c: who may open it. */
/* A security label: a text whose meaning the LSM with this id defines. */
struct fdbox_label {
	char *text;
	size_t len;
	u64 lsm;
};

bool fdbox_shim_node_owner(struct fdbox_node *node, u32 *mode, u32 *uid, u32 *gid);
int fdbox_shim_node_label(struct fdbox_node *node, struct fdbox_label *label);
void fdbox_shim_label_release(struct fdbox_label *label);
int fdbox_shim_node_set_label(struct fdbox_node *node, const struct fdbox_label *label);

/* shim.c: files and the caller. */
bool fdbox_shim_capable(void);
bool fdbox_shim_opener_capable(struct file *file);
int fdbox_shim_receive_fd(struct file *file);
void fdbox_shim_close_fd(unsigned int fd, struct file *file);
bool fdbox_shim_killed(void);
bool fdbox_shim_wait_for_zero(const u32 *count, u32 limit_ms);
int fdbox_shim_wait_for_zero_killable(const u32 *count);
void fdbox_shim_wake(const u32 *count);
bool fdbox_shim_is_read_write(struct file *file);
const void *fdbox_shim_inode(struct file *file);
int fdbox_shim_inode_lock(struct file *file);
void fdbox_shim_inode_unlock(struct file *file);
const struct file_operations *fdbox_shim_fops(struct file *file);
bool fdbox_shim_module_get(struct module *owner);
void fdbox_shim_module_put(struct module *owner);
bool fdbox_shim_self_get(void);
void fdbox_shim_self_put(void);
bool fdbox_shim_may_log(void);
void fdbox_shim_sort(u64 *numbers, size_t nr);
u32 fdbox_shim_crc32(const u8 *data, size_t len);
void fdbox_shim_release(u8 *out, size_t len);
int fdbox_shim_reboot_register(void);
void fdbox_shim_reboot_unregister(void);

/* As in <linux/folio_run.h>, which a kernel without the patches does not have. */
struct folio_run {
	unsigned long pfn;
	unsigned long nr;
	bool down;
};

/* kho.c: kexec handover. */
bool fdbox_shim_kho_enabled(void);
bool fdbox_shim_kho_boot(void);
bool fdbox_shim_kho_can_refuse(void);
int fdbox_shim_kho_require(void);
void fdbox_shim_kho_unrequire(void);
int fdbox_shim_kho_preserve(u64 pfn, u64 folios, u32 order);
void fdbox_shim_kho_unpreserve(u64 pfn, u64 folios, u32 order);
bool fdbox_shim_kho_kept(u64 pfn, u64 folios, u32 order);
int fdbox_shim_kho_pass_on(u64 pfn, u64 folios, u32 order);
bool fdbox_shim_kho_restore(u64 pfn, u64 folios, u32 order);
u64 fdbox_shim_on_node_of(u64 other, u64 pfn, u64 folios, u32 order, bool down);
void fdbox_shim_get_folios(u64 pfn, u64 folios, u32 order);
void fdbox_shim_put_folios(u64 pfn, u64 folios, u32 order);
struct folio *fdbox_shim_folio_at(u64 pfn);
void *fdbox_shim_vmalloc(size_t len);
void fdbox_shim_vfree(void *body);
int fdbox_shim_kho_publish(const char *subtree, void *root, size_t len);
void fdbox_shim_kho_withdraw(void *root);
void *fdbox_shim_kho_alloc_root(void);
void fdbox_shim_kho_free_root(void *root);
int fdbox_shim_kho_preserve_body(void *body, u8 descriptor[16]);
void fdbox_shim_kho_unpreserve_body(const u8 descriptor[16]);
int fdbox_shim_kho_copy_body(const u8 descriptor[16], void *out, size_t len);
void *fdbox_shim_kho_restore_body(const u8 descriptor[16]);
const void *fdbox_shim_kho_subtree(const char *subtree, size_t *len);
void fdbox_shim_kho_mark_incoming(const void *root, const u8 *mark, size_t len);

/* left_boat.c: a boat of the last kernel that no module has taken over. */
bool fdbox_shim_boat_is_left(void);
int fdbox_shim_boat_carry(void);

/* poison.c: broken pages of memory. */
bool fdbox_shim_poison_supported(void);
u64 fdbox_shim_poison_events(void);
u64 fdbox_shim_poison_find(u64 pfn, u64 end);
void fdbox_shim_poison_mark(u64 pfn);

/* room.c: memory for SEAL. */
struct fdbox_survey {
	u64 cached;
	u64 moves;
	bool poisoned;		/* whether one of them is broken, */
	u64 poisoned_at;	/* and which */
};

u64 fdbox_shim_cached_pages(struct file *file);
u64 fdbox_shim_room(void);
u64 fdbox_shim_unpinnable_in_use(void);
void fdbox_shim_survey(struct file *file, u64 first, u64 last, struct fdbox_survey *survey);
void fdbox_shim_use_pages(struct file *file);
void fdbox_shim_memfd_give_back(struct file *file);

/* A step of filling or pinning a file: what it took, or at which page it failed. */
struct fdbox_step {
	u64 taken;
	u64 filled;
	u64 failed_at;
};

/* memfd.c: shmem files. */
struct fdbox_memfd_state {
	u64 size;
	u64 pos;
	u32 seals;
	u32 mode;
	u32 uid;
	u32 gid;
	u32 flags;	/* as in abi/memfd.rs */
	u32 page_shift;	/* of huge pages: log2 of their size; else 0 */
};

bool fdbox_shim_memfd_supported(void);
bool fdbox_shim_is_memfd(struct file *file);
u64 fdbox_shim_file_size(struct file *file);
int fdbox_shim_memfd_freeze(struct file *file);
void fdbox_shim_memfd_thaw(struct file *file);
void fdbox_shim_memfd_state(struct file *file, struct fdbox_memfd_state *state);
long fdbox_shim_memfd_name(struct file *file, u8 *out, size_t len);
long fdbox_shim_memfd_pin(struct file *file, u64 index, struct folio **folios,
			  unsigned int max, struct fdbox_step *step);
void fdbox_shim_folio_span(struct folio *folio, u64 *pfn, u32 *order, u64 *next);
void fdbox_shim_unpin(u64 pfn, u64 folios, u32 order);
struct file *fdbox_shim_memfd_create(const u8 *name,
				     const struct fdbox_memfd_state *state);
u64 fdbox_shim_memfd_add(struct file *file, u64 index, const struct folio_run *runs,
			 unsigned int nr);
struct file *fdbox_shim_memfd_finish(struct file *file,
				     const struct fdbox_memfd_state *state);

/* hugetlb.c: memfds of huge pages. */
bool fdbox_shim_hugetlb_supported(void);
bool fdbox_shim_is_hugetlb(struct file *file);
u32 fdbox_shim_hugetlb_page_shift(struct file *file);
int fdbox_shim_hugetlb_freeze(struct file *file);
void fdbox_shim_hugetlb_thaw(struct file *file);
int fdbox_shim_hugetlb_fill(struct file *file, struct fdbox_step *step);
long fdbox_shim_hugetlb_pin(struct file *file, u64 index, struct folio **folios,
			    unsigned int max, struct fdbox_step *step);
struct file *fdbox_shim_hugetlb_create(const u8 *name,
				       const struct fdbox_memfd_state *state);
u64 fdbox_shim_hugetlb_add(struct file *file, u64 index, const struct folio_run *runs,
			   unsigned int nr);

/* What the kernel lacks to support a kind. */
enum fdbox_lacks {
	FDBOX_LACKS_NOTHING,
	/* A module that is not loaded now. */
	FDBOX_LACKS_MODULE,
	/* A function that kmod/patches adds, or a config option. */
	FDBOX_LACKS_PATCH,
};

/* kvm.c: VM and guest_memfd files. */
enum fdbox_lacks fdbox_shim_kvm_vm_lacks(void);
enum fdbox_lacks fdbox_shim_gmem_lacks(void);
bool fdbox_shim_is_named(struct file *file, const char *name);
void *fdbox_shim_vm_of(struct file *file);
bool fdbox_shim_vm_is_left(void *vm);
u64 fdbox_shim_vm_type(void *vm);
const char *fdbox_shim_vm_encrypted(void *vm);
bool fdbox_shim_vm_is_mine(void *vm);
struct file *fdbox_shim_vm_create(u64 type, unsigned int fd);
void *fdbox_shim_gmem_vm_of(struct file *file);
u64 fdbox_shim_gmem_flags(struct file *file);
int fdbox_shim_gmem_fill(struct file *file, u64 index, u64 pages, struct fdbox_step *step);
void fdbox_shim_gmem_give_back(struct file *file);
int fdbox_shim_gmem_freeze(struct file *file);
void fdbox_shim_gmem_thaw(struct file *file);
int fdbox_shim_gmem_folio(struct file *file, u64 index, struct folio **folio,
			  bool *unused);
struct file *fdbox_shim_gmem_create(void *vm, u64 size, u64 flags);
struct file *fdbox_shim_gmem_link(struct file *file, void *vm);
u64 fdbox_shim_gmem_add(struct file *file, u64 index, const struct folio_run *runs,
			unsigned int nr);

/* lending.c: boxes that a host lends to its boat. */
int fdbox_shim_lease(const char *name, enum fdbox_lease_act act, u64 *word);
bool fdbox_shim_lease_is_known(void);
void fdbox_shim_lease_tell_root(u64 root);
u64 fdbox_shim_lease_root(u64 *number);
u64 fdbox_shim_phys_of(const void *root);
int fdbox_shim_host_copy(u64 phys, void *out, size_t len);
int fdbox_shim_host_copy_body(const u8 descriptor[16], u64 number, void *out, size_t len);

/* lent_file.c: memory of the host's in a box that the boat has borrowed. */
struct file *fdbox_shim_lent_create(const u8 *name, u64 size, bool writable,
				    const u64 *extents, size_t nr_extents,
				    const u64 *kept, size_t nr_kept);
bool fdbox_shim_is_lent(struct file *file);
void fdbox_shim_lent_revoke(struct file *file);

/* lent_device.c: a device of the host's in such a box. */

/* Physical addresses of a device's registers; no length: there is none. */
struct fdbox_range {
	u64 start;
	u64 length;
};

struct fdbox_registers {
	u64 config;	/* configuration space; 0: not in memory */
	struct fdbox_range bars[6];
};

struct file *fdbox_shim_lent_device_create(const struct fdbox_registers *registers);

/* iommufd.c and vfio_pci.c: iommufd and VFIO PCI files. */
struct fdbox_iommufd_map {
	u32 ioas;
	u32 prot;
	u64 iova;
	u64 length;
	u64 start;
	struct file *file;
};

struct fdbox_iommufd_visitor {
	int (*ioas)(void *data, u32 id);
	int (*map)(void *data, const struct fdbox_iommufd_map *map);
	int (*other)(void *data, u32 id, const char *what);
};

struct fdbox_vfio_binding {
	u32 segment;
	u32 bdf;
	u32 device;
	u32 hwpt;
	u32 ioas;
	u32 auto_domain;
};

enum fdbox_lacks fdbox_shim_iommufd_lacks(void);
enum fdbox_lacks fdbox_shim_vfio_lacks(void);
void *fdbox_shim_iommufd_of(struct file *file);
int fdbox_shim_iommufd_freeze(void *ctx);
void fdbox_shim_iommufd_thaw(void *ctx);
int fdbox_shim_iommufd_visit(void *ctx, const struct fdbox_iommufd_visitor *visitor,
			     void *data);
struct file *fdbox_shim_iommufd_create(void);
int fdbox_shim_iommufd_add_ioas(void *ctx, u32 id);
int fdbox_shim_iommufd_add_map(void *ctx, const struct fdbox_iommufd_map *map);
bool fdbox_shim_is_vfio_pci(struct file *file);
void *fdbox_shim_vfio_iommufd(struct file *file);
int fdbox_shim_vfio_where(struct file *file, struct fdbox_vfio_binding *binding);
void fdbox_shim_vfio_registers(struct file *file, struct fdbox_registers *registers);
int fdbox_shim_vfio_tables(u32 segment, u32 bdf, int (*visit)(u64 table, void *data),
			   void *data);
int fdbox_shim_vfio_keep(u32 segment, u32 bdf);
bool fdbox_shim_vfio_waits(u32 segment, u32 bdf);
void fdbox_shim_vfio_unkeep(u32 segment, u32 bdf);
struct file *fdbox_shim_vfio_adopt(void *ctx, const struct fdbox_vfio_binding *binding);
void fdbox_shim_vfio_stop(u32 segment, u32 bdf);

/* Functions of Rust that C calls. */
long fdbox_rs_box_ioctl(void *box, struct file *filp, unsigned int cmd,
			unsigned long arg);
int fdbox_rs_box_open(void *box);
void fdbox_rs_policy_changed(void);
void fdbox_rs_box_put(void *box);
void fdbox_rs_reboot(bool kexec);
int fdbox_rs_register_kind(const struct fdbox_kind *kind);
void fdbox_rs_unregister_kind(const struct fdbox_kind *kind);
struct file *fdbox_rs_fd_file(struct fdbox_fd *fd);
int fdbox_rs_fd_needs(struct fdbox_fd *fd, struct file *file, const char *what);
int fdbox_rs_fd_refuse(struct fdbox_fd *fd, int err, const char *why);
int fdbox_rs_fd_name(struct fdbox_fd *fd, struct file *file, char *name);
bool fdbox_rs_fd_has(struct fdbox_fd *fd, const char *name);
int fdbox_rs_fd_write(struct fdbox_fd *fd, const void *data, size_t len);
int fdbox_rs_fd_preserve(struct fdbox_fd *fd, struct folio *folio);
const void *fdbox_rs_fd_data(struct fdbox_fd *fd, size_t *len);
struct folio *fdbox_rs_fd_take_folio(struct fdbox_fd *fd);

#endif /* _FDBOX_SHIM_H */

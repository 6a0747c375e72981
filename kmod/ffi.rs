// SPDX-License-Identifier: GPL-2.0

//! Rust's view of `shim.h`: declarations only, in the same order. Each is wrapped
//! at once, in `boxes.rs`, `fdbox_main.rs`, `file.rs`, `kho.rs`, `kind.rs` or `kinds/`.

use kernel::{bindings, prelude::*};

/// `struct fdbox_node`: the device node of a box.
#[repr(C)]
pub(crate) struct Node {
    _opaque: [u8; 0],
}

/// `struct fdbox_fd`: handed to drivers, a [`crate::kinds::driver::Call`].
#[repr(C)]
pub(crate) struct DriverFd {
    _opaque: [u8; 0],
}

/// `struct fdbox_file_ops`.
#[repr(C)]
pub(crate) struct FileOps {
    pub(crate) kho_write: Option<unsafe extern "C" fn(*mut DriverFd) -> c_int>,
    pub(crate) seal: Option<unsafe extern "C" fn(*mut DriverFd) -> c_int>,
    pub(crate) unseal: Option<unsafe extern "C" fn(*mut DriverFd)>,
}

/// `struct fdbox_kind`.
#[repr(C)]
pub(crate) struct DriverKindDesc {
    pub(crate) owner: *mut bindings::module,
    pub(crate) compatible: *const c_char,
    pub(crate) fops: *const bindings::file_operations,
    pub(crate) ops: *const FileOps,
    pub(crate) restore: Option<unsafe extern "C" fn(*mut DriverFd) -> *mut bindings::file>,
}

/// `struct fdbox_memfd_state`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct MemfdState {
    pub(crate) size: u64,
    pub(crate) pos: u64,
    pub(crate) seals: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// `struct fdbox_iommufd_map`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct IommufdMap {
    pub(crate) ioas: u32,
    pub(crate) prot: u32,
    pub(crate) iova: u64,
    pub(crate) length: u64,
    pub(crate) start: u64,
    pub(crate) file: *mut bindings::file,
}

/// `struct fdbox_iommufd_visitor`.
#[repr(C)]
pub(crate) struct IommufdVisitor {
    pub(crate) ioas: unsafe extern "C" fn(*mut c_void, u32) -> c_int,
    pub(crate) map: unsafe extern "C" fn(*mut c_void, *const IommufdMap) -> c_int,
    pub(crate) other: unsafe extern "C" fn(*mut c_void, u32, *const c_char) -> c_int,
}

/// `struct fdbox_vfio_place`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct VfioPlace {
    pub(crate) segment: u32,
    pub(crate) bdf: u32,
    pub(crate) device: u32,
    pub(crate) hwpt: u32,
    pub(crate) ioas: u32,
    pub(crate) auto_domain: u32,
}

#[allow(
    improper_ctypes,
    reason = "only pointers cross; in some configurations what they point at has empty members"
)]
extern "C" {
    // node.c
    pub(crate) fn fdbox_shim_max_boxes() -> u32;
    pub(crate) fn fdbox_shim_nodes_init() -> c_int;
    pub(crate) fn fdbox_shim_nodes_exit();
    pub(crate) fn fdbox_shim_node_create(
        name: *const c_char,
        r#box: *mut c_void,
        mode: u32,
        uid: u32,
        gid: u32,
    ) -> *mut Node;
    pub(crate) fn fdbox_shim_node_destroy(node: *mut Node);

    // shim.c
    pub(crate) fn fdbox_shim_capable() -> bool;
    pub(crate) fn fdbox_shim_close_fd(fd: c_uint) -> bool;
    pub(crate) fn fdbox_shim_file_holes(file: *mut bindings::file) -> u64;
    pub(crate) fn fdbox_shim_available_pages() -> u64;
    pub(crate) fn fdbox_shim_inode_lock(file: *mut bindings::file);
    pub(crate) fn fdbox_shim_inode_unlock(file: *mut bindings::file);
    pub(crate) fn fdbox_shim_node_owner(
        file: *mut bindings::file,
        mode: *mut u32,
        uid: *mut u32,
        gid: *mut u32,
    );
    pub(crate) fn fdbox_shim_fops(file: *mut bindings::file) -> *const bindings::file_operations;
    pub(crate) fn fdbox_shim_module_get(owner: *mut bindings::module) -> bool;
    pub(crate) fn fdbox_shim_module_put(owner: *mut bindings::module);
    pub(crate) fn fdbox_shim_self_get() -> bool;
    pub(crate) fn fdbox_shim_self_put();
    pub(crate) fn fdbox_shim_sort(numbers: *mut u64, nr: usize);
    pub(crate) fn fdbox_shim_crc32(data: *const u8, len: usize) -> u32;
    pub(crate) fn fdbox_shim_release(out: *mut u8, len: usize);
    pub(crate) fn fdbox_shim_reboot_register() -> c_int;
    pub(crate) fn fdbox_shim_reboot_unregister();

    // kho.c
    pub(crate) fn fdbox_shim_kho_enabled() -> bool;
    pub(crate) fn fdbox_shim_kho_boot() -> bool;
    pub(crate) fn fdbox_shim_kho_preserve(pfn: u64, folios: u64, order: u32) -> c_int;
    pub(crate) fn fdbox_shim_kho_unpreserve(pfn: u64, folios: u64, order: u32);
    pub(crate) fn fdbox_shim_kho_kept(pfn: u64, folios: u64, order: u32) -> bool;
    pub(crate) fn fdbox_shim_kho_pass_on(pfn: u64, folios: u64, order: u32) -> c_int;
    pub(crate) fn fdbox_shim_kho_restore(pfn: u64, folios: u64, order: u32) -> bool;
    pub(crate) fn fdbox_shim_on_one_node(pfn: u64, folios: u64, order: u32, down: bool) -> u64;
    pub(crate) fn fdbox_shim_get_folios(pfn: u64, folios: u64, order: u32);
    pub(crate) fn fdbox_shim_put_folios(pfn: u64, folios: u64, order: u32);
    pub(crate) fn fdbox_shim_folio_at(pfn: u64) -> *mut bindings::folio;
    pub(crate) fn fdbox_shim_vmalloc(len: usize) -> *mut c_void;
    pub(crate) fn fdbox_shim_vfree(body: *mut c_void);
    pub(crate) fn fdbox_shim_kho_publish(
        subtree: *const c_char,
        root: *mut c_void,
        len: usize,
    ) -> c_int;
    pub(crate) fn fdbox_shim_kho_withdraw(root: *mut c_void);
    pub(crate) fn fdbox_shim_kho_alloc_root() -> *mut c_void;
    pub(crate) fn fdbox_shim_kho_free_root(root: *mut c_void);
    pub(crate) fn fdbox_shim_kho_preserve_body(body: *mut c_void, descriptor: *mut u8) -> c_int;
    pub(crate) fn fdbox_shim_kho_unpreserve_body(descriptor: *const u8);
    pub(crate) fn fdbox_shim_kho_restore_body(descriptor: *const u8) -> *mut c_void;
    pub(crate) fn fdbox_shim_kho_incoming(subtree: *const c_char, len: *mut usize)
        -> *const c_void;
    pub(crate) fn fdbox_shim_kho_mark_incoming(root: *const c_void, mark: *const u8, len: usize);

    // memfd.c
    pub(crate) fn fdbox_shim_memfd_supported() -> bool;
    pub(crate) fn fdbox_shim_is_memfd(file: *mut bindings::file) -> bool;
    pub(crate) fn fdbox_shim_file_size(file: *mut bindings::file) -> u64;
    pub(crate) fn fdbox_shim_memfd_freeze(file: *mut bindings::file) -> c_int;
    pub(crate) fn fdbox_shim_memfd_thaw(file: *mut bindings::file);
    pub(crate) fn fdbox_shim_memfd_state(file: *mut bindings::file, state: *mut MemfdState);
    pub(crate) fn fdbox_shim_memfd_name(
        file: *mut bindings::file,
        out: *mut u8,
        len: usize,
    ) -> c_long;
    pub(crate) fn fdbox_shim_memfd_pin(
        file: *mut bindings::file,
        index: u64,
        folios: *mut *mut bindings::folio,
        max: c_uint,
    ) -> c_long;
    pub(crate) fn fdbox_shim_folio_span(
        folio: *mut bindings::folio,
        pfn: *mut u64,
        order: *mut u32,
        next: *mut u64,
    );
    pub(crate) fn fdbox_shim_unpin(pfn: u64, folios: u64, order: u32);
    pub(crate) fn fdbox_shim_memfd_create(
        name: *const u8,
        state: *const MemfdState,
    ) -> *mut bindings::file;
    pub(crate) fn fdbox_shim_memfd_add(
        file: *mut bindings::file,
        index: u64,
        pfn: u64,
        folios: u64,
        down: bool,
    ) -> u64;
    pub(crate) fn fdbox_shim_memfd_finish(
        file: *mut bindings::file,
        state: *const MemfdState,
    ) -> c_int;

    // kvm.c
    pub(crate) fn fdbox_shim_kvm_vm_supported() -> bool;
    pub(crate) fn fdbox_shim_gmem_supported() -> bool;
    pub(crate) fn fdbox_shim_is_named(file: *mut bindings::file, name: *const c_char) -> bool;
    pub(crate) fn fdbox_shim_vm_of(file: *mut bindings::file) -> *mut c_void;
    pub(crate) fn fdbox_shim_vm_type(vm: *mut c_void) -> u64;
    pub(crate) fn fdbox_shim_vm_is_mine(vm: *mut c_void) -> bool;
    pub(crate) fn fdbox_shim_vm_create(r#type: u64, fd: c_uint) -> *mut bindings::file;
    pub(crate) fn fdbox_shim_gmem_vm_of(file: *mut bindings::file) -> *mut c_void;
    pub(crate) fn fdbox_shim_gmem_flags(file: *mut bindings::file) -> u64;
    pub(crate) fn fdbox_shim_gmem_freeze(file: *mut bindings::file) -> c_int;
    pub(crate) fn fdbox_shim_gmem_thaw(file: *mut bindings::file);
    pub(crate) fn fdbox_shim_gmem_folio(
        file: *mut bindings::file,
        index: u64,
        folio: *mut *mut bindings::folio,
    ) -> c_int;
    pub(crate) fn fdbox_shim_gmem_create(
        vm: *mut c_void,
        size: u64,
        flags: u64,
    ) -> *mut bindings::file;
    pub(crate) fn fdbox_shim_gmem_link(
        file: *mut bindings::file,
        vm: *mut c_void,
    ) -> *mut bindings::file;
    pub(crate) fn fdbox_shim_gmem_add(
        file: *mut bindings::file,
        index: u64,
        pfn: u64,
        folios: u64,
        down: bool,
    ) -> u64;

    // passthrough.c
    pub(crate) fn fdbox_shim_passthrough_supported() -> bool;
    pub(crate) fn fdbox_shim_same_inode(a: *mut bindings::file, b: *mut bindings::file) -> bool;
    pub(crate) fn fdbox_shim_iommufd_of(file: *mut bindings::file) -> *mut c_void;
    pub(crate) fn fdbox_shim_iommufd_freeze(ctx: *mut c_void) -> c_int;
    pub(crate) fn fdbox_shim_iommufd_thaw(ctx: *mut c_void);
    pub(crate) fn fdbox_shim_iommufd_visit(
        ctx: *mut c_void,
        visitor: *const IommufdVisitor,
        data: *mut c_void,
    ) -> c_int;
    pub(crate) fn fdbox_shim_iommufd_create() -> *mut bindings::file;
    pub(crate) fn fdbox_shim_iommufd_add_ioas(ctx: *mut c_void, id: u32) -> c_int;
    pub(crate) fn fdbox_shim_iommufd_add_map(ctx: *mut c_void, map: *const IommufdMap) -> c_int;
    pub(crate) fn fdbox_shim_is_vfio_pci(file: *mut bindings::file) -> bool;
    pub(crate) fn fdbox_shim_vfio_iommufd(file: *mut bindings::file) -> *mut c_void;
    pub(crate) fn fdbox_shim_vfio_where(file: *mut bindings::file, place: *mut VfioPlace) -> c_int;
    pub(crate) fn fdbox_shim_vfio_tables(
        segment: u32,
        bdf: u32,
        visit: unsafe extern "C" fn(u64, *mut c_void) -> c_int,
        data: *mut c_void,
    ) -> c_int;
    pub(crate) fn fdbox_shim_vfio_keep(segment: u32, bdf: u32) -> c_int;
    pub(crate) fn fdbox_shim_vfio_unkeep(segment: u32, bdf: u32);
    pub(crate) fn fdbox_shim_vfio_adopt(
        ctx: *mut c_void,
        place: *const VfioPlace,
    ) -> *mut bindings::file;
    pub(crate) fn fdbox_shim_vfio_stop(segment: u32, bdf: u32);
}

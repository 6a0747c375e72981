// SPDX-License-Identifier: GPL-2.0

//! Rust's view of `shim.h`, generated from it by bindgen when the module is built (see `Kbuild`).
//!
//! Structs keep their C names, because kCFI compares them where the two languages call each other
//! through pointers. Functions that Rust offers to C are compared with their declarations by
//! [`check_export!`]. Anything that `shim.h` declares and that is not used, or not compared, is an
//! error. Each function is wrapped in a safe type or function by the one file that calls it.

mod generated {
    #![deny(dead_code)]
    #![allow(
        clippy::all,
        clippy::undocumented_unsafe_blocks,
        improper_ctypes,
        missing_docs,
        non_camel_case_types,
        non_upper_case_globals,
        unreachable_pub,
        reason = "written by bindgen from C"
    )]

    // Not generated: the kernel crate has them.
    use kernel::{
        bindings::{
            file,
            file_operations,
            folio,
            module, //
        },
        ffi, //
    };
    type __kernel_size_t = usize;

    include!(concat!(env!("FDBOX_OBJ"), "/shim_generated.rs"));
}

pub(crate) use generated::*;

pub(crate) use generated::{
    fdbox_lacks as Lacks,
    fdbox_lacks_FDBOX_LACKS_MODULE as LACKS_MODULE,
    fdbox_lacks_FDBOX_LACKS_NOTHING as LACKS_NOTHING,
    fdbox_lacks_FDBOX_LACKS_PATCH as LACKS_PATCH, //
};

pub(crate) use generated::{
    fdbox_lease_act as LeaseAct,
    fdbox_lease_act_FDBOX_LEASE_KEEP as LEASE_KEEP,
    fdbox_lease_act_FDBOX_LEASE_LOOK as LEASE_LOOK,
    fdbox_lease_act_FDBOX_LEASE_OFFER as LEASE_OFFER,
    fdbox_lease_act_FDBOX_LEASE_READY as LEASE_READY,
    fdbox_lease_act_FDBOX_LEASE_RECALL as LEASE_RECALL,
    fdbox_lease_act_FDBOX_LEASE_RETURN as LEASE_RETURN,
    fdbox_lease_act_FDBOX_LEASE_SHOW as LEASE_SHOW,
    fdbox_lease_act_FDBOX_LEASE_TAKE as LEASE_TAKE, //
};

pub(crate) use generated::{
    fdbox_fd as DriverFd,
    fdbox_file_ops as FileOps,
    fdbox_iommufd_map as IommufdMap,
    fdbox_iommufd_visitor as IommufdVisitor,
    fdbox_kind as DriverKindDesc,
    fdbox_label as Label,
    fdbox_memfd_state as MemfdState,
    fdbox_node as Node,
    fdbox_range as Range,
    fdbox_registers as Registers,
    fdbox_step as Step,
    fdbox_vfio_binding as VfioBinding,
    folio_run as FolioRun, //
};

/// Compares a function that C calls with its declaration in `shim.h`: both arms of a condition must
/// have the same type. It generates no code; `used` tells the compiler that the declaration is
/// needed.
macro_rules! check_export {
    ($name:ident) => {
        const _: () = {
            #[used]
            static CHECKED: () = {
                if true {
                    crate::ffi::$name
                } else {
                    $name
                };
            };
        };
    };
}
pub(crate) use check_export;

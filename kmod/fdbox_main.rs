// SPDX-License-Identifier: GPL-2.0

//! FDBox: hand named file descriptors to the kernel, which keeps them after the program has exited
//! and across a kexec.
//!
//! `control` has the ioctls, `boxes` the boxes and the operations on them. `registry` finds the
//! `kind` of a file; the kinds are in `kinds`, the kernel objects that they use in `objects`.
//! `kexec` hands sealed boxes over to the next kernel, and creates sealed boxes from what the last
//! one handed over, in the format of `abi`. `ffi` is Rust's view of the C shim.

#![crate_name = "fdbox"]

mod abi;
mod access;
mod argument;
mod boxes;
mod control;
mod ffi;
mod file;
mod kexec;
mod kind;
mod kinds;
#[cfg(CONFIG_KUNIT = "y")]
mod kunit;
#[cfg(CONFIG_KUNIT = "y")]
mod kunit_boxes;
mod leaving;
mod lending;
mod module_hold;
mod name;
mod objects;
mod ratelimit;
mod registry;
mod room;
mod seal_cx;
mod take_cx;
mod uapi;
mod unseal_cx;
mod wait;

use boxes::box_list;
use kernel::{
    error::to_result,
    miscdevice::{
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    prelude::*,
};
use kexec::{
    arrival::{
        self,
        Arrival, //
    },
    handover,
    kho,
    left_boat,
    poison, //
};

module! {
    type: FdboxModule,
    name: "fdbox",
    authors: ["The FDBox developers"],
    description: "File descriptors that outlive their program and their kernel",
    license: "GPL",
}

/// The loaded module. Fields are dropped in this order: the lists are freed when they can no longer
/// be used.
#[pin_data]
struct FdboxModule {
    #[pin]
    _control: MiscDeviceRegistration<control::Control>,
    _reboot: RebootNotifier,
    _arrival: Arrival,
    _lists: Lists,
}

/// The global lists, initialised.
struct Lists;

impl Lists {
    fn new() -> Result<Lists> {
        poison::init();
        room::init();
        registry::init();
        handover::init();
        box_list::init()?;
        Ok(Lists)
    }
}

impl Drop for Lists {
    fn drop(&mut self) {
        box_list::loaded(false);
        box_list::exit();
        handover::exit();
        registry::exit();
        poison::exit();
    }
}

/// Registration of the reboot notifier, which runs before devices are shut down.
struct RebootNotifier;

impl RebootNotifier {
    fn new() -> Result<RebootNotifier> {
        // SAFETY: Called once, and unregistered before the module is unloaded.
        to_result(unsafe { ffi::fdbox_shim_reboot_register() })?;
        Ok(RebootNotifier)
    }
}

impl Drop for RebootNotifier {
    fn drop(&mut self) {
        // SAFETY: Registered in `new()`.
        unsafe { ffi::fdbox_shim_reboot_unregister() };
    }
}

impl kernel::InPlaceModule for FdboxModule {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        let options = MiscDeviceOptions {
            // The '/' creates a directory in /dev.
            name: c"fdbox/fdbox",
        };
        try_pin_init!(Self {
            _lists: Lists::new()?,
            _reboot: RebootNotifier::new()?,
            // Before the control node, so that the boxes exist when it does.
            _arrival: arrival::receive()?,
            _control <- MiscDeviceRegistration::register(options),
            // Nothing can fail after this: the handover is consumed, and nodes may be used.
            _: {
                _arrival.taken();
                box_list::loaded(true);
            },
        })
    }
}

/// The reboot notifier: when it returns, what goes to the next kernel is final.
///
/// # Safety
///
/// Called in process context, while the module is loaded.
#[no_mangle]
unsafe extern "C" fn fdbox_rs_reboot(kexec: bool) {
    if !kho::enabled() {
        return;
    }
    let (ended, waited) = leaving::begin();
    match ended {
        true => pr_info!("reboot: waited {} ms for SEAL, UNSEAL and GET_FD\n", waited),
        false => pr_err!(
            "reboot: SEAL, UNSEAL or GET_FD of a box goes on after {} ms: that box is lost\n",
            waited
        ),
    }
    if let Err(err) = box_list::note_access().and_then(|access| handover::set_access(access)) {
        pr_err!(
            "reboot: boxes have the owners and labels in the next kernel that they had when they were sealed: {:?}\n",
            err
        );
    }
    box_list::carry_all();
    left_boat::carry();
    handover::settle(kexec);
}

crate::ffi::check_export!(fdbox_rs_reboot);

/// `fdbox_register_kind()`.
///
/// # Safety
///
/// `desc` points to a description that is valid until it is unregistered.
#[no_mangle]
unsafe extern "C" fn fdbox_rs_register_kind(desc: *const ffi::DriverKindDesc) -> c_int {
    // SAFETY: By the safety requirements of this function.
    kernel::error::from_result(|| unsafe { registry::register(desc) }.map(|()| 0))
}

crate::ffi::check_export!(fdbox_rs_register_kind);

/// `fdbox_unregister_kind()`.
///
/// # Safety
///
/// Called in process context, while the module is loaded; `desc` is only compared.
#[no_mangle]
unsafe extern "C" fn fdbox_rs_unregister_kind(desc: *const ffi::DriverKindDesc) {
    registry::unregister(desc);
}

crate::ffi::check_export!(fdbox_rs_unregister_kind);

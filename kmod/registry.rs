// SPDX-License-Identifier: GPL-2.0

//! The kinds of files that can be in a box: the built-in ones and those of drivers.

use crate::ffi::DriverKindDesc;
use crate::kind::{
    Kind,
    KindRef, //
};
use crate::kinds::{
    driver::DriverKind,
    guest_memfd::GuestMemfd,
    hugetlb::Hugetlb,
    iommufd::Iommufd,
    kvm_vm::KvmVm,
    lent::Lent,
    memfd::Memfd,
    vfio_pci::VfioPci, //
};
use crate::ratelimit;
use crate::uapi;
use kernel::{
    fs::File,
    prelude::*, //
};

/// In the order of `uapi::FEATURE_KINDS`, and then the one that is in boats only.
static BUILTIN: [&(dyn Kind); uapi::FEATURE_KINDS.len() + 1] = [
    &Memfd,
    &KvmVm,
    &GuestMemfd,
    &Iommufd,
    &VfioPci,
    &Hugetlb,
    &Lent,
];

/// A registered driver kind.
///
/// # Invariants
///
/// The description is valid until the driver unregisters it, which takes [`DRIVERS`].
struct Driver(*const DriverKindDesc);

// SAFETY: By the type invariants the description may be read from any task under the lock.
unsafe impl Send for Driver {}

kernel::sync::global_lock! {
    // SAFETY: Initialised in `init()`, before the module offers anything.
    unsafe(uninit) static DRIVERS: Mutex<KVec<Driver>> = KVec::new();
}

/// Called once, when the module loads.
pub(crate) fn init() {
    // SAFETY: Called once, before any other use.
    unsafe { DRIVERS.init() };
}

/// Frees the list, when the module is unloaded. It is empty, because each driver in it uses our
/// symbols.
pub(crate) fn exit() {
    *DRIVERS.lock() = KVec::new();
}

/// The result of a lookup. Looking up allocates no memory, so that a kind's callbacks never fail
/// because of that.
pub(crate) enum Found {
    Builtin(&'static dyn Kind),
    Driver(DriverKind),
}

impl Found {
    /// A reference that can be stored.
    fn into_ref(self) -> Result<KindRef> {
        Ok(match self {
            Found::Builtin(kind) => KindRef::Builtin(kind),
            Found::Driver(kind) => KindRef::Driver(KBox::new(kind, GFP_KERNEL)?),
        })
    }
}

impl core::ops::Deref for Found {
    type Target = dyn Kind;

    fn deref(&self) -> &(dyn Kind + 'static) {
        match self {
            Found::Builtin(kind) => *kind,
            Found::Driver(kind) => kind,
        }
    }
}

/// The kind for which `wanted` is true.
fn find(wanted: impl Fn(&dyn Kind) -> bool) -> Option<Found> {
    let builtin = of_builtin(&wanted).map(Found::Builtin);
    builtin.or_else(|| of_driver(&DRIVERS.lock(), &wanted).map(Found::Driver))
}

fn of_builtin(wanted: &impl Fn(&dyn Kind) -> bool) -> Option<&'static dyn Kind> {
    BUILTIN.iter().find(|kind| wanted(**kind)).copied()
}

/// The caller holds the lock of the list of drivers.
fn of_driver(drivers: &[Driver], wanted: &impl Fn(&dyn Kind) -> bool) -> Option<DriverKind> {
    for driver in drivers {
        // SAFETY: By the type invariants of `Driver`, with the lock held.
        if let Some(kind) = unsafe { DriverKind::get(driver.0) } {
            if wanted(&kind) {
                return Some(kind);
            }
        }
    }
    None
}

/// The kind of `file`; fails with `EOPNOTSUPP` if there is none or this kernel cannot support it.
pub(crate) fn of_file(file: &File) -> Result<KindRef> {
    supported(find(|kind| kind.matches(file)))?.into_ref()
}

/// The kind that reads this compatible string; fails with `EOPNOTSUPP` if there is none, or not yet.
pub(crate) fn of_compatible(compatible: &[u8]) -> Result<KindRef> {
    restorable(compatible)?.into_ref()
}

/// Like [`of_compatible`], for one call.
pub(crate) fn restorable(compatible: &[u8]) -> Result<Found> {
    supported(known(compatible))
}

/// Like [`restorable`], but also returns a kind that cannot be restored now because a module is not
/// loaded: what goes on besides its descriptors must still be carried or discarded.
pub(crate) fn known(compatible: &[u8]) -> Option<Found> {
    find(|kind| kind.reads(compatible))
}

/// Whether descriptors of this kind need files that are taken out before them.
pub(crate) fn waits_for_files(compatible: &[u8]) -> bool {
    let kind = of_builtin(&|kind: &dyn Kind| kind.reads(compatible));
    kind.is_some_and(|kind| kind.waits_for_files())
}

fn supported(kind: Option<Found>) -> Result<Found> {
    let kind = kind.ok_or(EOPNOTSUPP)?;
    if let Err(lack) = kind.supported() {
        if ratelimit::may_log() {
            let name = kernel::str::BStr::from_bytes(kind.compatible());
            pr_warn!("{} needs {}\n", name, lack);
        }
        return Err(EOPNOTSUPP);
    }
    Ok(kind)
}

/// Whether this kernel supports the built-in kind number `index`.
pub(crate) fn serves(index: usize) -> bool {
    BUILTIN
        .get(index)
        .is_some_and(|kind| kind.supported().is_ok())
}

/// Adds a driver's kind.
///
/// # Safety
///
/// `desc` points to a description that is valid until it is unregistered.
pub(crate) unsafe fn register(desc: *const DriverKindDesc) -> Result {
    // SAFETY: Valid, by the safety requirements of this function.
    let kind = unsafe { DriverKind::get(desc) }.ok_or(EINVAL)?;
    let taken = |other: &dyn Kind| other.reads(kind.compatible());
    let mut drivers = DRIVERS.lock();
    if of_builtin(&taken).is_some() || of_driver(&drivers, &taken).is_some() {
        return Err(EEXIST);
    }
    // INVARIANT: By the safety requirements of this function.
    drivers.push(Driver(desc), GFP_KERNEL)?;
    pr_info!(
        "kind {} registered\n",
        kernel::str::BStr::from_bytes(kind.compatible())
    );
    Ok(())
}

/// Removes a driver's kind; its descriptors stay in their boxes.
pub(crate) fn unregister(desc: *const DriverKindDesc) {
    DRIVERS.lock().retain(|driver| driver.0 != desc);
}

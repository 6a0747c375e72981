//! The ioctls with failing allocations.

use std::os::fd::IntoRawFd;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use super::{PAGES, finds_nothing_again, make_missing_nodes};
use crate::cases::{Cx, guest_memory, sample};
use crate::check::{equal, fails};
use crate::failing::{Quiet, at_last, one_by_one, set_up_failures};
use crate::fdbox::{self, FdBox};
use crate::kvm::Vm;
use crate::memory::{self, MIB, PAGE, check_pages, memfd, write_pages};
use crate::probe::Probe;
use crate::{host, uapi};

const CALLED: &str = "load-called";
/// The contents of this box are all found in the next kernel; those of that one lack a driver.
const WHOLE: &str = "load-whole";
const SALVAGED: &str = "load-salvaged";
pub(super) const ARRIVING: [&str; 2] = [WHOLE, SALVAGED];

/// Checks the state and number of descriptors in the list.
fn is(name: &str, state: u32, fds: u32) -> Result<()> {
    let listed = fdbox::listed(name)?.context("The box in the list")?;
    equal("State and number", (listed.state, listed.fds), (state, fds))
}

pub(super) fn here(cx: &Cx<'_>) -> Result<()> {
    set_up_failures()?;
    // With this box, UNSEAL has something to hand over.
    FdBox::create("load-beside")?.seal()?;
    let control = fdbox::control()?;
    let quiet = Quiet::begin()?;
    let gone = || equal("The box", fdbox::listed(CALLED)?.is_some(), false);
    let create = || {
        let mut name = uapi::Named::new(CALLED);
        uapi::call(&control, uapi::CREATE_BOX, &mut name).map(drop)
    };
    let ((), created) = at_last("CREATE_BOX", create, gone)?;
    make_missing_nodes()?;
    let fdbox = FdBox::open(CALLED)?;
    let memory = memfd(c"load", PAGES * PAGE)?;
    write_pages(&memory, 92, PAGES)?;
    // The call that succeeds closes this number.
    let number = memory.into_raw_fd();
    let put = || fdbox.try_put_number(number, "memory");
    let ((), put) = at_last("PUT_FD", put, || is(CALLED, uapi::STATE_OPEN, 0))?;
    let before = fdbox::info()?;
    let open = || {
        equal("What the handover keeps", fdbox::info()?, before)?;
        is(CALLED, uapi::STATE_OPEN, 1)
    };
    let ((), seal) = at_last("SEAL", || fdbox.try_seal(), open)?;
    let kept = fdbox::info()?;
    let sealed = || {
        equal("What the handover keeps", fdbox::info()?, kept)?;
        is(CALLED, uapi::STATE_SEALED, 1)
    };
    let ((), unseal) = at_last("UNSEAL", || fdbox.try_unseal(), sealed)?;
    open()?;
    let one = one_by_one("SEAL", || fdbox.try_seal(), open, |()| fdbox.unseal())?;
    let (file, get) = at_last("GET_FD", || fdbox.try_get("memory"), open)?;
    quiet.end()?;
    check_pages(&memory::file(file), 92, PAGES)?;
    cx.value(
        "failures of each call",
        [created, put, seal, unseal, one, get],
    )?;
    let least = [created, put, seal, unseal, one].into_iter().min();
    ensure!(least > Some(0), "No allocation failed");
    fdbox.delete()?;
    let beside = FdBox::open("load-beside")?;
    beside.unseal()?;
    beside.delete()?;
    make_what_arrives()
}

fn make_what_arrives() -> Result<()> {
    Probe::load()?;
    let fdbox = FdBox::create(WHOLE)?;
    let vm = Vm::create()?;
    let ram = vm.guest_memfd(MIB, guest_memory::SHARED)?;
    guest_memory::fill(&ram, 93, MIB / PAGE)?;
    let memory = memfd(c"load", PAGES * PAGE)?;
    write_pages(&memory, 94, PAGES)?;
    fdbox.put(ram, "ram")?;
    fdbox.put(vm.into_fd(), "vm")?;
    fdbox.put(memory, "memory")?;
    fdbox.put(Probe::file()?, "probe")?;
    fdbox.seal()?;
    let fdbox = FdBox::create(SALVAGED)?;
    fdbox.put(sample::device(b"load")?, "device")?;
    fdbox.put(memfd(c"load", PAGE)?, "memory")?;
    fdbox.seal()
}

pub(super) fn of_what_arrived(cx: &Cx<'_>) -> Result<()> {
    host::load_module("fdbox")?;
    set_up_failures()?;
    Probe::load()?;
    let whole = FdBox::open(WHOLE)?;
    let unseal = unseal_what_arrived(&whole)?;
    let salvage = salvage(&whole)?;
    let got = get_what_arrived(&whole)?;
    cx.value("failures of each call", [unseal, salvage, got])?;
    ensure!(salvage > 0 && got > 0, "No allocation failed");
    delete_what_arrived()?;
    // An open node keeps the module in use.
    drop(whole);
    finds_nothing_again()
}

/// Nothing in this box is lost, however little memory there is.
fn unseal_what_arrived(fdbox: &FdBox) -> Result<u32> {
    let sealed = || {
        equal("What is lost", fdbox.lost()?, Vec::new())?;
        is(WHOLE, uapi::STATE_SEALED, 4)
    };
    let again = |()| {
        fdbox.seal()?;
        sealed()
    };
    let quiet = Quiet::begin()?;
    let tried = one_by_one("UNSEAL", || fdbox.try_unseal(), sealed, again)?;
    fdbox.unseal()?;
    let carried = |count| equal("What the driver carries", Probe::carried()?, count);
    let open = || {
        carried(0)?;
        is(WHOLE, uapi::STATE_OPEN, 4)
    };
    let again = |()| {
        carried(1)?;
        fdbox.unseal()?;
        open()
    };
    one_by_one("SEAL", || fdbox.try_seal(), open, again)?;
    quiet.end()?;
    fdbox.seal()?;
    Ok(tried)
}

/// SEAL cleared the list of lost descriptors, and a SALVAGE that succeeds fills it. The box `other`
/// is sealed at the same time.
fn salvage(other: &FdBox) -> Result<u32> {
    let fdbox = FdBox::open(SALVAGED)?;
    fails("UNSEAL", fdbox.try_unseal(), Errno::NODATA)?;
    equal("How much is lost", fdbox.try_salvage()?, 1)?;
    fdbox.seal()?;
    equal("The list after SEAL", fdbox.lost()?, Vec::new())?;
    equal(
        "The other box is sealed",
        other.try_seal(),
        Err(Errno::BUSY),
    )?;
    let lost = vec![("device".to_owned(), uapi::LOST_UNKNOWN_KIND)];
    let sealed = || {
        equal("What is lost", fdbox.lost()?, Vec::new())?;
        is(SALVAGED, uapi::STATE_SEALED, 2)
    };
    let again = |count| {
        equal("How much is lost", count, 1)?;
        equal("What is lost", fdbox.lost()?, lost.clone())?;
        fdbox.seal()
    };
    let quiet = Quiet::begin()?;
    let tried = one_by_one("SALVAGE", || fdbox.try_salvage(), sealed, again)?;
    quiet.end()?;
    fdbox.try_salvage()?;
    fdbox.delete()?;
    Ok(tried)
}

/// Restores what arrived, except for the probe's descriptor, which is discarded.
fn get_what_arrived(fdbox: &FdBox) -> Result<u32> {
    fdbox.unseal()?;
    let left = |count| move || is(WHOLE, uapi::STATE_OPEN, count);
    let quiet = Quiet::begin()?;
    let (memory, failures) = at_last("GET_FD", || fdbox.try_get("memory"), left(4))?;
    let (vm, _) = at_last("GET_FD of a VM", || fdbox.try_get("vm"), left(3))?;
    let ram = at_last("GET_FD of guest memory", || fdbox.try_get("ram"), left(2))?;
    quiet.end()?;
    check_pages(&memory::file(memory), 94, PAGES)?;
    ensure!(Vm::from_fd(vm).works()?, "KVM does not serve this VM");
    guest_memory::check(&ram.0, 93, MIB / PAGE)?;
    Ok(failures)
}

/// The driver's callback is called, whatever could not be allocated.
fn delete_what_arrived() -> Result<()> {
    let control = fdbox::control()?;
    let discards = Probe::discards()?;
    let mut name = uapi::Named::new(WHOLE);
    let delete = || uapi::call(&control, uapi::DELETE_BOX, &mut name).map(drop);
    let again = |()| equal("Calls of discard", Probe::discards()?, discards + 1);
    let unchanged = || {
        equal("Calls of discard", Probe::discards()?, discards)?;
        is(WHOLE, uapi::STATE_OPEN, 1)
    };
    let quiet = Quiet::begin()?;
    let deleted = one_by_one("DELETE_BOX", delete, unchanged, again);
    quiet.end()?;
    match deleted {
        // Nothing is left to delete.
        Err(error) if error.downcast_ref() == Some(&Errno::NOENT) => Ok(()),
        other => other.map(drop),
    }
}

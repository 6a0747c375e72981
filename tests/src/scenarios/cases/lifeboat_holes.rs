//! Memory that nobody has used when it is lent.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::fs::fstat;
use rustix::io::Errno;

use super::guest_memory::{self, SHARED};
use super::lifeboat_borrows::{holder, retry};
use super::{Cx, Scenario};
use crate::boat::{Boat, Spec, started};
use crate::check::{equal, fails};
use crate::fdbox::FdBox;
use crate::host;
use crate::kvm::{INIT_SHARED, Vm};
use crate::memory::{self, MIB, PAGE, check_pages, memfd, write_pages};
use crate::uapi::{HOLDER_BOAT, HOLDER_OFFERED, LEND_LOOK, LEND_OFFER, LEND_RECALL};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "lifeboat/holes",
    about: "what the boat writes to memory that the host has never used is there when the host opens the box",
    host: HostKind::GuestLifeboatAstray,
    stages: &[holes],
}];

const CPU: u32 = 1;
const NAME: &str = "holes";
const VM: &str = "vm";
const GUEST_MEMFD: &str = "guest-memfd";
const UNMAPPABLE: &str = "unmappable";
const MEMFD: &str = "memfd";
const PAGES: u64 = 2 * MIB / PAGE;
const SEED: u64 = 160;

fn holes(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create(NAME)?;
    let vm = Vm::create()?;
    fdbox.put(vm.guest_memfd(PAGES * PAGE, SHARED)?, GUEST_MEMFD)?;
    fdbox.put(vm.guest_memfd(PAGE, INIT_SHARED)?, UNMAPPABLE)?;
    fdbox.put(memfd(c"holes", PAGES * PAGE)?, MEMFD)?;
    fdbox.put(vm.into_fd(), VM)?;
    fdbox.seal()?;
    let boat = Boat::open()?;
    let spec = Spec::new(&format!("help:fill-holes,{NAME}"), &[CPU]);
    started(&boat, &spec, 0)?;
    fdbox.try_lend(LEND_OFFER).context("Offer it")?;
    host::until("The boat takes it", || Ok(holder(&fdbox)? == HOLDER_BOAT))?;
    fails("To recall it", fdbox.try_lend(LEND_RECALL), Errno::BUSY)?;
    host::until("It is given back", || Ok(holder(&fdbox)? == HOLDER_OFFERED))?;
    boat.stop()?;
    fdbox.unseal()?;
    guest_memory::check(&fdbox.get(GUEST_MEMFD)?, SEED, PAGES).context("The guest_memfd")?;
    check_pages(&memory::file(fdbox.get(MEMFD)?), SEED, PAGES).context("The memfd")?;
    fdbox.delete()
}

/// Whether a line of the kernel's log contains `words`. The boat has no dmesg.
fn is_logged(words: &str) -> Result<bool> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let mut log = options.open("/dev/kmsg").context("Open the log")?;
    let mut line = [0; 8192];
    while let Ok(len) = log.read(&mut line) {
        if String::from_utf8_lossy(&line[..len]).contains(words) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The helper `fill-holes NAME`, in the boat.
pub(super) fn fill_holes(name: &str) -> Result<()> {
    host::load_module("fdbox")?;
    retry(|| FdBox::try_borrow(name), &[Errno::NOENT, Errno::AGAIN]).context("Borrow the box")?;
    let fdbox = FdBox::open(name)?;
    let vm = Vm::from_fd(fdbox.get_and_keep(VM)?);
    ensure!(vm.works()?, "KVM does not serve this process by the VM");
    let hidden = fdbox.try_get_and_keep(UNMAPPABLE);
    fails("To borrow what cannot be mapped", hidden, Errno::OPNOTSUPP)?;
    let words = "unmappable cannot be lent: create the guest_memfd with GUEST_MEMFD_FLAG_MMAP";
    ensure!(is_logged(words)?, "The log does not say {words:?}");
    let ram = fdbox.get_and_keep(GUEST_MEMFD)?;
    let again = fdbox.get_and_keep(GUEST_MEMFD)?;
    equal("The file", fstat(&again)?.st_ino, fstat(&ram)?.st_ino)?;
    let file: File = memory::file(fdbox.get_and_keep(MEMFD)?);
    retry(|| fdbox.try_unseal(), &[Errno::AGAIN]).context("Take the box")?;
    guest_memory::fill(&ram, SEED, PAGES)?;
    write_pages(&file, SEED, PAGES)?;
    while fdbox.try_lend(LEND_LOOK)?.wanted == 0 {}
    fdbox.seal()?;
    fdbox.delete()
}

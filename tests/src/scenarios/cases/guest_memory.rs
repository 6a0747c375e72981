//! VMs and guest_memfds, without a guest.

use std::fs::File;
use std::os::fd::OwnedFd;

use anyhow::{Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;

use super::{Cx, Scenario};
use crate::check::{equal, fails};
use crate::fdbox::{self, FdBox};
use crate::hugetlb::Size;
use crate::kvm::{INIT_SHARED, MMAP, Mapped, Vm};
use crate::memory::{MIB, PAGE, check_size, memfd, page_content};
use crate::{host, uapi};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "guest-memory/missing-vm",
        about: "SEAL of guest memory without its VM fails, names it, and changes nothing",
        host: HostKind::OneBoot,
        stages: &[missing_vm],
    },
    &Scenario {
        name: "guest-memory/across-a-kexec",
        about: "guest memory arrives in a new VM, with what was written after SEAL",
        host: HostKind::Kexec,
        stages: &[before, after],
    },
    &Scenario {
        name: "guest-memory/two-vms",
        about: "each memory goes to its own VM",
        host: HostKind::Kexec,
        stages: &[two_vms_before, two_vms_after],
    },
    &Scenario {
        name: "guest-memory/scattered",
        about: "two memories with interleaved pages in random order are restored separately",
        host: HostKind::Kexec,
        stages: &[scattered_before, scattered_after],
    },
    &Scenario {
        name: "guest-memory/unpatched",
        about: "an unpatched kernel refuses unsupported files, and the log names the patch",
        host: HostKind::Unpatched,
        stages: &[unpatched],
    },
];

pub(super) const SHARED: u64 = MMAP | INIT_SHARED;
const PAGES: u64 = 4 * MIB / PAGE;

pub(super) fn fill(memory: &OwnedFd, seed: u64, pages: u64) -> Result<Mapped> {
    let mut mapped = Mapped::new(&File::from(memory.try_clone()?), pages * PAGE)?;
    for (index, page) in mapped.bytes().chunks_mut(PAGE as usize).enumerate() {
        page.copy_from_slice(&page_content(seed, index as u64));
    }
    Ok(mapped)
}

pub(super) fn check(memory: &OwnedFd, seed: u64, pages: u64) -> Result<()> {
    let mut mapped = Mapped::new(&File::from(memory.try_clone()?), pages * PAGE)?;
    for (index, page) in mapped.bytes().chunks(PAGE as usize).enumerate() {
        ensure!(
            page == page_content(seed, index as u64),
            "Page {index} is not what was written"
        );
    }
    Ok(())
}

fn missing_vm(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("missing-vm")?;
    let (vm, other) = (Vm::create()?, Vm::create()?);
    let memory = vm.guest_memfd(MIB, SHARED)?;
    fill(&memory, 40, MIB / PAGE)?;
    fdbox.put(memory, "ram")?;
    // Another VM is not the right one.
    fdbox.put(other.into_fd(), "other-vm")?;
    let before = fdbox::info()?;
    fails("SEAL without the VM", fdbox.try_seal(), Errno::NOENT)?;
    let why = fdbox.seal_error()?;
    equal("The descriptor named", why.name.text(), "ram".into())?;
    equal("The reason", why.reason, uapi::REASON_MISSING_DEPENDENCY)?;
    ensure!(
        uapi::text(&why.message).contains("VM"),
        "The message does not say what is missing"
    );
    equal("What the handover keeps", fdbox::info()?, before)?;
    equal("The number of descriptors", fdbox.entries()?.len(), 2)?;

    fdbox.put(vm.try_clone()?, "vm")?;
    fdbox.seal()?;
    fdbox.unseal()?;
    fdbox.get("vm")?;
    check(&fdbox.get("ram")?, 40, MIB / PAGE)?;
    fdbox.delete()
}

fn before(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("guest-memory")?;
    let vm = Vm::create()?;
    let memory = vm.guest_memfd(PAGES * PAGE, SHARED)?;
    let mut mapped = fill(&memory, 41, PAGES)?;
    fdbox.put(memory, "ram")?;
    fdbox.put(vm.into_fd(), "vm")?;
    fdbox.seal()?;
    // A real guest would continue: its writes must be preserved.
    mapped.bytes()[..PAGE as usize].copy_from_slice(&page_content(42, 0));
    Ok(())
}

fn after(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open("guest-memory")?;
    fdbox.unseal()?;
    let vm = Vm::from_fd(fdbox.get("vm")?);
    ensure!(vm.works()?, "KVM does not serve this process by the VM");
    let memory = fdbox.get("ram")?;
    check_size(&memory, PAGES * PAGE)?;
    let mut mapped = Mapped::new(&File::from(memory.try_clone()?), PAGES * PAGE)?;
    for (index, page) in mapped.bytes().chunks(PAGE as usize).enumerate() {
        let seed = if index == 0 { 42 } else { 41 };
        ensure!(
            page == page_content(seed, index as u64),
            "Page {index} is wrong"
        );
    }
    fdbox.delete()
}

pub(super) fn two_vms_before(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("two-vms")?;
    for (number, seed) in [(1, 43), (2, 44)] {
        let vm = Vm::create()?;
        let memory = vm.guest_memfd(MIB, SHARED)?;
        fill(&memory, seed, MIB / PAGE)?;
        fdbox.put(memory, &format!("ram-{number}"))?;
        fdbox.put(vm.into_fd(), &format!("vm-{number}"))?;
    }
    fdbox.seal()
}

pub(super) fn two_vms_after(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open("two-vms")?;
    fdbox.unseal()?;
    // Memory first or VM first: the order must not matter.
    let second = Vm::from_fd(fdbox.get("vm-2")?);
    let (ram1, ram2) = (fdbox.get("ram-1")?, fdbox.get("ram-2")?);
    let first = Vm::from_fd(fdbox.get("vm-1")?);
    check(&ram1, 43, MIB / PAGE)?;
    check(&ram2, 44, MIB / PAGE)?;
    let mapped = |ram: &OwnedFd| Mapped::new(&File::from(ram.try_clone()?), MIB);
    let crossed = first.bind(&ram2, &mut mapped(&ram2)?);
    ensure!(crossed.is_err(), "A VM takes the other VM's memory");
    first.bind(&ram1, &mut mapped(&ram1)?)?;
    second.bind(&ram2, &mut mapped(&ram2)?)?;
    fdbox.delete()
}

const SCATTERED_PAGES: u64 = 2048;
const SCATTERED: [&str; 2] = ["ram-1", "ram-2"];

fn scattered_before(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("scattered")?;
    let vm = Vm::create()?;
    let memories = [
        vm.guest_memfd(SCATTERED_PAGES * PAGE, SHARED)?,
        vm.guest_memfd(SCATTERED_PAGES * PAGE, SHARED)?,
    ];
    let [mut one, mut other] = [mapped(&memories[0])?, mapped(&memories[1])?];
    for step in 0..SCATTERED_PAGES {
        // An odd factor, so that each page is visited once.
        let index = step * 1181 % SCATTERED_PAGES;
        write(&mut one, 47, index);
        write(&mut other, 48, SCATTERED_PAGES - 1 - index);
    }
    let before = fdbox::info()?.handover_extents;
    for (memory, name) in memories.into_iter().zip(SCATTERED) {
        fdbox.put(memory, name)?;
    }
    fdbox.put(vm.into_fd(), "vm")?;
    fdbox.seal()?;
    // A guest_memfd's pages cannot be moved; SEAL may move those of a memfd, and so make them
    // contiguous.
    let extents = fdbox::info()?.handover_extents - before;
    ensure!(
        extents > SCATTERED_PAGES,
        "The pages are not scattered: {extents} extents"
    );
    Ok(())
}

fn scattered_after(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open("scattered")?;
    fdbox.unseal()?;
    let _vm = fdbox.get("vm")?;
    for (seed, name) in (47..).zip(SCATTERED) {
        let memory = fdbox.get(name)?;
        check_size(&memory, SCATTERED_PAGES * PAGE)?;
        check(&memory, seed, SCATTERED_PAGES)?;
    }
    fdbox.delete()
}

fn mapped(memory: &OwnedFd) -> Result<Mapped> {
    Mapped::new(&File::from(memory.try_clone()?), SCATTERED_PAGES * PAGE)
}

fn write(mapped: &mut Mapped, seed: u64, index: u64) {
    let at = (index * PAGE) as usize;
    mapped.bytes()[at..at + PAGE as usize].copy_from_slice(&page_content(seed, index));
}

fn unpatched(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("unpatched")?;
    let features = fdbox::info()?.features;
    let kinds = uapi::FEATURE_KVM_VM
        | uapi::FEATURE_GUEST_MEMFD
        | uapi::FEATURE_MEMFD
        | uapi::FEATURE_HUGETLB;
    equal("The features", features & kinds, 0)?;
    equal(
        "KHO, for which a memfd needs a patch",
        features & uapi::FEATURE_KHO,
        uapi::FEATURE_KHO,
    )?;
    let vm = Vm::create()?;
    let memory = vm.guest_memfd(MIB, SHARED)?;
    let huge = Size::TwoMib.file(c"unpatched", 0)?;
    for (name, fd, patch) in [
        ("memfd", memfd(c"unpatched", MIB)?.into(), "0002-"),
        ("VM", vm.into_fd(), "0003-"),
        ("guest_memfd", memory, "0004-"),
        ("memfd of huge pages", huge.into(), "0022-"),
    ] {
        let refused = fdbox.try_put(fd, name).map_err(|(error, _)| error);
        fails(&format!("PUT_FD of a {name}"), refused, Errno::OPNOTSUPP)?;
        let log = host::kernel_log()?;
        let wanted = format!("kmod/patches/{patch}");
        let named = log.iter().any(|line| line.contains(&wanted));
        ensure!(
            named,
            "No line of the log names the patch that a {name} needs: {log:?}"
        );
    }
    fdbox.delete()
}

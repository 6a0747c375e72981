//! KVM, iommufd and VFIO as modules that are loaded after fdbox.ko, which binds to them when it
//! uses them.

use std::fs::File;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;

use super::{Cx, Scenario, guest_memory, guest_takers, passthrough};
use crate::check::{equal, fails};
use crate::fdbox::{self, FdBox};
use crate::kvm::Vm;
use crate::memory::{self, MIB, PAGE, check_pages, memfd, write_pages};
use crate::passthrough::pci;
use crate::passthrough::vfio::Iommufd;
use crate::{host, uapi};

/// They run in this order in each kernel: the first one finds nothing loaded except fdbox.ko.
pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "modular/kvm",
        about: "KVM is loaded before or after fdbox.ko, and can be unloaded while no box \
                holds its files",
        host: HostKind::Modular,
        stages: &[kvm_before, kvm_after],
    },
    &Scenario {
        name: "modular/iommufd",
        about: "the same with iommufd",
        host: HostKind::Modular,
        stages: &[iommufd_before, iommufd_after],
    },
    &Scenario {
        name: "modular/two-vms",
        about: "each memory goes to its own VM, with KVM as a module",
        host: HostKind::Modular,
        stages: &[guest_memory::two_vms_before, guest_memory::two_vms_after],
    },
    &Scenario {
        name: "modular/takers-that-die",
        about: "guests are taken by processes that are killed, with KVM as a module",
        host: HostKind::Modular,
        stages: &[guest_takers::dying_before, guest_takers::dying_after],
    },
    &Scenario {
        name: "modular/nobody-takes-it",
        about: "a device whose box is deleted stops, in a kernel without VFIO",
        host: HostKind::Modular,
        stages: &[device_before, given_up],
    },
    &Scenario {
        name: "modular/two-devices",
        about: "two devices continue DMA through a kernel that never loads VFIO, and are \
                taken out in the next",
        host: HostKind::Modular,
        stages: &[devices_before, devices_between, devices_after],
    },
];

/// The module with the kind's functions, and the one for the hardware.
const KVM: [&str; 2] = ["kvm", "kvm-amd"];
const IOMMUFD: &str = "iommufd";
const VFIO: [&str; 3] = ["vfio", "vfio-pci-core", "vfio-pci"];

fn load(modules: &[&str]) -> Result<()> {
    modules.iter().try_for_each(|name| host::load_module(name))
}

fn unload(modules: &[&str]) -> Result<()> {
    for name in modules {
        host::unload_module(name).with_context(|| format!("Unload {name}"))?;
    }
    Ok(())
}

/// Whether the module reports that it supports all of these features.
fn serves(features: u64) -> Result<bool> {
    Ok(fdbox::info()?.features & features == features)
}

const KVM_KINDS: u64 = uapi::FEATURE_KVM_VM | uapi::FEATURE_GUEST_MEMFD;

/// Whether a line of the log has all these words.
fn logged(words: &[&str]) -> Result<()> {
    let log = host::kernel_log()?;
    let found = |line: &String| words.iter().all(|word| line.contains(word));
    ensure!(log.iter().any(found), "No line has {words:?}: {log:?}");
    Ok(())
}

/// A guest goes into a box and comes out again. A box with a VM keeps KVM loaded.
fn guest_in_a_box() -> Result<()> {
    ensure!(serves(KVM_KINDS)?, "KVM is there and is not served");
    let fdbox = FdBox::create("order")?;
    let vm = Vm::create()?;
    fdbox.put(vm.guest_memfd(MIB, guest_memory::SHARED)?, "ram")?;
    fdbox.put(vm.into_fd(), "vm")?;
    for module in ["kvm_amd", "kvm"] {
        let gone = host::unload_module(module);
        fails(&format!("Unloading {module}"), gone, Errno::AGAIN)?;
    }
    fdbox.seal()?;
    fdbox.unseal()?;
    let vm = Vm::from_fd(fdbox.get("vm")?);
    ensure!(vm.works()?, "KVM does not serve this process by the VM");
    fdbox.delete()
}

fn kvm_before(_: &Cx<'_>) -> Result<()> {
    let here = ["kvm_amd", "kvm"];
    load(&["irqbypass"])?;
    ensure!(
        !serves(uapi::FEATURE_KVM_VM)? && !serves(uapi::FEATURE_GUEST_MEMFD)?,
        "Kinds are served by a KVM that is not there"
    );
    ensure!(serves(uapi::FEATURE_MEMFD)?, "A memfd needs no module");
    // fdbox.ko was loaded first. It does not pin a module of which it holds no file.
    load(&KVM)?;
    guest_in_a_box()?;
    unload(&here)?;
    ensure!(!serves(uapi::FEATURE_KVM_VM)?, "KVM is gone, and is served");
    // Between the two, and after both.
    for first in [1, 2] {
        unload(&["fdbox"])?;
        load(&KVM[..first])?;
        load(&["fdbox"])?;
        load(&KVM)?;
        guest_in_a_box()?;
        unload(&here)?;
    }
    load(&KVM)?;

    let fdbox = FdBox::create("modular-kvm")?;
    let vm = Vm::create()?;
    let ram = vm.guest_memfd(MIB, guest_memory::SHARED)?;
    guest_memory::fill(&ram, guest_takers::TAKERS_SEED, MIB / PAGE)?;
    let file = memfd(c"modular", 8 * PAGE)?;
    write_pages(&file, 61, 8)?;
    fdbox.put(ram, "ram")?;
    fdbox.put(file, "file")?;
    fdbox.put(vm.into_fd(), "vm")?;
    fdbox.seal()
}

/// Opens a box whose descriptors are lost as long as modules are not loaded: UNSEAL names them.
fn salvage(fdbox: &FdBox, lost: &[&str]) -> Result<()> {
    fails("UNSEAL", fdbox.try_unseal(), Errno::NODATA)?;
    let named = |name: &&str| ((*name).to_owned(), uapi::LOST_UNKNOWN_KIND);
    let expected: Vec<_> = lost.iter().map(named).collect();
    equal("What is lost", fdbox.lost()?, expected)?;
    for lost in fdbox.whole_lost()? {
        let message = uapi::text(&lost.message);
        ensure!(
            message.contains(" needs ") && message.contains(".ko"),
            "The message is {message:?}"
        );
    }
    equal("How much is lost", fdbox.try_salvage()?, lost.len() as u64)
}

/// The box holds fdbox.ko, which therefore cannot be loaded again after KVM.
fn kvm_after(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open("modular-kvm")?;
    let gone = host::unload_module("fdbox");
    fails("Unloading fdbox.ko", gone, Errno::AGAIN)?;
    salvage(&fdbox, &["ram", "vm"])?;
    check_pages(&memory::file(fdbox.get("file")?), 61, 8)?;
    let refused = |name: &str, why: &[&str]| -> Result<()> {
        let got = fdbox.try_get(name).map(drop);
        fails(&format!("GET_FD of {name}"), got, Errno::OPNOTSUPP)?;
        logged(why)
    };
    refused("vm", &["fdbox,kvm-vm-v1 needs kvm.ko", "load kvm-amd"])?;
    refused("ram", &["fdbox,guest-memfd-v1 needs kvm.ko"])?;
    load(&["irqbypass", "kvm"])?;
    refused("vm", &["a VM needs kvm-amd or kvm-intel beside kvm"])?;
    load(&["kvm-amd"])?;
    // In a process that ends: this one would keep its mappings, and they would keep KVM loaded.
    host::in_another_process("take-guest", &["modular-kvm"])?;
    fdbox.delete()?;
    // Nothing of it is left here, and it is still found later.
    unload(&["kvm_amd", "kvm"])?;
    load(&KVM)?;
    guest_in_a_box()
}

const IOVA: u64 = 16 * MIB;

/// An iommufd that maps a memfd, and the id of its IOAS.
fn iommufd_with(file: &File) -> Result<(Iommufd, u32)> {
    let iommufd = Iommufd::open()?;
    let ioas = iommufd.ioas()?;
    let mapped = iommufd.map(ioas, file, MIB, IOVA);
    mapped.context("Map the memfd")?;
    Ok((iommufd, ioas))
}

fn iommufd_before(_: &Cx<'_>) -> Result<()> {
    ensure!(
        !serves(uapi::FEATURE_IOMMUFD)? && !serves(uapi::FEATURE_VFIO_PCI)?,
        "Kinds are served by modules that are not there"
    );
    load(&[IOMMUFD])?;
    ensure!(
        serves(uapi::FEATURE_IOMMUFD)? && !serves(uapi::FEATURE_VFIO_PCI)?,
        "iommufd alone serves one of the two kinds"
    );
    let file = memfd(c"mapped", MIB)?;
    write_pages(&file, 62, 8)?;
    let (iommufd, _) = iommufd_with(&file)?;
    let fdbox = FdBox::create("modular-iommufd")?;
    fdbox.put(iommufd.into_fd(), "iommufd")?;
    fdbox.put(file, "memory")?;
    let gone = host::unload_module(IOMMUFD);
    fails("Unloading iommufd", gone, Errno::AGAIN)?;
    fdbox.seal()
}

fn iommufd_after(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open("modular-iommufd")?;
    salvage(&fdbox, &["iommufd"])?;
    let file = memory::file(fdbox.get("memory")?);
    check_pages(&file, 62, 8)?;
    let got = fdbox.try_get("iommufd").map(drop);
    fails("GET_FD of the iommufd", got, Errno::OPNOTSUPP)?;
    logged(&["fdbox,iommufd-v1 needs iommufd.ko"])?;
    load(&[IOMMUFD])?;
    let iommufd = Iommufd::from_fd(fdbox.get("iommufd")?);
    // The first IOAS of an iommufd has this id; the memfd is already mapped in it.
    let again = iommufd.map(1, &file, MIB, IOVA);
    fails("Mapping the same again", again, Errno::EXIST)?;
    drop(iommufd);
    fdbox.delete()?;
    unload(&[IOMMUFD])
}

fn load_vfio() -> Result<()> {
    load(&["irqbypass", IOMMUFD])?;
    load(&VFIO)
}

fn device_before(cx: &Cx<'_>) -> Result<()> {
    load_vfio()?;
    passthrough::before(cx)
}

/// Whichever modules are loaded: the device does DMA to the memory of the box, which is freed.
fn given_up(_: &Cx<'_>) -> Result<()> {
    ensure!(!serves(uapi::FEATURE_VFIO_PCI)?, "VFIO is loaded already");
    let fdbox = FdBox::open(passthrough::BOX)?;
    let mastering = || pci::is_master(&pci::nic()?);
    equal("Bus mastering", mastering()?, true)?;
    fails("UNSEAL without modules", fdbox.try_unseal(), Errno::NODATA)?;
    fdbox.try_salvage()?;
    fdbox.delete()?;
    equal("Bus mastering of a device given up", mastering()?, false)
}

fn devices_before(cx: &Cx<'_>) -> Result<()> {
    load_vfio()?;
    ensure!(serves(uapi::FEATURE_VFIO_PCI)?, "VFIO is there, unserved");
    passthrough::two_before(cx)
}

/// The box is left alone.
fn devices_between(_: &Cx<'_>) -> Result<()> {
    ensure!(!serves(uapi::FEATURE_VFIO_PCI)?, "VFIO is loaded already");
    for place in pci::nics()? {
        equal("Bus mastering", pci::is_master(&place)?, true)?;
    }
    Ok(())
}

fn devices_after(cx: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open(passthrough::BOX)?;
    fails("UNSEAL without modules", fdbox.try_unseal(), Errno::NODATA)?;
    fdbox.try_salvage()?;
    let got = fdbox.try_get("nic").map(drop);
    fails("GET_FD of the device", got, Errno::OPNOTSUPP)?;
    logged(&["fdbox,vfio-pci-v2 needs iommufd.ko, vfio.ko and vfio-pci.ko"])?;
    fdbox.seal()?;
    load_vfio()?;
    passthrough::two_after(cx)
}

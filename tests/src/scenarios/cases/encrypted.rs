//! VMs whose memory or state the host cannot read.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;

use super::{Cx, Scenario};
use crate::check::{equal, fails};
use crate::fdbox::FdBox;
use crate::kvm::Vm;
use crate::{host, uapi};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "encrypted/refused",
    about: "EOPNOTSUPP: SEAL refuses a VM with encrypted memory or state, and says which kind it is",
    host: HostKind::OneBoot,
    stages: &[refused],
}];

/// (type of the VM, whether its state is protected, the reason given by SEAL). No machine of the
/// lab supports such VMs: a test module makes an ordinary VM look like one.
const KINDS: &[(u32, u32, &str)] = &[
    (1, 0, "KVM_X86_SW_PROTECTED_VM"),
    (2, 0, "SEV"),
    (3, 1, "SEV-ES"),
    (4, 1, "SEV-SNP"),
    (5, 1, "TDX"),
    (0, 1, "protected state"),
    (77, 0, "does not know"),
];

fn refused(_: &Cx<'_>) -> Result<()> {
    host::load_module("fdbox_vmtype")?;
    let fdbox = FdBox::create("encrypted")?;
    let vm = Vm::create()?;
    fdbox.put(vm.try_clone()?, "vm")?;
    let vm = vm.into_fd();
    let look_like = |kind: u32, protected: u32| -> Result<()> {
        let mut device = OpenOptions::new().write(true).open("/dev/fdbox_vmtype")?;
        let text = format!("{} {kind} {protected}", vm.as_raw_fd());
        device.write_all(text.as_bytes()).context("Change the VM")
    };
    let refused_as = |word: &str| -> Result<()> {
        fails(word, fdbox.try_seal(), Errno::OPNOTSUPP)?;
        let why = fdbox.seal_error()?;
        equal("The descriptor named", why.name.text(), "vm".into())?;
        equal("The reason", why.reason, uapi::REASON_UNSUPPORTED_STATE)?;
        let message = uapi::text(&why.message);
        ensure!(
            message.contains(&format!("({word})")) || message.contains(&format!("{word})")),
            "The message is {message:?}"
        );
        Ok(())
    };
    for &(kind, protected, word) in KINDS {
        look_like(kind, protected)?;
        let judged = refused_as(word);
        // Whatever the result: KVM must destroy the VM as what it really is.
        look_like(0, 0)?;
        judged?;
    }
    fdbox.seal()?;
    fdbox.unseal()?;
    fdbox.delete()
}

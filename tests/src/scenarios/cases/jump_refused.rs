//! A next kernel that does not take over what the boxes hold: the module refuses the jump into it.

use anyhow::Result;
use fdbox_lab::scenario::HostKind;

use super::{Cx, Scenario};
use crate::check::equal;
use crate::fdbox::{self, FdBox};
use crate::kexec::{self, Image};
use crate::memory::{self, PAGE, check_page, memfd, write_page};
use crate::{host, uapi};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "leaving/refused",
        about: "EOPNOTSUPP: no kexec to a kernel that gets no handover while a box is \
                sealed or has arrived; one that does is entered",
        host: HostKind::Kexec,
        stages: &[before, after],
    },
    &Scenario {
        name: "leaving/refused-until-unsealed",
        about: "after UNSEAL there is no handover, and the host can jump into a kernel that \
                gets none",
        host: HostKind::OwnKexec,
        stages: &[unsealed_before, unsealed_after],
    },
];

const BOX: &str = "jump-refused";
const SEED: u64 = 83;
/// The log message about a kernel that gets no handover.
const NO_HANDOVER: &str = "kexec refused: the loaded kernel is not told";

fn before(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create(BOX)?;
    let memory = memfd(c"jump-refused", PAGE)?;
    write_page(&memory, SEED, 0)?;
    fdbox.put(memory, "memory")?;
    fdbox.seal()?;

    kexec::load_legacy()?;
    equal("Loaded by kexec_load(2)", kexec::handover()?, "none".into())?;
    kexec::is_refused(NO_HANDOVER)?;
    kexec::unload_legacy()?;

    Image::next()?.without_kho().load()?;
    equal("Without KHO", kexec::handover()?, "none".into())?;
    kexec::is_refused(NO_HANDOVER)?;

    // The capabilities of this kernel are unknown. If it has the module, it carries on memory that
    // it cannot restore.
    Image::next()?.unpatched().load()?;
    equal("Without the patches", kexec::handover()?, "0x0".into())?;
    Image::next()?.load()?;
    equal("With the patches", kexec::handover()?, "0x7ff".into())?;
    host::unload_next_kernel()?;
    // Nothing was lost: the box is sealed, and the next jump carries it along.
    let states: Vec<u32> = fdbox.entries()?.iter().map(|entry| entry.state).collect();
    equal("The list", states, vec![uapi::FD_LIVE])
}

fn after(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open(BOX)?;
    // Unmodified since it arrived, it would go on to the next kernel.
    kexec::load_legacy()?;
    kexec::is_refused(NO_HANDOVER)?;
    kexec::unload_legacy()?;
    fdbox.unseal()?;
    let memory = memory::file(fdbox.get("memory")?);
    check_page(&memory, SEED, 0)?;
    fdbox.delete()
}

fn unsealed_before(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create(BOX)?;
    fdbox.put(memfd(c"jump-refused", PAGE)?, "memory")?;
    fdbox.seal()?;
    // To this kernel it looks like one loaded by kexec_load(2); but it can boot.
    Image::next()?.without_kho().load()?;
    equal("What it is told", kexec::handover()?, "none".into())?;
    kexec::is_refused(NO_HANDOVER)?;
    fdbox.unseal()?;
    Ok(kexec::jump()?)
}

/// The host has jumped into the same image that was refused before UNSEAL.
fn unsealed_after(_: &Cx<'_>) -> Result<()> {
    equal("The number of boxes", fdbox::info()?.boxes, 0)
}

/// Checks that the jump into a kernel that does not take over devices is refused. `missing`: the bits of
/// what the next kernel would have to take over.
pub(super) fn is_refused_to_devices(missing: u32) -> Result<()> {
    kexec::load_legacy()?;
    kexec::is_refused(NO_HANDOVER)?;
    kexec::unload_legacy()?;
    refuses(&Image::next()?.unpatched(), missing)?;
    host::unload_next_kernel()
}

/// Checks that the jump into `image` is refused because it lacks these bits.
pub(super) fn refuses(image: &Image, missing: u32) -> Result<()> {
    image.load()?;
    kexec::is_refused(&format!(
        "does not take over what is handed over to it ({missing:#x} is missing)"
    ))
}

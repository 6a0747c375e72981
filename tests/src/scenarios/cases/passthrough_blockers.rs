//! Devices that cannot go through a kexec: preflight names them, and the guest continues.

use std::fs;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;
use serde_json::{Value, json};

use super::guest::{asked, port};
use super::passthrough::does_not_seal;
use super::reports::same_guest;
use super::{Cx, Scenario};
use crate::check::equal;
use crate::fdbox::{self, FdBox};
use crate::fleet::update_all;
use crate::guest::{Ended, Guest, Spec};
use crate::passthrough::vfio::VfioDevice;
use crate::passthrough::{Rig, pci};

/// The directory in which `live-update --all` looks for guests.
const RUN_DIR: &str = "/run/all-guests";

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "passthrough/blockers",
    about: "a dry run for one or all guests names a device that uses ATS, and none that only has it; the guest \
            continues",
    host: HostKind::GuestScalable,
    stages: &[blockers],
}];

fn spec() -> Spec {
    Spec {
        ram: "memfd".to_owned(),
        ..asked("blockers", 256)
    }
}

fn blockers(_: &Cx<'_>) -> Result<()> {
    let [uses_ats, has_ats] = pci::with_ats()?;
    let places = [pci::nic()?, uses_ats, has_ats];
    let mut more = Vec::new();
    for place in &places {
        more.extend(pci::to_pass_through(place)?);
    }
    let [nic, ats_user, has_ats] = places.map(|place| pci::address(&place));
    let mut guest = Guest::boot_with(spec(), &more, &port()?)?;
    shown(&guest.spec.status()?, [&nic, &ats_user, &has_ats])?;

    let (before, info) = (guest.report()?, fdbox::info()?);
    // All guests whose VMMs listen there.
    fs::create_dir(RUN_DIR)?;
    fs::hard_link(guest.spec.api(), format!("{RUN_DIR}/blockers.sock"))?;
    let of_all = ["--dry-run", "--run-dir", RUN_DIR];
    for ended in [
        guest.live_update(&["--dry-run"])?,
        guest.live_update(&[])?,
        Ended::of(&mut update_all(&of_all)?)?,
    ] {
        ended.expect(10)?;
        names(&ended.text, &ats_user, "(ATS)")?;
        let lines = ended.text.lines().filter(|line| line.contains("blocker"));
        let others = lines.filter(|line| line.contains(&nic) || line.contains(&has_ats));
        equal("Blockers of the other devices", others.count(), 0)?;
    }
    equal("The module's figures", fdbox::info()?, info)?;
    guest.wait_for_beat()?;
    same_guest(&before, &guest.report()?)?;
    guest.power_off()?;
    seal_agrees()
}

/// Checks that a line of the table reports this blocker for the device.
fn names(text: &str, address: &str, problem: &str) -> Result<()> {
    let named = |line: &str| {
        ["blocker", address, problem]
            .iter()
            .all(|word| line.contains(word))
    };
    ensure!(
        text.lines().any(named),
        "No line names {problem} of {address}: {text}"
    );
    Ok(())
}

/// Checks that SEAL would have failed, and only because of the device that uses ATS.
fn seal_agrees() -> Result<()> {
    let rig = Rig::set_up()?;
    let fdbox = FdBox::create("blockers")?;
    rig.put(&fdbox)?;
    let [uses_ats, has_ats] = pci::with_ats()?;
    for (place, name) in [(uses_ats, "ats-user"), (has_ats, "has-ats")] {
        let device = VfioDevice::open(&pci::give_to_vfio(&place)?, &rig.iommufd)?;
        device.attach(rig.ioas).context("Attach the device")?;
        fdbox.put(device.into_fd(), name)?;
    }
    does_not_seal(&fdbox, Errno::OPNOTSUPP, "ats-user", "without ATS")?;
    drop(fdbox.get("ats-user")?);
    fdbox.seal()?;
    fdbox.unseal()?;
    fdbox.delete()
}

/// Checks that the status lists the passed-through devices, in the order in which they were given.
fn shown(status: &Value, addresses: [&str; 3]) -> Result<()> {
    let wanted = json!([
        {"device": "vfio0", "address": addresses[0]},
        {"device": "vfio1", "address": addresses[1]},
        {"device": "vfio2", "address": addresses[2]},
    ]);
    equal("The list of devices", &status["host_devices"], &wanted)
}

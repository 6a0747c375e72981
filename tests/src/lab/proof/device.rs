//! A device of any kind that the guest drove through an update: when the guest was paused, and
//! whether the device was reset.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::device::{IOMMU, NOTED, Noted};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::card::Card;
use super::nvme::Nvme;
use super::{Blackout, Resume, lifeboat};
use crate::run::Record;

/// The phases of a blackout before the new kernel's clock starts.
const BEFORE_THE_KERNEL: [&str; 3] = ["pause", "save", "jump"];

/// Also part of the machine-readable report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Device {
    Card(Card),
    Nvme(Nvme),
}

/// How the first kernel of the host translated for the guest's device, if it had one that was asked for.
pub(crate) fn iommu(record: &Record) -> Option<&str> {
    let mut values = record.values.iter().rev();
    values.find(|value| value.name == IOMMU)?.value.as_str()
}

/// The part of a record about one guest and its last update.
pub(super) struct Evidence<'a> {
    pub(super) record: &'a Record,
    /// The suffix of the names of the guest's values.
    pub(super) ending: &'a str,
    pub(super) resume: &'a Resume,
    pub(super) blackout: &'a Blackout,
}

impl Evidence<'_> {
    /// The values with this name that the scenario sent for the guest.
    pub(super) fn named<T: DeserializeOwned>(&self, name: &str) -> Result<Vec<T>> {
        self.record.all_named(&format!("{name}{}", self.ending))
    }

    pub(super) fn standstill(&self) -> Result<Standstill> {
        let mut hellos = self.record.hellos.iter();
        let hello = hellos.find(|(_, hello)| hello.boot_id == self.resume.host.boot_id);
        let (at, hello) = hello.context("The guest runs in a host that was not seen")?;
        let kernel = at.saturating_sub(Duration::from_nanos(hello.uptime_ns));
        if self.resume.lifeboat.is_some() {
            let kexec = lifeboat::kexec_ns(self.record, hello, self.resume)?;
            return Ok(Standstill {
                from: at.saturating_sub(Duration::from_nanos(kexec)),
                kernel,
                to: *at,
            });
        }
        let phases = self.blackout.phases.iter();
        let old: u64 = phases
            .filter(|phase| BEFORE_THE_KERNEL.contains(&phase.name.as_str()))
            .map(|phase| phase.ns)
            .sum();
        let from = kernel.saturating_sub(Duration::from_nanos(old));
        Ok(Standstill {
            from,
            kernel,
            to: from + Duration::from_nanos(self.blackout.total_ns),
        })
    }

    /// The host's notes on the device: before the first update, after each, and at the end.
    pub(super) fn noted<Registers: DeserializeOwned>(&self) -> Result<Vec<Noted<Registers>>> {
        self.named(NOTED)
    }
}

/// The blackout of a guest, by the lab's clock: the VMM reports the duration of each phase, and the
/// first message of the new kernel's init contains the time since its clock started.
///
/// Of a guest that was in a lifeboat, its host's kexec: that is when the device has to do without the host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standstill {
    pub(super) from: Duration,
    /// When the new kernel's clock started.
    pub(super) kernel: Duration,
    pub(super) to: Duration,
}

/// Whether the device was reset or disabled after the first note: a reset clears the registers that
/// the driver sets once, and the kernel that does it logs it. In the first note the device must be
/// `driven`.
pub(super) fn is_reset<Registers: PartialEq + Debug>(
    noted: &[Noted<Registers>],
    driven: impl Fn(&Registers) -> bool,
) -> Result<bool> {
    let [before, others @ ..] = noted else {
        bail!("The device's registers were not read");
    };
    ensure!(
        others.len() >= 2,
        "{} notes of the device",
        others.len() + 1
    );
    ensure!(
        driven(&before.registers) && before.bus_master,
        "The guest's driver does not drive the device: {before:?}"
    );
    ensure!(
        before.resets_logged > 0,
        "A reset, as when the device is opened first, is not seen in the kernel's log"
    );
    let reset = |noted: &Noted<Registers>| {
        noted.registers != before.registers || !noted.bus_master || noted.resets_logged > 0
    };
    Ok(others.iter().any(reset))
}

//! A host that kexecs while its guests run in the lifeboat.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::{Boat, BoatError, BoatPlan, BoatState, CpuLender, NODE, offline_cpus, online_cpus};
use crate::deadline::Deadline;
use crate::facts::{HostRoot, hands_over_bars, has_config_in_memory};
use crate::finding::Finding;
use crate::kind::Kind;
use crate::name::BoxName;
use crate::update::{Host, KexecHost, PartyError};

/// The word of the boat's command line that names the boxes which it is to carry, separated by commas.
pub const BOXES_WORD: &str = "lifeboat.boxes";

/// The word that tells it after how many seconds of silence it is to restart the host.
pub const RESTART_WORD: &str = "lifeboat.restart";

/// How long the boat may take to park.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// A [`Host`] for a [`Fleet`](crate::update::Fleet) of
/// [`Boarding`](crate::coordinator::Boarding) guests: it starts the boat when it loads the next kernel, and
/// kexecs when all guests are in the boat.
#[derive(Debug)]
pub struct LifeboatHost {
    kexec: KexecHost,
    plan: BoatPlan,
    /// The next kernel's command line.
    cmdline: String,
    rescue: Option<Rescue>,
    /// Set once it is started.
    boat: Option<Boat>,
    cpus: CpuLender,
}

impl LifeboatHost {
    /// A host that jumps as `kexec` does, into a kernel of this command line, with a boat that carries `boxes`.
    #[must_use]
    pub fn new(kexec: KexecHost, cmdline: &str, plan: BoatPlan, boxes: &[BoxName]) -> Self {
        let names: Vec<_> = boxes.iter().map(ToString::to_string).collect();
        let cmdline_of_boat = format!("{} {BOXES_WORD}={}", plan.cmdline, names.join(","));
        let cpus = CpuLender::new(&plan.cpus, boxes.len());
        Self {
            kexec,
            plan: BoatPlan {
                cmdline: cmdline_of_boat,
                ..plan
            },
            cmdline: cmdline.to_owned(),
            rescue: None,
            boat: None,
            cpus,
        }
    }

    /// Has the boat start this host in `kexec`'s kernel, of this command line, if the next one does not come up within
    /// `silence`.
    #[must_use]
    pub fn rescued_by(mut self, kexec: KexecHost, cmdline: &str, silence: Duration) -> Self {
        let seconds = silence.as_secs();
        self.plan.cmdline = format!("{} {RESTART_WORD}={seconds}", self.plan.cmdline);
        let cmdline = cmdline.to_owned();
        self.rescue = Some(Rescue { kexec, cmdline });
        self
    }

    /// What lends the boat its CPUs, to be asked before each guest moves. A boat that may restart the host gets all of
    /// them at its start, and so does one whose host broadcasts interrupts.
    #[must_use]
    pub fn cpus(&self) -> CpuLender {
        self.cpus.clone()
    }

    /// Loads the boat, which takes the rescue kernel along, as long as that is the one that is loaded.
    fn load_boat(&mut self) -> Result<(), PartyError> {
        let boat = Boat::open()?;
        let at_once = self.rescue.is_some() || !has_no_broadcast(&own_words());
        let first = self.cpus.take_first(at_once)?;
        let boat = self.boat.insert(boat);
        let Some(rescue) = &mut self.rescue else {
            return Ok(boat.load(&self.plan, first, false)?);
        };
        rescue.kexec.load()?;
        let loaded = boat.load(&self.plan, first, true);
        rescue.kexec.unload()?;
        loaded?;
        Ok(boat.check(&rescue.cmdline)?)
    }

    fn start(&mut self) -> Result<(), PartyError> {
        self.load_boat()?;
        self.kexec.load()?;
        let Some(boat) = &self.boat else {
            return Ok(());
        };
        boat.check(&self.cmdline)?;
        Ok(boat.start(self.plan.start_limit)?)
    }

    /// Stops the boat, unless it has a guest.
    fn stop(&mut self) -> Result<(), BoatError> {
        if let Some(boat) = self.boat.take()
            && boat.status()?.state != BoatState::Off
        {
            boat.stop(STOP_LIMIT)?;
        }
        self.cpus.give_back()
    }
}

/// The kernel by which the boat restarts the host.
#[derive(Debug)]
struct Rescue {
    kexec: KexecHost,
    cmdline: String,
}

impl Rescue {
    fn preflight(&mut self) -> Vec<Finding> {
        let mut findings = self.kexec.preflight();
        findings.extend(next_findings(
            "The rescue kernel's command line",
            &self.cmdline,
        ));
        if Path::new("/sys/firmware/efi").exists() {
            findings.push(Finding::blocker(
                "The rescue kernel",
                "this host's firmware is UEFI: only a BIOS is known to give the first CPU to the boat",
                "update without --rescue-kernel",
            ));
        }
        findings
    }
}

impl Host for LifeboatHost {
    fn preflight(&mut self) -> Vec<Finding> {
        let mut findings = self.kexec.preflight();
        findings.extend(state_finding());
        let (online, offline) = (online_cpus(), offline_cpus());
        let words = own_words();
        findings.extend(cpu_findings(&self.plan.cpus, &online, &offline, &words));
        findings.extend(next_findings(
            "The next kernel's command line",
            &self.cmdline,
        ));
        if let Some(rescue) = &mut self.rescue {
            findings.extend(rescue.preflight());
        }
        findings
    }

    fn check_kinds(&mut self, kinds: &BTreeSet<Kind>) -> Vec<Finding> {
        let mut findings = self.kexec.check_kinds(kinds);
        if let Some(rescue) = &mut self.rescue {
            findings.extend(rescue.kexec.check_kinds(kinds));
        }
        // The kinds are those of all boxes: a device in one that stays in the host counts, too.
        if kinds.contains(&Kind::VfioPci) {
            findings.extend(self.kexec.check_devices_in_use());
            findings.extend(device_findings(&HostRoot::default()));
            findings.extend(self.rescue.as_ref().map(|_| stray_finding()));
        }
        findings
    }

    /// Loads the next kernel, and starts the boat.
    fn load(&mut self) -> Result<(), PartyError> {
        if let Err(error) = self.start() {
            // The first error says more.
            let _ = self.stop();
            self.kexec.unload()?;
            return Err(error);
        }
        Ok(())
    }

    fn unload(&mut self) -> Result<(), PartyError> {
        let stopped = self.stop();
        self.kexec.unload()?;
        Ok(stopped?)
    }

    fn jump(&mut self, deadline: Deadline) -> Result<(), PartyError> {
        self.kexec.jump(deadline)
    }
}

/// Whether the module is there, and has no boat.
fn state_finding() -> Option<Finding> {
    let (problem, remedy) = match Boat::open().and_then(|boat| Ok(boat.status()?.state)) {
        Ok(BoatState::Off) => return None,
        Ok(_) => (
            "there is one already".to_owned(),
            "take its guests back with resume, which stops it",
        ),
        Err(error) => (
            crate::Chain(&error).to_string(),
            "load fdbox-boat.ko; without it, update without --lifeboat",
        ),
    };
    Some(Finding::blocker(
        format!("The lifeboat ({NODE})"),
        problem,
        remedy,
    ))
}

/// Findings on the boat's CPUs. `words`: this kernel's command line.
fn cpu_findings(cpus: &[u32], online: &[u32], offline: &[u32], words: &str) -> Vec<Finding> {
    let subject = "CPUs of the lifeboat";
    let mut findings = Vec::new();
    if cpus.is_empty() {
        findings.push(Finding::blocker(
            subject,
            "this host has one CPU, and needs it",
            "update without --lifeboat",
        ));
    }
    if cpus.contains(&0) {
        findings.push(Finding::blocker(
            subject,
            "CPU 0 is the one that the host boots on",
            "choose others",
        ));
    }
    let is_there = |cpu: &&u32| online.contains(cpu) || offline.contains(cpu);
    if let Some(cpu) = cpus.iter().find(|cpu| !is_there(cpu)) {
        findings.push(Finding::blocker(
            subject,
            format!("there is no CPU {cpu}"),
            "choose others",
        ));
    }
    let left = online.iter().filter(|cpu| !cpus.contains(cpu)).count();
    if left > 1 && !has_no_broadcast(words) {
        findings.push(Finding::blocker(
            "no_ipi_broadcast",
            "this kernel's shutdown would send an interrupt to all CPUs, the boat's among them",
            "boot this host with no_ipi_broadcast=1, or give the boat all CPUs but one",
        ));
    }
    findings
}

/// Findings on the command line of a kernel that is to run beside the boat.
fn next_findings(subject: &str, cmdline: &str) -> Vec<Finding> {
    let findings = [
        next_finding(subject, cmdline),
        panic_finding(subject, cmdline),
    ];
    findings.into_iter().flatten().collect()
}

/// Whether the next kernel would bring up the boat's CPUs. The module looks at the number when there is a boat.
fn next_finding(subject: &str, cmdline: &str) -> Option<Finding> {
    (!has_word(cmdline, "maxcpus", None)).then(|| {
        Finding::blocker(
            subject,
            "it has no maxcpus=, so it would bring up the boat's CPUs, which ends the boat",
            "add maxcpus=1; resume takes the others online when the guests are back",
        )
    })
}

/// Whether the next kernel would reset the machine if it panics. The module prevents that only once it is loaded.
fn panic_finding(subject: &str, cmdline: &str) -> Option<Finding> {
    let words = cmdline.split_ascii_whitespace();
    let given = words
        .filter_map(|word| word.strip_prefix("panic="))
        .next_back()?;
    (given.parse() != Ok(0)).then(|| {
        Finding::blocker(
            subject,
            format!(
                "with panic={given} it would reset the machine if it panics, and with it the boat"
            ),
            "add panic=0",
        )
    })
}

/// Why guests could not use devices of this host from the boat.
fn device_findings(root: &HostRoot) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !has_config_in_memory(root) {
        findings.push(Finding::blocker(
            "Devices of the host",
            "its firmware has no ACPI table MCFG, so the lifeboat would not find their configuration space",
            "update without --lifeboat, or run the guest without devices of the host",
        ));
    }
    // What cannot be seen is no reason to refuse.
    if hands_over_bars(root) == Some(false) {
        findings.push(Finding::blocker(
            "This kernel",
            "it does not hand over the sizes of BARs, so the next one would write to those of devices that guests in \
             the lifeboat use",
            "update without --lifeboat to a kernel that is built with kmod/patches; from then on this is possible",
        ));
    }
    findings
}

/// The next kernel has the IOMMU translate by tables of its own for devices that it was handed. A kernel that the boat
/// starts in its place knows nothing of these tables, and takes their memory for free.
fn stray_finding() -> Finding {
    Finding::blocker(
        "The rescue kernel",
        "it would overwrite the tables by which the IOMMU translates for devices of guests",
        "update without --rescue-kernel, or run the guest without devices of the host",
    )
}

/// The command line of this kernel.
fn own_words() -> String {
    fs::read_to_string("/proc/cmdline").unwrap_or_default()
}

fn has_no_broadcast(words: &str) -> bool {
    has_word(words, "no_ipi_broadcast", Some("1"))
}

fn has_word(cmdline: &str, name: &str, value: Option<&str>) -> bool {
    cmdline.split_ascii_whitespace().any(|word| {
        let (key, given) = word.split_once('=').unwrap_or((word, ""));
        key == name && value.is_none_or(|value| value == given)
    })
}

#[cfg(test)]
mod tests;

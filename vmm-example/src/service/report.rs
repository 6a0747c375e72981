//! The report of a resume: JSON for programs, text for people.

use std::fmt;

use serde::{Deserialize, Serialize};
use vmm_fdbox::facts::{HostRoot, PreviousKernel};
use vmm_fdbox::timeline::Phase;
use vmm_fdbox::update::Finished;
use vmm_fdbox::{BoxName, Home};

use crate::guest::machine::Machine;
use crate::guest::state::LifeboatReport;
use crate::kvm::vcpu::RestoreNotes;
use crate::spec::MemoryKind;

/// Identifies a boot of the host.
const BOOT_ID: &str = "proc/sys/kernel/random/boot_id";

/// A phase and its duration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PhaseReport {
    pub(crate) name: String,
    pub(crate) ns: u64,
}

impl From<&Phase> for PhaseReport {
    fn from(phase: &Phase) -> Self {
        Self {
            name: phase.name.clone(),
            ns: phase.ns,
        }
    }
}

/// The time for which the guest was paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Blackout {
    pub(crate) total_ns: u64,
    pub(crate) phases: Vec<PhaseReport>,
}

/// The host that the guest runs in now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostReport {
    /// Different after each boot.
    boot_id: Option<String>,
    /// What `uname -r` says.
    #[serde(default)]
    release: Option<String>,
    /// Which kernel handed over to this one.
    #[serde(default)]
    previous_kernel: Option<PreviousKernel>,
}

impl HostReport {
    /// Called before the sandbox denies access to files.
    pub(crate) fn read() -> Self {
        let root = HostRoot::default();
        Self {
            boot_id: root.read(BOOT_ID),
            release: root.release(),
            previous_kernel: PreviousKernel::read(),
        }
    }

    /// Whether the other is of the same boot.
    pub(crate) fn is_boot_of(&self, other: &Self) -> bool {
        self.boot_id == other.boot_id
    }

    pub(crate) fn previous_kernel(&self) -> Option<&PreviousKernel> {
        self.previous_kernel.as_ref()
    }
}

/// The report of a successful resume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ResumeReport {
    result: String,
    #[serde(rename = "box")]
    box_name: String,
    /// The home of its box. A VMM that does not know homes used the module.
    #[serde(default)]
    home: Home,
    guest: String,
    ram_kind: MemoryKind,
    ram_mib: u64,
    vcpus: usize,
    /// The frequency of the host's TSC as measured by this kernel, and by the last one.
    tsc_khz: u32,
    host: HostReport,
    tsc_khz_before: u32,
    /// `None` if the old host's marks could not be read.
    blackout: Option<Blackout>,
    /// The phases before it, while the guest ran.
    before: Vec<PhaseReport>,
    /// MSRs that this host refused and that do not have the saved value.
    refused_msrs: Vec<String>,
    box_deleted: bool,
    /// If it was in a lifeboat meanwhile; the blackout is that of the way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lifeboat: Option<LifeboatReport>,
}

impl ResumeReport {
    pub(crate) fn new(
        (name, home): (&BoxName, Home),
        host: HostReport,
        machine: &Machine,
        notes: &RestoreNotes,
        finished: &Finished,
    ) -> Self {
        let timeline = finished.report.as_ref().ok();
        let phases = |phases: &[Phase]| phases.iter().map(PhaseReport::from).collect();
        Self {
            result: "done".into(),
            box_name: name.to_string(),
            home,
            guest: machine.name().into(),
            ram_kind: machine.ram().kind(),
            ram_mib: machine.ram().mib(),
            vcpus: machine.cpus(),
            tsc_khz: machine.host_tsc_khz(),
            host,
            tsc_khz_before: finished.timeline.khz().get(),
            blackout: timeline.map(|report| Blackout {
                total_ns: report.total_ns,
                phases: phases(&report.phases),
            }),
            before: timeline.map_or_else(Vec::new, |report| phases(&report.before)),
            refused_msrs: notes
                .refused_msrs
                .iter()
                .map(|msr| format!("{msr:#x}"))
                .collect(),
            box_deleted: finished.deleted.is_ok(),
            lifeboat: None,
        }
    }
}

impl ResumeReport {
    pub(crate) fn ram_kind(&self) -> MemoryKind {
        self.ram_kind
    }

    pub(crate) fn ram_mib(&self) -> u64 {
        self.ram_mib
    }

    pub(crate) fn vcpus(&self) -> usize {
        self.vcpus
    }

    /// Adds what was measured on the way to the lifeboat and back.
    pub(crate) fn came_home(&mut self, lifeboat: Option<LifeboatReport>) {
        self.lifeboat = lifeboat;
    }

    pub(crate) fn host(&self) -> &HostReport {
        &self.host
    }

    pub(crate) fn blackout(&self) -> Option<&Blackout> {
        self.blackout.as_ref()
    }
}

impl fmt::Display for ResumeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Guest {} continues: {} vCPUs, {} MiB of {}",
            self.guest, self.vcpus, self.ram_mib, self.ram_kind
        )?;
        if let Some(previous) = &self.host.previous_kernel {
            writeln!(f, "The kernel before this one: {previous}")?;
        }
        let Some(blackout) = &self.blackout else {
            return writeln!(f, "How long it was paused is not known");
        };
        writeln!(f, "It was paused for {:.1} ms:", millis(blackout.total_ns))?;
        for phase in &blackout.phases {
            writeln!(f, "  {:<12} {:>10.3} ms", phase.name, millis(phase.ns))?;
        }
        if let Some(lifeboat) = &self.lifeboat {
            let times = lifeboat.handovers.iter();
            let times = times.map(|it| format!("{:.1} ms", millis(it.stop_to_run_ns)));
            let times = times.collect::<Vec<_>>().join(" and ");
            writeln!(
                f,
                "It was in the lifeboat: stopped for {times}; its devices rested for {:.1} ms",
                millis(lifeboat.io_gap_ns)
            )?;
        }
        if !self.refused_msrs.is_empty() {
            writeln!(
                f,
                "This host refused the MSRs {}",
                self.refused_msrs.join(", ")
            )?;
        }
        Ok(())
    }
}

fn millis(ns: u64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> ResumeReport {
        ResumeReport {
            result: "done".into(),
            box_name: "vm0".into(),
            home: Home::Luo,
            guest: "vm0".into(),
            ram_kind: MemoryKind::GuestMemfd,
            ram_mib: 256,
            vcpus: 2,
            tsc_khz: 2_500_000,
            host: HostReport {
                boot_id: Some("abc".into()),
                release: Some("7.3.4-b".into()),
                previous_kernel: Some(PreviousKernel {
                    release: "7.3.4-a".into(),
                    kexecs: 2,
                }),
            },
            tsc_khz_before: 2_500_100,
            blackout: Some(Blackout {
                total_ns: 3_000_000,
                phases: vec![PhaseReport {
                    name: "pause".into(),
                    ns: 3_000_000,
                }],
            }),
            before: Vec::new(),
            refused_msrs: Vec::new(),
            box_deleted: true,
            lifeboat: None,
        }
    }

    #[test]
    fn programs_find_the_fields_they_were_promised() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["result"], "done");
        assert_eq!(json["box"], "vm0");
        assert_eq!(json["home"], "luo");
        assert_eq!(json["ram_kind"], "guest_memfd");
        assert_eq!(json["host"]["boot_id"], "abc");
        assert_eq!(json["host"]["release"], "7.3.4-b");
        let previous = &json["host"]["previous_kernel"];
        assert_eq!(previous["release"], "7.3.4-a");
        assert_eq!(previous["kexecs"], 2);
        assert_eq!(json["blackout"]["total_ns"], 3_000_000);
        assert_eq!(json["blackout"]["phases"][0]["name"], "pause");
    }

    #[test]
    fn reports_of_before_have_less_of_the_host() {
        let mut json = serde_json::to_value(report()).unwrap();
        json["host"] = serde_json::json!({"boot_id": "abc"});
        let read: ResumeReport = serde_json::from_value(json).unwrap();
        assert_eq!(read.host.previous_kernel, None);
        assert!(read.host.is_boot_of(report().host()));
    }

    #[test]
    fn a_person_reads_milliseconds() {
        let text = report().to_string();
        assert!(text.contains("was paused for 3.0 ms"), "{text}");
        assert!(
            text.contains("before this one: 7.3.4-a, 2 kexecs"),
            "{text}"
        );
        let unknown = ResumeReport {
            blackout: None,
            ..report()
        };
        assert!(unknown.to_string().contains("not known"));
    }
}

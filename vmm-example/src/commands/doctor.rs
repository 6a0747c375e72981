//! `doctor`: reports what this host has for guests and updates, and what to do about what is missing.

use serde::Serialize;
use vmm_fdbox::Home;
use vmm_fdbox::facts::{Fact, FactState, HostRoot, Module, Need, first_home, host_facts};
use vmm_fdbox::update::ExitStatus;

use super::table::table;
use crate::cli::DoctorArgs;
use crate::devices::vfio;
use crate::error::print;
use crate::kvm;

/// The homes that this program can use, in order of preference.
const HOMES: &[Home] = &[Home::Fdbox, Home::Luo, Home::Holder];

/// What works on this host.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Works {
    /// Guests can run.
    guests: bool,
    /// They survive a kexec of the host.
    kexec: bool,
    /// So do devices of the host that they drive.
    devices: bool,
}

#[derive(Debug, Serialize)]
struct Diagnosis {
    usable: bool,
    home: Option<Home>,
    works: Works,
    facts: Vec<Fact>,
}

impl Diagnosis {
    fn of(facts: Vec<Fact>) -> Self {
        let has = |need| !facts.iter().any(|fact| fact.rules_out(need));
        let guests = has(Need::Guest);
        let kexec = guests && has(Need::Kexec);
        let works = Works {
            guests,
            kexec,
            devices: kexec && has_device(&facts),
        };
        Self {
            usable: kexec,
            home: first_home(HOMES, &facts),
            works,
            facts,
        }
    }

    fn exit_status(&self) -> ExitStatus {
        match self.usable {
            true => ExitStatus::Done,
            false => ExitStatus::NothingChanged,
        }
    }

    fn table(&self) -> String {
        let row = |fact: &Fact| {
            [
                fact.name.clone(),
                fact.state.to_string(),
                fact.found.clone(),
            ]
        };
        let rows: Vec<_> = self.facts.iter().map(row).collect();
        let mut text = table(["WHAT", "STATE", "FOUND"], &rows);
        let todo: Vec<_> = self
            .facts
            .iter()
            .filter_map(|fact| Some([fact.name.clone(), fact.remedy.clone()?]))
            .collect();
        if !todo.is_empty() {
            text += &format!("\n{}", table(["WHAT", "WHAT TO DO"], &todo));
        }
        let says = |works| if works { "yes" } else { "no" };
        let Works {
            guests,
            kexec,
            devices,
        } = self.works;
        text += &format!(
            "\nGuests run here: {}\nThey survive a kexec: {}\nSo do devices that they drive: {}\n",
            says(guests),
            says(kexec),
            says(devices)
        );
        text
    }
}

/// Whether everything is there that any device needs. A single unsuitable device does not count.
fn has_device(facts: &[Fact]) -> bool {
    let is_one = |fact: &Fact| fact.name.starts_with("device.") && fact.name.contains(':');
    let mut common = facts.iter().filter(|fact| !is_one(fact));
    !common.any(|fact| fact.need == Need::Device && fact.state != FactState::Ok)
}

pub(super) fn doctor(args: &DoctorArgs) -> anyhow::Result<ExitStatus> {
    let root = HostRoot::default();
    let mut facts = host_facts(&root, &Module::look(), HOMES);
    facts.extend(kvm::facts::facts(&root, &kvm::facts::ask()));
    facts.extend(vfio::facts::facts(&root));
    let diagnosis = Diagnosis::of(facts);
    print(&match args.json {
        true => format!("{}\n", serde_json::to_string(&diagnosis)?),
        false => diagnosis.table(),
    })?;
    Ok(diagnosis.exit_status())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Vec<Fact> {
        vec![
            Fact::ok("home.fdbox", Need::Nothing, "loaded"),
            Fact::ok("home", Need::Kexec, "fdbox"),
            Fact::ok("kvm.device", Need::Guest, "there"),
            Fact::ok("device.iommu", Need::Device, "VT-d"),
        ]
    }

    fn works(guests: bool, kexec: bool, devices: bool) -> Works {
        Works {
            guests,
            kexec,
            devices,
        }
    }

    #[test]
    fn a_host_is_usable_when_guests_survive_a_kexec_on_it() {
        let diagnosis = Diagnosis::of(good());
        assert_eq!(diagnosis.works, works(true, true, true));
        assert_eq!(diagnosis.home, Some(Home::Fdbox));
        assert_eq!(diagnosis.exit_status(), ExitStatus::Done);
        for (index, expected) in [
            (1, works(true, false, false)),
            (2, works(false, false, false)),
            (3, works(true, true, false)),
        ] {
            let mut facts = good();
            let Fact { name, need, .. } = facts[index].clone();
            facts[index] = Fact::missing(name, need, "it is not", "see to it");
            let diagnosis = Diagnosis::of(facts);
            assert_eq!(diagnosis.works, expected);
            let usable = diagnosis.exit_status() == ExitStatus::Done;
            assert_eq!(usable, expected.kexec);
        }
    }

    #[test]
    fn one_device_that_cannot_be_passed_through_leaves_the_others() {
        let mut facts = good();
        let bad = Fact::missing("device.0000:01:00.0", Need::Device, "ATS", "end it");
        facts.push(bad);
        assert!(Diagnosis::of(facts).works.devices);
    }

    #[test]
    fn programs_find_the_fields_they_were_promised() {
        let json = serde_json::to_value(Diagnosis::of(good())).unwrap();
        assert_eq!(json["usable"], true);
        assert_eq!(json["home"], "fdbox");
        assert_eq!(json["works"]["kexec"], true);
        assert_eq!(json["facts"][0]["name"], "home.fdbox");
    }

    #[test]
    fn a_person_reads_what_to_do() {
        let mut facts = good();
        let Fact { name, need, .. } = facts[1].clone();
        facts[1] = Fact::missing(name, need, "no box crosses", "see home.fdbox");
        let text = Diagnosis::of(facts).table();
        assert!(
            text.contains("WHAT TO DO\nhome  see home.fdbox\n"),
            "{text}"
        );
        assert!(text.contains("They survive a kexec: no\n"), "{text}");
        assert!(!Diagnosis::of(good()).table().contains("WHAT TO DO"));
    }
}

//! The lifeboat in `status`, while there is one.

use serde::Serialize;
use vmm_fdbox::BoxName;
use vmm_fdbox::boat::{Boat, BoatError, BoatState, BoatStatus, HostState, NODE};
use vmm_fdbox::coordinator::Boxes;
use vmm_fdbox::lending::{Holder, LendAct};

use super::BoxStatus;

/// What a lifeboat has to do with a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Lent {
    /// The boat may map it; the guest runs in the host.
    Shown,
    /// Whoever takes it first has it; the guest stands still.
    Offered,
    /// The boat has it.
    InBoat,
}

impl Lent {
    /// `None`: nothing, or there is no boat that could have it.
    pub(super) fn of<B: Boxes>(boxes: &B, name: &BoxName) -> Option<Self> {
        match boxes.lend(name, LendAct::Look).ok()?.holder {
            Holder::Host => None,
            Holder::Shown => Some(Self::Shown),
            Holder::Offered => Some(Self::Offered),
            Holder::Boat => Some(Self::InBoat),
        }
    }

    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Shown => ", shown to the lifeboat",
            Self::Offered => ", offered to the lifeboat or by it",
            Self::InBoat => ", in the lifeboat",
        }
    }
}

/// The lifeboat as `status --lifeboat --json` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Lifeboat {
    state: &'static str,
    cpus: u32,
    memory_mib: u64,
    /// How many kernels have been its host.
    host_kernels: u64,
    /// The boxes that it has.
    guests: Vec<String>,
    /// What it hears of its host, if this is its own kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
}

impl Lifeboat {
    pub(super) fn new(status: &BoatStatus, boxes: &[BoxStatus]) -> Self {
        let in_boat = boxes
            .iter()
            .filter(|one| one.lifeboat == Some(Lent::InBoat));
        Self {
            state: match status.state {
                BoatState::Loaded => "loaded",
                BoatState::Running => "running",
                BoatState::Lost => "lost",
                BoatState::Own(_) => "this kernel",
                _ => "unknown",
            },
            cpus: status.cpus,
            memory_mib: status.memory_bytes >> 20,
            host_kernels: status.host_kernels,
            guests: in_boat.map(|one| one.name.clone()).collect(),
            host: match status.state {
                BoatState::Own(host) => Some(words_on_host(host)),
                _ => None,
            },
        }
    }
}

/// What the boat's kernel knows of its host.
pub(in crate::commands) fn words_on_host(host: HostState) -> String {
    match host {
        HostState::Beats => "the host beats".into(),
        HostState::Silent(time) => format!("the host has been silent for {} s", time.as_secs()),
        HostState::Panicked => "the host has panicked".into(),
        _ => "the host is in an unknown state".into(),
    }
}

/// Asks the module; `None` if there is no boat.
pub(super) fn status() -> Result<Option<BoatStatus>, BoatError> {
    if !std::fs::exists(NODE).unwrap_or(false) {
        return Ok(None);
    }
    let status = Boat::open()?.status()?;
    Ok((status.state != BoatState::Off).then_some(status))
}

pub(super) fn describe(boat: Option<&Lifeboat>) -> String {
    let Some(boat) = boat else {
        return "No lifeboat".into();
    };
    let plural = if boat.cpus == 1 { "" } else { "s" };
    let guests = match boat.guests.is_empty() {
        true => "no guests".to_owned(),
        false => format!("guests {}", boat.guests.join(", ")),
    };
    let host = boat.host.as_ref();
    let host = host.map(|host| format!("; {host}")).unwrap_or_default();
    format!(
        "Lifeboat ({}): {} CPU{plural}, {} MiB, {guests}{host}",
        boat.state, boat.cpus, boat.memory_mib
    )
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use serde_json::json;
    use vmm_fdbox::fake::FakeStore;
    use vmm_fdbox::lending::Lending;
    use vmm_fdbox::{BoxStore, FdName, OpenFdBox};

    use super::*;
    use crate::commands::status::{describe_host, list};

    const STATUS: BoatStatus = BoatStatus {
        state: BoatState::Running,
        cpus: 2,
        memory_bytes: 128 << 20,
        host_kernels: 1,
    };

    /// A store with a sealed box for each holder.
    fn store(holders: &[(&str, Holder)]) -> FakeStore {
        let store = FakeStore::new();
        for (name, holder) in holders {
            let name = BoxName::new(name).unwrap();
            let open = store.create(&name).unwrap();
            let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
            open.put(&FdName::new("memory0").unwrap(), file).unwrap();
            open.seal().unwrap();
            let lending = Lending {
                holder: *holder,
                wanted: false,
                ready: false,
                generation: 1,
                lost: false,
            };
            store.set_lending(&name, lending);
        }
        store
    }

    #[test]
    fn a_person_reads_who_has_which_guest() {
        let boxes = list(
            &store(&[
                ("vm0", Holder::Boat),
                ("vm1", Holder::Shown),
                ("vm2", Holder::Offered),
                ("vm3", Holder::Host),
            ]),
            None,
        );
        let boxes = boxes.unwrap();
        let boat = Lifeboat::new(&STATUS, &boxes);
        let text = describe_host(&boxes, Some(&boat));
        for line in [
            "vm0 (sealed, in the lifeboat)",
            "vm1 (sealed, shown to the lifeboat)",
            "vm2 (sealed, offered to the lifeboat or by it)",
            "vm3 (sealed)",
            "Lifeboat (running): 2 CPUs, 128 MiB, guests vm0",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}: {text}");
        }
        let text = describe_host(&boxes, None);
        assert!(!text.contains("Lifeboat"), "{text}");
    }

    #[test]
    fn programs_read_the_same() {
        let boxes = list(
            &store(&[("vm0", Holder::Boat), ("vm1", Holder::Host)]),
            None,
        )
        .unwrap();
        let boat = Lifeboat::new(&STATUS, &boxes);
        let expected = json!({
            "state": "running",
            "cpus": 2,
            "memory_mib": 128,
            "host_kernels": 1,
            "guests": ["vm0"],
        });
        assert_eq!(serde_json::to_value(boat).unwrap(), expected);
        let boxes = serde_json::to_value(boxes).unwrap();
        assert_eq!(boxes[0]["lifeboat"], "in-boat");
        assert!(boxes[1].get("lifeboat").is_none(), "{boxes}");
    }

    #[test]
    fn a_boat_without_guests_is_shown_as_well_as_none() {
        let lost = BoatStatus {
            state: BoatState::Lost,
            cpus: 1,
            ..STATUS
        };
        let text = describe(Some(&Lifeboat::new(&lost, &[])));
        assert_eq!(text, "Lifeboat (lost): 1 CPU, 128 MiB, no guests");
        assert_eq!(describe(None), "No lifeboat");
        for (host, words) in [
            (HostState::Beats, "the host beats"),
            (
                HostState::Silent(Duration::from_millis(12_300)),
                "the host has been silent for 12 s",
            ),
            (HostState::Panicked, "the host has panicked"),
        ] {
            let own = BoatStatus {
                state: BoatState::Own(host),
                ..lost
            };
            let text = describe(Some(&Lifeboat::new(&own, &[])));
            let expected = format!("Lifeboat (this kernel): 1 CPU, 128 MiB, no guests; {words}");
            assert_eq!(text, expected);
        }
    }
}

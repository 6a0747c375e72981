//! What a run proves: the guest's own reports before and after, compared.

mod card;
mod device;
mod io;
mod nvme;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::witness::{Report, Said, parse};
use serde::{Deserialize, Serialize};

use crate::run::{Record, Value};
pub(crate) use card::Card;
pub(crate) use device::Device;
pub(crate) use io::{Traffic, all as all_traffic};
pub(crate) use nvme::Nvme;

/// How much longer than the VMM's blackout the guest's own largest gap may be: it begins with the
/// last sample before and ends with the first one after, for which the guest's CPU must get to run
/// in a host that is just coming up, and that has other guests to bring back.
const LONGER_PERCENT: u64 = 25;
const LONGER_NS_PER_GUEST: u64 = 250_000_000;
/// How much shorter: the two clocks are read apart.
const SHORTER_PERCENT: u64 = 2;
/// How far the guest's clock may be from the lab's, over the time between two reports.
const CLOCK_PERCENT: u64 = 10;
/// And by how much at most, whatever the time: a report takes its time to be written and read.
const CLOCK_SLACK: Duration = Duration::from_millis(1500);

/// What `vmm-example resume` reports, as far as the lab reads it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Resume {
    pub(crate) result: String,
    pub(crate) ram_kind: String,
    pub(crate) ram_mib: u64,
    pub(crate) vcpus: u32,
    pub(crate) host: ResumeHost,
    pub(crate) blackout: Option<Blackout>,
}

/// The host in which the guest runs after.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ResumeHost {
    pub(crate) boot_id: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Blackout {
    pub(crate) total_ns: u64,
    pub(crate) phases: Vec<Phase>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Phase {
    pub(crate) name: String,
    pub(crate) ns: u64,
}

/// One update of a host, seen by its guest.
#[derive(Debug, Clone)]
pub(crate) struct Update {
    pub(crate) before: Report,
    pub(crate) after: Report,
    pub(crate) resume: Resume,
    pub(crate) blackout: Blackout,
    /// Of a guest with disk and network; with its last update.
    pub(crate) traffic: Option<Traffic>,
    /// Of a guest that drives a device; with its last update.
    pub(crate) device: Option<Device>,
}

/// The updates that a record holds, each of them checked.
pub(crate) fn updates(record: &Record) -> Result<Vec<Update>> {
    updates_of(record, "", 1, |at| last_beat(record, at))
}

/// The one update of each of several guests, by the guest's name.
pub(crate) fn of_guests(record: &Record) -> Result<Vec<(String, Update)>> {
    let names: Vec<&str> = record
        .values
        .iter()
        .filter_map(|value| value.name.strip_prefix("resume "))
        .collect();
    let guests = names.len() as u64;
    let mut found = Vec::new();
    for name in names {
        // Whose heartbeats are whose, the consoles do not tell.
        let updates = updates_of(record, &format!(" {name}"), guests, |_| None);
        let mut updates = updates.with_context(|| format!("Guest {name}"))?;
        ensure!(updates.len() == 1, "Guest {name}: more than one update");
        found.extend(updates.pop().map(|update| (name.to_owned(), update)));
    }
    let boots: BTreeSet<&str> = found
        .iter()
        .map(|(_, update)| update.after.boot_id.as_str())
        .collect();
    ensure!(boots.len() == found.len(), "Two guests are the same one");
    let cards: Vec<u8> = found
        .iter()
        .filter_map(|(_, update)| match &update.device {
            Some(Device::Card(card)) => Some(card.number),
            _ => None,
        })
        .collect();
    let distinct: BTreeSet<&u8> = cards.iter().collect();
    ensure!(
        distinct.len() == cards.len(),
        "Two guests received the frames of one device"
    );
    Ok(found)
}

fn updates_of(
    record: &Record,
    ending: &str,
    guests: u64,
    last_beat: impl Fn(Duration) -> Option<(u64, u64)>,
) -> Result<Vec<Update>> {
    let named = |name: &str| -> Vec<&Value> {
        record
            .values
            .iter()
            .filter(|value| value.name.strip_suffix(ending) == Some(name))
            .collect()
    };
    let (witnesses, resumes) = (named("witness"), named("resume"));
    ensure!(!resumes.is_empty(), "The VMM reported no resume");
    ensure!(
        witnesses.len() == resumes.len() + 1,
        "{} reports of the guest for {} updates",
        witnesses.len(),
        resumes.len()
    );
    let mut updates = Vec::new();
    for (pair, resume) in witnesses.windows(2).zip(resumes) {
        let [before, after] = pair else {
            bail!("A pair has two")
        };
        let resume: Resume = serde_json::from_value(resume.value.clone())
            .context("The VMM's report is not what was agreed")?;
        let blackout = resume
            .blackout
            .clone()
            .context("The VMM reports no blackout")?;
        let update = Update {
            before: serde_json::from_value(before.value.clone())?,
            after: serde_json::from_value(after.value.clone())?,
            resume,
            blackout,
            traffic: None,
            device: None,
        };
        let elapsed = after.at.saturating_sub(before.at);
        update.check(elapsed, guests, last_beat(after.at))?;
        updates.push(update);
    }
    if let Some(last) = updates.last_mut() {
        last.traffic = match (last.has_io(), named("io").as_slice()) {
            (false, []) => None,
            (true, [ended]) => Some(io::of(record, &ended.value)?),
            (_, ended) => bail!("{} ends of disk and network work", ended.len()),
        };
        let reports = (&last.before, &last.after);
        let evidence = device::Evidence {
            record,
            ending,
            resume: &last.resume,
            blackout: &last.blackout,
        };
        let card = card::of(&evidence, reports)?.map(Device::Card);
        last.device = match card {
            None => nvme::of(&evidence)?.map(Device::Nvme),
            card => card,
        };
    }
    Ok(updates)
}

/// The last heartbeat before the guest stood still: the largest counter seen from outside before
/// the host's last jump.
fn last_beat(record: &Record, before: Duration) -> Option<(u64, u64)> {
    let jumped = record
        .hellos
        .iter()
        .map(|(at, _)| *at)
        .rfind(|at| *at < before)?;
    let beats = record.guest.iter().filter(|(at, _)| *at < jumped);
    let mut beats = beats.filter_map(|(_, line)| match parse(line)? {
        Said::Beat { uptime_ms, counter } => Some((uptime_ms, counter)),
        _ => None,
    });
    beats.next_back()
}

impl Update {
    fn has_io(&self) -> bool {
        self.before.io.is_some()
    }

    /// `elapsed` is the time between the two reports, by the lab's own clock; so many `guests` came
    /// along.
    fn check(&self, elapsed: Duration, guests: u64, last_beat: Option<(u64, u64)>) -> Result<()> {
        let (before, after) = (&self.before, &self.after);
        ensure!(
            self.resume.result == "done",
            "The resume ended: {}",
            self.resume.result
        );
        ensure!(
            after.boot_id == before.boot_id,
            "The guest rebooted: boot_id {} before, {} after",
            before.boot_id,
            after.boot_id
        );
        ensure!(after.pages_bad == 0, "Bad pages: {:?}", after.bad);
        ensure!(
            after.pages_checked == before.pages_checked,
            "Not every page was checked"
        );
        ensure!(
            !after.counter_went_back,
            "A clock of the guest's went back: {:?}",
            after.backwards
        );
        ensure!(
            after.kernel_warnings == 0,
            "The guest's kernel warned: {:?}",
            after.warnings
        );
        ensure!(
            after.cpus == before.cpus,
            "{} CPUs, {} before",
            after.cpus,
            before.cpus
        );
        ensure!(
            after.counter > before.counter,
            "The guest's counter stands still"
        );
        ensure!(
            after.rewritten > before.rewritten,
            "The guest writes no more"
        );
        if let Some((uptime_ms, counter)) = last_beat {
            // What the guest did last in the old host is part of what it knows in the new one.
            ensure!(
                after.counter >= counter,
                "The guest forgot its last heartbeat"
            );
            ensure!(
                after.uptime_ns / 1_000_000 >= uptime_ms,
                "The guest's clock was set back"
            );
        }
        let lived = Duration::from_nanos(after.uptime_ns.saturating_sub(before.uptime_ns));
        let slack = (elapsed * CLOCK_PERCENT as u32 / 100).max(CLOCK_SLACK);
        ensure!(
            lived.abs_diff(elapsed) <= slack,
            "The guest's clock went on by {lived:?} in {elapsed:?}"
        );
        for (clock, gap) in [
            ("clock", after.largest_gap_ns),
            ("TSC", after.largest_gap_tsc_ns),
        ] {
            let total = self.blackout.total_ns;
            ensure!(
                gap >= total - total * SHORTER_PERCENT / 100
                    && gap <= total + total * LONGER_PERCENT / 100 + LONGER_NS_PER_GUEST * guests,
                "By the guest's {clock} it stood still for {} ms, by the VMM for {} ms",
                gap / 1_000_000,
                total / 1_000_000
            );
        }
        match (&before.io, &after.io) {
            (None, None) => {}
            (Some(before), Some(after)) => io::went_on(before, after)?,
            _ => bail!("The guest's disk and network are gone"),
        }
        let phases: u64 = self.blackout.phases.iter().map(|phase| phase.ns).sum();
        ensure!(
            phases <= self.blackout.total_ns && !self.blackout.phases.is_empty(),
            "The phases of the blackout add up to {phases} ns, it is {} ns",
            self.blackout.total_ns
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            boot_id: "x".into(),
            release: "r".into(),
            cpus: 1,
            uptime_ns: 10_000_000_000,
            tsc: 0,
            counter: 1000,
            counter_went_back: false,
            backwards: Vec::new(),
            largest_gap_ns: 1_000_000,
            largest_gap_tsc_ns: 1_000_000,
            largest_gap_at_ns: 0,
            pages_checked: 100,
            pages_bad: 0,
            bad: Vec::new(),
            rewritten: 1000,
            kernel_warnings: 0,
            warnings: Vec::new(),
            io: None,
            frames: None,
        }
    }

    fn good() -> Update {
        let phases = vec![Phase {
            name: "boot".into(),
            ns: 2_900_000_000,
        }];
        let blackout = Blackout {
            total_ns: 3_000_000_000,
            phases,
        };
        Update {
            before: report(),
            after: Report {
                uptime_ns: 15_000_000_000,
                counter: 1500,
                rewritten: 1500,
                largest_gap_ns: 3_010_000_000,
                largest_gap_tsc_ns: 3_010_000_000,
                ..report()
            },
            resume: Resume {
                result: "done".into(),
                ram_kind: "memfd".into(),
                ram_mib: 256,
                vcpus: 1,
                host: ResumeHost {
                    boot_id: "h".into(),
                },
                blackout: Some(blackout.clone()),
            },
            blackout,
            traffic: None,
            device: None,
        }
    }

    fn verdict(update: &Update) -> Result<()> {
        update.check(Duration::from_secs(5), 1, Some((11_000, 1200)))
    }

    #[test]
    fn a_good_update_passes() {
        verdict(&good()).unwrap();
    }

    #[test]
    fn each_way_to_go_wrong_is_caught() {
        let spoil: Vec<fn(&mut Update)> = vec![
            |u| u.after.boot_id = "y".into(),
            |u| u.after.pages_bad = 1,
            |u| u.after.pages_checked = 99,
            |u| u.after.counter_went_back = true,
            |u| u.after.kernel_warnings = 1,
            |u| u.after.counter = 1000,
            |u| u.after.counter = 1199,
            |u| u.after.rewritten = 1000,
            |u| u.after.cpus = 2,
            |u| u.after.uptime_ns = 12_000_000_000,
            |u| u.after.uptime_ns = 18_000_000_000,
            |u| u.after.largest_gap_ns = 40_000_000,
            |u| u.after.largest_gap_tsc_ns = 40_000_000,
            |u| u.after.largest_gap_ns = 4_100_000_000,
            |u| u.after.largest_gap_ns = 2_900_000_000,
            |u| u.blackout.phases.clear(),
            |u| u.blackout.phases[0].ns = 4_000_000_000,
            |u| u.resume.result = "lost".into(),
        ];
        for (number, spoil) in spoil.iter().enumerate() {
            let mut update = good();
            spoil(&mut update);
            assert!(verdict(&update).is_err(), "number {number} passed");
        }
    }
}

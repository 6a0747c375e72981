//! What a run proves: compares the guest's own reports from before and after the update.

mod card;
mod device;
mod io;
mod lifeboat;
mod nvme;
#[cfg(test)]
mod tests;
mod vmm;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::witness::{PAUSED, Report, WitnessEvent, parse};
use serde::{Deserialize, Serialize};

use crate::run::{GuestLine, Record, Value};
pub(crate) use card::Card;
pub(crate) use device::{Device, iommu};
pub(crate) use io::{Traffic, all as all_traffic};
#[cfg(test)]
pub(crate) use lifeboat::Handover;
pub(crate) use lifeboat::Lifeboat;
pub(crate) use nvme::Nvme;
#[cfg(test)]
pub(crate) use tests::{two_guests, with_traffic};
pub(crate) use vmm::Vmm;

/// How much longer than the VMM's blackout the guest's own largest gap may be: the gap begins with
/// the last sample before the update and ends with the first one after it, and for the latter the
/// guest's CPU must get to run in a host that has just started.
const LONGER_PERCENT: u64 = 25;
/// By how much more for each other guest: the host has to restore it too, on one or two CPUs, on
/// which the guest continues as well.
const LONGER_PERCENT_PER_OTHER: u64 = 15;
const LONGER_NS_PER_GUEST: u64 = 400_000_000;
/// Two VMMs, one of them starting, clients of both and the guest's disk and network use as much CPU
/// as this many guests.
const CROWD: u64 = 5;
/// How much shorter it may be: the two clocks are not read at the same time.
const SHORTER_PERCENT: u64 = 2;
/// How far the guest's clock may deviate from the lab's, over the time between two reports.
const CLOCK_PERCENT: u64 = 10;
/// The minimum of that limit: writing and reading a report takes time.
const CLOCK_SLACK: Duration = Duration::from_millis(1500);

/// How short the longest gap in anything that the guest did may be, for a blackout that long.
fn shortest_gap_ns(blackout_ns: u64) -> u64 {
    blackout_ns - blackout_ns * SHORTER_PERCENT / 100
}

/// The part of the report of `vmm-example resume` that the lab reads.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Resume {
    pub(crate) result: String,
    pub(crate) ram_kind: String,
    pub(crate) ram_mib: u64,
    pub(crate) vcpus: u32,
    /// The home of its box; if the VMM does not report it, it was the module.
    #[serde(default)]
    pub(crate) home: Option<String>,
    pub(crate) host: ResumeHost,
    pub(crate) blackout: Option<Blackout>,
    /// The frequency of the host's time stamp counter.
    #[serde(default)]
    tsc_khz: u32,
    /// Only if the guest was in a lifeboat meanwhile.
    #[serde(default)]
    lifeboat: Option<lifeboat::Reported>,
}

/// The host in which the guest runs afterwards.
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

/// One update of a host, as seen by its guest.
#[derive(Debug, Clone)]
pub(crate) struct Update {
    /// Only for the guest's last update.
    pub(crate) vmm: Option<Vmm>,
    pub(crate) before: Report,
    pub(crate) after: Report,
    pub(crate) resume: Resume,
    pub(crate) blackout: Blackout,
    /// Only for a guest with disk and network, and its last update.
    pub(crate) traffic: Option<Traffic>,
    /// Only for a guest that drives a device, and its last update.
    pub(crate) device: Option<Device>,
    /// Only for a guest that was in a lifeboat, and its last update.
    pub(crate) lifeboat: Option<Lifeboat>,
    /// Whether it was paused before the update and after it: its gap is longer than the blackout.
    pub(crate) was_paused: bool,
}

/// The updates in a record, each of them checked.
pub(crate) fn updates(record: &Record) -> Result<Vec<Update>> {
    updates_of(record, None, 1)
}

/// The updates of a guest whose VMM was replaced while others used the host's only CPU.
pub(crate) fn updates_in_a_crowd(record: &Record) -> Result<Vec<Update>> {
    updates_of(record, None, CROWD)
}

/// The one update of each of several guests, by the guest's name, or what is wrong with it.
pub(crate) fn each_guest(record: &Record) -> Vec<(String, Result<Update>)> {
    let names = record.values.iter().filter_map(|value| {
        let (what, name) = value.name.split_once(' ')?;
        ["witness", "resume"].contains(&what).then_some(name)
    });
    let names: BTreeSet<&str> = names.collect();
    let guests = names.len() as u64;
    let update = |name: &&str| -> Result<Update> {
        let mut updates = updates_of(record, Some(name), guests)?;
        ensure!(updates.len() == 1, "More than one update");
        updates.pop().context("There is one")
    };
    let named = |name: &&str| (str::to_owned(name), update(name));
    names.iter().map(named).collect()
}

/// The same for all guests; fails if any of them failed.
pub(crate) fn of_guests(record: &Record) -> Result<Vec<(String, Update)>> {
    let sound = |(name, update): (String, Result<Update>)| -> Result<(String, Update)> {
        let update = update.with_context(|| format!("Guest {name}"))?;
        Ok((name, update))
    };
    let found: Vec<(String, Update)> = each_guest(record)
        .into_iter()
        .map(sound)
        .collect::<Result<_>>()?;
    let boots: BTreeSet<&str> = found
        .iter()
        .map(|(_, update)| update.after.boot_id.as_str())
        .collect();
    ensure!(boots.len() == found.len(), "Two guests are the same one");
    let users: Vec<u32> = found
        .iter()
        .filter_map(|(_, update)| Some(update.vmm.as_ref()?.uid))
        .collect();
    let distinct: BTreeSet<&u32> = users.iter().collect();
    ensure!(distinct.len() == users.len(), "Two VMMs are the same user");
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

/// The updates of the guest with this name, one of `guests` guests; `None` stands for the only
/// guest.
fn updates_of(record: &Record, name: Option<&str>, guests: u64) -> Result<Vec<Update>> {
    let ending = name.map_or_else(String::new, |name| format!(" {name}"));
    let named = |what: &str| -> Vec<&Value> {
        let values = record.values.iter();
        values
            .filter(|value| value.name.strip_suffix(&*ending) == Some(what))
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
        let mut update = Update::new(before, after, resume)?;
        update.was_paused = !named(PAUSED).is_empty();
        let elapsed = after.at.saturating_sub(before.at);
        update.check(elapsed, guests, last_beat(record, name, after.at)?)?;
        updates.push(update);
    }
    if let Some(last) = updates.last_mut() {
        last.add_devices(record, &ending, &named("io"))?;
        last.vmm = Vmm::of(&named("vmm"))?;
        last.lifeboat = lifeboat::of(record, last)?;
    }
    Ok(updates)
}

/// The last heartbeat, before `at`, of the guest with this name in the host before its present one:
/// the largest counter that was seen from outside. `None` if it is still in its first host.
fn last_beat(record: &Record, name: Option<&str>, at: Duration) -> Result<Option<(u64, u64)>> {
    let mut kernels = record.hellos.iter().skip(1).map(|(up, _)| *up);
    let Some(jumped) = kernels.rfind(|up| *up < at) else {
        return Ok(None);
    };
    let its = |line: &&GuestLine| line.at < jumped && name.is_none_or(|name| line.guest == name);
    let lines = record.guest.iter().filter(its);
    let mut beats = lines.filter_map(|line| match parse(&line.text)? {
        WitnessEvent::Beat { uptime_ms, counter } => Some((uptime_ms, counter)),
        _ => None,
    });
    let last = beats.next_back();
    last.map(Some)
        .context("No heartbeat was seen before the host's jump")
}

impl Update {
    /// From two reports of the guest and one of its VMM, unchecked.
    fn new(before: &Value, after: &Value, resume: &Value) -> Result<Self> {
        let resume: Resume = serde_json::from_value(resume.value.clone())
            .context("The VMM's report is not what was agreed")?;
        let blackout = resume.blackout.clone();
        Ok(Self {
            before: serde_json::from_value(before.value.clone())?,
            after: serde_json::from_value(after.value.clone())?,
            resume,
            blackout: blackout.context("The VMM reports no blackout")?,
            vmm: None,
            traffic: None,
            device: None,
            lifeboat: None,
            was_paused: false,
        })
    }

    /// Adds the final results of its disk, its network and a passed-through device.
    fn add_devices(&mut self, record: &Record, ending: &str, io: &[&Value]) -> Result<()> {
        self.traffic = match (self.has_io(), io) {
            (false, []) => None,
            (true, [ended]) => Some(io::of(record, &ended.value)?),
            (_, ended) => bail!("{} ends of disk and network work", ended.len()),
        };
        let evidence = device::Evidence {
            record,
            ending,
            resume: &self.resume,
            blackout: &self.blackout,
        };
        let card = card::of(&evidence, (&self.before, &self.after))?.map(Device::Card);
        self.device = match card {
            None => nvme::of(&evidence)?.map(Device::Nvme),
            card => card,
        };
        Ok(())
    }

    fn has_io(&self) -> bool {
        self.before.io.is_some()
    }

    /// `elapsed` is the time between the two reports, by the lab's own clock; `guests` guests were
    /// updated together.
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
        is_whole(before, after)?;
        goes_on(before, after)?;
        if let Some((uptime_ms, counter)) = last_beat {
            // The last thing the guest did in the old host must be known to it in the new one.
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
        self.check_blackout(guests)
    }

    /// The guest's gap and the VMM's blackout must agree, and the phases must fit into the
    /// blackout.
    fn check_blackout(&self, guests: u64) -> Result<()> {
        let (after, total) = (&self.after, self.blackout.total_ns);
        // Its gaps are also those of the way to the lifeboat: see `lifeboat`.
        let is_bounded = self.resume.lifeboat.is_none() && !self.was_paused;
        let longer = LONGER_PERCENT + LONGER_PERCENT_PER_OTHER * guests.saturating_sub(1);
        for (clock, gap) in [
            ("clock", after.largest_gap_ns),
            ("TSC", after.largest_gap_tsc_ns),
        ] {
            ensure!(
                gap >= shortest_gap_ns(total)
                    && (!is_bounded
                        || gap <= total + total * longer / 100 + LONGER_NS_PER_GUEST * guests),
                "By the guest's {clock} it stood still for {} ms, by the VMM for {} ms",
                gap / 1_000_000,
                total / 1_000_000
            );
        }
        let phases: u64 = self.blackout.phases.iter().map(|phase| phase.ns).sum();
        ensure!(
            phases <= total && !self.blackout.phases.is_empty(),
            "The phases of the blackout add up to {phases} ns, it is {total} ns"
        );
        Ok(())
    }
}

/// Whether a guest has everything it had, unchanged, and nothing complained.
fn is_whole(before: &Report, after: &Report) -> Result<()> {
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
    Ok(())
}

/// Whether a guest continues everything that it did.
fn goes_on(before: &Report, after: &Report) -> Result<()> {
    ensure!(
        after.counter > before.counter,
        "The guest's counter stands still"
    );
    let both = after.counters.iter().zip(&before.counters);
    ensure!(
        after.counters.len() == before.counters.len() && both.clone().all(|(now, then)| now > then),
        "A CPU of the guest's runs no more: {:?} samples, {:?} before",
        after.counters,
        before.counters
    );
    ensure!(
        after.rewritten > before.rewritten,
        "The guest writes no more"
    );
    match (&before.io, &after.io) {
        (None, None) => Ok(()),
        (Some(before), Some(after)) => io::went_on(before, after),
        _ => bail!("The guest's disk and network are gone"),
    }
}

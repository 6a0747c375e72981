//! A guest's disk with many requests in flight, through updates: with a fast disk, and a slow one.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fdbox_lab::device::{DISK_DEPTH, LATENT_DRIVE, SLOW_DRIVE};
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::{DiskIo, WitnessEvent, command};
use serde_json::{Value, json};

use super::guest::{healthy, port, same_guest};
use super::upgrade::{blackout, upgrade};
use super::{Cx, Scenario, ports};
use crate::check::equal;
use crate::fleet::{Member, side_by_side, update_all};
use crate::guest::{Ended, Guest, Spec, VMM};
use crate::network::{Links, drive};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "disk/fifty-updates",
        about: "32 writes in flight through fifty updates; then a disk that is too slow for \
                an update",
        host: HostKind::GuestAlone,
        stages: &[one],
    },
    &Scenario {
        name: "disk/throughput",
        about: "reads per second with io_uring and with a thread, for comparison",
        host: HostKind::GuestAlone,
        stages: &[throughput],
    },
    &Scenario {
        name: "disk/slow-among-four",
        about: "the slow disk of one of four guests does not lengthen any blackout",
        host: HostKind::GuestsOneBoot,
        stages: &[four],
    },
];

const UPDATES: usize = 50;
/// For how many heartbeats a measurement lasts.
const BEATS: usize = 5;
/// Time limit for checking a whole disk.
const LIMIT: Duration = Duration::from_secs(180);
/// A time limit that is too short for the slow disk to complete the requests in flight, in seconds;
/// and one that is long enough.
const SHORT: &str = "1";
const LONG: &str = "60";

fn spec(name: &'static str) -> Spec {
    Spec {
        name,
        ram: "guest_memfd".to_owned(),
        mib: 128,
        cpus: 1,
        number: Some(0),
    }
}

fn boot(name: &'static str, disk: String, more: &[String]) -> Result<Guest> {
    let links = Links::by_name(0)?.with_disk(disk);
    let mut guest = Guest::boot_by(
        &mut Command::new(VMM),
        spec(name),
        Some(&links),
        more,
        &port()?,
    )?;
    healthy(&guest.report()?)?;
    Ok(guest)
}

fn one(cx: &Cx<'_>) -> Result<()> {
    fifty_updates(cx)?;
    slow_disk(cx)
}

/// The witness's results for its disk.
fn disk(guest: &mut Guest, command: &str) -> Result<DiskIo> {
    guest.console.say(command)?;
    guest.console.wait("disk", LIMIT, |said| match said {
        WitnessEvent::Disk(done) => Some(*done),
        _ => None,
    })
}

fn phase(report: &Value, of: &str, name: &str) -> Result<u64> {
    let phases = match of {
        "blackout" => &report["blackout"]["phases"],
        _ => &report[of],
    };
    let mut phases = phases.as_array().into_iter().flatten();
    let phase = phases.find(|phase| phase["name"] == name);
    let ns = phase.and_then(|phase| phase["ns"].as_u64());
    ns.with_context(|| format!("The report has the phase {name}: {report}"))
}

/// What executes the requests of the guest's disk.
fn io(guest: &Guest) -> Result<Value> {
    let status = guest.spec.status()?;
    let devices = status["devices"].as_array().into_iter().flatten();
    let mut disks = devices.filter(|device| device["device"] == "blk0");
    Ok(disks.next().context("The status has the disk")?["io"].clone())
}

fn fifty_updates(cx: &Cx<'_>) -> Result<()> {
    let path = drive(0).display().to_string();
    let mut guest = boot("deep", format!("path={path},direct=on"), &[])?;
    let before = guest.report()?;
    equal("What carries out requests", io(&guest)?, json!("io_uring"))?;
    let mut last = disk(&mut guest, command::DEEP)?;
    let (mut blackouts, mut quiesced) = (Vec::new(), Vec::new());
    for _ in 0..UPDATES {
        let report = upgrade(&guest)?;
        blackouts.push(blackout(&report)?);
        quiesced.push(phase(&report, "before", "quiesce")?);
        let now = disk(&mut guest, command::DEEP)?;
        ensure!(now.writes > last.writes, "It stands still: {now:?}");
        last = now;
    }
    equal("What carries out requests", io(&guest)?, json!("io_uring"))?;
    let done = disk(&mut guest, command::END_DEEP)?;
    equal("Bad blocks", (done.bad, &done.examples), (0, &Vec::new()))?;
    ensure!(done.verified > 0, "Nothing was read back: {done:?}");
    for figures in [&mut blackouts, &mut quiesced] {
        figures.sort_unstable();
    }
    let figures = |sorted: &[u64]| json!({"min": sorted[0], "median": sorted[UPDATES / 2], "max": sorted[UPDATES - 1]});
    let value = json!({
        "writes": done.writes,
        "verified": done.verified,
        "blackout_ns": figures(&blackouts),
        "quiesce_ns": figures(&quiesced),
    });
    println!("{value}");
    cx.value("fifty updates", value)?;
    same_guest(&before, &guest.report()?)?;
    let runner = guest.runner()?;
    guest.power_off_under(&runner)
}

/// Keeps `depth` reads in flight on the guest's disk, and returns how many have completed, and
/// when.
fn flood(guest: &mut Guest, depth: u32) -> Result<(u64, u64)> {
    guest.console.say(&format!("{} {depth}", command::FLOOD))?;
    guest.console.wait("reads", LIMIT, |event| match event {
        WitnessEvent::Work { units, at_ns } => Some((units, at_ns)),
        _ => None,
    })
}

/// Reads per second with `depth` reads in flight, measured over some heartbeats.
fn reads_per_second(guest: &mut Guest, depth: u32) -> Result<u64> {
    flood(guest, depth)?;
    guest.wait_for_beat()?;
    let begin = flood(guest, depth)?;
    for _ in 0..BEATS {
        guest.wait_for_beat()?;
    }
    let end = flood(guest, depth)?;
    Ok((end.0 - begin.0) * 1_000_000_000 / (end.1 - begin.1).max(1))
}

/// Compares io_uring with a thread on the same host: for a disk whose requests take time, and for
/// one whose requests complete at once.
fn throughput(cx: &Cx<'_>) -> Result<()> {
    for (name, path) in [("latent", drive_named(LATENT_DRIVE)?), ("quick", drive(0))] {
        for io in ["thread", "uring"] {
            let disk = format!("path={},direct=on,io={io}", path.display());
            let mut guest = boot("throughput", disk, &[])?;
            let one = reads_per_second(&mut guest, 1)?;
            let deep = reads_per_second(&mut guest, DISK_DEPTH)?;
            let value = json!({"disk": name, "io": io, "depth 1": one, "depth 32": deep});
            ensure!(one > 0 && deep > 0, "It stands still: {value}");
            println!("{value}");
            cx.value("reads a second", value)?;
            // Killed, because many reads may be in flight for a long time.
            drop(guest.runner()?);
            drop(guest);
        }
    }
    Ok(())
}

fn slow_drive() -> Result<PathBuf> {
    drive_named(SLOW_DRIVE)
}

/// A drive of the host, by its serial number.
fn drive_named(wanted: &str) -> Result<PathBuf> {
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let serial = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
        if serial.trim() == wanted {
            // Read-ahead would take throughput from other requests.
            fs::write(entry.path().join("queue/read_ahead_kb"), "0")?;
            return Ok(PathBuf::from("/dev").join(entry.file_name()));
        }
    }
    anyhow::bail!("The host has no drive {wanted}")
}

/// With a full ring on a disk that takes 200 ms per request, and a socket client that never reads.
fn slow_disk(cx: &Cx<'_>) -> Result<()> {
    let path = slow_drive()?.display().to_string();
    let mut guest = boot("slow", format!("path={path}"), &ports::arguments())?;
    let before = guest.report()?;
    guest.tell(command::ECHO)?;
    let mut reader = ports::socket()?;
    reader.set_nonblocking(true)?;
    flood(&mut guest, DISK_DEPTH)?;
    let never_reads = |reader: &mut std::os::unix::net::UnixStream| loop {
        match reader.write(&[7; 4096]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    };
    never_reads(&mut reader)?;
    let pid = |guest: &Guest| anyhow::Ok(guest.spec.status()?["pid"].clone());
    let old = pid(&guest)?;
    let short = guest.upgrade(VMM, &["--pause-timeout", SHORT])?;
    short.expect(11)?;
    let told = "blk0 has";
    ensure!(short.text.contains(told), "Not {told:?}: {}", short.text);
    equal("The VMM", pid(&guest)?, old)?;
    guest.wait_for_beat()?;
    never_reads(&mut reader)?;
    guest.upgrade(VMM, &["--pause-timeout", LONG])?.expect(0)?;
    let report = guest.resume_report()?;
    let (quiesce, pause) = (
        phase(&report, "before", "quiesce")?,
        phase(&report, "blackout", "pause")?,
    );
    let value =
        json!({"quiesce_ns": quiesce, "pause_ns": pause, "blackout_ns": blackout(&report)?});
    println!("{value}");
    cx.value("slow disk", value)?;
    ensure!(
        pause * 10 < quiesce,
        "The blackout waits for the disk: {report}"
    );
    guest.wait_for_beat()?;
    same_guest(&before, &guest.report()?)?;
    drop(guest.runner()?);
    Ok(())
}

fn four(cx: &Cx<'_>) -> Result<()> {
    let slow = format!("--disk=path={}", slow_drive()?.display());
    let mut members = Vec::new();
    for name in ["vm0", "vm1", "vm2", "vm3"] {
        let more: &[String] = match name {
            "vm0" => std::slice::from_ref(&slow),
            _ => &[],
        };
        let member = Member::start(name, "guest_memfd", None, 4, more, &port()?)?;
        member.wait_until_ready()?;
        members.push(member);
    }
    let before = side_by_side(&mut members, Member::report)?;
    let started = |event| matches!(event, WitnessEvent::Work { .. }).then_some(());
    members[0]
        .console
        .say(&format!("{} {DISK_DEPTH}", command::FLOOD))?;
    members[0].console.wait("reads", LIMIT, started)?;
    let short = Ended::of(&mut update_all(&["--pause-timeout", SHORT])?)?;
    short.expect(11)?;
    ensure!(short.text.contains("blk0 has"), "{}", short.text);
    let rolled_back = ["--json", "--pause-timeout", LONG, "--fail-at", "jump"];
    let ended = Ended::of(&mut update_all(&rolled_back)?)?;
    ended.expect(11)?;
    let end = ended.text.lines().find(|line| line.contains("fleet-end"));
    let end: Value = serde_json::from_str(end.context("It has an end")?)?;
    let guests = end["guests"].as_array().into_iter().flatten();
    let paused: Vec<_> = guests.map(|guest| guest["paused_ns"].clone()).collect();
    cx.value("paused ns", &paused)?;
    println!("paused for ns: {paused:?}");
    let short: u64 = SHORT.parse::<u64>()? * 1_000_000_000;
    let is_short = |ns: &Value| ns.as_u64().is_some_and(|ns| ns < short);
    ensure!(
        paused.len() == 4 && paused.iter().all(is_short),
        "They waited: {end}"
    );
    super::guests::all_go_on(&mut members, &before)?;
    members.into_iter().try_for_each(Member::power_off)
}

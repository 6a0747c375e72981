//! A guest's disk with many requests in flight, through updates: with a fast disk, and a slow one.

use std::io::{ErrorKind, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fdbox_lab::device::{DISK_DEPTH, LATENT_DRIVE, SLOW_DRIVE};
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::{DiskIo, WitnessEvent, command};
use serde_json::{Value, json};

use super::guest::port;
use super::reports::{healthy, same_guest};
use super::stuck::fill;
use super::upgrade::{blackout, upgrade};
use super::{Cx, Scenario, ports};
use crate::check::equal;
use crate::fleet::{Member, MemberSpec, side_by_side, update_all};
use crate::guest::{Ended, Guest, Spec, Updating, VMM, Watch};
use crate::network::{Links, drive, stuck};
use crate::reads::{drive_named, flood, per_second};
use crate::report::{ends, never_paused, phase};

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
        name: "disk/status-while-pausing",
        about: "status and cancel are answered while a slow disk delays a pause",
        host: HostKind::GuestAlone,
        stages: &[status_while_pausing],
    },
    &Scenario {
        name: "disk/slow-among-four",
        about: "the slow disk of one guest and the stuck network of another delay none of four guests",
        host: HostKind::GuestsOneBoot,
        stages: &[four],
    },
];

const UPDATES: usize = 50;
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
    guest.console.wait("disk", LIMIT, |event| match event {
        WitnessEvent::Disk(done) => Some(*done),
        _ => None,
    })
}

/// Waits until more writes than `before` are done. Writes count in their order, so a thread that the
/// guest has not scheduled since its write was answered delays the count of all later ones.
fn further(guest: &mut Guest, before: &DiskIo) -> Result<DiskIo> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let now = disk(guest, command::DEEP)?;
        if now.writes > before.writes {
            return Ok(now);
        }
        ensure!(Instant::now() < deadline, "It stands still: {now:?}");
    }
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
        last = further(&mut guest, &last)?;
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

/// Compares io_uring with a thread on the same host: for a disk whose requests take time, and for
/// one whose requests complete at once.
fn throughput(cx: &Cx<'_>) -> Result<()> {
    for (name, path) in [("latent", drive_named(LATENT_DRIVE)?), ("quick", drive(0))] {
        for io in ["thread", "uring"] {
            let disk = format!("path={},direct=on,io={io}", path.display());
            let mut guest = boot("throughput", disk, &[])?;
            let one = per_second(&mut guest, 1)?;
            let deep = per_second(&mut guest, DISK_DEPTH)?;
            let value = json!({"disk": name, "io": io, "depth 1": one, "depth 32": deep});
            ensure!(one > 0 && deep > 0, "It stands still: {value}");
            println!("{value}");
            cx.value("reads a second", value)?;
            // Killed, because many reads may be in flight for a long time.
            guest.runner()?.kill()?;
            drop(guest);
        }
    }
    Ok(())
}

/// With a full ring on a disk that takes 200 ms per request, and a socket client that never reads.
fn slow_disk(cx: &Cx<'_>) -> Result<()> {
    let path = drive_named(SLOW_DRIVE)?.display().to_string();
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
    let old = guest.runner_pid()?;
    let short = guest.upgrade(VMM, &["--json", "--pause-timeout", SHORT])?;
    short.expect(11)?;
    let reason = "blk0 has";
    ensure!(
        short.text.contains(reason),
        "Not {reason:?}: {}",
        short.text
    );
    never_paused(&short.text)?;
    equal("The VMM", guest.runner_pid()?, old)?;
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
    guest.wait_for_beat()?;
    same_guest(&before, &guest.report()?)?;
    guest.runner()?.kill()?;
    Ok(())
}

/// The pause takes seconds, until the requests in flight are done. Whoever waited for it would find
/// the guest paused.
fn status_while_pausing(_: &Cx<'_>) -> Result<()> {
    let path = drive_named(SLOW_DRIVE)?.display().to_string();
    let mut guest = boot("pausing", format!("path={path}"), &[])?;
    flood(&mut guest, DISK_DEPTH)?;
    let api = guest.spec.api();
    let mut watch = Watch::start(&api)?;
    let pause = Updating::start(Command::new(VMM).args(["pause", "--api-socket"]).arg(&api))?;
    watch.until("pausing", None)?;
    let is_running = || {
        equal(
            "The state",
            &guest.spec.status()?["state"],
            &json!("running"),
        )
    };
    is_running()?;
    let cancel = guest.command("cancel")?;
    cancel.expect(1)?;
    let reason = "No update is in progress";
    ensure!(
        cancel.text.contains(reason),
        "Not {reason:?}: {}",
        cancel.text
    );
    is_running()?;
    pause.end()?.expect(0)?;
    watch.until("paused", None)?;
    equal(
        "The state",
        &guest.spec.status()?["state"],
        &json!("paused"),
    )?;
    guest.command("continue")?.expect(0)?;
    guest.wait_for_beat()?;
    guest.runner()?.kill()
}

fn four(cx: &Cx<'_>) -> Result<()> {
    let slow = format!("--disk=path={}", drive_named(SLOW_DRIVE)?.display());
    let mut members = Vec::new();
    for name in ["vm0", "vm1", "vm2", "vm3"] {
        let (number, more): (_, &[String]) = match name {
            "vm0" => (None, std::slice::from_ref(&slow)),
            "vm1" => (Some(0), &[]),
            _ => (None, &[]),
        };
        let spec = MemberSpec {
            number,
            ..MemberSpec::new(name, "guest_memfd", 4)
        };
        let member = Member::start(spec, more, &port()?)?;
        member.wait_until_ready()?;
        members.push(member);
    }
    let before = side_by_side(&mut members, Member::report)?;
    let started = |event| matches!(event, WitnessEvent::Work { .. }).then_some(());
    members[0]
        .console
        .say(&format!("{} {DISK_DEPTH}", command::FLOOD))?;
    members[0].console.wait("reads", LIMIT, started)?;
    let short = Ended::of(&mut update_all(&["--json", "--pause-timeout", SHORT])?)?;
    short.expect(11)?;
    ensure!(short.text.contains("blk0 has"), "{}", short.text);
    never_paused(&short.text)?;
    let _never_read = stuck()?;
    fill(&mut members[1].console, 0)?;
    let rolled_back = ["--json", "--pause-timeout", LONG, "--fail-at", "jump"];
    let ended = Ended::of(&mut update_all(&rolled_back)?)?;
    ended.expect(11)?;
    let ends = ends(&ended.text)?;
    let paused: Vec<_> = ends.iter().map(|guest| &guest["paused_ns"]).collect();
    cx.value("paused ns", &paused)?;
    println!("paused for ns: {paused:?}");
    let count = paused.iter().filter(|ns| ns.is_u64()).count();
    equal("Guests that were paused", count, members.len())?;
    super::guests::all_go_on(&mut members, &before)?;
    members.into_iter().try_for_each(Member::power_off)
}

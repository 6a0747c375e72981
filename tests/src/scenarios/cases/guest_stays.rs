//! What an operator does with a guest that stays in its host: updates that do not happen, and a pause by hand.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::Report;
use serde_json::{Value, json};

use super::guest::{port, spec};
use super::reports::same_guest;
use super::{Cx, Scenario};
use crate::check::equal;
use crate::fdbox;
use crate::guest::{Guest, Watch, sleeps};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "guest/dry-run",
        about: "a dry run succeeds and changes nothing",
        host: HostKind::GuestOneBoot,
        stages: &[dry_run],
    },
    &Scenario {
        name: "guest/cancelled-after-seal",
        about: "an update that is cancelled, after SEAL and by `cancel`: same process, \
                guest unaffected",
        host: HostKind::GuestOneBoot,
        stages: &[cancelled],
    },
    &Scenario {
        name: "guest/by-hand",
        about: "`pause`, `continue` and `shutdown` work",
        host: HostKind::GuestOneBoot,
        stages: &[by_hand],
    },
    &Scenario {
        name: "guest/failures-before-the-jump",
        about: "whatever step fails before the jump, the guest continues in its process",
        host: HostKind::GuestOneBoot,
        stages: &[failures],
    },
];

fn dry_run(_: &Cx<'_>) -> Result<()> {
    let mut guest = Guest::boot(spec("dry-run", "guest_memfd", 1), &port()?)?;
    let (before, info) = (guest.report()?, fdbox::info()?);
    guest.live_update(&["--dry-run"])?.expect(0)?;
    equal("The module's figures", fdbox::info()?, info)?;
    same_guest(&before, &guest.report()?)?;
    guest.power_off()
}

fn cancelled(_: &Cx<'_>) -> Result<()> {
    let mut guest = Guest::boot(spec("cancelled", "guest_memfd", 1), &port()?)?;
    let (before, info) = (guest.report()?, fdbox::info()?);
    let mut watch = Watch::start(&guest.api_path())?;
    // Immediately after SEAL.
    guest.live_update(&["--cancel-after", "seal"])?.expect(11)?;
    unaffected(&mut guest, &before, &mut watch)?;
    // From another process, as soon as an update is in progress. If the cancel came too late, the
    // update would still not leave the host.
    let update = guest.start_update(&["--json", "--fail-at", "pause"])?;
    watch.until("step-started", Some("load-kernel"))?;
    guest.command("cancel")?.expect(0)?;
    let end = update.end()?;
    let last: Value = serde_json::from_str(end.text.lines().last().context("It has an end")?)?;
    equal("That it was cancelled", &last["cancelled"], &json!(true))?;
    ensure!(
        matches!(end.status, Some(10 | 11)) && last["exit_status"] == json!(end.status),
        "The update ended with {:?}: {last}",
        end.status
    );
    unaffected(&mut guest, &before, &mut watch)?;
    // There is nothing left to cancel, and nothing that would prevent the next update.
    guest.command("cancel")?.expect(1)?;
    equal("The module's figures", fdbox::info()?, info)?;
    guest.live_update(&["--dry-run"])?.expect(0)?;
    guest.power_off()
}

/// After an update that was cancelled before the guest was paused.
fn unaffected(guest: &mut Guest, before: &Report, watch: &mut Watch) -> Result<()> {
    for event in watch.until("update-end", None)? {
        // An update announces that the guest will be paused before it checks for a cancel.
        ensure!(event["event"] != "paused", "The guest was paused: {event}");
    }
    let status = guest.spec.status()?;
    equal("The guest's state", &status["state"], &json!("running"))?;
    equal("The VMM's process", &status["pid"], &json!(guest.pid()))?;
    equal("A box", fdbox::listed(guest.spec.name)?.is_some(), false)?;
    guest.wait_for_beat()?;
    same_guest(before, &guest.report()?)
}

fn by_hand(_: &Cx<'_>) -> Result<()> {
    let mut guest = Guest::boot(spec("by-hand", "guest_memfd", 1), &port()?)?;
    let before = guest.report()?;
    guest.reset_gap()?;
    let state = |guest: &Guest| Ok::<_, anyhow::Error>(guest.spec.status()?["state"].clone());
    guest.command("pause")?.expect(0)?;
    let paused = Instant::now();
    equal("The state", state(&guest)?, json!("paused"))?;
    let stood_still = paused.elapsed();
    wakes_up_for_nothing_else(&guest)?;
    guest.command("continue")?.expect(0)?;
    equal("The state", state(&guest)?, json!("running"))?;
    guest.wait_for_beat()?;
    let after = guest.report()?;
    same_guest(&before, &after)?;
    let gap = Duration::from_nanos(after.largest_gap_ns);
    // The two are not read at the same time.
    ensure!(
        gap >= stood_still * 98 / 100,
        "The guest says that it stood still for {gap:?}, it was paused for {stood_still:?}"
    );
    guest.shut_down()
}

/// For how long a VMM that is not to wake up is watched. One that looks for signals every 50 ms wakes up 40 times.
const WATCHED: Duration = Duration::from_secs(2);
/// The last client's thread ends, and the kernel may have some work of its own.
const FEW_SLEEPS: u64 = 5;

/// No thread of a paused guest's VMM looks for something from time to time.
fn wakes_up_for_nothing_else(guest: &Guest) -> Result<()> {
    let before = sleeps(guest.pid())?;
    std::thread::sleep(WATCHED);
    let after = sleeps(guest.pid())?;
    let sum = |sleeps: &[(String, u64)]| sleeps.iter().map(|(_, count)| count).sum::<u64>();
    ensure!(
        sum(&after) <= sum(&before) + FEW_SLEEPS,
        "The VMM wakes up although there is nothing to do: {before:?}, then {after:?}"
    );
    Ok(())
}

/// Steps that can fail before the host is left, and the exit status: up to the seal nothing has
/// changed; from then on the update is rolled back.
const FAILURES: &[(&str, i32)] = &[
    ("preflight", 10),
    ("load-kernel", 10),
    ("create-box", 10),
    ("put-fds", 10),
    ("seal", 11),
    ("pause", 11),
    ("save", 11),
    ("jump", 11),
];

fn failures(_: &Cx<'_>) -> Result<()> {
    let mut guest = Guest::boot(spec("failures", "guest_memfd", 1), &port()?)?;
    let (before, info) = (guest.report()?, fdbox::info()?);
    for (step, status) in FAILURES {
        guest.live_update(&["--fail-at", step])?.expect(*status)?;
        equal(
            &format!("The module's figures after {step}"),
            fdbox::info()?,
            info,
        )?;
        guest.wait_for_beat()?;
        same_guest(&before, &guest.report()?)?;
    }
    guest.power_off()
}

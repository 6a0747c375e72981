//! Many updates of one guest, one after the other: replacements of the VMM, updates that fail or are
//! cancelled, and kexecs in between. The guest's memory, disk and network are checked, and nothing may be left.

use std::env;
use std::fs;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use fdbox_lab::choices::Choices;
use fdbox_lab::scenario::HostKind;
use fdbox_lab::soak::{Kind, SAMPLE, SEED, Sample, UPDATES};
use fdbox_lab::witness::{Io, Report};

use super::devices::end_io;
use super::guest::{asked, port, take_over, update_a};
use super::reports::{healthy, same_guest};
use super::upgrade::{blackout, upgrade};
use super::{Cx, Scenario};
use crate::check::equal;
use crate::fdbox;
use crate::guest::{Guest, Holds, Spec, VMM};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "soak/updates",
        about: "updates of all kinds, good and bad, in random order: the guest is whole after each, and \
                nothing is left in the host",
        host: HostKind::GuestSoak,
        stages: &[soak],
    },
    &Scenario {
        name: "soak/kexecs",
        about: "the same in each of four kernels, with a kexec after each of them",
        host: HostKind::Guest,
        stages: &[
            kexecs_first,
            kexecs_next,
            kexecs_next,
            kexecs_next,
            kexecs_last,
        ],
    },
];

/// Without `cargo lab soak`: each kind is likely to be there.
const FEW: u64 = 10;
/// The same in each of several kernels.
const FEW_IN_EACH: u64 = 3;
/// All memory is checked after every so many updates; the guest's other words after each.
const PER_REPORT: u64 = 10;
/// Steps that fail, and the exit status.
const REPLACEMENT_STEPS: &[(&str, i32)] = &[
    ("create-box", 10),
    ("put-fds", 10),
    ("prebuild", 11),
    ("pause", 11),
    ("save", 11),
    ("open", 11),
    ("restore", 11),
];
const HOST_STEPS: &[(&str, i32)] = &[
    ("load-kernel", 10),
    ("put-fds", 10),
    ("seal", 11),
    ("pause", 11),
    ("save", 11),
    ("jump", 11),
];
const CANCEL_AFTER: &[&str] = &["create-box", "put-fds", "seal"];
/// Figures are compared between the first and the last quarter of at least this many updates.
const ENOUGH: usize = 40;

fn spec() -> Spec {
    Spec {
        number: Some(0),
        ..asked("soak", 128)
    }
}

fn soak(cx: &Cx<'_>) -> Result<()> {
    let mut guest = Guest::boot(spec(), &port()?)?;
    let samples = updates(cx, &mut guest, 0, FEW)?;
    end(cx, guest)?;
    nothing_grew(&samples)
}

fn kexecs_first(cx: &Cx<'_>) -> Result<()> {
    let mut guest = Guest::boot(spec(), &port()?)?;
    updates(cx, &mut guest, 0, FEW_IN_EACH)?;
    update_a(cx, guest)
}

fn kexecs_next(cx: &Cx<'_>) -> Result<()> {
    let mut guest = take_over(cx, spec())?;
    let kexecs = guest.spec.status()?["previous_kernel"]["kexecs"].as_u64();
    let kexecs = kexecs.context("The status has no count of kexecs")?;
    updates(cx, &mut guest, kexecs, FEW_IN_EACH)?;
    update_a(cx, guest)
}

fn kexecs_last(cx: &Cx<'_>) -> Result<()> {
    end(cx, take_over(cx, spec())?)
}

/// Updates the guest in random ways, in a kernel that came up by this many kexecs.
fn updates(cx: &Cx<'_>, guest: &mut Guest, kexecs: u64, few: u64) -> Result<Vec<Sample>> {
    let updates = number(UPDATES)?.unwrap_or(few);
    let mut choices = Choices::from(number(SEED)?.unwrap_or(1) + kexecs);
    let first = guest.report()?;
    healthy(&first)?;
    let mut io = guest.console.wait_for_io(None)?;
    let mut samples = Vec::new();
    for update in 1..=updates {
        let kind = *choices.one_of(&Kind::ALL);
        let sample = once(guest, kind, &mut choices, update, (&first, &mut io));
        let sample = sample.with_context(|| format!("Update {update}, {kind:?}"))?;
        let sample = Sample { kexecs, ..sample };
        cx.value(SAMPLE, sample)?;
        samples.push(sample);
    }
    same_guest(&first, &guest.report()?)?;
    Ok(samples)
}

fn end(cx: &Cx<'_>, mut guest: Guest) -> Result<()> {
    cx.value("io", end_io(&mut guest)?)?;
    let runner = guest.runner()?;
    guest.power_off_under(&runner)
}

fn number(variable: &str) -> Result<Option<u64>> {
    let text = env::var(variable).ok();
    let number =
        text.map(|text| u64::from_str(&text).with_context(|| format!("{variable}={text}")));
    number.transpose()
}

/// One update, and what it leaves behind.
fn once(
    guest: &mut Guest,
    kind: Kind,
    choices: &mut Choices,
    update: u64,
    (first, io): (&Report, &mut Io),
) -> Result<Sample> {
    let before = guest.runner_pid()?;
    let blackout_ns = act(guest, kind, choices)?;
    let after = guest.runner_pid()?;
    let is_replaced = kind == Kind::Replaced;
    equal("Whether the VMM is another", before != after, is_replaced)?;
    equal("The boxes", fdbox::boxes()?.len(), 0)?;
    guest.wait_for_beat()?;
    *io = guest.console.wait_for_io(Some(io))?;
    if update.is_multiple_of(PER_REPORT) {
        same_guest(first, &guest.report()?)?;
    }
    sample(update, kind, blackout_ns, &Holds::of(after)?)
}

fn act(guest: &mut Guest, kind: Kind, choices: &mut Choices) -> Result<Option<u64>> {
    match kind {
        Kind::Replaced => return Ok(Some(blackout(&upgrade(guest)?)?)),
        Kind::ReplacementFailed => {
            let (step, status) = choices.one_of(REPLACEMENT_STEPS);
            let ended = guest.upgrade(VMM, &["--fail-at", step])?;
            ended
                .expect(*status)
                .with_context(|| format!("At {step}"))?;
        }
        Kind::NewVmmEnded => {
            let binary = guest.bad_binary("exit 3")?;
            guest.upgrade(&binary, &[])?.expect(10)?;
        }
        Kind::HostUpdateFailed => {
            let (step, status) = choices.one_of(HOST_STEPS);
            let ended = guest.live_update(&["--fail-at", step])?;
            ended
                .expect(*status)
                .with_context(|| format!("At {step}"))?;
        }
        Kind::HostUpdateCancelled => {
            let step = choices.one_of(CANCEL_AFTER);
            let ended = guest.live_update(&["--cancel-after", step])?;
            // A cancel is looked for when the guest is to be paused.
            ended.expect(11).with_context(|| format!("After {step}"))?;
        }
    }
    Ok(None)
}

fn sample(update: u64, kind: Kind, blackout_ns: Option<u64>, vmm: &Holds) -> Result<Sample> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let kib = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
        let figure = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        figure.with_context(|| format!("/proc/meminfo has {name}"))
    };
    let files = fs::read_to_string("/proc/sys/fs/file-nr")?;
    let open_files = files.split_whitespace().next();
    Ok(Sample {
        update,
        kexecs: 0,
        kind,
        blackout_ns,
        available_kib: kib("MemAvailable:")?,
        unreclaimable_slab_kib: kib("SUnreclaim:")?,
        vmalloc_kib: kib("VmallocUsed:")?,
        open_files: open_files.context("file-nr has a number")?.parse()?,
        vmm_fds: vmm.fds as u64,
        vmm_threads: vmm.threads as u64,
        vmm_anonymous_kib: vmm.anonymous_kib,
    })
}

/// A figure, and by how much it may grow: in all, and in addition per update.
type Limit = (&'static str, fn(&Sample) -> i64, i64, i64);

const LIMITS: &[Limit] = &[
    (
        "memory in use, KiB",
        |it| -(it.available_kib as i64),
        4096,
        4,
    ),
    (
        "unreclaimable slab, KiB",
        |it| it.unreclaimable_slab_kib as i64,
        1024,
        1,
    ),
    ("vmalloc, KiB", |it| it.vmalloc_kib as i64, 512, 1),
    ("open files", |it| it.open_files as i64, 32, 0),
    ("the VMM's FDs", |it| it.vmm_fds as i64, 0, 0),
    ("the VMM's threads", |it| it.vmm_threads as i64, 1, 0),
    (
        "the VMM's own memory, KiB",
        |it| it.vmm_anonymous_kib as i64,
        512,
        1,
    ),
];

/// Compares the least figures of the first and of the last quarter: what is in use for a while comes
/// and goes, what was leaked stays.
fn nothing_grew(samples: &[Sample]) -> Result<()> {
    if samples.len() < ENOUGH {
        return Ok(());
    }
    let quarter = samples.len() / 4;
    for (name, figure, in_all, per_update) in LIMITS {
        let least = |samples: &[Sample]| samples.iter().map(figure).min().unwrap_or_default();
        let (early, late) = (&samples[..quarter], &samples[samples.len() - quarter..]);
        let grew = least(late) - least(early);
        let limit = in_all + per_update * (samples.len() - quarter) as i64;
        ensure!(grew <= limit, "{name}: grew by {grew}, and may by {limit}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(leak_kib: u64) -> Vec<Sample> {
        let sample = |update| Sample {
            update,
            kexecs: 0,
            kind: Kind::Replaced,
            blackout_ns: None,
            available_kib: 1_000_000 - leak_kib * update + update % 3 * 100,
            unreclaimable_slab_kib: 5000,
            vmalloc_kib: 300,
            open_files: 90,
            vmm_fds: 40,
            vmm_threads: 9,
            vmm_anonymous_kib: 4000,
        };
        (1..=2000).map(sample).collect()
    }

    #[test]
    fn a_small_leak_shows_after_enough_updates() {
        nothing_grew(&samples(0)).unwrap();
        let message = nothing_grew(&samples(12)).unwrap_err().to_string();
        assert!(
            message.starts_with("memory in use, KiB: grew by"),
            "{message}"
        );
        nothing_grew(&samples(12)[..20]).unwrap();
    }

    #[test]
    fn one_descriptor_more_is_too_many() {
        let mut samples = samples(0);
        samples[1000..]
            .iter_mut()
            .for_each(|sample| sample.vmm_fds += 1);
        assert!(nothing_grew(&samples).is_err());
    }
}

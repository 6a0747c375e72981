//! Many updates of one guest, one after the other: replacements of the VMM, updates that fail or are
//! cancelled, and kexecs in between. The guest's memory, disk and network are checked, and nothing may be left.

use std::env;
use std::fs;
use std::str::FromStr;

use anyhow::{Context, Error, Result};
use fdbox_lab::choices::Choices;
use fdbox_lab::device::{FRAMES, NOTED};
use fdbox_lab::scenario::HostKind;
use fdbox_lab::soak::{Kind, SAMPLE, SEED, Sample, UPDATES, nothing_grew};
use fdbox_lab::witness::{Io, Report};

use super::devices::end_io;
use super::guest::{asked, port, take_over, update_a};
use super::reports::{healthy, same_guest};
use super::upgrade::{blackout, upgrade};
use super::{Cx, Scenario};
use crate::check::equal;
use crate::fdbox;
use crate::guest::{Guest, Holds, Spec, VMM};
use crate::host;
use crate::passthrough::{pci, registers};

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
        about: "the same in each of five kernels, with a kexec between one and the next",
        host: HostKind::Guest,
        stages: &[first, next, next, next, last],
    },
    &Scenario {
        name: "soak/device",
        about: "the same with a card that the guest drives: it gets every frame, and the card is never reset",
        host: HostKind::GuestPassthrough,
        stages: &[
            first_with_card,
            next_with_card,
            next_with_card,
            next_with_card,
            last_with_card,
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
/// What does not need a next kernel.
const IN_THE_LAST: [Kind; 3] = [Kind::Replaced, Kind::ReplacementFailed, Kind::NewVmmEnded];
const CANCEL_AFTER: &[&str] = &["create-box", "put-fds", "seal"];

fn spec() -> Spec {
    Spec {
        number: Some(0),
        ..asked("soak", 128)
    }
}

fn soak(cx: &Cx<'_>) -> Result<()> {
    let mut guest = Guest::boot(spec(), &port()?)?;
    let samples = updates(cx, &mut guest, 0, FEW, &Kind::ALL)?;
    end(cx, guest)?;
    nothing_grew(&samples)
}

fn first(cx: &Cx<'_>) -> Result<()> {
    let mut guest = Guest::boot(spec(), &port()?)?;
    updates(cx, &mut guest, 0, FEW_IN_EACH, &Kind::ALL)?;
    update_a(cx, guest)
}

fn next(cx: &Cx<'_>) -> Result<()> {
    let mut guest = take_over(cx, spec())?;
    updates_in_the_next_kernel(cx, &mut guest, &Kind::ALL)?;
    update_again(guest)
}

fn last(cx: &Cx<'_>) -> Result<()> {
    let mut guest = take_over(cx, spec())?;
    updates_in_the_next_kernel(cx, &mut guest, &IN_THE_LAST)?;
    end(cx, guest)
}

fn spec_with_card() -> Spec {
    Spec {
        // The other kind of memory cannot be mapped for a device.
        ram: "memfd".to_owned(),
        number: Some(0),
        // The pattern leaves a quarter of it. With the card's ring and the frames that wait for the witness on a slow
        // host, a quarter of 128 MiB is too little.
        ..asked("soak", 256)
    }
}

fn first_with_card(cx: &Cx<'_>) -> Result<()> {
    let place = pci::nic()?;
    let device = pci::to_pass_through(&place)?;
    let mut guest = Guest::boot_with(spec_with_card(), &device, &port()?)?;
    guest.console.wait_for_frames(None)?;
    updates(cx, &mut guest, 0, FEW_IN_EACH, &Kind::ALL)?;
    cx.value(NOTED, registers::note_card(&place)?)?;
    update_a(cx, guest)
}

fn next_with_card(cx: &Cx<'_>) -> Result<()> {
    let mut guest = updates_with_card(cx, &Kind::ALL)?;
    guest.console.wait_for_frames(None)?;
    update_again(guest)
}

fn last_with_card(cx: &Cx<'_>) -> Result<()> {
    let mut guest = updates_with_card(cx, &IN_THE_LAST)?;
    let frames = guest.console.wait_for_frames(None)?;
    cx.value(FRAMES, guest.console.wait_for_frames(Some(&frames))?)?;
    cx.value(NOTED, registers::note_card(&pci::nic()?)?)?;
    end(cx, guest)
}

/// Takes over the guest and updates it. The card's registers are noted before anybody accesses it.
fn updates_with_card(cx: &Cx<'_>, kinds: &[Kind]) -> Result<Guest> {
    cx.value(NOTED, registers::note_card(&pci::nic()?)?)?;
    let mut guest = take_over(cx, spec_with_card())?;
    updates_in_the_next_kernel(cx, &mut guest, kinds)?;
    Ok(guest)
}

/// The report of the guest when it was taken over is also that of the guest before this update.
fn update_again(mut guest: Guest) -> Result<()> {
    healthy(&guest.report()?)?;
    // From now on, gaps are caused by the update.
    guest.reset_gap()?;
    guest.wait_for_beat()?;
    guest.update_host()
}

fn updates_in_the_next_kernel(cx: &Cx<'_>, guest: &mut Guest, kinds: &[Kind]) -> Result<()> {
    let kexecs = guest.spec.status()?["previous_kernel"]["kexecs"].as_u64();
    let kexecs = kexecs.context("The status has no count of kexecs")?;
    updates(cx, guest, kexecs, FEW_IN_EACH, kinds)?;
    Ok(())
}

/// Updates the guest in random ways, in a kernel that came up by this many kexecs.
fn updates(
    cx: &Cx<'_>,
    guest: &mut Guest,
    kexecs: u64,
    few: u64,
    kinds: &[Kind],
) -> Result<Vec<Sample>> {
    let updates = number(UPDATES)?.unwrap_or(few);
    let mut choices = Choices::from(number(SEED)?.unwrap_or(1) + kexecs);
    let first = guest.report()?;
    healthy(&first)?;
    let mut io = guest.console.wait_for_io(None)?;
    let mut samples = Vec::new();
    for update in 1..=updates {
        // The VMM that booted the guest or took it out of its box holds other descriptors than those that replace it.
        let kind = match update {
            1 => Kind::Replaced,
            _ => *choices.one_of(kinds),
        };
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
    let kib = |name: &str| Ok::<_, Error>(host::meminfo(name)? / 1024);
    let files = fs::read_to_string("/proc/sys/fs/file-nr")?;
    let open_files = files.split_whitespace().next();
    Ok(Sample {
        update,
        kexecs: 0,
        kind,
        blackout_ns,
        total_kib: kib("MemTotal")?,
        uncounted_kib: host::kernel_holds()?.raw_kib,
        available_kib: kib("MemAvailable")?,
        unreclaimable_slab_kib: kib("SUnreclaim")?,
        vmalloc_kib: kib("VmallocUsed")?,
        open_files: open_files.context("file-nr has a number")?.parse()?,
        vmm_fds: vmm.fds as u64,
        vmm_threads: vmm.threads as u64,
        vmm_anonymous_kib: vmm.anonymous_kib,
    })
}

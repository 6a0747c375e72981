//! Updates the host under a guest: the main purpose of the project.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use fdbox_lab::event::EventPort;
use fdbox_lab::scenario::HostKind;
use serde_json::json;

use super::reports::{healthy, same_guest};
use super::{Cx, Scenario, privileges};
use crate::check::equal;
use crate::guest::{Guest, Spec};
use crate::hugetlb::{Counts, Pool, Size};
use crate::network::Links;
use crate::{fdbox, uapi};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "guest/guest-memfd",
        about: "a guest whose memory is a guest_memfd continues under a new kernel",
        host: HostKind::Guest,
        stages: &[guest_memfd_before, guest_memfd_after],
    },
    &Scenario {
        name: "guest/memfd",
        about: "a guest whose memory is a memfd continues under a new kernel",
        host: HostKind::Guest,
        stages: &[memfd_before, memfd_after],
    },
    &Scenario {
        name: "guest/hugetlb",
        about: "a guest whose memory is huge pages of the host's pool continues under a new kernel, in huge pages",
        host: HostKind::Guest,
        stages: &[hugetlb_before, hugetlb_after],
    },
    &Scenario {
        name: "guest/two-cpus",
        about: "a guest with two CPUs continues on both of them",
        host: HostKind::Guest,
        stages: &[two_cpus_before, two_cpus_after],
    },
    &Scenario {
        name: "guest/two-updates",
        about: "two updates in a row, back to the first kernel",
        host: HostKind::Guest,
        stages: &[twice_first, twice_second, twice_third],
    },
    &Scenario {
        name: "guest/second-try",
        about: "a resume that fails leaves the box sealed, and the next one works",
        host: HostKind::Guest,
        stages: &[second_try_before, second_try_after],
    },
    &Scenario {
        name: "guest/another-vmm",
        about: "without a kexec another process of the VMM takes the guest over",
        host: HostKind::GuestOneBoot,
        stages: &[another_vmm],
    },
];

/// A guest of `mib` MiB; `cargo lab demo` can change its properties through the environment.
pub(super) fn asked(name: &'static str, mib: u64) -> Spec {
    let variable = |name: &str| std::env::var(name).ok();
    let number = |name: &str, default| {
        variable(name)
            .and_then(|value| value.parse().ok())
            .unwrap_or(default)
    };
    Spec {
        name,
        ram: variable("LAB_GUEST_RAM").unwrap_or_else(|| "guest_memfd".to_owned()),
        mib: number("LAB_GUEST_MIB", mib),
        cpus: number("LAB_GUEST_CPUS", 1) as u32,
        number: None,
    }
}

pub(super) fn spec(name: &'static str, ram: &str, cpus: u32) -> Spec {
    Spec {
        name,
        ram: ram.to_owned(),
        mib: 256,
        cpus,
        number: None,
    }
}

/// Boots a guest, checks it, and updates the host under it. Returns only on failure.
pub(super) fn update_under(cx: &Cx<'_>, spec: Spec) -> Result<()> {
    update_a(cx, Guest::boot(spec, &port()?)?)
}

/// The same under an existing guest.
pub(super) fn update_a(cx: &Cx<'_>, mut guest: Guest) -> Result<()> {
    healthy(&guest.report()?)?;
    if guest.spec.number.is_some() {
        guest.console.wait_for_io(None)?;
    }
    leave_with(cx, guest)
}

/// The same without another look at it.
pub(super) fn leave_with(cx: &Cx<'_>, mut guest: Guest) -> Result<()> {
    // From now on, gaps are caused by the update.
    guest.reset_gap()?;
    cx.value("witness", guest.report()?)?;
    cx.value("vmm", privileges::vmm_status(&guest.spec.api())?)?;
    // Heartbeats seen from outside, to compare with what the guest knows afterwards.
    guest.wait_for_beat()?;
    guest.wait_for_beat()?;
    guest.update_host()
}

/// Resumes the guest in the new host, and sends the data that the lab compares.
pub(super) fn take_over(cx: &Cx<'_>, spec: Spec) -> Result<Guest> {
    let links = spec.number.map(Links::by_name).transpose()?;
    take_over_with(cx, spec, links.as_ref())
}

/// The same with the host's names of its disk and its card.
pub(super) fn take_over_with(cx: &Cx<'_>, spec: Spec, links: Option<&Links>) -> Result<Guest> {
    let name = spec.name;
    let mut guest = Guest::resume_with(spec, links, &port()?)?;
    let report = guest.report()?;
    healthy(&report)?;
    cx.value("witness", &report)?;
    cx.value("resume", guest.resume_report()?)?;
    cx.value("vmm", privileges::vmm_status(&guest.spec.api())?)?;
    // The guest is fully functional: it can write to all its memory.
    guest.write(77)?;
    healthy(&guest.report()?)?;
    let boxes = crate::guest::status(None)?;
    let mut boxes = boxes.as_array().context("The boxes are a list")?.iter();
    let is_left = boxes.any(|found| found["name"] == name);
    equal("The box in the list", is_left, false)?;
    Ok(guest)
}

pub(super) fn port() -> Result<Arc<EventPort>> {
    Ok(Arc::new(EventPort::open()?))
}

fn guest_memfd_before(cx: &Cx<'_>) -> Result<()> {
    update_under(cx, spec("guest-memfd", "guest_memfd", 1))
}

fn guest_memfd_after(cx: &Cx<'_>) -> Result<()> {
    take_over(cx, spec("guest-memfd", "guest_memfd", 1))?.power_off()
}

fn memfd_before(cx: &Cx<'_>) -> Result<()> {
    update_under(cx, spec("memfd", "memfd", 1))
}

fn memfd_after(cx: &Cx<'_>) -> Result<()> {
    take_over(cx, spec("memfd", "memfd", 1))?.power_off()
}

fn hugetlb_before(cx: &Cx<'_>) -> Result<()> {
    update_under(cx, spec("hugetlb", "hugetlb", 1))
}

fn hugetlb_after(cx: &Cx<'_>) -> Result<()> {
    let pool = Pool(Size::TwoMib);
    let guest = take_over(cx, spec("hugetlb", "hugetlb", 1))?;
    let pages = guest.spec.mib / 2;
    let taken = Counts {
        all: pages,
        free: 0,
        reserved: 0,
        surplus: 0,
    };
    equal("The pool with the guest", pool.counts()?, taken)?;
    equal(
        "The kind",
        &guest.spec.status()?["ram_kind"],
        &json!("hugetlb"),
    )?;
    guest.power_off()?;
    let free = Counts {
        free: pages,
        ..taken
    };
    equal("The pool without it", pool.counts()?, free)
}

fn two_cpus_before(cx: &Cx<'_>) -> Result<()> {
    update_under(cx, spec("smp", "guest_memfd", 2))
}

fn two_cpus_after(cx: &Cx<'_>) -> Result<()> {
    take_over(cx, spec("smp", "guest_memfd", 2))?.power_off()
}

fn twice() -> Spec {
    spec("twice", "guest_memfd", 1)
}

/// Checks that report and status name the previous kernel, which is the other of the two.
fn came_by_kexecs(guest: &Guest, kexecs: u64) -> Result<()> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let release = release.trim();
    let other = match release.strip_suffix("-a") {
        Some(common) => format!("{common}-b"),
        None => format!("{}-a", release.strip_suffix("-b").unwrap_or(release)),
    };
    let previous = json!({"release": other, "kexecs": kexecs});
    let report = guest.resume_report()?;
    equal(
        "The release in the report",
        &report["host"]["release"],
        &json!(release),
    )?;
    equal(
        "The last kernel in the report",
        &report["host"]["previous_kernel"],
        &previous,
    )?;
    let status = guest.spec.status()?;
    equal(
        "The last kernel in the status",
        &status["previous_kernel"],
        &previous,
    )
}

fn twice_first(cx: &Cx<'_>) -> Result<()> {
    update_under(cx, twice())
}

fn twice_second(cx: &Cx<'_>) -> Result<()> {
    let mut guest = take_over(cx, twice())?;
    came_by_kexecs(&guest, 1)?;
    guest.reset_gap()?;
    guest.update_host()
}

fn twice_third(cx: &Cx<'_>) -> Result<()> {
    let guest = take_over(cx, twice())?;
    came_by_kexecs(&guest, 2)?;
    guest.power_off()
}

fn another_vmm(_: &Cx<'_>) -> Result<()> {
    let port = port()?;
    let mut guest = Guest::boot(spec("another", "guest_memfd", 1), &port)?;
    let before = guest.report()?;
    let (spec, status) = guest.hand_over_here()?;
    ensure!(status.success(), "The old VMM ended with {status}");
    let mut guest = Guest::resume(spec, &port)?;
    same_guest(&before, &guest.report()?)?;
    guest.power_off()
}

fn second_try() -> Spec {
    spec("second-try", "guest_memfd", 1)
}

fn second_try_before(cx: &Cx<'_>) -> Result<()> {
    update_under(cx, second_try())
}

fn second_try_after(cx: &Cx<'_>) -> Result<()> {
    for step in ["open", "restore"] {
        Guest::fail_to_resume(&second_try(), step)?.expect(10)?;
        let listed = fdbox::listed(second_try().name)?;
        let state = listed.map(|listed| listed.state);
        equal(
            "The box's state after the failure",
            state,
            Some(uapi::STATE_SEALED),
        )?;
    }
    take_over(cx, second_try())?.power_off()
}

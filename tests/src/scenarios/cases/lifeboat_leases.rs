//! Boxes that are lent to a boat: who has them, and what becomes of one whose boat is lost.

use std::fs;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;

use super::lifeboat_borrows::retry;
use super::lifeboat_here::lent;
use super::{Cx, Scenario};
use crate::boat::{LOST, RUNNING, Spec, started};
use crate::check::{equal, fails};
use crate::fdbox::FdBox;
use crate::host;
use crate::memory::{PAGE, memfd};
use crate::uapi::{
    HOLDER_BOAT, HOLDER_HOST, HOLDER_OFFERED, HOLDER_SHOWN, LEND_LOOK, LEND_OFFER, LEND_READY,
    LEND_RECALL, LEND_SHOW, Lend,
};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "lifeboat/leases",
        about: "a host lends boxes, takes them back, and lends them anew",
        host: HostKind::LifeboatOneBoot,
        stages: &[leases],
    },
    &Scenario {
        name: "lifeboat/lost-with-a-box",
        about: "the box of a boat that panics is the host's again once the boat is stopped",
        host: HostKind::LifeboatOneBoot,
        stages: &[lost_with_a_box],
    },
];

const CPUS: [u32; 2] = [1, 2];
const MOST: usize = 64;

fn sealed(name: &str) -> Result<FdBox> {
    let fdbox = FdBox::create(name)?;
    fdbox.put(memfd(c"memory", PAGE)?, "memory")?;
    fdbox.seal()?;
    Ok(fdbox)
}

fn lend(fdbox: &FdBox, act: u32) -> Result<Lend> {
    let lent = fdbox.try_lend(act);
    lent.with_context(|| format!("Act {act} on the box {}", fdbox.name))
}

fn leases(cx: &Cx<'_>) -> Result<()> {
    lent(cx, &CPUS, |boat| {
        started(boat, &Spec::new("stay", &CPUS[..1]), 0)?;
        lent_and_taken_back()?;
        as_many_as_there_are()?;
        boat.stop()
    })
}

fn lent_and_taken_back() -> Result<()> {
    let fdbox = sealed("lent")?;
    let first = lend(&fdbox, LEND_SHOW)?;
    equal("Who has it", first.holder, HOLDER_SHOWN)?;
    for (act, holder) in [
        (LEND_SHOW, HOLDER_SHOWN),
        (LEND_OFFER, HOLDER_OFFERED),
        (LEND_LOOK, HOLDER_OFFERED),
        (LEND_SHOW, HOLDER_SHOWN),
    ] {
        let now = lend(&fdbox, act)?;
        equal("Who has it", now.holder, holder)?;
        equal("The generation", now.generation, first.generation)?;
    }
    equal("Who has it", lend(&fdbox, LEND_RECALL)?.holder, HOLDER_HOST)?;
    let second = lend(&fdbox, LEND_OFFER)?;
    ensure!(
        second.generation > first.generation,
        "A lease that looks like the first one: {first:?}, {second:?}"
    );
    // Nobody took it.
    fdbox.unseal()?;
    equal("Who has it", lend(&fdbox, LEND_LOOK)?.holder, HOLDER_HOST)?;
    fails(
        "To wait for it in the host",
        fdbox.try_lend(LEND_READY),
        Errno::INVAL,
    )?;
    fails("To lend it open", fdbox.try_lend(LEND_OFFER), Errno::INVAL)?;
    fdbox.delete()
}

fn as_many_as_there_are() -> Result<()> {
    let boxes: Result<Vec<_>> = (0..=MOST)
        .map(|number| sealed(&format!("box{number}")))
        .collect();
    let boxes = boxes?;
    for fdbox in &boxes[..MOST] {
        lend(fdbox, LEND_SHOW)?;
    }
    let one_more = &boxes[MOST];
    fails(
        "To lend one more",
        one_more.try_lend(LEND_SHOW),
        Errno::NOSPC,
    )?;
    lend(&boxes[0], LEND_RECALL)?;
    lend(one_more, LEND_SHOW)?;
    for fdbox in boxes {
        fdbox.unseal()?;
        fdbox.delete()?;
    }
    Ok(())
}

fn lost_with_a_box(cx: &Cx<'_>) -> Result<()> {
    let fdbox = sealed("lost")?;
    lent(cx, &CPUS, |boat| {
        let spec = Spec::new("help:take-and-panic,lost", &CPUS[..1]);
        started(boat, &spec, 0)?;
        equal("Whether it is lost", lend(&fdbox, LEND_OFFER)?.lost, 0)?;
        let state = match boat.status()?.state {
            RUNNING => boat.next_state()?,
            state => state,
        };
        equal("The state", state, LOST)?;
        let lent = lend(&fdbox, LEND_LOOK)?;
        equal("Who has it", lent.holder, HOLDER_BOAT)?;
        equal("Whether it is lost", lent.lost, 1)?;
        fails("To unseal it", fdbox.try_unseal(), Errno::BUSY)?;
        boat.stop()?;
        host::wait_for_log(|log| {
            log.iter()
                .any(|line| line.contains("is lost with it, the box lost among it"))
        })
    })?;
    fdbox.unseal()?;
    fdbox.delete()
}

/// The helper `take-and-panic NAME`, in the boat.
pub(super) fn take_and_panic(name: &str) -> Result<()> {
    host::load_module("fdbox")?;
    retry(|| FdBox::try_borrow(name), &[Errno::NOENT, Errno::AGAIN]).context("Borrow the box")?;
    FdBox::open(name)?.unseal()?;
    Ok(fs::write("/proc/sysrq-trigger", "c")?)
}

//! A guest, and the cost of an update for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fdbox_lab::bench::{HANDOVER, Handover, Layout, WORKED, Worked};
use fdbox_lab::event::EventPort;

use super::{number, pages, say};
use crate::fdbox;
use crate::guest::{Guest, Spec};

/// The name of the guest and its box.
const NAME: &str = "bench";
/// The interval of checking whether the guest is sealed.
const LOOK: Duration = Duration::from_micros(100);
/// How often the guest is sealed to be examined, because it stays sealed for less than a
/// millisecond.
const LOOKS: u32 = 20;

/// The guest to resume: the box determines its kind.
pub(super) fn taken_over() -> Spec {
    Spec {
        name: NAME,
        ram: String::new(),
        mib: 0,
        cpus: 0,
        number: None,
    }
}

fn boot(ram: &str, mib: &str, cpus: &str, layout: &str, port: &Arc<EventPort>) -> Result<Guest> {
    let layout = Layout::named(layout).with_context(|| format!("There is no layout {layout}"))?;
    pages::choose(layout)?;
    let spec = Spec {
        name: NAME,
        ram: ram.to_owned(),
        mib: number(mib)?,
        cpus: number(cpus)? as u32,
        number: None,
    };
    Guest::boot(spec, port)
}

/// Boots a guest and updates the host under it. Returns only on failure. With `ask`, first measures
/// the description of a sealed guest for the next kernel. Memory of which no two neighbours are to belong to the guest
/// is between pages of another file.
pub(super) fn update(ram: &str, mib: &str, cpus: &str, layout: &str, ask: bool) -> Result<()> {
    let port = Arc::new(EventPort::open()?);
    let _between = match Layout::named(layout) {
        Some(layout) if layout.is_interleaved() => Some(pages::leave_gaps(number(mib)?, layout)?),
        _ => None,
    };
    let mut guest = boot(ram, mib, cpus, layout, &port)?;
    if ask {
        say(&port, HANDOVER, handover(&guest)?)?;
    }
    // From now on, gaps are caused by the update.
    guest.reset_gap()?;
    guest.update_host()
}

/// The size of the guest's description for the next kernel, from updates that are cancelled before
/// the jump.
fn handover(guest: &Guest) -> Result<Handover> {
    for _ in 0..LOOKS {
        let most = most_handed_over(guest)?;
        if most.bytes > 0 {
            return Ok(most);
        }
    }
    bail!("The guest was sealed {LOOKS} times, and never seen sealed")
}

fn most_handed_over(guest: &Guest) -> Result<Handover> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| look(&over));
        let ended = guest.live_update(&["--fail-at", "jump"]);
        over.store(true, Ordering::Relaxed);
        ended?.expect(11)?;
        match looking.join() {
            Ok(most) => most,
            Err(_) => bail!("The thread that looks panicked"),
        }
    })
}

/// The largest handover seen until `over` is set.
fn look(over: &AtomicBool) -> Result<Handover> {
    let mut most = Handover {
        bytes: 0,
        extents: 0,
        pages: 0,
    };
    while !over.load(Ordering::Relaxed) {
        let info = fdbox::info()?;
        if info.handover_bytes > most.bytes {
            most = Handover {
                bytes: info.handover_bytes,
                extents: info.handover_extents,
                pages: info.handover_pages,
            };
        }
        std::thread::sleep(LOOK);
    }
    Ok(most)
}

/// In turn, so that other load on the machine affects all three alike.
const TURNS: u32 = 5;

/// Measures the work of a busy guest while nothing happens, while the VMM is started repeatedly for
/// a command unrelated to updates, and while the guest's update is prepared and cancelled
/// repeatedly: `seconds` seconds of each.
pub(super) fn work(ram: &str, mib: &str, seconds: &str) -> Result<()> {
    let port = Arc::new(EventPort::open()?);
    let mut guest = boot(ram, mib, "1", "sequential", &port)?;
    let turn = Duration::from_secs(number(seconds)?) / TURNS;
    guest.work()?;
    std::thread::sleep(Duration::from_secs(1));
    let mut worked = Worked::default();
    for _ in 0..TURNS {
        let start = guest.work()?;
        std::thread::sleep(turn);
        let quiet = guest.work()?;
        again_and_again(turn, || guest.spec.status().map(drop))?;
        let other = guest.work()?;
        worked.prepared += again_and_again(turn, || {
            guest.live_update(&["--cancel-after", "seal"])?.expect(11)
        })?;
        let busy = guest.work()?;
        worked.quiet_units += quiet.0 - start.0;
        worked.quiet_ns += quiet.1 - start.1;
        worked.other_units += other.0 - quiet.0;
        worked.other_ns += other.1 - quiet.1;
        worked.busy_units += busy.0 - other.0;
        worked.busy_ns += busy.1 - other.1;
    }
    say(&port, WORKED, worked)?;
    guest.power_off()
}

/// Calls `what` repeatedly for this time; returns how often.
fn again_and_again(time: Duration, mut what: impl FnMut() -> Result<()>) -> Result<u64> {
    let began = Instant::now();
    let mut times = 0;
    while began.elapsed() < time {
        what()?;
        times += 1;
    }
    Ok(times)
}

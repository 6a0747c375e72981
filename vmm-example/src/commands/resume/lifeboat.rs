//! The end of an update with a lifeboat: when no guest is in it any more, or it is lost, it is stopped, and its
//! CPUs come back.

use std::thread;
use std::time::Duration;

use vmm_fdbox::Deadline;
use vmm_fdbox::boat::{Boat, BoatError, BoatState, NODE, offline_cpus, set_online};
use vmm_fdbox::coordinator::{Boxes, ResumeLimits};

use crate::error::{chain, say, warn};

/// How long the boat may take to park.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// Its module reports the beats of a tenth of a second.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Stops the boat, unless it runs and has guests. Guests run already, so an error is only reported.
pub(super) fn stop_boat<B: Boxes>(boxes: &B) {
    match try_stop(boxes) {
        Ok(true) => say("The lifeboat is stopped, and its CPUs are back"),
        Ok(false) => {}
        Err(error) => warn(&format!("The lifeboat stays: {}", chain(&error))),
    }
}

fn try_stop<B: Boxes>(boxes: &B) -> Result<bool, BoatError> {
    // Without its module there is no boat.
    if !std::fs::exists(NODE).unwrap_or(false) {
        return Ok(false);
    }
    let boat = Boat::open()?;
    let names = boxes.boxes().unwrap_or_default();
    let has_guests = names.iter().any(|info| boxes.is_away(&info.name));
    match boat.status()?.state {
        BoatState::Off => return Ok(false),
        BoatState::Lost if has_guests && comes_back(&boat)? => return Ok(false),
        // Nobody can take them home any more.
        BoatState::Lost => {}
        _ if has_guests => return Ok(false),
        _ => {}
    }
    boat.stop(STOP_LIMIT)?;
    offline_cpus()
        .into_iter()
        .try_for_each(|cpu| set_online(cpu, true))?;
    Ok(true)
}

/// Whether a lost boat was only slow.
fn comes_back(boat: &Boat) -> Result<bool, BoatError> {
    let deadline = Deadline::within(ResumeLimits::default().slow_boat);
    loop {
        if boat.status()?.state != BoatState::Lost {
            return Ok(true);
        }
        if deadline.is_over() {
            return Ok(false);
        }
        thread::sleep(LOOK_EVERY);
    }
}

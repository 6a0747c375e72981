//! The end of an update with a lifeboat: when no guest is in it any more, or it is lost, it is stopped, and its
//! CPUs come back.

use std::time::Duration;

use vmm_fdbox::boat::{Boat, BoatError, BoatState, NODE, offline_cpus, set_online};
use vmm_fdbox::coordinator::Boxes;

use crate::error::{chain, say, warn};

/// How long the boat may take to park.
const STOP_LIMIT: Duration = Duration::from_secs(60);

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

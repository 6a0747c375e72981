//! Handles a guest that resets, switches itself off, or is to end.

use std::time::Duration;

use vmm_fdbox::update::CancelFlag;

use super::Vmm;
use crate::error::{chain, warn};
use crate::guest::vcpu::GuestEnd;

impl Vmm {
    /// Carries out what may be the guest's end, and returns it if it is.
    ///
    /// What the guest does by itself during an update is deferred until that is over: then either
    /// it is carried out here, or the state tells the next VMM to do so.
    pub(crate) fn carry_out(&self, end: GuestEnd) -> Option<GuestEnd> {
        let _turn = self.state.turn();
        let mut state = self.lock();
        match end {
            GuestEnd::HandedOver | GuestEnd::Broken(_) => Some(end),
            // Whoever has taken the guest away reports the end next.
            _ if state.left => None,
            _ if state.update.is_some() => {
                if end == GuestEnd::Stopped {
                    state.update.iter().for_each(CancelFlag::cancel);
                }
                state.waiting.push(end);
                None
            }
            _ if self.is_in_lifeboat && end.is_the_guests() => {
                drop(state);
                self.wait_until_home(&end);
                None
            }
            GuestEnd::Reset | GuestEnd::TripleFault if self.machine.reboots() => {
                drop(state);
                self.reboot(&end)
            }
            GuestEnd::Reset | GuestEnd::TripleFault | GuestEnd::Off | GuestEnd::Stopped => {
                Some(end)
            }
        }
    }

    /// Presses the guest's power button, and cuts its power if it has not switched itself off
    /// within `limit`, or at once if it has not enabled the button.
    pub(crate) fn shut_down(&self, limit: Duration) {
        let listens = self.machine.press_power_button();
        self.history.note("power-button");
        self.power.set(if listens { limit } else { Duration::ZERO });
    }

    /// Nothing is left to do in a lifeboat, which does not have what the guest boots from: its state tells the VMM in
    /// the host what the guest has done.
    fn wait_until_home(&self, did: &GuestEnd) {
        let name = self.machine.name();
        warn(&format!(
            "{name}: {}: it waits until it is home",
            did.reason()
        ));
        self.history.note("waits-to-be-home");
    }

    /// Boots the guest again; the caller keeps all other operations away from it.
    fn reboot(&self, why: &GuestEnd) -> Option<GuestEnd> {
        self.machine.park();
        // Another of its CPUs may have reported it, too.
        self.end.forget_the_guests();
        let name = self.machine.name();
        if let Err(error) = self.machine.reset() {
            let error = chain(&error);
            let broken = format!("{}, and it cannot be booted again: {error}", why.reason());
            return Some(GuestEnd::Broken(broken));
        }
        warn(&format!("{name}: {}: it boots again", why.reason()));
        self.history.note("reset");
        self.machine.run();
        None
    }
}

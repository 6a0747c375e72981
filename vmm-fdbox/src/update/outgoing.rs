//! The states of an update in the host that is left, each a type.

use std::fmt;

use super::Plan;
use super::attempt::{Attempt, Failure};
use super::outcome::Outcome;
use super::parties::{Guest, Host};
use super::step::Step;
use super::watch::Observer;
use crate::store::BoxStore;

macro_rules! state {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[must_use = "an update that is dropped half-way is rolled back"]
        pub struct $name<'a, S: BoxStore, H: Host, G: Guest>(Attempt<'a, S, H, G>);

        impl<S: BoxStore, H: Host, G: Guest> fmt::Debug for $name<'_, S, H, G> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}

state! {
    /// An update that has not begun. [`run`](Self::run) does all of it; the
    /// methods of the states do it phase by phase.
    ///
    /// ```no_run
    /// use std::num::NonZeroU32;
    /// use vmm_fdbox::update::{Guest, KexecHost, NextKernel, Outcome, Plan, Update};
    /// use vmm_fdbox::{BoxName, Clock, Control};
    ///
    /// fn live_update(guest: &mut impl Guest, tsc_khz: NonZeroU32) -> Result<Outcome, Box<dyn std::error::Error>> {
    ///     let control = Control::open()?;
    ///     let mut host = KexecHost::new(NextKernel::Files {
    ///         kernel: "/boot/vmlinuz".into(),
    ///         initramfs: Some("/boot/initrd".into()),
    ///         cmdline: "kho=on quiet".into(),
    ///     });
    ///     let plan = Plan::new(BoxName::new("vm0")?, Clock::tsc(tsc_khz), "my-vmm 1.0");
    ///     Ok(Update::new(&control, &mut host, guest, plan).run())
    /// }
    /// ```
    Update
}

state! {
    /// Preflight found no blocker; nothing has changed.
    Ready
}

state! {
    /// Kernel loaded, box sealed, guest running. May last as long as one likes.
    Prepared
}

state! {
    /// Guest paused, state written. The blackout is on.
    Paused
}

/// Rolls back when the step failed.
fn advance<'a, S: BoxStore, H: Host, G: Guest>(
    mut attempt: Attempt<'a, S, H, G>,
    work: impl FnOnce(&mut Attempt<'a, S, H, G>) -> Result<(), Failure>,
) -> Result<Attempt<'a, S, H, G>, Box<Outcome>> {
    match work(&mut attempt) {
        Ok(()) => Ok(attempt),
        Err(failure) => Err(Box::new(attempt.roll_back(failure))),
    }
}

impl<'a, S: BoxStore, H: Host, G: Guest> Update<'a, S, H, G> {
    /// An update of `guest` out of `host`, through a box of `store`.
    pub fn new(store: &'a S, host: &'a mut H, guest: &'a mut G, plan: Plan) -> Self {
        Self(Attempt::new(store, host, guest, plan))
    }

    /// Who is told what happens.
    pub fn observed_by(mut self, observer: &'a mut dyn Observer) -> Self {
        self.0.observe(observer);
        self
    }

    /// Looks for blockers; changes nothing.
    ///
    /// # Errors
    /// [`Outcome::NothingChanged`], with the blockers.
    pub fn preflight(self) -> Result<Ready<'a, S, H, G>, Box<Outcome>> {
        advance(self.0, Attempt::preflight).map(Ready)
    }

    /// The whole update. Into another kernel it returns only if it failed.
    pub fn run(self) -> Outcome {
        let paused = self
            .preflight()
            .and_then(Ready::prepare)
            .and_then(Prepared::pause);
        match paused {
            Ok(paused) => paused.jump(),
            Err(outcome) => *outcome,
        }
    }
}

impl<'a, S: BoxStore, H: Host, G: Guest> Ready<'a, S, H, G> {
    /// Loads the kernel, creates and fills the box, seals it. The guest runs.
    ///
    /// # Errors
    /// [`Outcome::NothingChanged`] or, once the guest gave descriptors away,
    /// [`Outcome::RolledBack`].
    pub fn prepare(self) -> Result<Prepared<'a, S, H, G>, Box<Outcome>> {
        advance(self.0, Attempt::prepare).map(Prepared)
    }

    /// Gives the update up, with nothing changed.
    pub fn cancel(mut self) -> Outcome {
        let step = Step::LoadKernel;
        self.0.roll_back(Attempt::<S, H, G>::cancelled(step))
    }
}

impl<'a, S: BoxStore, H: Host, G: Guest> Prepared<'a, S, H, G> {
    /// Stops the vCPUs and writes the state.
    ///
    /// # Errors
    /// [`Outcome::RolledBack`], or [`Outcome::GuestLost`] if not even that went.
    pub fn pause(self) -> Result<Paused<'a, S, H, G>, Box<Outcome>> {
        advance(self.0, Attempt::pause).map(Paused)
    }

    /// Gives the update up; the guest never noticed.
    pub fn cancel(mut self) -> Outcome {
        self.0.roll_back(Attempt::<S, H, G>::cancelled(Step::Pause))
    }
}

impl<S: BoxStore, H: Host, G: Guest> Paused<'_, S, H, G> {
    /// Leaves. Into another kernel this returns only if it failed.
    pub fn jump(mut self) -> Outcome {
        match self.0.jump() {
            Ok(()) => Outcome::HandedOver,
            Err(failure) => self.0.roll_back(failure),
        }
    }

    /// Gives the update up and runs the guest on.
    pub fn cancel(mut self) -> Outcome {
        self.0.roll_back(Attempt::<S, H, G>::cancelled(Step::Jump))
    }
}

//! The states of an update in the host that is left, each a type.

use std::fmt;
use std::os::fd::OwnedFd;

use super::Plan;
use super::attempt::{Attempt, StepFailure};
use super::outcome::{Outcome, UpdateError};
use super::parties::{Guest, Host};
use super::step::Step;
use super::watch::Observer;
use crate::store::BoxStore;

/// An update that has not begun. [`run`](Self::run) does all of it; the methods of the states do it
/// phase by phase.
///
/// It owns store, host and guest. If they are `Send` and `'static`, a VMM can keep the update in a
/// struct, prepare it in a thread of its own and pause it in a later call; a guest that its VMM
/// uses meanwhile is an `Arc<Mutex<_>>`. References work as well, as long as they live.
///
/// ```no_run
/// use std::num::NonZeroU32;
/// use vmm_fdbox::update::{Guest, KexecHost, NextKernel, Outcome, Plan, Session};
/// use vmm_fdbox::{BoxName, Clock, Control};
///
/// fn live_update(guest: &mut impl Guest, tsc_khz: NonZeroU32) -> Result<Outcome, Box<dyn std::error::Error>> {
///     let control = Control::open()?;
///     let host = KexecHost::new(NextKernel::Files {
///         kernel: "/boot/vmlinuz".into(),
///         initramfs: Some("/boot/initrd".into()),
///         cmdline: "kho=on quiet".into(),
///     });
///     let plan = Plan::new(BoxName::new("vm0")?, Clock::tsc(tsc_khz), "my-vmm 1.0");
///     Ok(Session::new(control, host, guest, plan).run())
/// }
/// ```
#[must_use = "nothing happens before run or preflight"]
pub struct Session<S, H, G, O = ()> {
    store: S,
    host: H,
    guest: G,
    plan: Plan,
    observer: O,
}

macro_rules! state {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[must_use = "an update that is dropped half-way is rolled back"]
        pub struct $name<S: BoxStore, H: Host, G: Guest, O: Observer = ()>(Attempt<S, H, G, O>);

        impl<S: BoxStore, H: Host, G: Guest, O: Observer> $name<S, H, G, O> {
            /// The guest, for other work of its VMM.
            pub fn guest(&mut self) -> &mut G {
                &mut self.0.guest
            }

            /// Gives the update up because of an error in other work of its VMM.
            pub(crate) fn fail(mut self, step: Step, error: UpdateError) -> Outcome {
                self.0.roll_back(StepFailure { step, error })
            }
        }

        impl<S: BoxStore, H: Host, G: Guest, O: Observer> fmt::Debug for $name<S, H, G, O> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}

state! {
    /// Preflight found no blocker; nothing has changed.
    Ready
}

state! {
    /// The kernel is loaded, the box sealed, the guest running. May last for any length of time.
    Prepared
}

state! {
    /// The guest is paused, its state written. This is the blackout.
    Paused
}

/// Rolls back if the step failed.
fn advance<S: BoxStore, H: Host, G: Guest, O: Observer>(
    mut attempt: Attempt<S, H, G, O>,
    work: impl FnOnce(&mut Attempt<S, H, G, O>) -> Result<(), StepFailure>,
) -> Result<Attempt<S, H, G, O>, Box<Outcome>> {
    match work(&mut attempt) {
        Ok(()) => Ok(attempt),
        Err(failure) => Err(Box::new(attempt.roll_back(failure))),
    }
}

impl<S, H, G, O> fmt::Debug for Session<S, H, G, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl<S: BoxStore, H: Host, G: Guest> Session<S, H, G> {
    /// An update of `guest`, which leaves `host` through a box of `store`.
    pub fn new(store: S, host: H, guest: G, plan: Plan) -> Self {
        Self {
            store,
            host,
            guest,
            plan,
            observer: (),
        }
    }
}

impl<S: BoxStore, H: Host, G: Guest, O: Observer> Session<S, H, G, O> {
    /// Sets the observer: a closure, or the sending end of a channel.
    pub fn observed_by<P: Observer>(self, observer: P) -> Session<S, H, G, P> {
        Session {
            store: self.store,
            host: self.host,
            guest: self.guest,
            plan: self.plan,
            observer,
        }
    }

    /// Looks for blockers; changes nothing.
    ///
    /// # Errors
    /// [`Outcome::NothingChanged`], with the blockers.
    pub fn preflight(self) -> Result<Ready<S, H, G, O>, Box<Outcome>> {
        let Self {
            store,
            host,
            guest,
            plan,
            observer,
        } = self;
        let attempt = Attempt::new(store, host, guest, plan, observer);
        advance(attempt, Attempt::preflight).map(Ready)
    }

    /// Runs the whole update. Into another kernel it returns only if it failed.
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

impl<S: BoxStore, H: Host, G: Guest, O: Observer> Ready<S, H, G, O> {
    /// Loads the kernel, creates and fills the box, and seals it. The guest runs.
    ///
    /// # Errors
    /// [`Outcome::NothingChanged`] or, once the guest has given descriptors away,
    /// [`Outcome::RolledBack`].
    pub fn prepare(self) -> Result<Prepared<S, H, G, O>, Box<Outcome>> {
        advance(self.0, Attempt::prepare).map(Prepared)
    }

    /// Like [`prepare`](Self::prepare) for a guest whose box is the host's: its state goes into `state`.
    pub(crate) fn prepare_home(self, state: OwnedFd) -> Result<Prepared<S, H, G, O>, Box<Outcome>> {
        advance(self.0, |attempt| attempt.prepare_home(state)).map(Prepared)
    }

    /// Gives the update up, with nothing changed.
    pub fn cancel(mut self) -> Outcome {
        self.0.roll_back(StepFailure::cancelled(Step::LoadKernel))
    }
}

impl<S: BoxStore, H: Host, G: Guest, O: Observer> Prepared<S, H, G, O> {
    /// Brings the guest's devices to rest; [`pause`](Self::pause) is to follow soon. The guest
    /// runs. Without this call `pause` does it: this is for guests that wait for others before they
    /// are paused.
    ///
    /// # Errors
    /// [`Outcome::RolledBack`], or [`Outcome::GuestLost`] if even the rollback fails.
    pub fn quiesce(self) -> Result<Self, Box<Outcome>> {
        advance(self.0, Attempt::rest).map(Self)
    }

    /// Stops the vCPUs and writes the state.
    ///
    /// # Errors
    /// [`Outcome::RolledBack`], or [`Outcome::GuestLost`] if even the rollback fails.
    pub fn pause(self) -> Result<Paused<S, H, G, O>, Box<Outcome>> {
        advance(self.0, Attempt::pause).map(Paused)
    }

    /// Gives the update up; the guest has not noticed it.
    pub fn cancel(mut self) -> Outcome {
        self.0.roll_back(StepFailure::cancelled(Step::Pause))
    }
}

impl<S: BoxStore, H: Host, G: Guest, O: Observer> Paused<S, H, G, O> {
    /// Leaves. Into another kernel this returns only if it failed.
    pub fn jump(mut self) -> Outcome {
        match self.0.jump() {
            Ok(()) => Outcome::HandedOver,
            Err(failure) => self.0.roll_back(failure),
        }
    }

    /// Whether somebody else has the guest, or will find it sealed in its box.
    pub(crate) fn can_be_left(&self) -> bool {
        self.0.can_be_left()
    }

    /// Takes the state out of an open box, so that nobody else can have the guest. It stays paused
    /// until [`cancel`](Self::cancel). Nothing is taken out of a sealed box.
    ///
    /// # Errors
    /// Somebody else has it, or the box is gone.
    pub fn take_back(&mut self) -> Result<(), UpdateError> {
        self.0.take_back()
    }

    /// Like [`cancel`](Self::cancel), by order of somebody who has made sure that nobody else has
    /// the guest: it continues also if the box is gone.
    pub(crate) fn undo(mut self) -> Outcome {
        self.0.alone = true;
        self.cancel()
    }

    /// Gives the update up and continues the guest. A guest that [another
    /// process](super::LeftByOthers) may have taken continues only if nobody has: otherwise it is
    /// [lost](Outcome::GuestLost) here.
    pub fn cancel(mut self) -> Outcome {
        self.0.roll_back(StepFailure::cancelled(Step::Jump))
    }
}

//! The states of an update in the host that is left, each a type.

use std::fmt;

use super::Plan;
use super::attempt::{Attempt, StepFailure};
use super::outcome::{Outcome, UpdateError};
use super::parties::{Guest, Host};
use super::step::Step;
use super::watch::Observer;
use crate::store::BoxStore;

/// An update that has not begun. [`run`](Self::run) does all of it; the methods of the states do
/// it phase by phase.
///
/// It owns store, host and guest. What is `Send` and `'static` makes an update that a VMM keeps in a
/// struct, prepares in a thread of its own and pauses at another call; a guest that its VMM uses
/// meanwhile is an `Arc<Mutex<_>>`. References will do as well, for as long as they last.
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
            /// The guest, for what its VMM does besides.
            pub fn guest(&mut self) -> &mut G {
                &mut self.0.guest
            }

            /// Gives the update up because of something that its VMM does besides.
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
    /// Kernel loaded, box sealed, guest running. May last as long as one likes.
    Prepared
}

state! {
    /// Guest paused, state written. The blackout is on.
    Paused
}

/// Rolls back when the step failed.
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
    /// An update of `guest` out of `host`, through a box of `store`.
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
    /// Who is told what happens: a closure, or the sending end of a channel.
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

impl<S: BoxStore, H: Host, G: Guest, O: Observer> Ready<S, H, G, O> {
    /// Loads the kernel, creates and fills the box, seals it. The guest runs.
    ///
    /// # Errors
    /// [`Outcome::NothingChanged`] or, once the guest gave descriptors away,
    /// [`Outcome::RolledBack`].
    pub fn prepare(self) -> Result<Prepared<S, H, G, O>, Box<Outcome>> {
        advance(self.0, Attempt::prepare).map(Prepared)
    }

    /// Gives the update up, with nothing changed.
    pub fn cancel(mut self) -> Outcome {
        self.0.roll_back(StepFailure::cancelled(Step::LoadKernel))
    }
}

impl<S: BoxStore, H: Host, G: Guest, O: Observer> Prepared<S, H, G, O> {
    /// Brings the guest's devices to rest, for [`pause`](Self::pause) to follow soon. The guest runs. Without
    /// this `pause` does it: it is for guests that wait for others before they are paused.
    ///
    /// # Errors
    /// [`Outcome::RolledBack`], or [`Outcome::GuestLost`] if not even that went.
    pub fn quiesce(self) -> Result<Self, Box<Outcome>> {
        advance(self.0, Attempt::rest).map(Self)
    }

    /// Stops the vCPUs and writes the state.
    ///
    /// # Errors
    /// [`Outcome::RolledBack`], or [`Outcome::GuestLost`] if not even that went.
    pub fn pause(self) -> Result<Paused<S, H, G, O>, Box<Outcome>> {
        advance(self.0, Attempt::pause).map(Paused)
    }

    /// Gives the update up; the guest never noticed.
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

    /// Whether somebody else has the guest, or finds it sealed in its box.
    pub(crate) fn can_be_left(&self) -> bool {
        self.0.can_be_left()
    }

    /// Takes the state out of an open box, so that nobody else can have the guest any more. It
    /// stands still until [`cancel`](Self::cancel). Of a sealed box there is nothing to take.
    ///
    /// # Errors
    /// [`Outcome::GuestLost`]: somebody has it.
    pub fn take_back(mut self) -> Result<Self, Box<Outcome>> {
        match self.0.take_back() {
            Ok(()) => Ok(self),
            Err(failure) => Err(Box::new(self.0.roll_back(failure))),
        }
    }

    /// Gives the update up and runs the guest on. One that [somebody else](super::LeftByOthers) may have
    /// taken continues only if nobody has: otherwise the guest is [lost](Outcome::GuestLost) here.
    pub fn cancel(mut self) -> Outcome {
        self.0.roll_back(StepFailure::cancelled(Step::Jump))
    }
}

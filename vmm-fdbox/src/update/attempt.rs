//! An attempt at an update: what has been done so far, and the steps.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::outcome::UpdateError;
use super::parties::{Guest, Host, NamedFd};
use super::step::Step;
use super::watch::{Event, Observer};
use super::{Plan, state_fd_name};
use crate::deadline::Deadline;
use crate::error::Chain;
use crate::hold::Hold;
use crate::kind::Kind;
use crate::name::FdName;
use crate::statefd::StateFd;
use crate::store::{BoxStore, OpenFdBox};
use crate::timeline::{Timeline, phase};

/// The box of this attempt.
pub(super) enum Slot<S: BoxStore> {
    None,
    Open(S::Open),
    Sealed(S::Sealed),
    /// In a lifeboat: the host's, with the guest's memory in it. The state can be written as long as the boat
    /// has the box.
    Hosts(OwnedFd),
}

/// A step that failed.
pub(super) struct StepFailure {
    pub(super) step: Step,
    pub(super) error: UpdateError,
}

impl StepFailure {
    /// For a step that never began, because the update was cancelled.
    pub(super) fn cancelled(step: Step) -> Self {
        Self {
            step,
            error: UpdateError::Cancelled,
        }
    }
}

pub(super) struct Attempt<S: BoxStore, H: Host, G: Guest, O: Observer> {
    pub(super) store: S,
    pub(super) host: H,
    pub(super) guest: G,
    pub(super) plan: Plan,
    pub(super) observer: O,
    pub(super) timeline: Timeline,
    /// Whether the kernel is loaded.
    pub(super) loaded: bool,
    pub(super) slot: Slot<S>,
    /// Prevents others from taking the guest out meanwhile.
    pub(super) claim: Option<S::Claim>,
    pub(super) state: Option<StateFd>,
    /// Taken from the guest, but not in the box yet.
    pub(super) held: Vec<NamedFd>,
    /// Taken from the guest and now in the box.
    pub(super) boxed: Vec<FdName>,
    /// Kinds of files that the host has already been asked about.
    pub(super) checked: BTreeSet<Kind>,
    /// Whether the guest has given descriptors away, or was asked to.
    pub(super) touched: bool,
    /// Whether the guest was asked to bring its devices to rest.
    pub(super) quiesced: bool,
    pub(super) paused_at: Option<u64>,
    /// Whether the box holds a guest that can be resumed.
    pub(super) saved: bool,
    /// Whether somebody else may have taken the guest.
    pub(super) jumped: bool,
    /// The state, if it is out of the box again and nobody else can have taken it.
    pub(super) taken_back: Option<OwnedFd>,
    /// Whether somebody has made sure that nobody else has the guest.
    pub(super) alone: bool,
    /// Neither handed over nor rolled back yet.
    pub(super) unfinished: bool,
    /// The deadline of the current step.
    deadline: Deadline,
}

fn guest_error(what: &'static str) -> impl FnOnce(super::PartyError) -> UpdateError {
    move |source| UpdateError::Guest { what, source }
}

fn host_error(what: &'static str) -> impl FnOnce(super::PartyError) -> UpdateError {
    move |source| UpdateError::Host { what, source }
}

impl<S: BoxStore, H: Host, G: Guest, O: Observer> Attempt<S, H, G, O> {
    pub(super) fn new(store: S, host: H, guest: G, plan: Plan, observer: O) -> Self {
        Self {
            store,
            host,
            guest,
            timeline: Timeline::new(plan.clock.khz()),
            plan,
            observer,
            loaded: false,
            slot: Slot::None,
            claim: None,
            state: None,
            held: Vec::new(),
            boxed: Vec::new(),
            checked: BTreeSet::new(),
            touched: false,
            quiesced: false,
            paused_at: None,
            saved: false,
            jumped: false,
            taken_back: None,
            alone: false,
            unfinished: true,
            deadline: Deadline::within(Duration::MAX),
        }
    }

    /// Sets the limit for the next steps.
    pub(super) fn allow(&mut self, limit: Duration) {
        self.deadline = Deadline::within(limit);
    }

    pub(super) fn tell(&mut self, event: &Event) {
        let ticks = self.plan.clock.now();
        self.observer.event(ticks, event);
    }

    /// Marks the start of a phase.
    pub(super) fn mark(&mut self, name: &str) -> u64 {
        let ticks = self.plan.clock.now();
        // The few names used here always fit; without a mark only the report would suffer.
        let _ = self.timeline.mark(name, ticks);
        ticks
    }

    /// Carries out a step, unless the update is cancelled or the step is made to fail. A step that
    /// returns too late has failed.
    pub(super) fn step(
        &mut self,
        step: Step,
        work: impl FnOnce(&mut Self) -> Result<(), UpdateError>,
    ) -> Result<(), StepFailure> {
        self.tell(&Event::Started(step));
        let result = if self.plan.cancel.is_cancelled() {
            Err(UpdateError::Cancelled)
        } else if self.plan.fail_at == Some(step) {
            Err(UpdateError::Injected(step))
        } else {
            work(self).and_then(|()| self.in_time(step))
        };
        match result {
            Ok(()) => {
                self.tell(&Event::Done(step));
                Ok(())
            }
            Err(error) => {
                self.tell(&Event::Failed(step, Chain(&error).to_string()));
                Err(StepFailure { step, error })
            }
        }
    }

    /// A handover cannot be undone, however late it was.
    fn in_time(&self, step: Step) -> Result<(), UpdateError> {
        if step != Step::Jump && self.deadline.is_over() {
            let limit = self.deadline.limit();
            return Err(UpdateError::Late { limit });
        }
        Ok(())
    }

    pub(super) fn prepare(&mut self) -> Result<(), StepFailure> {
        self.allow(self.plan.limits.prepare);
        self.mark(phase::PREPARE);
        self.step(Step::LoadKernel, |attempt| {
            attempt
                .host
                .load()
                .map_err(host_error("Cannot load the next kernel"))?;
            attempt.loaded = true;
            Ok(())
        })?;
        self.step(Step::CreateBox, Self::create_box)?;
        self.step(Step::PutFds, Self::put_fds)?;
        if self.host.seals() {
            self.step(Step::Seal, Self::seal)
        } else {
            self.step(Step::Prebuild, |attempt| {
                let built = attempt.host.prebuild();
                built.map_err(host_error("The new VMM cannot prepare"))
            })
        }
    }

    /// Like [`prepare`](Self::prepare) for a guest whose box is the host's: its state goes into `state`.
    pub(super) fn prepare_home(&mut self, state: OwnedFd) -> Result<(), StepFailure> {
        self.allow(self.plan.limits.prepare);
        self.mark(phase::PREPARE);
        self.step(Step::CreateBox, |attempt| {
            attempt.state = Some(StateFd::reuse(&state)?);
            attempt.slot = Slot::Hosts(state);
            attempt.touched = true;
            Ok(())
        })
    }

    fn create_box(&mut self) -> Result<(), UpdateError> {
        let (state, fd) = StateFd::create(self.plan.state_bytes)?;
        let open = self.store.create(&self.plan.box_name)?;
        let put = open.put(&state_fd_name(), fd);
        self.slot = Slot::Open(open);
        self.state = Some(state);
        put.map_err(|refused| refused.error)?;
        self.claim = Some(self.store.claim(&self.plan.box_name, Hold::Shared)?);
        Ok(())
    }

    fn put_fds(&mut self) -> Result<(), UpdateError> {
        self.touched = true;
        let mut fds = self
            .guest
            .take_fds()
            .map_err(guest_error("The guest cannot give its descriptors"))?
            .into_iter();
        let total = fds.len();
        let result = fds.by_ref().try_for_each(|fd| {
            self.tell(&Event::Progress {
                step: Step::PutFds,
                done: self.boxed.len(),
                total,
                next: fd.name.to_string(),
            });
            self.put_one(fd)
        });
        self.held.extend(fds);
        result?;
        self.check_box()
    }

    fn put_one(&mut self, NamedFd { name, fd }: NamedFd) -> Result<(), UpdateError> {
        let refuse = |attempt: &mut Self, name: FdName, fd: OwnedFd, error| {
            attempt.held.push(NamedFd { name, fd });
            Err(error)
        };
        if self.plan.cancel.is_cancelled() {
            return refuse(self, name, fd, UpdateError::Cancelled);
        }
        if let Err(late) = self.in_time(Step::PutFds) {
            return refuse(self, name, fd, late);
        }
        if name == state_fd_name() || self.boxed.contains(&name) {
            let error = UpdateError::NameTwice(name.clone());
            return refuse(self, name, fd, error);
        }
        let Slot::Open(open) = &self.slot else {
            let error = UpdateError::NoGuest(self.plan.box_name.clone());
            return refuse(self, name, fd, error);
        };
        match open.put(&name, fd) {
            Ok(()) => {
                self.boxed.push(name);
                Ok(())
            }
            Err(refused) => refuse(self, name, refused.fd, refused.error.into()),
        }
    }

    fn seal(&mut self) -> Result<(), UpdateError> {
        match std::mem::replace(&mut self.slot, Slot::None) {
            Slot::Open(open) => match open.seal() {
                Ok(sealed) => {
                    self.slot = Slot::Sealed(sealed);
                    Ok(())
                }
                Err(failed) => {
                    self.slot = Slot::Open(failed.open);
                    Err(failed.error.into())
                }
            },
            other => {
                self.slot = other;
                Err(UpdateError::NoGuest(self.plan.box_name.clone()))
            }
        }
    }

    /// Brings the guest's devices to rest before [`pause`](Self::pause), which then stops it at
    /// once.
    pub(super) fn rest(&mut self) -> Result<(), StepFailure> {
        self.allow(self.plan.limits.pause);
        self.quiesce().map_err(|error| {
            self.tell(&Event::Failed(Step::Pause, Chain(&error).to_string()));
            StepFailure {
                step: Step::Pause,
                error,
            }
        })
    }

    pub(super) fn pause(&mut self) -> Result<(), StepFailure> {
        self.allow(self.plan.limits.pause);
        self.step(Step::Pause, |attempt| {
            if !attempt.quiesced {
                attempt.quiesce()?;
            }
            attempt.paused_at = Some(attempt.mark(phase::PAUSE));
            attempt
                .guest
                .pause(attempt.deadline)
                .map_err(guest_error("The guest cannot be paused"))
        })?;
        self.allow(self.plan.limits.save);
        self.step(Step::Save, |attempt| {
            attempt.mark(phase::SAVE);
            let Self {
                guest,
                state,
                plan,
                deadline,
                ..
            } = attempt;
            let state = state
                .as_mut()
                .ok_or_else(|| UpdateError::NoGuest(plan.box_name.clone()))?;
            state.write_frame(&plan.producer, |frame| {
                guest
                    .save(frame, *deadline)
                    .map_err(guest_error("The guest's state cannot be saved"))
            })?;
            attempt.saved = true;
            Ok(())
        })?;
        if self.host.is_left_by_others() {
            // From here on the host may be left at any moment.
            self.publish();
        }
        Ok(())
    }

    /// Brings the guest's devices to rest while it runs. If that took too long, the guest is not
    /// stopped at all.
    fn quiesce(&mut self) -> Result<(), UpdateError> {
        self.mark(phase::QUIESCE);
        self.quiesced = true;
        let quiet = self.guest.quiesce(self.deadline);
        quiet.map_err(guest_error("The guest's devices cannot be brought to rest"))?;
        if self.plan.cancel.is_cancelled() {
            return Err(UpdateError::Cancelled);
        }
        self.in_time(Step::Pause)
    }

    /// From here on somebody else may take the guest.
    fn publish(&mut self) {
        self.mark(phase::JUMP);
        if let Some(state) = &mut self.state {
            state.write_timeline(&self.timeline);
        }
        self.jumped = true;
    }

    pub(super) fn jump(&mut self) -> Result<(), StepFailure> {
        self.allow(self.plan.limits.jump);
        self.step(Step::Jump, |attempt| {
            if !attempt.jumped {
                attempt.publish();
            }
            let what = if attempt.host.leaves_kernel() {
                "Cannot leave this host"
            } else {
                "Cannot hand the guest over"
            };
            attempt
                .host
                .jump(attempt.deadline)
                .map_err(host_error(what))?;
            attempt.unfinished = false;
            Ok(())
        })
    }
}

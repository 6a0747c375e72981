//! The arriving side: taking a guest over from a box.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::contents::Contents;
use super::outcome::UpdateError;
use super::parties::PartyError;
use super::resumed::Resumed;
use super::step::{ExitStatus, Step};
use crate::clock::Clock;
use crate::error::Chain;
use crate::frame::{Frame, KnownSection};
use crate::hold::Hold;
use crate::listing::FdInfo;
use crate::name::{BoxName, FdName};
use crate::statefd::SavedState;
use crate::store::BoxStore;
use crate::timeline::{Timeline, phase};

/// The plan of a resume.
#[derive(Debug, Clone)]
pub struct ResumePlan<'a> {
    /// The guest's box.
    pub box_name: BoxName,
    /// The sections that this program can read.
    pub known: &'a [KnownSection],
    /// The clock for marking phases. Default: the cycle counter, with the frequency recorded by the
    /// old host.
    pub clock: Option<Clock>,
    /// When userspace of this host started, in nanoseconds of `CLOCK_BOOTTIME`. Default: unknown,
    /// and no such phase.
    pub userspace_boottime_ns: Option<u64>,
    /// The step that is made to fail, for tests. Default: none.
    pub fail_at: Option<Step>,
}

impl<'a> ResumePlan<'a> {
    /// A plan with the defaults.
    #[must_use]
    pub fn new(box_name: BoxName, known: &'a [KnownSection]) -> Self {
        Self {
            box_name,
            known,
            clock: None,
            userspace_boottime_ns: None,
            fail_at: None,
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.clock
            .map_or_else(crate::sys::ticks, |clock| clock.now())
    }
}

/// A resume that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step} failed: {}{}", Chain(error), self.aftermath())]
#[non_exhaustive]
pub struct ResumeFailed {
    /// The step that failed.
    pub step: Step,
    /// Why.
    pub error: UpdateError,
    /// Why the box could not be sealed again; if `None`, it is unchanged.
    pub problem: Option<String>,
}

impl ResumeFailed {
    pub(super) fn new(step: Step, error: UpdateError, problem: Option<String>) -> Box<Self> {
        Box::new(Self {
            step,
            error,
            problem,
        })
    }

    /// Whether there is a guest in the box, so that another try can succeed.
    #[must_use]
    pub fn can_retry(&self) -> bool {
        !self.error.is_no_guest()
    }

    /// The exit status of the program: whatever was taken is still in the box.
    #[must_use]
    pub fn exit_status(&self) -> ExitStatus {
        ExitStatus::NothingChanged
    }

    fn aftermath(&self) -> String {
        let (mut text, state) = match &self.problem {
            None => (String::new(), "is as it was"),
            Some(problem) => (format!("; {problem}"), "is complete"),
        };
        if self.can_retry() {
            text += &format!("; the box {state}: put it right and try again");
        }
        text
    }
}

/// A guest being taken over. If it is dropped before [`restore`](Self::restore) or
/// [`commit`](Self::commit), it seals the box again, with everything in it.
///
/// ```no_run
/// use vmm_fdbox::frame::KnownSection;
/// use vmm_fdbox::update::{Arrival, ResumePlan};
/// use vmm_fdbox::{BoxName, Control, FdName};
///
/// let control = Control::open()?;
/// let known = [KnownSection::new("vcpu0", 1, 1)];
/// let arrival = Arrival::open(control, ResumePlan::new(BoxName::new("vm0")?, &known))?;
/// let (ram, mut resumed) = arrival.restore(|arrival| {
///     let ram = arrival.take(&FdName::new("ram")?)?;
///     // ... build the VM from `ram` and `arrival.frame()` ...
///     Ok(ram)
/// })?;
/// resumed.running(); // with the first KVM_RUN
/// println!("{:?}", resumed.finish().report);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Arrival<S: BoxStore> {
    store: S,
    name: BoxName,
    fail_at: Option<Step>,
    clock: Clock,
    /// Whether the clock has a known frequency: the plan's clock, or one from a readable timeline.
    knows_time: bool,
    timeline: Timeline,
    frame: Arc<Frame<Vec<u8>>>,
    contents: Contents<S>,
}

/// Opens a guest's box and takes its state out, whether or not it has been written.
pub(super) fn open<S: BoxStore>(
    store: &S,
    name: &BoxName,
    hold: Hold,
) -> Result<(Contents<S>, OwnedFd), Box<ResumeFailed>> {
    let failed = |error, problem| ResumeFailed::new(Step::Open, error, problem);
    let mut contents = Contents::open(store, name, hold).map_err(|error| failed(error, None))?;
    match contents.take_state(name) {
        Ok(state) => Ok((contents, state)),
        Err(error) => Err(failed(error, contents.give_up())),
    }
}

impl<S: BoxStore> Arrival<S> {
    /// Opens the guest's box, unseals it, and reads and checks the state.
    ///
    /// A box that is open, because an earlier try was killed, is accepted; if this try fails too,
    /// the box is sealed, so that it can cross a kexec. A box that another process is working on is
    /// left alone.
    ///
    /// # Errors
    /// [`ResumeFailed`]; unless it reports problems, the box is unchanged.
    pub fn open(store: S, plan: ResumePlan<'_>) -> Result<Self, Box<ResumeFailed>> {
        let start = plan.now();
        let (contents, state) = open(&store, &plan.box_name, Hold::Exclusive)?;
        Self::arrived(store, plan, contents, &state, start)
    }

    /// Continues with a box that has been open since `start`, and the state that was in it.
    pub(super) fn arrived(
        store: S,
        plan: ResumePlan<'_>,
        mut contents: Contents<S>,
        state: &OwnedFd,
        start: u64,
    ) -> Result<Self, Box<ResumeFailed>> {
        let saved = match Self::read(state, &plan, &mut contents) {
            Ok(saved) => saved,
            Err(error) => {
                return Err(ResumeFailed::new(Step::Open, error, contents.give_up()));
            }
        };
        let knows_time = plan.clock.is_some() || saved.timeline.is_ok();
        // Without a timeline the report fails, but the resume does not.
        let timeline = saved
            .timeline
            .unwrap_or(Timeline::new(std::num::NonZeroU32::MIN));
        let mut arrival = Self {
            store,
            name: plan.box_name,
            fail_at: plan.fail_at,
            clock: plan.clock.unwrap_or_else(|| Clock::tsc(timeline.khz())),
            knows_time,
            timeline,
            frame: Arc::new(saved.frame),
            contents,
        };
        arrival.mark_boot(plan.userspace_boottime_ns);
        arrival.mark_at(phase::TAKE_OUT, start);
        Ok(arrival)
    }

    fn read(
        state: &OwnedFd,
        plan: &ResumePlan<'_>,
        contents: &mut Contents<S>,
    ) -> Result<SavedState, UpdateError> {
        if plan.fail_at == Some(Step::Open) {
            return Err(UpdateError::Injected(Step::Open));
        }
        let saved = SavedState::read(state)?;
        contents.has_guest();
        saved
            .frame
            .check(plan.known)
            .map_err(UpdateError::Blocked)?;
        Ok(saved)
    }

    /// Marks the start of this kernel and its userspace, if it is not the kernel that the guest
    /// left.
    fn mark_boot(&mut self, userspace_boottime_ns: Option<u64>) {
        let left = self
            .timeline
            .marks()
            .iter()
            .map(|mark| mark.ticks)
            .max()
            .unwrap_or(0);
        let kernel = self.clock.at_boottime(0);
        if kernel > left {
            self.mark_at(phase::KERNEL, kernel);
            if let Some(ns) = userspace_boottime_ns {
                self.mark_at(phase::USERSPACE, self.clock.at_boottime(ns));
            }
        }
    }

    /// The VM's state. It can be kept while descriptors are taken out.
    #[must_use]
    pub fn frame(&self) -> Arc<Frame<Vec<u8>>> {
        Arc::clone(&self.frame)
    }

    /// The old host's marks, and this one's so far. If the old timeline could not be read, only the
    /// latter are included, and its frequency is meaningless: see [`clock`](Self::clock).
    #[must_use]
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// The clock for marking phases: the plan's, or the cycle counter with the frequency recorded
    /// by the old host. `None` if that cannot be read.
    #[must_use]
    pub fn clock(&self) -> Option<Clock> {
        self.knows_time.then_some(self.clock)
    }

    /// How long the guest has been paused, for correcting its clocks. `None` if that is unknown:
    /// the old host's record cannot be read, or the counter went backwards.
    #[must_use]
    pub fn since_pause(&self) -> Option<Duration> {
        let clock = self.clock()?;
        let mut marks = self.timeline.marks().iter();
        let paused = marks.rfind(|mark| mark.name == phase::PAUSE)?;
        let ticks = clock.now().checked_sub(paused.ticks)?;
        Some(Duration::from_nanos(clock.to_ns(ticks)))
    }

    /// The descriptors that have not been taken yet.
    #[must_use]
    pub fn remaining(&self) -> Vec<FdInfo> {
        self.contents.untaken().cloned().collect()
    }

    /// Takes a descriptor out. The box keeps it until [`Resumed::finish`], so that a program that
    /// is killed before the commit leaves everything for another try.
    ///
    /// # Errors
    /// As for [`OpenBox::get_and_keep`](crate::OpenBox::get_and_keep).
    pub fn take(&mut self, name: &FdName) -> Result<OwnedFd, UpdateError> {
        self.contents.take(name)
    }

    /// Like [`take`](Self::take), for a descriptor that the old VMM could only put in if the boxes' home
    /// keeps its kind; `None` if it is not there.
    ///
    /// # Errors
    /// Like [`take`](Self::take).
    pub fn take_if_there(&mut self, name: &FdName) -> Result<Option<OwnedFd>, UpdateError> {
        self.contents.take_if_there(name)
    }

    /// Unseals the box of a guest that another kernel has given back, before
    /// [`commit`](Self::commit) does: descriptors that cannot be used from two kernels can only be
    /// taken out then. If this arrival fails, the box is sealed again.
    ///
    /// # Errors
    /// The box cannot be unsealed, and stays as it is.
    pub fn unseal(&mut self) -> Result<(), UpdateError> {
        self.contents.unseal()
    }

    /// Leaves a descriptor in the box, although [`check_taken`](Self::check_taken) wants all taken: one
    /// that another kernel has lent, and goes on to use.
    pub fn leave(&mut self, name: &FdName) {
        self.contents.leave(name);
    }

    /// Marks the start of a phase, now.
    pub fn mark(&mut self, name: &str) {
        self.mark_at(name, self.clock.now());
    }

    /// Marks the start of a phase. A mark that does not fit, or has an invalid name, is dropped:
    /// only the report suffers.
    pub fn mark_at(&mut self, name: &str, ticks: u64) {
        let _ = self.timeline.mark(name, ticks);
    }

    /// Rebuilds the VM with `build` and commits. `build` must not run the guest yet; its result is
    /// dropped before the box is sealed. Anything it keeps elsewhere, for example in a struct of
    /// the VMM, it must close itself when it fails: a VM that still exists holds memory of the box.
    ///
    /// # Errors
    /// Those of `build`, or a descriptor that it left in the box: the box is sealed again with
    /// everything in it.
    pub fn restore<T>(
        mut self,
        build: impl FnOnce(&mut Self) -> Result<T, PartyError>,
    ) -> Result<(T, Resumed<S>), Box<ResumeFailed>> {
        self.mark(phase::RESTORE);
        let built = build(&mut self)
            .map_err(|source| UpdateError::Guest {
                what: "The VM cannot be rebuilt",
                source,
            })
            .and_then(|built| match self.fail_at {
                Some(Step::Restore) => Err(UpdateError::Injected(Step::Restore)),
                _ => Ok(built),
            })
            .and_then(|built| self.check_taken().map(|()| built));
        match built {
            Ok(built) => self.commit().map(|resumed| (built, resumed)),
            Err(error) => Err(self.abort(error)),
        }
    }

    /// Checks that everything was taken out of the box, as required before
    /// [`commit`](Self::commit). [`restore`](Self::restore) does this itself.
    ///
    /// # Errors
    /// [`UpdateError::LeftInBox`].
    pub fn check_taken(&self) -> Result<(), UpdateError> {
        let left: Vec<FdName> = self
            .contents
            .untaken()
            .map(|info| info.name.clone())
            .collect();
        if left.is_empty() {
            Ok(())
        } else {
            Err(UpdateError::LeftInBox(left))
        }
    }

    /// Commits: afterwards nobody else can take the guest over, and it may run. This is cheap,
    /// because it is part of the blackout: only the state is removed from the box, the rest goes
    /// with the box in [`Resumed::finish`].
    ///
    /// # Errors
    /// The state is gone: somebody else took the guest.
    pub fn commit(mut self) -> Result<Resumed<S>, Box<ResumeFailed>> {
        let claim = match self.contents.commit(&self.name) {
            Ok(claim) => claim,
            Err(error) => return Err(self.abort(error)),
        };
        Ok(Resumed {
            store: self.store,
            name: self.name,
            clock: self.clock,
            timeline: self.timeline,
            fail_at: self.fail_at,
            _claim: claim,
        })
    }

    /// Seals the box again, with everything in it. First close whatever was made from the
    /// descriptors.
    pub fn abort(mut self, error: UpdateError) -> Box<ResumeFailed> {
        ResumeFailed::new(Step::Restore, error, self.contents.give_up())
    }
}

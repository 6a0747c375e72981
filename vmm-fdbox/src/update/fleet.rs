//! Many guests in one update: one process drives all of them, and makes the one jump.
//!
//! ```text
//! all preflight ─▶ load ─▶ all prepare ─▶ all pause ─▶ jump
//!                          (guests run)   (in parallel)
//! ```
//!
//! Each guest is a [`Member`]: its VMM does the work of its [`Session`](super::Session) and is told
//! when, over whatever channel the program uses. The [`Host`] belongs to the fleet: the VMMs load
//! nothing and do not jump. A guest that is not ready either stops the update or is left behind, as
//! set in the [`FleetPlan`]; any other failure before the jump rolls back every guest.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use super::parties::Host;
use super::step::Step;
use crate::deadline::Deadline;
use crate::error::Chain;
use crate::finding::Finding;
use crate::kind::Kind;
use crate::lease::Lease;

mod end;
mod terms;

pub use terms::{
    FleetEvent, FleetOutcome, FleetPlan, Member, MemberOutcome, NotReady, Objection, Stopped,
};

struct FleetFailure {
    step: Step,
    message: String,
    /// Whether somebody cancelled it.
    cancelled: bool,
}

impl FleetFailure {
    fn new(step: Step, message: impl Into<String>) -> Self {
        Self {
            step,
            message: message.into(),
            cancelled: false,
        }
    }

    fn cancelled(step: Step, message: impl Into<String>) -> Self {
        Self {
            cancelled: true,
            ..Self::new(step, message)
        }
    }
}

struct Entry<M> {
    member: M,
    /// Whether anything was asked of it.
    begun: bool,
    not_ready: bool,
    stopped: Option<Stopped>,
    /// Whether it is stopped and waits for the end of this kernel.
    down: bool,
}

impl<M> Entry<M> {
    /// Whether it is paused, or anything has to be undone.
    fn is_involved(&self) -> bool {
        self.stopped.is_none() || self.down
    }
}

/// The update of many guests.
pub struct Fleet<'a, H: Host, M: Member> {
    host: H,
    entries: Vec<Entry<M>>,
    plan: FleetPlan,
    observer: Box<dyn FnMut(&FleetEvent<'_>) + Send + 'a>,
    findings: Vec<Finding>,
    loaded: bool,
    /// Held while guests are paused for this process.
    lease: Option<Lease>,
}

impl<H: Host, M: Member> std::fmt::Debug for Fleet<'_, H, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").finish_non_exhaustive()
    }
}

impl<'a, H: Host, M: Member> Fleet<'a, H, M> {
    /// An update of `members`, which leaves `host`.
    pub fn new(host: H, members: Vec<M>, plan: FleetPlan) -> Self {
        let entry = |member| Entry {
            member,
            begun: false,
            not_ready: false,
            stopped: None,
            down: false,
        };
        Self {
            host,
            entries: members.into_iter().map(entry).collect(),
            plan,
            observer: Box::new(|_| {}),
            findings: Vec::new(),
            loaded: false,
            lease: None,
        }
    }

    /// Sets the observer. While guests are paused it only receives the start of the jump: be quick.
    pub fn observed_by(mut self, observer: impl FnMut(&FleetEvent<'_>) + Send + 'a) -> Self {
        self.observer = Box::new(observer);
        self
    }

    /// Looks for blockers of the host and of every guest; changes nothing.
    pub fn dry_run(mut self) -> FleetOutcome {
        let failure = self.preflight().err();
        let mut outcome = self.give_up(failure);
        for member in outcome.members.iter_mut().filter(|m| !m.not_ready) {
            member.stopped = None;
        }
        outcome
    }

    /// Runs the whole update. Into another kernel it returns only if it failed.
    pub fn run(mut self) -> FleetOutcome {
        let done = self
            .preflight()
            .and_then(|()| self.prepare())
            .and_then(|()| self.quiesce())
            .and_then(|()| self.set_down())
            .and_then(|()| self.pause())
            .and_then(|()| self.jump());
        match done {
            Ok(()) => self.outcome(None, Vec::new()),
            Err(failure) => {
                self.lease = None;
                (self.observer)(&FleetEvent::RollingBack);
                self.give_up(Some(failure))
            }
        }
    }

    /// Whether a step may begin.
    fn check(&self, step: Step) -> Result<(), FleetFailure> {
        if self.plan.cancel.is_cancelled() {
            Err(FleetFailure::cancelled(step, "Cancelled"))
        } else if self.plan.fail_at == Some(step) {
            let injected = super::UpdateError::Injected(step).to_string();
            Err(FleetFailure::new(step, injected))
        } else {
            Ok(())
        }
    }

    fn preflight(&mut self) -> Result<(), FleetFailure> {
        self.check(Step::Preflight)?;
        (self.observer)(&FleetEvent::Started(Step::Preflight));
        self.findings = self.host.preflight();
        let kinds = self.kinds();
        self.check_kinds(&kinds);
        // Ask every guest even if there is a blocker, so that one try reports all of them.
        let guests = self.all(Step::Preflight, M::preflight);
        // Some members only know their kinds now.
        let more = &self.kinds() - &kinds;
        self.check_kinds(&more);
        for finding in &self.findings {
            if !finding.is_blocker() {
                (self.observer)(&FleetEvent::Warning(finding));
            }
        }
        let mut blockers = self.findings.iter().filter(|finding| finding.is_blocker());
        if let Some(blocker) = blockers.next() {
            return Err(FleetFailure::new(Step::Preflight, blocker.to_string()));
        }
        guests
    }

    /// The kinds that are handed over.
    fn kinds(&self) -> BTreeSet<Kind> {
        let members = self.entries.iter().map(|entry| &entry.member);
        let mut kinds = self.plan.kinds.clone();
        kinds.extend(members.flat_map(Member::kinds));
        kinds
    }

    fn check_kinds(&mut self, kinds: &BTreeSet<Kind>) {
        if self.host.leaves_kernel() && !kinds.is_empty() {
            self.findings.extend(self.host.check_kinds(kinds));
        }
    }

    /// Starts or renews the lease: guests are about to be paused for this process, or stay paused
    /// for longer.
    fn begin_lease(&mut self, step: Step, limit: Duration) -> Result<(), FleetFailure> {
        let renewed = match &self.lease {
            _ if !self.plan.lease => return Ok(()),
            Some(lease) => lease.renew(limit),
            None => Lease::begin(limit).map(|lease| self.lease = Some(lease)),
        };
        renewed.map_err(|errno| {
            let why =
                format!("Cannot create the timer that ends this process if it hangs: {errno}");
            FleetFailure::new(step, why)
        })
    }

    fn prepare(&mut self) -> Result<(), FleetFailure> {
        let step = Step::LoadKernel;
        self.check(step)?;
        (self.observer)(&FleetEvent::Started(step));
        self.host.load().map_err(|error| {
            let why = format!("Cannot load the next kernel: {}", Chain(&*error));
            FleetFailure::new(step, why)
        })?;
        self.loaded = true;
        (self.observer)(&FleetEvent::Done(step));
        self.check(Step::Seal)?;
        (self.observer)(&FleetEvent::Started(Step::Seal));
        self.all(Step::Seal, M::prepare)
    }

    /// Brings the devices of all guests to rest before any guest is paused. A single guest does
    /// that as part of its pause.
    fn quiesce(&mut self) -> Result<(), FleetFailure> {
        if self.entries.len() < 2 {
            return Ok(());
        }
        // A coordinator that hangs must not keep their requests waiting either.
        self.begin_lease(Step::Pause, self.plan.limits.standing())?;
        self.all(Step::Pause, M::quiesce)
    }

    /// Stops the guests that stay behind. Afterwards they cost the others no time.
    fn set_down(&mut self) -> Result<(), FleetFailure> {
        let is_left = self.entries.iter().any(|entry| entry.not_ready);
        if !self.host.leaves_kernel() || !is_left {
            return Ok(());
        }
        self.begin_lease(Step::Pause, self.plan.limits.standing())?;
        let left = self.entries.iter_mut().filter(|entry| entry.not_ready);
        let asked = in_parallel(left, |entry| {
            let done = entry.member.set_down();
            entry.down = done.is_ok();
            (entry.member.name().to_owned(), done)
        });
        for (name, done) in &asked {
            let done = done.as_ref().map_err(String::as_str).copied();
            (self.observer)(&FleetEvent::SetDown(name, done));
        }
        Ok(())
    }

    fn pause(&mut self) -> Result<(), FleetFailure> {
        self.check(Step::Pause)?;
        (self.observer)(&FleetEvent::Started(Step::Pause));
        self.begin_lease(Step::Pause, self.plan.limits.standing())?;
        self.all(Step::Pause, M::pause)
    }

    fn jump(&mut self) -> Result<(), FleetFailure> {
        let step = Step::Jump;
        self.check(step)?;
        (self.observer)(&FleetEvent::Started(step));
        let mut involved = self.entries.iter_mut().filter(|entry| entry.is_involved());
        if let Some(objection) = involved.find_map(|entry| entry.member.objection()) {
            return Err(match objection {
                Objection::Cancelled => FleetFailure::cancelled(step, "Cancelled"),
                Objection::Trouble(why) => FleetFailure::new(step, why),
            });
        }
        let deadline = Deadline::within(self.plan.limits.jump);
        self.host.jump(deadline).map_err(|error| {
            let why = format!("Cannot leave this host: {}", Chain(&*error));
            FleetFailure::new(step, why)
        })?;
        // Still here: in this kernel a new VMM takes each guest. There is no way back from here.
        let going = self.entries.iter_mut().filter(|p| p.stopped.is_none());
        in_parallel(going, |entry| {
            entry.stopped = entry.member.hand_over().err()
        });
        self.lease = None;
        Ok(())
    }

    /// Makes all guests that take part carry out a step, in parallel.
    fn all(
        &mut self,
        step: Step,
        act: impl Fn(&mut M) -> Result<(), Stopped> + Copy + Send,
    ) -> Result<(), FleetFailure> {
        let going = self.entries.iter_mut().filter(|p| p.stopped.is_none());
        let asked = in_parallel(going, move |entry| {
            entry.begun = true;
            entry.stopped = act(&mut entry.member).err();
            entry.not_ready = entry.stopped.is_some();
            Some((entry.member.name().to_owned(), entry.stopped.clone()?))
        });
        let not_ready: Vec<(String, Stopped)> = asked.into_iter().flatten().collect();
        let left = self.entries.iter().any(|entry| entry.stopped.is_none());
        if !not_ready.is_empty() && (self.plan.not_ready == NotReady::Abort || !left) {
            let why = not_ready
                .iter()
                .map(|(name, stopped)| format!("{name}: {}", stopped.message));
            let why = why.collect::<Vec<_>>().join("; ");
            return Err(FleetFailure::new(step, why));
        }
        if let Some((name, _)) = not_ready.iter().find(|(_, stopped)| stopped.cancelled) {
            return Err(FleetFailure::cancelled(
                step,
                format!("Cancelled at {name}"),
            ));
        }
        if !left {
            return Err(FleetFailure::new(step, "There is no guest to update"));
        }
        // While guests are paused nobody is notified: the jump comes first.
        if step != Step::Pause {
            for (name, stopped) in &not_ready {
                (self.observer)(&FleetEvent::NotReady(name, stopped));
            }
            (self.observer)(&FleetEvent::Done(step));
        }
        Ok(())
    }
}

/// Applies a function to all, each in a thread of its own. A single one needs no thread, and its
/// guest may be waiting.
fn in_parallel<'p, M: Member + 'p, T: Send>(
    entries: impl Iterator<Item = &'p mut Entry<M>>,
    act: impl Fn(&mut Entry<M>) -> T + Copy + Send,
) -> Vec<T> {
    let mut entries: Vec<_> = entries.collect();
    if let [entry] = &mut entries[..] {
        return vec![act(entry)];
    }
    thread::scope(|scope| {
        let spawn = |entry| scope.spawn(move || act(entry));
        let threads: Vec<_> = entries.into_iter().map(spawn).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, T>| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    })
}

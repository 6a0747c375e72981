//! What a fleet and its members say to each other.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::error::Chain;
use crate::finding::Finding;
use crate::kind::Kind;
use crate::update::{CancelFlag, ExitStatus, Limits, Outcome, Step, UpdateError};

/// One guest of a fleet: what its VMM does when it is told to.
///
/// A method that fails has undone all that was done to the guest, so nothing more is asked
/// of it. The methods of different members are called in parallel.
pub trait Member: Send {
    /// The guest's name.
    fn name(&self) -> &str;

    /// The kinds of files that its VMM will put into a box: the host is asked what would become of
    /// them. Called before anything else. Default: not known, so nothing is asked.
    fn kinds(&self) -> BTreeSet<Kind> {
        BTreeSet::new()
    }

    /// Looks for blockers; changes nothing.
    ///
    /// # Errors
    /// What is in the way.
    fn preflight(&mut self) -> Result<(), Stopped>;

    /// Fills and seals the guest's box. The guest runs.
    ///
    /// # Errors
    /// The guest is not ready.
    fn prepare(&mut self) -> Result<(), Stopped>;

    /// Brings the guest's devices to rest while it runs, so that no guest stands still for another one's disk.
    /// [`pause`](Self::pause) follows soon. Default: it does this as well.
    ///
    /// # Errors
    /// The guest is not ready.
    fn quiesce(&mut self) -> Result<(), Stopped> {
        Ok(())
    }

    /// Stops the guest and writes its state. It stays stopped, whatever happens, until
    /// [`roll_back`](Self::roll_back): the jump may come at any moment.
    ///
    /// # Errors
    /// The guest is not ready.
    fn pause(&mut self) -> Result<(), Stopped>;

    /// The others are about to leave this kernel without this guest, which was not ready: stops
    /// it in order, with all that it wrote made safe. It stays stopped until
    /// [`roll_back`](Self::roll_back). The others still run: take the time that it needs.
    /// Default: it runs until the kernel ends.
    ///
    /// # Errors
    /// Why it continues.
    fn set_down(&mut self) -> Result<(), String> {
        Err("this VMM cannot stop it for that".into())
    }

    /// Why the host must not be left, if there is a reason: since this guest paused, somebody asked its VMM to stop the
    /// update, or the VMM closed its connection and lives. One that is gone is no reason: all of the guest is in its box.
    /// Called between the last pause and the jump: be quick. Default: there is none.
    fn objection(&mut self) -> Option<String> {
        None
    }

    /// Undoes all that was done; a guest that was set down continues.
    fn roll_back(&mut self) -> Stopped;

    /// The guest is its new VMM's now. Only for a host that stays in its kernel.
    ///
    /// # Errors
    /// The guest is not handed over.
    fn hand_over(&mut self) -> Result<(), Stopped>;

    /// What its new VMM says of it, after [`hand_over`](Self::hand_over). Default: nothing.
    fn report(&mut self) -> Option<Value> {
        None
    }
}

/// How the update of one guest ended without a jump.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stopped {
    /// What became of the guest.
    pub status: ExitStatus,
    /// The whole of it in words.
    pub message: String,
    /// Somebody asked for it.
    pub cancelled: bool,
    /// The step that failed, if one did.
    pub step: Option<Step>,
    /// Why it failed.
    pub error: Option<String>,
    /// What did not go smoothly in the rollback.
    pub problems: Vec<String>,
    /// How long the guest stood still, in nanoseconds; `None` if not at all.
    pub paused_ns: Option<u64>,
    /// What preflight found.
    pub findings: Vec<Finding>,
}

impl Stopped {
    /// A guest that was not touched, and why.
    pub fn untouched(message: impl Into<String>) -> Self {
        Self {
            status: ExitStatus::NothingChanged,
            message: message.into(),
            cancelled: false,
            step: None,
            error: None,
            problems: Vec::new(),
            paused_ns: None,
            findings: Vec::new(),
        }
    }

    /// A guest that was not touched because of a blocker.
    pub(crate) fn blocked(findings: Vec<Finding>) -> Self {
        let blocked = UpdateError::Blocked(findings);
        Self::of(&Outcome::NothingChanged {
            step: Step::Preflight,
            error: blocked,
        })
    }

    /// How a guest's own [`Session`](crate::update::Session) ended.
    #[must_use]
    pub fn of(outcome: &Outcome) -> Self {
        let (problems, paused_ns) = match outcome {
            Outcome::HandedOver | Outcome::NothingChanged { .. } => (Vec::new(), None),
            Outcome::RolledBack {
                problems,
                paused_ns,
                ..
            } => (problems.clone(), *paused_ns),
            Outcome::GuestLost { problems, .. } => (problems.clone(), None),
        };
        let error = outcome.error();
        let findings = match error {
            Some((_, UpdateError::Blocked(findings))) => findings.clone(),
            _ => Vec::new(),
        };
        Self {
            status: outcome.exit_status(),
            message: outcome.to_string(),
            cancelled: matches!(error, Some((_, UpdateError::Cancelled))),
            step: error.map(|(step, _)| step),
            error: error.map(|(_, error)| Chain(error).to_string()),
            problems,
            paused_ns,
            findings,
        }
    }

    /// This, why it was not ready, and how it came to continue after it was set down.
    pub(super) fn and_then(self, end: Self) -> Self {
        Self {
            status: end.status,
            message: format!("{}; {}", self.message, end.message),
            paused_ns: end.paused_ns,
            ..self
        }
    }
}

/// What happens when a guest is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum NotReady {
    /// Nobody is updated: every guest is rolled back and continues.
    #[default]
    Abort,
    /// The others are updated. The guest is [set down](Member::set_down) before they are paused,
    /// and the jump ends it; one that turns out not to be ready while the others stand still
    /// runs until then.
    Leave,
}

/// What the update of a fleet is to do.
#[derive(Debug, Clone, Default)]
pub struct FleetPlan {
    /// What happens when a guest is not ready. Default: abort.
    pub not_ready: NotReady,
    /// What goes along besides the guests, of which the host is asked too: the
    /// [kinds in sealed boxes](crate::sealed_kinds). Default: nothing.
    pub kinds: BTreeSet<Kind>,
    /// How long each step may take. The members' own limits should be these.
    pub limits: Limits,
    /// The process is a coordinator and no VMM: it has a [`Lease`](crate::coordinator::Lease) from when the first
    /// guest stands still up to the jump, and is killed when it does not get on. Default: no.
    pub lease: bool,
    /// Stops the update when set. Default: nobody sets it.
    pub cancel: CancelFlag,
    /// The step that the fleet itself is made to fail at, for tests. Default: none.
    pub fail_at: Option<Step>,
}

/// Something that happened to a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FleetEvent<'a> {
    /// A step begins, for all guests at once.
    Started(Step),
    /// A step is done, by all guests that go on.
    Done(Step),
    /// A guest is not ready.
    NotReady(&'a str, &'a Stopped),
    /// A guest that is left behind is stopped in order; if not, why.
    SetDown(&'a str, Result<(), &'a str>),
    /// Preflight of the host found something that does not stop the update.
    Warning(&'a Finding),
    /// Every guest is rolled back.
    RollingBack,
}

/// What became of one guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberOutcome {
    /// Its name.
    pub name: String,
    /// `None`: handed over or, after a dry run, ready.
    pub stopped: Option<Stopped>,
    /// It was not ready: the others went on without it, or back because of it.
    pub not_ready: bool,
    /// What its new VMM says of it, if it is in this kernel.
    pub report: Option<Value>,
    /// What preflight found.
    pub findings: Vec<Finding>,
}

/// How the update of a fleet ended, in a host that it did not leave.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "tells whether the guests still run"]
pub struct FleetOutcome {
    /// The step that failed and why; `None`: done.
    pub failure: Option<(Step, String)>,
    /// Each guest.
    pub members: Vec<MemberOutcome>,
    /// What preflight of the host found.
    pub findings: Vec<Finding>,
    /// What did not go smoothly in a rollback.
    pub problems: Vec<String>,
}

impl FleetOutcome {
    /// What the program exits with: what became of the guest that fared worst.
    #[must_use]
    pub fn exit_status(&self) -> ExitStatus {
        let floor = match self.failure {
            Some(_) => ExitStatus::NothingChanged,
            None => ExitStatus::Done,
        };
        let counts = |member: &&MemberOutcome| self.failure.is_some() || !member.not_ready;
        let members = self.members.iter().filter(counts);
        let statuses = members.filter_map(|member| Some(member.stopped.as_ref()?.status));
        statuses
            .chain([floor])
            .max_by_key(|status| status.severity())
            .unwrap_or(floor)
    }
}

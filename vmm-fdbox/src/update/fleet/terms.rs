//! The interface between a fleet and its members.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::error::Chain;
use crate::finding::Finding;
use crate::kind::Kind;
use crate::update::{CancelFlag, ExitStatus, Limits, Outcome, Step, UpdateError};

/// One guest of a fleet: carries out steps in its VMM.
///
/// A method that fails has undone everything that was done to the guest, so nothing more is asked
/// of it. The methods of different members are called in parallel.
pub trait Member: Send {
    /// The guest's name.
    fn name(&self) -> &str;

    /// The kinds of files that its VMM will put into a box: the host is asked what would happen to
    /// them. Called before anything else. Default: unknown, so nothing is asked.
    fn kinds(&self) -> BTreeSet<Kind> {
        BTreeSet::new()
    }

    /// Looks for blockers; changes nothing.
    ///
    /// # Errors
    /// The reasons why the update cannot proceed.
    fn preflight(&mut self) -> Result<(), Stopped>;

    /// Fills and seals the guest's box. The guest runs.
    ///
    /// # Errors
    /// The guest is not ready.
    fn prepare(&mut self) -> Result<(), Stopped>;

    /// Brings the guest's devices to rest while it runs, so that no guest is paused while another
    /// one's disk finishes. [`pause`](Self::pause) follows soon. Default: leaves this to `pause`.
    ///
    /// # Errors
    /// The guest is not ready.
    fn quiesce(&mut self) -> Result<(), Stopped> {
        Ok(())
    }

    /// Stops the guest and writes its state. It stays paused in any case until
    /// [`roll_back`](Self::roll_back): the jump may come at any moment.
    ///
    /// # Errors
    /// The guest is not ready.
    fn pause(&mut self) -> Result<(), Stopped>;

    /// The others are about to leave this kernel without this guest, which was not ready: stops it
    /// cleanly, with everything it wrote synced. It stays stopped until
    /// [`roll_back`](Self::roll_back). The others still run, so this may take its time. Default:
    /// the guest runs until the kernel ends.
    ///
    /// # Errors
    /// Why it continues.
    fn set_down(&mut self) -> Result<(), String> {
        Err("this VMM cannot stop it for that".into())
    }

    /// A reason not to leave the host, if any: since this guest paused, somebody asked its VMM to
    /// cancel the update, or the VMM closed its connection and is alive. A VMM that has ended is no
    /// reason: the whole guest is in its box. Called between the last pause and the jump: be quick.
    /// Default: none.
    fn objection(&mut self) -> Option<Objection> {
        None
    }

    /// Undoes everything that was done; a guest that was set down continues.
    fn roll_back(&mut self) -> Stopped;

    /// Looks again at a guest that was reported lost, when all others run again, and returns how it
    /// ended after all. Default: it is lost.
    fn look_again(&mut self) -> Option<Stopped> {
        None
    }

    /// The guest now belongs to its new VMM. Only for a host that stays in its kernel.
    ///
    /// # Errors
    /// The guest is not handed over.
    fn hand_over(&mut self) -> Result<(), Stopped>;

    /// The report of its new VMM, after [`hand_over`](Self::hand_over). Default: none.
    fn report(&mut self) -> Option<Value> {
        None
    }
}

/// A reason not to leave the host.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Objection {
    /// Somebody asked the guest's VMM to cancel the update.
    Cancelled,
    /// A VMM is alive and cannot be followed any more: which one, and why.
    Trouble(String),
}

/// How the update of one guest ended without a jump.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stopped {
    /// What happened to the guest.
    pub status: ExitStatus,
    /// The complete message.
    pub message: String,
    /// Whether it was cancelled.
    pub cancelled: bool,
    /// The step that failed, if one did.
    pub step: Option<Step>,
    /// The reason for the failure.
    pub error: Option<String>,
    /// Problems in the rollback.
    pub problems: Vec<String>,
    /// How long the guest was paused, in nanoseconds; `None` if not at all.
    pub paused_ns: Option<u64>,
    /// The findings of preflight.
    pub findings: Vec<Finding>,
}

impl Stopped {
    /// A guest that was not touched, and the reason.
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

    /// The result of a guest's own [`Session`](crate::update::Session).
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

    /// Combines this, the reason why the guest was not ready, with how it continued after it was
    /// set down.
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
    /// No guest is updated: every guest is rolled back and continues.
    #[default]
    Abort,
    /// The others are updated. The guest is [set down](Member::set_down) before they are paused,
    /// and the jump ends it; one that turns out not to be ready while the others are paused runs
    /// until then.
    Leave,
}

/// The plan of a fleet's update.
#[derive(Debug, Clone, Default)]
pub struct FleetPlan {
    /// What happens when a guest is not ready. Default: abort.
    pub not_ready: NotReady,
    /// What else is handed over besides the guests, which the host is asked about as well: the
    /// [kinds in sealed boxes](crate::sealed_kinds). Default: nothing.
    pub kinds: BTreeSet<Kind>,
    /// How long each step may take. The members' own limits should be the same.
    pub limits: Limits,
    /// Whether the process is a pure coordinator and not a VMM: it then has a
    /// [`Lease`](crate::coordinator::Lease) from the first pause up to the jump, and is killed if
    /// it makes no progress. Default: false.
    pub lease: bool,
    /// Cancels the update when set. Default: never set.
    pub cancel: CancelFlag,
    /// The step at which the fleet itself is made to fail, for tests. Default: none.
    pub fail_at: Option<Step>,
}

/// An event in the update of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FleetEvent<'a> {
    /// A step begins, for all guests at once.
    Started(Step),
    /// A step is done, by all guests that still take part.
    Done(Step),
    /// A guest is not ready.
    NotReady(&'a str, &'a Stopped),
    /// A guest that is left behind was stopped, or why it was not.
    SetDown(&'a str, Result<(), &'a str>),
    /// Preflight of the host found something that does not stop the update.
    Warning(&'a Finding),
    /// Every guest is rolled back.
    RollingBack,
}

/// What happened to one guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberOutcome {
    /// Its name.
    pub name: String,
    /// `None` if it was handed over or, after a dry run, is ready.
    pub stopped: Option<Stopped>,
    /// Whether it was not ready: the others went on without it, or were rolled back because of it.
    pub not_ready: bool,
    /// The report of its new VMM, if that is in this kernel.
    pub report: Option<Value>,
    /// The findings of its preflight.
    pub findings: Vec<Finding>,
}

/// The result of a fleet's update, in a host that it did not leave.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "tells whether the guests still run"]
pub struct FleetOutcome {
    /// The step that failed and why; `None` if the update is done.
    pub failure: Option<(Step, String)>,
    /// Whether it failed because somebody cancelled it.
    pub cancelled: bool,
    /// Each guest.
    pub members: Vec<MemberOutcome>,
    /// The findings of the host's preflight.
    pub findings: Vec<Finding>,
    /// Problems in a rollback.
    pub problems: Vec<String>,
}

impl FleetOutcome {
    /// The exit status of the program: that of the guest that fared worst.
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

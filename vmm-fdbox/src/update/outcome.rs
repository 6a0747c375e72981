//! How an update ended.

use std::time::Duration;

use rustix::io::Errno;

use super::parties::PartyError;
use super::step::{ExitStatus, Step};
use crate::error::{BoxError, Chain};
use crate::finding::Finding;
use crate::frame::FrameError;
use crate::name::{BoxName, FdName};
use crate::seal_error::SealError;
use crate::statefd::StateError;
use crate::unseal_error::UnsealError;

/// Why an update, or a resume, failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// Preflight found blockers.
    #[error("{}", join(.0))]
    Blocked(Vec<Finding>),
    /// The update was cancelled.
    #[error("Cancelled")]
    Cancelled,
    /// A step took longer than its limit, and was undone.
    #[error("It was not done within {} s", .limit.as_secs_f64())]
    Late {
        /// Its limit, from [`Limits`](super::Limits).
        limit: Duration,
    },
    /// A failure requested by a test.
    #[error("Step '{0}' failed because a test asked for it")]
    Injected(Step),
    /// An error of a box.
    #[error(transparent)]
    Box(#[from] BoxError),
    /// The box could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The box could not be unsealed.
    #[error(transparent)]
    Unseal(#[from] UnsealError),
    /// An error of the state memfd.
    #[error(transparent)]
    State(#[from] StateError),
    /// Two descriptors with the same name, or one with that of the state memfd.
    #[error("The guest gave two descriptors the name '{0}'")]
    NameTwice(FdName),
    /// An error of the guest.
    #[error("{what}")]
    Guest {
        /// What it was asked to do.
        what: &'static str,
        /// Its own error.
        source: PartyError,
    },
    /// An error of the host.
    #[error("{what}")]
    Host {
        /// What it was asked to do.
        what: &'static str,
        /// Its own error.
        source: PartyError,
    },
    /// Descriptors that a resume did not take out.
    #[error("Still in the box after the VM was rebuilt: {}", join(.0))]
    LeftInBox(Vec<FdName>),
    /// The last kernel handed something over that this one refused.
    #[error(
        "No box '{0}': what the last kernel handed over was refused, see the kernel log; kexec into a kernel that reads it"
    )]
    HandoverRefused(BoxName),
    /// The box exists, but the guest's state is gone: whoever took it out has the guest.
    #[error(
        "No guest's state in box '{0}': a VMM took it out and has the guest, or had it to its end, or the box is another program's; no resume can use what is left, so delete the box if nobody needs it"
    )]
    TakenAlready(BoxName),
    /// There is no box of a guest to resume.
    #[error("No box '{0}': the guest was not handed over, or was resumed already")]
    NoGuest(BoxName),
}

impl UpdateError {
    /// Whether the box is gone with its keeper.
    pub(crate) fn is_box_gone(&self) -> bool {
        matches!(self, Self::Box(error) if error.errno() == Errno::PIPE)
    }

    /// Whether there is no guest to take: no box, no state in it, or one that no binary can read.
    pub(super) fn is_no_guest(&self) -> bool {
        match self {
            Self::NoGuest(_) | Self::HandoverRefused(_) | Self::TakenAlready(_) => true,
            Self::State(StateError::Frame(error)) => error.is_lost(),
            _ => false,
        }
    }
}

impl From<FrameError> for UpdateError {
    fn from(error: FrameError) -> Self {
        Self::State(error.into())
    }
}

fn join(items: &[impl ToString]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// The result of the half of an update that runs in the old host.
#[derive(Debug)]
#[must_use = "tells whether the guest still runs in this process"]
pub enum Outcome {
    /// The jump was made, or this kernel is ending with the whole guest sealed. Only a
    /// [`Host`](super::Host) that stays in its kernel returns from a jump: the program exits, and
    /// another resumes the guest.
    HandedOver,
    /// It failed before anything of the guest was touched.
    NothingChanged {
        /// The step that failed.
        step: Step,
        /// Why.
        error: UpdateError,
    },
    /// It failed or was cancelled; the guest continues in this process.
    RolledBack {
        /// The step that failed.
        step: Step,
        /// Why.
        error: UpdateError,
        /// Problems in the rollback.
        problems: Vec<String>,
        /// How long the guest was paused, in nanoseconds; `None` if not at all.
        paused_ns: Option<u64>,
    },
    /// It failed and the guest could not be continued.
    GuestLost {
        /// The step that failed.
        step: Step,
        /// Why.
        error: UpdateError,
        /// Problems in the rollback.
        problems: Vec<String>,
    },
}

impl Outcome {
    /// The exit status of the program, if it exits.
    #[must_use]
    pub fn exit_status(&self) -> ExitStatus {
        match self {
            Self::HandedOver => ExitStatus::Done,
            Self::NothingChanged { .. } => ExitStatus::NothingChanged,
            Self::RolledBack { .. } => ExitStatus::RolledBack,
            Self::GuestLost { .. } => ExitStatus::GuestLost,
        }
    }

    /// For use with `?`: succeeds if the guest no longer runs in this process.
    ///
    /// # Errors
    /// Everything but [`HandedOver`](Self::HandedOver).
    pub fn into_result(self) -> Result<(), Box<Self>> {
        match self {
            Self::HandedOver => Ok(()),
            failed => Err(Box::new(failed)),
        }
    }

    /// The step that failed and the reason, if one did.
    #[must_use]
    pub fn error(&self) -> Option<(Step, &UpdateError)> {
        match self {
            Self::HandedOver => None,
            Self::NothingChanged { step, error }
            | Self::RolledBack { step, error, .. }
            | Self::GuestLost { step, error, .. } => Some((*step, error)),
        }
    }
}

/// The text already includes the causes.
impl std::error::Error for Outcome {}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::HandedOver => f.write_str("Handed over"),
            Self::NothingChanged { step, error } => {
                write!(f, "Nothing changed: {step} failed: {}", Chain(error))
            }
            Self::RolledBack {
                step,
                error,
                problems,
                ..
            } => {
                write!(
                    f,
                    "Rolled back, the guest continues: {step} failed: {}",
                    Chain(error)
                )?;
                write_problems(f, problems)
            }
            Self::GuestLost {
                step,
                error,
                problems,
            } => {
                write!(f, "Guest lost: {step} failed: {}", Chain(error))?;
                write_problems(f, problems)
            }
        }
    }
}

fn write_problems(f: &mut std::fmt::Formatter<'_>, problems: &[String]) -> std::fmt::Result {
    problems
        .iter()
        .try_for_each(|problem| write!(f, "; {problem}"))
}

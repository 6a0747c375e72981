//! A guest whose VMM is at the other end of a socket.

mod gone;
mod member;

use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use super::boxes::Boxes;
use super::connection::{Connection, unexpected};
use super::process::Process;
use crate::deadline::Deadline;
use crate::error::BoxError;
use crate::finding::Finding;
use crate::kind::Kind;
use crate::member::{
    BOX_FD, ChannelError, Heard, Join, LeavingReply, LeavingRequest, Lent, OnEvent,
};
use crate::name::BoxName;
use crate::owner::Owner;
use crate::update::{ExitStatus, Limits, Stopped};

/// The result of [`RemoteLeaving::take_back`]. The guest stays paused until
/// [`undo`](RemoteLeaving::undo).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TakenBack {
    /// Nobody else can have the guest.
    Yes,
    /// The box is gone with its keeper, and why the VMM thinks so. Only whoever may have taken the
    /// guest knows whether they did.
    BoxGone(String),
}

/// A member of a [`Fleet`](crate::update::Fleet) whose guest is in another process, a VMM that runs
/// [`serve_leaving`](crate::member::serve_leaving). Dropping it closes the socket, and the guest is
/// rolled back.
pub struct RemoteLeaving<B> {
    name: String,
    pub(super) join: Join,
    limits: Limits,
    pub(super) boxes: B,
    /// `Err` has the reason why the VMM cannot be asked any more.
    connection: Result<Connection, String>,
    kinds: BTreeSet<Kind>,
    findings: Vec<Finding>,
    /// Findings of this process.
    found: Vec<Finding>,
    process: Process,
    /// The new owner of the box.
    owner: Option<Owner>,
    /// Whether the box was created by this update.
    has_box: bool,
    /// Whether the guest is paused and completely in the box.
    saved: bool,
    /// Whether its VMM was told to write the state and has not answered.
    may_be_saved: bool,
    on_event: OnEvent,
}

impl<B> fmt::Debug for RemoteLeaving<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("RemoteLeaving");
        fields.field("name", &self.name).finish_non_exhaustive()
    }
}

impl<B: Boxes> RemoteLeaving<B> {
    /// The guest `name`, whose VMM serves the other end of `socket`. An `Err` makes it a guest that
    /// is not ready.
    pub fn new(
        name: impl Into<String>,
        socket: Result<UnixStream, String>,
        boxes: B,
        join: Join,
    ) -> Self {
        Self {
            name: name.into(),
            limits: join.limits.into(),
            join,
            boxes,
            connection: socket.map(Connection::new),
            // The state is in a memfd, whatever else goes into the box.
            kinds: BTreeSet::from([Kind::Memfd]),
            findings: Vec::new(),
            found: Vec::new(),
            process: Process::default(),
            owner: None,
            has_box: false,
            saved: false,
            may_be_saved: false,
            on_event: Box::new(|_, _| {}),
        }
    }

    /// Sets the limits that only a coordinator has: for preflight, the rollback and the jump. Those
    /// of the VMM's own steps are in `join`.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits.preflight = limits.preflight;
        self.limits.jump = limits.jump;
        self.limits.roll_back = limits.roll_back;
        self
    }

    /// Sets the VMM's process and user, as reported by the kernel (SO_PEERCRED, SCM_CREDENTIALS): a
    /// compromised VMM could name another process. Its box is given to that user, so that the
    /// guest's next VMM can run as the same one.
    #[must_use]
    pub fn of_process(mut self, pid: u32, owner: Owner) -> Self {
        self.process = Process::new(pid);
        self.owner = Some(owner);
        self
    }

    /// Sets the kinds of files that are already known to go into its box.
    #[must_use]
    pub fn with_kinds(mut self, kinds: BTreeSet<Kind>) -> Self {
        self.kinds.extend(kinds);
        self
    }

    /// Adds findings of this process, for example on devices that the VMM has no right to inspect.
    #[must_use]
    pub fn with_findings(mut self, found: Vec<Finding>) -> Self {
        self.found = found;
        self
    }

    /// Sets the receiver of its events; times are in nanoseconds since it joined.
    #[must_use]
    pub fn observed_by(mut self, on_event: OnEvent) -> Self {
        self.on_event = on_event;
        self
    }

    /// Its guest's box.
    #[must_use]
    pub fn box_name(&self) -> &BoxName {
        &self.join.box_name
    }

    /// The findings of its preflight that do not stop the update.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Sends an order and waits for the answer. `Err` if the guest is not ready; everything has
    /// then been undone.
    fn ask(
        &mut self,
        order: &LeavingRequest,
        lent: &Lent,
        limit: Duration,
    ) -> Result<Heard<LeavingReply>, Stopped> {
        let deadline = Deadline::within(limit);
        let connection = match &mut self.connection {
            Ok(connection) => connection,
            Err(why) => return Err(Stopped::untouched(why.clone())),
        };
        let on_event = &mut self.on_event;
        let aside = |word| match word {
            LeavingReply::Event { ns, event } => {
                on_event(ns, &event);
                None
            }
            // Checked when it matters; otherwise there is nothing to do about it any more.
            LeavingReply::CancelAsked {} => None,
            word => Some(word),
        };
        let heard = match connection.say(order, lent, deadline) {
            // A message sent before it went away says more.
            Ok(()) | Err(ChannelError::Gone) => connection.hear(deadline, aside),
            Err(error) => Err(error),
        };
        match heard {
            Ok(Heard {
                message: LeavingReply::Stopped(stopped),
                ..
            }) => Err(stopped),
            Ok(Heard {
                message: LeavingReply::Refused { message },
                ..
            }) => Err(Stopped::untouched(message)),
            Ok(heard) => Ok(heard),
            Err(error) => Err(self.give_up(&error)),
        }
    }

    /// Gives up after an unexpected message: the VMM's state is no longer known.
    fn lost_track(&mut self, reply: &LeavingReply, expected: &'static str) -> Stopped {
        self.give_up(&unexpected(reply, expected))
    }

    /// Creates its box if necessary, and opens a new descriptor.
    pub(super) fn make_box(&mut self) -> Result<OwnedFd, BoxError> {
        let name = &self.join.box_name;
        if !self.has_box {
            self.boxes.make(name)?;
            self.has_box = true;
        }
        if let Some(owner) = self.owner {
            self.boxes.give(name, owner)?;
        }
        self.boxes.descriptor(name)
    }

    /// Fills and seals the guest's box, and returns what its VMM lends.
    ///
    /// # Errors
    /// The guest is not ready.
    pub fn fill(&mut self) -> Result<Lent, Stopped> {
        let passed = match self.make_box() {
            Ok(passed) => passed,
            Err(error) => {
                let mut stopped = self.undo();
                stopped.message = format!("{error}; {}", stopped.message);
                stopped.error = Some(error.to_string());
                return Err(stopped);
            }
        };
        let lent = Lent {
            value: Value::Null,
            fds: vec![(BOX_FD.to_owned(), passed)],
        };
        let answer = self.ask(&LeavingRequest::Prepare {}, &lent, self.limits.prepare);
        match self.cleaned_up(answer)? {
            Heard {
                message: LeavingReply::Prepared { lent: value },
                fds,
            } => Ok(Lent { value, fds }),
            other => Err(self.lost_track(&other.message, "prepared")),
        }
    }

    /// Stops the guest, has its state written, and returns what its VMM lends.
    ///
    /// # Errors
    /// The guest is not ready.
    pub fn stop(&mut self) -> Result<Lent, Stopped> {
        let limit = self.limits.pause.saturating_add(self.limits.save);
        self.may_be_saved = true;
        let answer = self.ask(&LeavingRequest::Pause {}, &Lent::default(), limit);
        match self.cleaned_up(answer)? {
            Heard {
                message: LeavingReply::Saved { lent: value },
                fds,
            } => {
                (self.saved, self.may_be_saved) = (true, false);
                Ok(Lent { value, fds })
            }
            other => Err(self.lost_track(&other.message, "saved")),
        }
    }

    /// Asks it to take the state back out of the box, so that nobody else can have the guest.
    ///
    /// # Errors
    /// Somebody else has taken it, or the VMM cannot be asked.
    pub fn take_back(&mut self) -> Result<TakenBack, Stopped> {
        let limit = self.limits.roll_back;
        match self.ask(&LeavingRequest::TakeBack {}, &Lent::default(), limit)? {
            Heard {
                message: LeavingReply::TakenBack {},
                ..
            } => Ok(TakenBack::Yes),
            Heard {
                message: LeavingReply::BoxGone { message },
                ..
            } => Ok(TakenBack::BoxGone(message)),
            other => Err(self.lost_track(&other.message, "taken-back")),
        }
    }

    /// Tells it that the guest belongs to the other VMM, and returns what it still had.
    ///
    /// # Errors
    /// How it ended instead.
    pub fn let_go(&mut self) -> Result<Lent, Stopped> {
        let limit = self.limits.jump;
        match self.ask(&LeavingRequest::HandOver {}, &Lent::default(), limit)? {
            Heard {
                message: LeavingReply::HandedOver { lent: value },
                fds,
            } => {
                self.connection = Err("The guest was handed over".into());
                Ok(Lent { value, fds })
            }
            other => Err(self.lost_track(&other.message, "handed-over")),
        }
    }

    /// Waits a limited time for the end of the VMM that handed over its guest.
    pub fn wait_for_end(&mut self) -> bool {
        self.process.ends_within(self.limits.jump)
    }

    /// Rolls the guest back and deletes its box.
    pub fn undo(&mut self) -> Stopped {
        let limit = self.limits.roll_back;
        let answer = self.ask(&LeavingRequest::RollBack {}, &Lent::default(), limit);
        let stopped = match self.cleaned_up(answer) {
            Err(stopped) => stopped,
            Ok(other) => self.lost_track(&other.message, "stopped"),
        };
        let runs_on = stopped.status != ExitStatus::GuestLost;
        match stopped.cancelled && runs_on && stopped.problems.is_empty() {
            // It did not fail: report only that it was called off.
            true => Stopped {
                message: "Continues".into(),
                ..stopped
            },
            false => stopped,
        }
    }

    /// Deletes the box of a guest that was rolled back.
    fn cleaned_up<T>(&mut self, answer: Result<T, Stopped>) -> Result<T, Stopped> {
        answer.map_err(|mut stopped| {
            // A VMM that is late rolls back later; the next update then deletes its box.
            if self.connection.is_ok() && std::mem::take(&mut self.has_box) {
                let name = &self.join.box_name;
                let deleted = self.boxes.delete_empty(name);
                if let Err(error) = deleted
                    && stopped.problems.is_empty()
                {
                    stopped.problems.push(error.to_string());
                }
            }
            stopped
        })
    }
}

//! A guest whose VMM is at the other end of a socket.

mod member;

use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use super::boxes::{Boxes, Owner};
use super::connection::{Connection, unexpected};
use super::process::Process;
use crate::deadline::Deadline;
use crate::error::{BoxError, Chain};
use crate::finding::Finding;
use crate::kind::Kind;
use crate::member::{
    BOX_FD, ChannelError, Heard, Join, LeavingReply, LeavingRequest, Lent, OnEvent,
};
use crate::update::{ExitStatus, Limits, Stopped};

/// A member of a [`Fleet`](crate::update::Fleet) that has its guest in another process: a VMM that runs
/// [`serve_leaving`](crate::member::serve_leaving). Dropped, it is rolled back, for its socket closes.
pub struct RemoteLeaving<B> {
    name: String,
    pub(super) join: Join,
    limits: Limits,
    pub(super) boxes: B,
    /// Or why the VMM cannot be asked any more.
    connection: Result<Connection, String>,
    kinds: BTreeSet<Kind>,
    findings: Vec<Finding>,
    /// What this process found.
    found: Vec<Finding>,
    process: Process,
    /// Whose the box becomes.
    owner: Option<Owner>,
    /// Its box is this update's.
    has_box: bool,
    /// The guest stands still, with all of it in the box.
    saved: bool,
    on_event: OnEvent,
}

impl<B> fmt::Debug for RemoteLeaving<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("RemoteLeaving");
        fields.field("name", &self.name).finish_non_exhaustive()
    }
}

impl<B: Boxes> RemoteLeaving<B> {
    /// The guest `name`, whose VMM serves the other end of `socket`; or why it cannot be asked, which is a guest
    /// that is not ready.
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
            // Its state goes in one, whatever else does.
            kinds: BTreeSet::from([Kind::Memfd]),
            findings: Vec::new(),
            found: Vec::new(),
            process: Process::default(),
            owner: None,
            has_box: false,
            saved: false,
            on_event: Box::new(|_, _| {}),
        }
    }

    /// Limits with those that only a coordinator has: for preflight, the rollback and the jump. The steps' own are in `join`.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits.preflight = limits.preflight;
        self.limits.jump = limits.jump;
        self.limits.roll_back = limits.roll_back;
        self
    }

    /// Which process the VMM is and as whom it runs, by the kernel's word (SO_PEERCRED, SCM_CREDENTIALS): a VMM that
    /// somebody has taken over would name another one. Its box is made that user's, so that the guest's next VMM can
    /// run as the same one.
    #[must_use]
    pub fn of_process(mut self, pid: u32, owner: Owner) -> Self {
        self.process = Process::new(pid);
        self.owner = Some(owner);
        self
    }

    /// What is known already of the kinds of files that it puts into its box.
    #[must_use]
    pub fn with_kinds(mut self, kinds: BTreeSet<Kind>) -> Self {
        self.kinds.extend(kinds);
        self
    }

    /// What this process found of the guest, such as of devices that its VMM has not the right to look at.
    #[must_use]
    pub fn with_findings(mut self, found: Vec<Finding>) -> Self {
        self.found = found;
        self
    }

    /// Who hears of its events: in nanoseconds since it joined.
    #[must_use]
    pub fn observed_by(mut self, on_event: OnEvent) -> Self {
        self.on_event = on_event;
        self
    }

    /// What its preflight found that does not stop the update.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Says an order and waits for the answer. `Err`: the guest is not ready, and all is undone.
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
            // Seen when it matters, or nothing is to be done about it any more.
            LeavingReply::CancelAsked {} => None,
            word => Some(word),
        };
        let heard = match connection.say(order, lent, deadline) {
            // What it said before it went tells more.
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

    /// There is nothing more to hear: closes the connection, and says what becomes of the guest.
    fn give_up(&mut self, error: &ChannelError) -> Stopped {
        let why = Chain(error).to_string();
        let who = &self.process;
        self.connection = Err(why.clone());
        let (status, message) = match self.process.is_dead(error) {
            Some(false) => (
                ExitStatus::RolledBack,
                format!("{why}{who}; it lives, and rolls its guest back by itself"),
            ),
            // Also if nobody knows of which process it was.
            _ if self.waits_in_box() => {
                let name = &self.join.box_name;
                (
                    ExitStatus::WaitsInBox,
                    format!("{why}{who}; the guest waits in box {name}: resume it"),
                )
            }
            _ => (ExitStatus::GuestLost, format!("{why}{who}")),
        };
        Stopped {
            status,
            error: Some(why),
            ..Stopped::untouched(message)
        }
    }

    /// Whether all of the guest is in the box, for whoever takes it.
    pub(super) fn waits_in_box(&self) -> bool {
        self.saved && self.boxes.has_guest(&self.join.box_name).unwrap_or(false)
    }

    /// That it said something else: it cannot be followed any more.
    fn lost_track(&mut self, said: &LeavingReply, expected: &'static str) -> Stopped {
        self.give_up(&unexpected(said, expected))
    }

    /// Makes its box, if it is not there, and opens it anew.
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
        let answer = self.ask(&LeavingRequest::Pause {}, &Lent::default(), limit);
        match self.cleaned_up(answer)? {
            Heard {
                message: LeavingReply::Saved { lent: value },
                fds,
            } => {
                self.saved = true;
                Ok(Lent { value, fds })
            }
            other => Err(self.lost_track(&other.message, "saved")),
        }
    }

    /// Has it take the state back out of the box: nobody else can have the guest any more.
    ///
    /// # Errors
    /// Somebody has it, or it cannot be asked.
    pub fn take_back(&mut self) -> Result<(), Stopped> {
        let limit = self.limits.roll_back;
        match self.ask(&LeavingRequest::TakeBack {}, &Lent::default(), limit)? {
            Heard {
                message: LeavingReply::TakenBack {},
                ..
            } => Ok(()),
            other => Err(self.lost_track(&other.message, "taken-back")),
        }
    }

    /// Tells it that the guest is the other VMM's, and returns what it still had.
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

    /// Waits for the end of the VMM that handed its guest over, for as long as that may take.
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
            // It did not fail: that it was called off is all there is to say.
            true => Stopped {
                message: "Runs on".into(),
                ..stopped
            },
            false => stopped,
        }
    }

    /// Deletes the box of a guest that was rolled back.
    fn cleaned_up<T>(&mut self, answer: Result<T, Stopped>) -> Result<T, Stopped> {
        answer.map_err(|mut stopped| {
            // A VMM that is late rolls back later: its box is deleted by the next update.
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

//! A guest of the update, reached over the API socket of its VMM.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vmm_fdbox::Kind;
use vmm_fdbox::update::{ExitStatus, Member, Stopped};

use super::output::Output;
use crate::error::chain;
use crate::service::api::joint::JoinRequest;
use crate::service::api::protocol::{Reply, Request};
use crate::service::api::{Client, ClientError};
use crate::service::told::{UpdateEnd, UpdateResult};
use crate::update;

/// Within which a VMM tells how its guest does, or cancels its update.
pub(super) const STATUS_LIMIT: Duration = Duration::from_secs(10);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct RemoteMember {
    name: String,
    socket: PathBuf,
    /// Or why the VMM cannot be asked.
    client: Result<Client, String>,
    /// The kinds of files that it puts into its box.
    kinds: BTreeSet<Kind>,
    /// What it is asked to join.
    pub(super) order: JoinRequest,
    /// How long it may take to pause, while the others stand still.
    pub(super) pause_limit: Option<Duration>,
    output: Output,
}

impl RemoteMember {
    /// Asks the VMM for its guest's name. A VMM that does not answer is a guest that is not
    /// ready, named by its socket.
    pub(super) fn connect(socket: &Path, output: &Output) -> Self {
        let asked = Client::connect(socket).and_then(|mut client| {
            client.set_limit(Some(STATUS_LIMIT))?;
            let reply = client.ask(&Request::Status, |_| {})?;
            client.set_limit(None)?;
            Ok((client, reply))
        });
        let stem = || socket.file_stem().unwrap_or_default().to_string_lossy();
        let mut kinds = BTreeSet::new();
        let (name, client) = match asked {
            Ok((client, Reply::Status(status))) => {
                kinds = update::kinds(status.ram_kind, !status.host_devices.is_empty());
                (status.name, Ok(client))
            }
            Ok((_, reply)) => (stem().into(), Err(unexpected(&reply))),
            Err(error) => (stem().into(), Err(chain(&error))),
        };
        Self {
            name,
            kinds,
            socket: socket.into(),
            client,
            order: JoinRequest::default(),
            pause_limit: None,
            output: output.clone(),
        }
    }

    pub(super) fn guest(&self) -> &str {
        &self.name
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// Has the VMM do its share of a step.
    fn ask(&mut self, request: &Request) -> Result<Reply, Stopped> {
        let client = self
            .client
            .as_mut()
            .map_err(|why| Stopped::untouched(&*why))?;
        let (output, name) = (&self.output, &self.name);
        client
            .ask(request, |reply| output.guest_event(name, reply))
            .map_err(|error| {
                // Nobody can tell what became of it; its VMM gave no sign of life.
                let why = chain(&error);
                // A VMM that is only late rolls back when it finds the connection closed.
                let late = matches!(error, ClientError::Late);
                self.client = Err(why.clone());
                Stopped {
                    status: if late {
                        ExitStatus::RolledBack
                    } else {
                        ExitStatus::GuestLost
                    },
                    ..Stopped::untouched(why)
                }
            })
    }

    /// How long the VMM may take for an answer.
    fn set_limit(&mut self, limit: Option<Duration>) -> Result<(), String> {
        let client = self.client.as_mut().map_err(|why| why.clone())?;
        client.set_limit(limit).map_err(|error| chain(&error))
    }

    fn go_on(&mut self, request: &Request) -> Result<(), Stopped> {
        match self.ask(request)? {
            Reply::StepDone { .. } => {
                self.output.member_done();
                Ok(())
            }
            Reply::UpdateEnd(end) => Err(stopped(end)),
            Reply::Error { message } => Err(Stopped::untouched(message)),
            other => Err(Stopped::untouched(unexpected(&other))),
        }
    }
}

fn unexpected(reply: &Reply) -> String {
    format!("The VMM gave an unexpected answer: {reply:?}")
}

fn runs_on(end: &UpdateEnd) -> bool {
    end.result != UpdateResult::GuestLost
}

fn stopped(end: UpdateEnd) -> Stopped {
    Stopped {
        status: match end.result {
            UpdateResult::Ready | UpdateResult::NothingChanged => ExitStatus::NothingChanged,
            UpdateResult::RolledBack => ExitStatus::RolledBack,
            UpdateResult::GuestLost => ExitStatus::GuestLost,
            UpdateResult::HandedOver | UpdateResult::Done => ExitStatus::Done,
        },
        message: end.message,
        cancelled: end.cancelled,
        step: None,
        error: end.error,
        problems: end.problems,
        paused_ns: end.paused_ns,
        findings: end.findings.into_iter().map(Into::into).collect(),
    }
}

impl Member for RemoteMember {
    fn name(&self) -> &str {
        &self.name
    }

    fn kinds(&self) -> BTreeSet<Kind> {
        self.kinds.clone()
    }

    fn preflight(&mut self) -> Result<(), Stopped> {
        self.go_on(&Request::JoinUpdate(self.order.clone()))
    }

    fn prepare(&mut self) -> Result<(), Stopped> {
        self.go_on(&Request::Prepare)
    }

    fn pause(&mut self) -> Result<(), Stopped> {
        self.set_limit(self.pause_limit)
            .map_err(Stopped::untouched)?;
        self.go_on(&Request::PauseAndSave)?;
        // Undoing takes as long as it takes.
        self.set_limit(None).map_err(Stopped::untouched)
    }

    /// Not for longer than it may take to pause: a VMM that hangs holds nobody up.
    fn set_down(&mut self) -> Result<(), String> {
        self.set_limit(self.pause_limit)?;
        let reply = self.ask(&Request::SetDown);
        match reply.map_err(|stopped| stopped.message)? {
            Reply::Ok => self.set_limit(None),
            Reply::UpdateEnd(end) => Err(end.message),
            Reply::Error { message } => Err(message),
            other => Err(unexpected(&other)),
        }
    }

    /// A VMM that waits for the jump says nothing unless it has to.
    fn cancel_asked(&mut self) -> bool {
        self.client.as_mut().is_ok_and(Client::has_something_to_say)
    }

    fn roll_back(&mut self) -> Stopped {
        match self.ask(&Request::RollBack) {
            // It did not fail: that it was called off is all there is to say.
            Ok(Reply::UpdateEnd(end)) if end.problems.is_empty() && runs_on(&end) => Stopped {
                message: "Runs on".into(),
                ..stopped(end)
            },
            Ok(Reply::UpdateEnd(end)) => stopped(end),
            Ok(Reply::Error { message }) => Stopped::untouched(message),
            Ok(other) => Stopped::untouched(unexpected(&other)),
            Err(stopped) => stopped,
        }
    }

    fn hand_over(&mut self) -> Result<(), Stopped> {
        match self.ask(&Request::HandOver)? {
            Reply::UpdateEnd(end) if end.has_left() => {
                let gone = Err("The VMM has ended".into());
                if let Ok(client) = std::mem::replace(&mut self.client, gone) {
                    // Whoever takes the guest over finds its old VMM gone.
                    client.wait_for_end();
                }
                Ok(())
            }
            Reply::UpdateEnd(end) => Err(stopped(end)),
            other => Err(Stopped::untouched(unexpected(&other))),
        }
    }
}

//! A member's end of the connection: receives orders in sequence, sends replies.

use std::cell::RefCell;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::wire::{Greeting, LeavingReply, LeavingRequest, VERSION, name_of};
use super::{Channel, ChannelError, Heard, Lent, Woken};
use crate::clock::Clock;
use crate::deadline::Deadline;
use crate::error::Chain;
use crate::finding::Finding;
use crate::update::{CancelFlag, Destination, Event, Step};

/// How long a coordinator may take to read a message.
const SEND_LIMIT: Duration = Duration::from_secs(10);

/// The orders of a coordinator to a member of one role.
pub(super) trait Request: DeserializeOwned + Serialize + PartialEq + Debug {
    /// The reply that refuses an order.
    fn refusal(message: String) -> impl Serialize;

    /// Whether the order is to undo everything.
    fn undoes(&self) -> bool;
}

impl Request for LeavingRequest {
    fn refusal(message: String) -> impl Serialize {
        LeavingReply::Refused { message }
    }

    fn undoes(&self) -> bool {
        *self == Self::RollBack {}
    }
}

/// What comes next.
pub(super) enum Next<O> {
    Request(Heard<O>),
    Undo,
    /// The coordinator is gone.
    Gone,
    /// Somebody else cancels.
    CancelAsked,
}

/// The connection, shared by all who send on it.
pub(super) struct Line<O> {
    channel: RefCell<Channel>,
    _orders: PhantomData<O>,
}

/// For messages of the other end that may come at any time.
fn ever() -> Deadline {
    Deadline::within(Duration::MAX)
}

impl<O: Request> Line<O> {
    pub(super) fn new(channel: Channel) -> Self {
        Self {
            channel: RefCell::new(channel),
            _orders: PhantomData,
        }
    }

    pub(super) fn into_channel(self) -> Channel {
        self.channel.into_inner()
    }

    /// Sends a message. A closed connection is only noticed at the next receive.
    pub(super) fn say(&self, message: &impl Serialize) {
        let _ = self.lend(message, &Lent::default());
    }

    pub(super) fn lend(&self, message: &impl Serialize, lent: &Lent) -> Result<(), ChannelError> {
        let deadline = Deadline::within(SEND_LIMIT);
        let mut channel = self.channel.borrow_mut();
        channel.send(message, &lent.borrowed(), deadline)
    }

    pub(super) fn refuse(&self, message: &str) {
        self.say(&O::refusal(message.to_owned()));
    }

    /// Exchanges `hello`, and waits for the first order with its descriptors. `None` if the
    /// coordinator is gone.
    pub(super) fn begin<T>(
        &self,
        first: impl Fn(O) -> Result<T, O>,
    ) -> Option<(T, Vec<(String, OwnedFd)>)> {
        let heard = self.channel.borrow_mut().receive::<Greeting>(ever());
        let Greeting::Hello { version } = match heard {
            Ok(heard) => heard.message,
            Err(error) => {
                self.refuse(&Chain(&error).to_string());
                return None;
            }
        };
        let version = version.min(VERSION);
        self.say(&Greeting::Hello { version });
        if version == 0 {
            return None;
        }
        loop {
            match self.next(None, |_| true) {
                Next::Request(heard) => match first(heard.message) {
                    Ok(first) => return Some((first, heard.fds)),
                    Err(order) => self.refuse_turn(&order),
                },
                Next::Undo => self.refuse("There is nothing to roll back"),
                Next::Gone | Next::CancelAsked => return None,
            }
        }
    }

    fn refuse_turn(&self, order: &O) {
        self.refuse(&format!(
            "'{}' is not the next step of the update",
            name_of(order)
        ));
    }

    /// Waits for an order, or for somebody who cancels.
    pub(super) fn next(&self, cancel: Option<&CancelFlag>, fits: impl Fn(&O) -> bool) -> Next<O> {
        // Without a descriptor, the next step notices a cancel.
        let event = cancel.and_then(|cancel| cancel.descriptor().ok());
        loop {
            let heard = self.channel.borrow_mut().receive_or::<O>(event, ever());
            match heard {
                Ok(Woken::Heard(heard)) if heard.message.undoes() => return Next::Undo,
                Ok(Woken::Heard(heard)) if fits(&heard.message) => return Next::Request(heard),
                Ok(Woken::Heard(heard)) => self.refuse_turn(&heard.message),
                Ok(Woken::Other) => return Next::CancelAsked,
                Err(error @ (ChannelError::Nonsense(_) | ChannelError::FdsDiffer { .. })) => {
                    self.refuse(&Chain(&error).to_string());
                }
                Err(_) => return Next::Gone,
            }
        }
    }
}

/// Forwards events to the coordinator, but none while the guest waits.
pub(super) struct Reporter<'a> {
    line: &'a Line<LeavingRequest>,
    clock: Clock,
    begin: u64,
    to: Destination,
    held: Vec<LeavingReply>,
    /// Whether the guest is about to be paused, or is.
    blackout: bool,
    warnings: Vec<Finding>,
}

impl<'a> Reporter<'a> {
    pub(super) fn new(line: &'a Line<LeavingRequest>, clock: Clock, to: Destination) -> Self {
        Self {
            line,
            clock,
            begin: clock.now(),
            to,
            held: Vec::new(),
            blackout: false,
            warnings: Vec::new(),
        }
    }

    pub(super) fn report(&mut self, ticks: u64, event: &Event) {
        if let Event::Warning(finding) = event {
            self.warnings.push(finding.clone());
        }
        let pauses = *event == Event::Started(Step::Pause);
        // The coordinator of a successor soon hears from the new VMM, and need not read about the
        // pause, which would take the CPU that the guest is waiting for.
        self.blackout |= pauses && self.to == Destination::Successor;
        let message = LeavingReply::Event {
            ns: self.clock.to_ns(ticks.saturating_sub(self.begin)),
            event: event.clone(),
        };
        if self.blackout {
            self.held.push(message);
        } else {
            self.line.say(&message);
        }
        self.blackout |= pauses;
    }

    /// The findings of preflight that do not stop the update.
    pub(super) fn warnings(&self) -> Vec<Finding> {
        self.warnings.clone()
    }

    /// Sends the events that were held back.
    pub(super) fn flush(self) {
        self.held.iter().for_each(|message| self.line.say(message));
    }
}

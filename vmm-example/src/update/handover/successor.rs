//! The old side: a host that stays, and starts the VMM that takes the guest.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;

use vmm_fdbox::update::{CancelFlag, Host, PartyError};
use vmm_fdbox::{BoxName, Deadline, Finding};

use super::ask::ask;
use super::child::Successive;
use super::link::{LinkError, MAX_FDS};
use super::{Heir, Hello, Order, Running, Word};
use crate::guest::machine::Machine;
use crate::guest::state;
use crate::service::estate::{Estate, fd};
use crate::update::party_error;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Successor<'a> {
    heir: Heir,
    box_name: BoxName,
    estate: &'a Estate,
    hello: Hello,
    guest: Option<&'a Machine>,
    cancel: CancelFlag,
    child: Option<Successive>,
    /// The child may run the guest.
    committed: bool,
    running: Option<Running>,
}

impl<'a> Successor<'a> {
    /// A successor for the guest that `machine` and `vcpus` describe.
    pub(crate) fn new(
        heir: Heir,
        box_name: BoxName,
        estate: &'a Estate,
        machine: state::MachineStateV1,
        vcpus: usize,
        cancel: CancelFlag,
    ) -> Self {
        Self {
            heir,
            box_name,
            estate,
            hello: Hello {
                machine,
                vcpus,
                places: Vec::new(),
                fds: Vec::new(),
                terminal: estate.terminal(),
            },
            guest: None,
            cancel,
            child: None,
            committed: false,
            running: None,
        }
    }

    /// The guest whose devices go along.
    pub(crate) fn with_devices_of(mut self, guest: &'a Machine) -> Self {
        self.hello.places = guest.virtio().places();
        self.guest = Some(guest);
        self
    }

    /// What the successor said when the guest ran; none if it does not.
    pub(crate) fn running(&self) -> Option<&Running> {
        self.running.as_ref()
    }

    /// Leaves everything to the successor; this process has nothing to do any more.
    pub(crate) fn leave(mut self) {
        let clients = self.estate.give_up();
        let Some(mut child) = self.child.take() else {
            return;
        };
        for clients in clients.chunks(MAX_FDS) {
            let fds: Vec<BorrowedFd<'_>> = clients.iter().map(AsFd::as_fd).collect();
            // A client that does not get there finds its connection closed.
            let _ = child.link.send(&Order::Clients, &fds);
        }
        child.let_go();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.heir.binary);
        command
            .args(["resume", "--handover", "--box"])
            .arg(self.box_name.to_string())
            .args(self.estate.arguments());
        if let Some(step) = self.heir.fail_at {
            command.args(["--fail-at", step]);
        }
        command
    }

    fn child(&mut self) -> Result<&mut Successive, PartyError> {
        let gone = || PartyError::from("The new VMM was not started");
        self.child.as_mut().ok_or_else(gone)
    }

    fn say(&mut self, order: &Order, fds: &[BorrowedFd<'_>]) -> Result<(), PartyError> {
        match self.child()?.link.send(order, fds) {
            // What it said before it went tells more.
            Ok(()) | Err(LinkError::Gone) => Ok(()),
            Err(error) => Err(party_error(error)),
        }
    }

    /// The next thing the successor says, with a bad end explained.
    fn hear(&mut self) -> Result<Word, PartyError> {
        let limit = self.heir.limit;
        let child = self.child()?;
        match child.link.receive::<Word>(Some(limit)) {
            Ok((Word::Failed { message }, _)) => {
                Err(format!("The new VMM failed: {message}").into())
            }
            Ok((word, _)) => Ok(word),
            Err(LinkError::Gone) => {
                let end = child.reap().unwrap_or_else(|| "it ended".into());
                Err(format!("The new VMM is gone: {end}").into())
            }
            Err(error) => Err(party_error(error)),
        }
    }

    fn expect(&mut self, expected: &Word) -> Result<(), PartyError> {
        match self.hear()? {
            word if word == *expected => Ok(()),
            word => Err(format!("The new VMM said {word:?} instead of {expected:?}").into()),
        }
    }

    /// Up to where the successor can run the guest.
    fn restore(&mut self) -> Result<(), PartyError> {
        let client = self.estate.console_client();
        let client = client.map(|client| (fd::CONSOLE_CLIENT.into(), client));
        let devices = self.guest.map(Machine::lend).transpose();
        let devices = devices.map_err(party_error)?.unwrap_or_default();
        let (names, fds): (Vec<String>, Vec<OwnedFd>) = client.into_iter().chain(devices).unzip();
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        self.say(&Order::Go { fds: names }, &fds)?;
        self.expect(&Word::Restored)?;
        if self.cancel.is_cancelled() {
            return Err("Cancelled".into());
        }
        Ok(())
    }
}

impl Drop for Successor<'_> {
    /// Only `unload` ends a child that may run the guest: the guest is known not to be there.
    fn drop(&mut self) {
        if let (true, Some(child)) = (self.committed, &mut self.child) {
            child.let_go();
        }
    }
}

impl Host for Successor<'_> {
    /// Asks the binary.
    fn preflight(&mut self) -> Vec<Finding> {
        let devices = self.guest.map(Machine::device_sections).unwrap_or_default();
        let described = state::description(&devices);
        ask(&self.heir.binary, &described, self.heir.limit)
    }

    fn leaves_kernel(&self) -> bool {
        false
    }

    fn seals(&self) -> bool {
        false
    }

    /// Starts the successor.
    fn load(&mut self) -> Result<(), PartyError> {
        let child = Successive::start(self.command()).map_err(party_error)?;
        let fds = self.estate.fds();
        let (names, fds): (Vec<_>, Vec<_>) = fds.into_iter().unzip();
        self.hello.fds = names.into_iter().map(String::from).collect();
        self.child = Some(child);
        let hello = Order::Hello(self.hello.clone());
        let started = self
            .say(&hello, &fds)
            .and_then(|()| self.expect(&Word::Ready));
        if started.is_err() {
            self.child = None;
        }
        started
    }

    fn prebuild(&mut self) -> Result<(), PartyError> {
        self.say(&Order::Prebuild, &[])?;
        self.expect(&Word::Prebuilt)
    }

    /// Hands the guest over. Before `commit` the successor is ended if it fails; after it, the
    /// box tells whether it has taken the guest.
    fn jump(&mut self, _: Deadline) -> Result<(), PartyError> {
        if let Err(error) = self.restore() {
            self.child = None;
            return Err(error);
        }
        self.say(&Order::Commit, &[])?;
        self.committed = true;
        match self.hear()? {
            Word::Running(running) => {
                self.running = Some(running);
                Ok(())
            }
            word => Err(format!("The new VMM said {word:?} instead of running").into()),
        }
    }

    fn unload(&mut self) -> Result<(), PartyError> {
        self.child = None;
        Ok(())
    }
}

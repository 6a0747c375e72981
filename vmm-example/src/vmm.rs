//! A running guest and what can be asked of it.

use std::process;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use vmm_fdbox::update::CancelFlag;

use crate::api::Service;
use crate::api::protocol::{GuestStatus, Reply, Request, RunState};
use crate::event_loop::EndSignal;
use crate::live_update;
use crate::machine::Machine;
use crate::vcpu::GuestEnd;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Vmm {
    machine: Machine,
    end: EndSignal,
    state: Mutex<State>,
    update_ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    paused: bool,
    /// Cancels the update that is on.
    update: Option<CancelFlag>,
}

/// Why a request was refused; the guest is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    UpdateIsOn,
    NoUpdate,
    Paused,
}

impl Refusal {
    fn message(self) -> &'static str {
        match self {
            Self::UpdateIsOn => "An update is on: wait for it, or cancel it",
            Self::NoUpdate => "No update is on",
            Self::Paused => "The guest is paused: let it run first, with `continue`",
        }
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        Self::Error {
            message: refusal.message().into(),
        }
    }
}

impl Vmm {
    /// Takes a parked guest and runs it.
    pub(crate) fn start(machine: Machine, end: EndSignal) -> Self {
        machine.run();
        Self {
            machine,
            end,
            state: Mutex::default(),
            update_ended: Condvar::new(),
        }
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Ends the VMM.
    pub(crate) fn end(&self, end: GuestEnd) {
        self.end.send(end);
    }

    /// Keeps everything else away from the guest until [`end_update`](Self::end_update).
    pub(crate) fn begin_update(&self) -> Result<CancelFlag, Refusal> {
        let mut state = self.lock();
        if state.update.is_some() {
            return Err(Refusal::UpdateIsOn);
        }
        if state.paused {
            return Err(Refusal::Paused);
        }
        let cancel = CancelFlag::new();
        state.update = Some(cancel.clone());
        Ok(cancel)
    }

    pub(crate) fn end_update(&self) {
        self.lock().update = None;
        self.update_ended.notify_all();
    }

    /// Gives up an update that is on and waits for it to be undone: for when the guest has
    /// come to its end.
    pub(crate) fn abandon_update(&self) {
        let state = self.lock();
        state.update.iter().for_each(CancelFlag::cancel);
        let waited = self
            .update_ended
            .wait_while(state, |state| state.update.is_some());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn status(&self) -> GuestStatus {
        let state = self.lock();
        GuestStatus {
            name: self.machine.name().into(),
            state: match *state {
                State {
                    update: Some(_), ..
                } => RunState::Updating,
                State { paused: true, .. } => RunState::Paused,
                State { .. } => RunState::Running,
            },
            pid: process::id(),
            vcpus: self.machine.cpus(),
            ram_kind: self.machine.ram().kind(),
            ram_mib: self.machine.ram().mib(),
            tsc_khz: self.machine.host_tsc_khz(),
            devices: self.machine.device_counts(),
        }
    }

    fn pause(&self) -> Result<(), Refusal> {
        let mut state = self.free()?;
        self.machine.park();
        state.paused = true;
        Ok(())
    }

    fn resume(&self) -> Result<(), Refusal> {
        let mut state = self.free()?;
        if state.paused {
            self.machine.notify_stopped();
            self.machine.run();
            self.machine.flush_console();
            state.paused = false;
        }
        Ok(())
    }

    fn cancel(&self) -> Result<(), Refusal> {
        let state = self.lock();
        state.update.as_ref().ok_or(Refusal::NoUpdate)?.cancel();
        Ok(())
    }

    /// The state, if no update is on.
    fn free(&self) -> Result<MutexGuard<'_, State>, Refusal> {
        let state = self.lock();
        if state.update.is_some() {
            Err(Refusal::UpdateIsOn)
        } else {
            Ok(state)
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service for Vmm {
    fn serve(&self, request: Request, send: &mut dyn FnMut(&Reply)) {
        let done = match request {
            Request::Status => {
                send(&Reply::Status(self.status()));
                return;
            }
            Request::LiveUpdate(request) => {
                live_update::serve(self, &request, send);
                return;
            }
            Request::Pause => self.pause(),
            Request::Resume => self.resume(),
            Request::Cancel => self.cancel(),
            Request::Shutdown => {
                self.end(GuestEnd::Stopped);
                Ok(())
            }
        };
        send(&done.map_or_else(Reply::from, |()| Reply::Ok));
    }
}

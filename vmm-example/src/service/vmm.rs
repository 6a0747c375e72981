//! A running guest and the requests it serves.

mod guarded;
mod life;

use std::process;
use std::sync::{Arc, MutexGuard, OnceLock};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use vmm_fdbox::Deadline;
use vmm_fdbox::update::CancelFlag;

use self::guarded::Guarded;
use crate::guest::machine::Machine;
use crate::guest::state::JourneyV1;
use crate::guest::vcpu::GuestEnd;
use crate::metrics::{Counted, Metrics};
use crate::service::api::protocol::{GuestStatus, Reply, RunState};
use crate::service::endpoints::Endpoints;
use crate::service::event_loop::EndSignal;
use crate::service::history::{History, OnEvent};
use crate::service::power::PowerTimer;
use crate::service::update_message::{UpdateEnd, UpdateResult};
use crate::spec::MIB;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Vmm {
    machine: Machine,
    end: EndSignal,
    power: PowerTimer,
    /// What another binary would take over besides the guest.
    endpoints: Option<Endpoints>,
    /// Can always be read without waiting, even while a guest takes long to pause.
    state: Guarded<State>,
    history: Arc<History>,
    /// In a lifeboat, what the guest does by itself is carried out in the host.
    is_in_lifeboat: bool,
    /// Set in a lifeboat.
    journey: OnceLock<Journey>,
}

/// How the guest came to the lifeboat, and the CPU time of this process at that moment.
#[derive(Debug)]
struct Journey {
    until_here: JourneyV1,
    began_ns: u64,
}

fn cpu_time_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[derive(Debug, Default)]
struct State {
    /// What may be the guest's end, deferred until the current update is over.
    waiting: Vec<GuestEnd>,
    /// Cancels the current update.
    update: Option<CancelFlag>,
    /// Whether the guest no longer runs here: another VMM has it, or nobody does.
    left: bool,
}

impl State {
    /// Whether the guest can be paused, continued and updated now.
    fn check_free(&self) -> Result<(), Refusal> {
        match self {
            Self { left: true, .. } => Err(Refusal::Left),
            Self {
                update: Some(_), ..
            } => Err(Refusal::UpdateIsOn),
            Self { .. } => Ok(()),
        }
    }

    /// Ends an update.
    fn end_update(&mut self, end: &UpdateEnd) {
        self.update = None;
        self.left |= end.has_left() || end.result == UpdateResult::GuestLost;
    }
}

/// How long devices may take to come to rest when somebody pauses the guest.
const QUIESCE_LIMIT: Duration = Duration::from_secs(10);

/// Why a request was refused; the guest is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    UpdateIsOn,
    NoUpdate,
    Left,
    Busy,
}

impl Refusal {
    fn message(self) -> &'static str {
        match self {
            Self::UpdateIsOn => "An update is in progress: wait for it, or cancel it",
            Self::NoUpdate => "No update is in progress",
            Self::Busy => {
                "The guest's devices do not finish their requests: try again when they have"
            }
            Self::Left => "This VMM no longer has the guest: it is about to end",
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        Self::Error {
            message: refusal.message().into(),
        }
    }
}

impl Vmm {
    /// Takes a parked guest and runs it.
    pub(crate) fn start(machine: Machine, end: EndSignal, power: PowerTimer) -> Self {
        // Reports what it did by itself before it came here.
        machine.end().into_iter().for_each(|did| end.send(did));
        machine.run();
        let history = Arc::new(History::new(machine.name()));
        Self {
            machine,
            end,
            power,
            endpoints: None,
            state: Guarded::default(),
            history,
            is_in_lifeboat: false,
            journey: OnceLock::new(),
        }
    }

    pub(crate) fn set_in_lifeboat(&mut self) {
        self.is_in_lifeboat = true;
    }

    pub(crate) fn is_in_lifeboat(&self) -> bool {
        self.is_in_lifeboat
    }

    /// Records how the guest came to this lifeboat.
    pub(crate) fn begin_journey(&self, until_here: JourneyV1) {
        let began_ns = cpu_time_ns();
        // A guest comes once.
        let _ = self.journey.set(Journey {
            until_here,
            began_ns,
        });
    }

    /// The guest's way so far, in a lifeboat.
    pub(crate) fn journey(&self) -> Option<JourneyV1> {
        let journey = self.journey.get()?;
        Some(JourneyV1 {
            cpu_time_ns: cpu_time_ns().saturating_sub(journey.began_ns),
            ..journey.until_here.clone()
        })
    }

    pub(crate) fn set_endpoints(&mut self, endpoints: Endpoints) {
        self.endpoints = Some(endpoints);
    }

    pub(crate) fn endpoints(&self) -> Option<&Endpoints> {
        self.endpoints.as_ref()
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The history of the guest.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// Receives each event of an update.
    pub(crate) fn update_watch(&self) -> OnEvent {
        let history = self.history.clone();
        Arc::new(move |event| history.update_event(event))
    }

    /// Ends the VMM.
    pub(crate) fn end(&self, end: GuestEnd) {
        self.end.send(end);
    }

    /// Whether an update can begin now.
    pub(crate) fn check_update(&self) -> Result<(), Refusal> {
        self.free().map(drop)
    }

    /// Keeps all other operations away from the guest until [`end_update`](Self::end_update).
    pub(crate) fn begin_update(&self) -> Result<CancelFlag, Refusal> {
        let _turn = self.state.turn();
        let mut state = self.free()?;
        let cancel = CancelFlag::new();
        state.update = Some(cancel.clone());
        self.history.update_begin();
        Ok(cancel)
    }

    pub(crate) fn end_update(&self, end: &UpdateEnd) {
        let mut state = self.lock();
        state.end_update(end);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.history.update_end(end);
        self.state.notify();
        // If the guest has left, they are a matter for another VMM.
        waiting.into_iter().for_each(|end| self.end.send(end));
    }

    /// Cancels a current update and waits for it to be undone, because the guest has ended.
    pub(crate) fn abandon_update(&self) {
        let state = self.lock();
        state.update.iter().for_each(CancelFlag::cancel);
        self.state.wait_while(state, |state| state.update.is_some());
    }

    pub(crate) fn status(&self) -> GuestStatus {
        let state = self.lock();
        GuestStatus {
            name: self.machine.name().into(),
            state: match *state {
                State {
                    update: Some(_), ..
                } => RunState::Updating,
                State { .. } if self.machine.is_held() => RunState::Paused,
                State { .. } => RunState::Running,
            },
            pid: process::id(),
            vcpus: self.machine.cpus(),
            cpu_features: self.machine.cpu_features().to_vec(),
            ram_kind: self.machine.ram().kind(),
            ram_mib: self.machine.ram().mib(),
            tsc_khz: self.machine.host_tsc_khz(),
            step: self.history.step(),
            last_update: self.history.last_update(),
            blackout: self.history.blackout(),
            previous_kernel: self.history.previous_kernel(),
            devices: self.machine.device_counts(),
            host_devices: self.machine.pci().status(),
        }
    }

    pub(crate) fn metrics(&self) -> String {
        let machine = &self.machine;
        let mut metrics = Metrics::of(machine.name());
        let status = self.status();
        let is = |state| f64::from(u8::from(status.state == state));
        metrics.gauge(
            "state",
            "What the guest does: 1 for the state it is in.",
            &[
                (&[("state", "running")], is(RunState::Running)),
                (&[("state", "paused")], is(RunState::Paused)),
                (&[("state", "updating")], is(RunState::Updating)),
            ],
        );
        let bytes = machine.ram().mib() as f64 * MIB as f64;
        metrics.gauge("memory_bytes", "The guest's memory.", &[(&[], bytes)]);
        self.history.count(&mut metrics);
        machine.count(&mut metrics);
        metrics.finish()
    }

    pub(crate) fn pause(&self) -> Result<(), Refusal> {
        let _turn = self.state.turn();
        drop(self.free()?);
        self.history.note("pausing");
        let quiet = self.machine.quiesce(Deadline::within(QUIESCE_LIMIT), false);
        if quiet.is_err() {
            self.machine.run();
            return Err(Refusal::Busy);
        }
        self.machine.hold(true);
        self.machine.park();
        self.history.note("paused");
        Ok(())
    }

    pub(crate) fn go_on(&self) -> Result<(), Refusal> {
        let _turn = self.state.turn();
        drop(self.free()?);
        if self.machine.is_held() {
            self.history.note("resuming");
            self.machine.notify_stopped();
            self.machine.hold(false);
            self.machine.run();
            self.machine.flush_console();
            self.history.note("resumed");
        }
        Ok(())
    }

    pub(crate) fn cancel(&self) -> Result<(), Refusal> {
        let state = self.lock();
        state.update.as_ref().ok_or(Refusal::NoUpdate)?.cancel();
        Ok(())
    }

    /// The state, if no update is in progress and the guest is here.
    fn free(&self) -> Result<MutexGuard<'_, State>, Refusal> {
        let state = self.lock();
        state.check_free()?;
        Ok(state)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused_after(result: UpdateResult) -> Option<Refusal> {
        let mut state = State {
            update: Some(CancelFlag::new()),
            ..State::default()
        };
        assert_eq!(state.check_free(), Err(Refusal::UpdateIsOn));
        state.end_update(&UpdateEnd {
            result,
            ..UpdateEnd::ready()
        });
        state.check_free().err()
    }

    #[test]
    fn a_guest_that_has_left_is_refused_and_one_that_stays_is_not() {
        for result in [
            UpdateResult::Done,
            UpdateResult::HandedOver,
            UpdateResult::GuestLost,
        ] {
            assert_eq!(refused_after(result), Some(Refusal::Left), "{result:?}");
        }
        for result in [
            UpdateResult::Ready,
            UpdateResult::NothingChanged,
            UpdateResult::RolledBack,
        ] {
            assert_eq!(refused_after(result), None, "{result:?}");
        }
    }
}

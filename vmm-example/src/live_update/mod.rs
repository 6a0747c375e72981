//! The guest's side of an update, and running one for a client.

use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::time::Duration;

use vmm_fdbox::frame::FrameWriter;
use vmm_fdbox::update::{
    Event, Guest, Host, KexecHost, NamedFd, NextKernel, Outcome, PartyError, Plan, SameHost, Step,
    Update, UpdateError,
};
use vmm_fdbox::{BoxName, BoxStore, Clock, Control, FdName, Finding};

use crate::api::protocol::{Reply, UpdateEnd, UpdateEvent, UpdateRequest};
use crate::error::chain;
use crate::machine::{Machine, MachineError};
use crate::state::{self, GuestState};
use crate::vcpu::GuestEnd;
use crate::vmm::Vmm;

/// The name of the VM in its box.
pub(crate) const VM_FD: &str = "vm";
/// The name of guest RAM in its box.
pub(crate) const MEMORY_FD: &str = "memory0";

/// What an update needs of a machine.
pub(crate) trait Movable {
    /// Descriptors for the box, dependencies first.
    fn duplicate_fds(&self) -> Result<Vec<(&'static str, OwnedFd)>, MachineError>;
    fn park(&self);
    fn save(&self) -> Result<GuestState, MachineError>;
    /// Runs the parked guest on.
    fn run_on(&self);
    /// Whether the guest reset itself, switched itself off or broke down.
    fn has_ended(&self) -> bool;
    /// Whether the host's TSC can measure the time that passes.
    fn has_steady_tsc(&self) -> bool;
    /// What of its devices stands in the way, or an operator should know.
    fn device_findings(&self) -> Vec<Finding> {
        Vec::new()
    }
}

impl Movable for Machine {
    fn duplicate_fds(&self) -> Result<Vec<(&'static str, OwnedFd)>, MachineError> {
        // A guest_memfd belongs to its VM: the VM goes first.
        Ok(vec![
            (VM_FD, self.vm().duplicate()?),
            (MEMORY_FD, self.ram().duplicate()?),
        ])
    }

    fn park(&self) {
        Self::park(self);
    }

    fn save(&self) -> Result<GuestState, MachineError> {
        Self::save(self)
    }

    fn run_on(&self) {
        self.notify_stopped();
        self.run();
        self.flush_console();
    }

    fn has_ended(&self) -> bool {
        Self::has_ended(self)
    }

    fn has_steady_tsc(&self) -> bool {
        self.host_tsc_khz() != 0
    }

    fn device_findings(&self) -> Vec<Finding> {
        self.virtio().findings()
    }
}

/// A machine as the library's state machine sees it.
///
/// The box gets duplicates: mappings, vCPUs and events stay, so the guest runs on while the
/// box is sealed, and what a rollback gives back can be dropped.
struct Moving<'a, M>(&'a M);

impl<M: Movable> Guest for Moving<'_, M> {
    fn preflight(&mut self) -> Vec<Finding> {
        let mut findings = self.0.device_findings();
        if !self.0.has_steady_tsc() {
            findings.push(Finding::warning(
                "TSC",
                "KVM does not know its frequency, so the guest's clock will be off by the blackout",
                "boot a host with a stable TSC",
            ));
        }
        findings
    }

    fn take_fds(&mut self) -> Result<Vec<NamedFd>, PartyError> {
        let fds = self.0.duplicate_fds().map_err(party_error)?;
        fds.into_iter()
            .map(|(name, fd)| {
                Ok(NamedFd {
                    name: FdName::new(name)?,
                    fd,
                })
            })
            .collect()
    }

    fn pause(&mut self) -> Result<(), PartyError> {
        self.0.park();
        if self.0.has_ended() {
            Err("The guest has come to its end".into())
        } else {
            Ok(())
        }
    }

    fn save(&mut self, frame: &mut FrameWriter<'_>) -> Result<(), PartyError> {
        self.0
            .save()
            .map_err(party_error)?
            .write(frame)
            .map_err(party_error)
    }

    fn give_back(&mut self, _: &FdName, _: OwnedFd) -> Result<(), PartyError> {
        Ok(())
    }

    fn resume_in_place(&mut self) -> Result<(), PartyError> {
        self.0.run_on();
        Ok(())
    }
}

/// An error with its causes, for the library to show.
pub(crate) fn party_error(error: impl std::error::Error + Send + Sync + 'static) -> PartyError {
    chain(&error).into()
}

/// What a client asked for makes no sense.
#[derive(Debug, thiserror::Error)]
enum BadRequest {
    #[error(transparent)]
    Step(#[from] vmm_fdbox::update::UnknownStep),
    #[error("{0:?} is not the name of a box")]
    Name(String),
}

/// An update, with all that was asked for checked.
#[derive(Debug)]
struct Order {
    plan: Plan,
    dry_run: bool,
    cancel_after: Option<Step>,
}

/// Runs an update for a client.
pub(crate) fn serve(vmm: &Vmm, request: &UpdateRequest, send: &mut dyn FnMut(&Reply)) {
    let cancel = match vmm.begin_update() {
        Ok(cancel) => cancel,
        Err(refusal) => return send(&refusal.into()),
    };
    let order = order(vmm.machine(), request).map(|mut order| {
        order.plan.cancel = cancel;
        order
    });
    let reply = match order {
        Ok(order) => Reply::UpdateEnd(execute(vmm.machine(), order, request, send)),
        Err(error) => Reply::Error {
            message: chain(&error),
        },
    };
    vmm.end_update();
    send(&reply);
    if matches!(&reply, Reply::UpdateEnd(end) if end.is_handed_over()) {
        vmm.end(GuestEnd::HandedOver);
    }
}

fn order(machine: &Machine, request: &UpdateRequest) -> Result<Order, BadRequest> {
    let step = |name: &Option<String>| name.as_deref().map(str::parse::<Step>).transpose();
    let name = request.box_name.as_deref().unwrap_or(machine.name());
    let name = BoxName::new(name).map_err(|_| BadRequest::Name(name.into()))?;
    let mut plan = Plan::new(name, clock(machine.host_tsc_khz()), state::PRODUCER);
    plan.state_bytes = state::frame_capacity(machine.cpus());
    plan.fail_at = step(&request.fail_at)?;
    Ok(Order {
        plan,
        dry_run: request.dry_run,
        cancel_after: step(&request.cancel_after)?,
    })
}

/// The host's TSC, with the frequency that KVM knows, or else a measured one.
fn clock(khz: u32) -> Clock {
    NonZeroU32::new(khz).map_or_else(|| Clock::measure(Duration::from_millis(50)), Clock::tsc)
}

fn execute(
    machine: &Machine,
    order: Order,
    request: &UpdateRequest,
    send: &mut dyn FnMut(&Reply),
) -> UpdateEnd {
    let control = match Control::open() {
        Ok(control) => control,
        Err(error) => {
            return UpdateEnd::new(&Outcome::NothingChanged {
                step: Step::Preflight,
                error: UpdateError::Box(error),
            });
        }
    };
    match &request.next {
        Some(next) => {
            let mut host = KexecHost::new(NextKernel::Files {
                kernel: next.kernel.clone(),
                initramfs: next.initramfs.clone(),
                cmdline: next.cmdline.clone(),
            });
            drive(&control, &mut host, machine, order, send)
        }
        None => drive(&control, &mut SameHost, machine, order, send),
    }
}

/// Runs the update and streams what happens.
fn drive<S: BoxStore, H: Host, M: Movable>(
    store: &S,
    host: &mut H,
    machine: &M,
    order: Order,
    send: &mut dyn FnMut(&Reply),
) -> UpdateEnd {
    let Order {
        plan,
        dry_run,
        cancel_after,
    } = order;
    let mut reporter = Reporter::new(plan.clock, send);
    let cancel = plan.cancel.clone();
    let mut observer = |ticks: u64, event: &Event| {
        if matches!(event, Event::Done(step) if Some(*step) == cancel_after) {
            cancel.cancel();
        }
        reporter.report(ticks, event);
    };
    let mut guest = Moving(machine);
    let update = Update::new(store, host, &mut guest, plan).observed_by(&mut observer);
    let end = if dry_run {
        update
            .preflight()
            .map_or_else(|outcome| UpdateEnd::new(&outcome), |_| UpdateEnd::ready())
    } else {
        UpdateEnd::new(&update.run())
    };
    reporter.flush();
    end
}

/// Sends events to a client, but nothing while the guest waits.
struct Reporter<'a> {
    clock: Clock,
    begin: u64,
    send: &'a mut dyn FnMut(&Reply),
    /// The guest is being paused, or is.
    blackout: bool,
    held: Vec<Reply>,
}

impl<'a> Reporter<'a> {
    fn new(clock: Clock, send: &'a mut dyn FnMut(&Reply)) -> Self {
        Self {
            clock,
            begin: clock.now(),
            send,
            blackout: false,
            held: Vec::new(),
        }
    }

    fn report(&mut self, ticks: u64, event: &Event) {
        let ns = self.clock.to_ns(ticks.saturating_sub(self.begin));
        let reply = Reply::Event(UpdateEvent::new(ns, event));
        if self.blackout {
            self.held.push(reply);
        } else {
            (self.send)(&reply);
        }
        // What follows is known when the guest runs again, here or elsewhere.
        self.blackout |= *event == Event::Started(Step::Pause);
    }

    fn flush(&mut self) {
        self.held.drain(..).for_each(|reply| (self.send)(&reply));
    }
}

#[cfg(test)]
mod tests;

//! The guest's side of an update, and running one for a client.

pub(crate) mod joint;

use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vmm_fdbox::frame::FrameWriter;
use vmm_fdbox::update::{
    Event, Guest, Host, KexecHost, NamedFd, NextKernel, Outcome, PartyError, Plan, SameHost, Step,
    Update, UpdateError,
};
use vmm_fdbox::{BoxName, BoxStore, Clock, Control, FdName, Finding};

use crate::api::peer::Peer;
use crate::api::protocol::{
    FindingReport, Reply, UpdateEnd, UpdateEvent, UpdateRequest, UpdateResult,
};
use crate::error::chain;
use crate::handover::{self, Heir, Successor};
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
    /// What of its devices stands in the way, or an operator should know. `carried`: their
    /// descriptors go along.
    fn device_findings(&self, _carried: bool) -> Vec<Finding> {
        Vec::new()
    }
    /// Makes safe what the host holds for the parked guest and would lose with its kernel.
    fn flush(&self) -> Result<(), MachineError> {
        Ok(())
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
        // Input that comes from now on is for whoever runs the guest next.
        self.console().gate().shut();
        Self::park(self);
    }

    fn save(&self) -> Result<GuestState, MachineError> {
        Self::save(self)
    }

    fn run_on(&self) {
        self.notify_stopped();
        self.run();
        self.flush_console();
        self.console().gate().open();
    }

    fn has_ended(&self) -> bool {
        Self::has_ended(self)
    }

    fn has_steady_tsc(&self) -> bool {
        self.host_tsc_khz() != 0
    }

    fn device_findings(&self, carried: bool) -> Vec<Finding> {
        self.virtio().findings(carried)
    }

    fn flush(&self) -> Result<(), MachineError> {
        Ok(self.virtio().flush()?)
    }
}

/// A machine as the library's state machine sees it.
///
/// The box gets duplicates: mappings, vCPUs and events stay, so the guest runs on while the
/// box is sealed, and what a rollback gives back can be dropped.
struct Moving<'a, M> {
    machine: &'a M,
    /// The guest's place in the order in which guests are resumed.
    position: Option<u32>,
    /// What its devices have open goes to the next VMM, in this kernel.
    carried: bool,
}

impl<M: Movable> Guest for Moving<'_, M> {
    fn preflight(&mut self) -> Vec<Finding> {
        let mut findings = self.machine.device_findings(self.carried);
        if !self.machine.has_steady_tsc() {
            findings.push(Finding::warning(
                "TSC",
                "KVM does not know its frequency, so the guest's clock will be off by the blackout",
                "boot a host with a stable TSC",
            ));
        }
        findings
    }

    fn take_fds(&mut self) -> Result<Vec<NamedFd>, PartyError> {
        let fds = self.machine.duplicate_fds().map_err(party_error)?;
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
        self.machine.park();
        if self.machine.has_ended() {
            Err("The guest has come to its end".into())
        } else {
            Ok(())
        }
    }

    fn save(&mut self, frame: &mut FrameWriter<'_>) -> Result<(), PartyError> {
        if !self.carried {
            self.machine.flush().map_err(party_error)?;
        }
        let state = self.machine.save().map_err(party_error)?;
        state.write(frame).map_err(party_error)?;
        if let Some(position) = self.position {
            state::write_position(frame, position).map_err(party_error)?;
        }
        Ok(())
    }

    fn give_back(&mut self, _: &FdName, _: OwnedFd) -> Result<(), PartyError> {
        Ok(())
    }

    fn resume_in_place(&mut self) -> Result<(), PartyError> {
        self.machine.run_on();
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
    /// The guest's place in the order in which guests are resumed.
    position: Option<u32>,
    watch: Watch,
}

/// Hears of each event at once, in the blackout too.
#[derive(Clone, Default)]
struct Watch(Option<OnEvent>);

/// Something that hears of events, whatever thread they are on.
pub(crate) type OnEvent = Arc<dyn Fn(&Event) + Send + Sync>;

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

impl Watch {
    fn tell(&self, event: &Event) {
        if let Some(watch) = &self.0 {
            watch(event);
        }
    }
}

/// Runs an update for a client.
pub(crate) fn serve(vmm: &Vmm, request: &UpdateRequest, peer: &mut dyn Peer) {
    let machine = vmm.machine();
    let order = plan(machine, request.box_name.as_deref(), &request.fail_at)
        .and_then(|plan| Order::new(plan, request));
    // A client that no longer listens does not stop what it asked for.
    let mut send = |reply: &Reply| {
        peer.send(reply);
    };
    let reply = in_update(vmm, order, |order| execute(vmm, order, request, &mut send));
    finish(vmm, &reply, peer);
}

/// Carries out an order of this VMM's, with everything else kept away from the guest.
fn in_update(
    vmm: &Vmm,
    order: Result<Order, BadRequest>,
    execute: impl FnOnce(Order) -> UpdateEnd,
) -> Reply {
    let mut order = match order {
        Ok(order) => order,
        Err(error) => {
            return Reply::Error {
                message: chain(&error),
            };
        }
    };
    order.plan.cancel = match vmm.begin_update() {
        Ok(cancel) => cancel,
        Err(refusal) => return refusal.into(),
    };
    order.watch = Watch(Some(vmm.update_watch()));
    let end = execute(order);
    vmm.end_update(&end);
    Reply::UpdateEnd(end)
}

/// Tells the client how it ended, and ends the VMM if the guest is another's or nobody's.
fn finish(vmm: &Vmm, reply: &Reply, peer: &mut dyn Peer) {
    peer.send(reply);
    let Reply::UpdateEnd(end) = reply else {
        return;
    };
    if end.has_left() {
        vmm.end(GuestEnd::HandedOver);
    } else if end.result == UpdateResult::GuestLost {
        vmm.end(GuestEnd::Broken(end.message.clone()));
    }
}

fn step(name: &Option<String>) -> Result<Option<Step>, BadRequest> {
    Ok(name.as_deref().map(str::parse).transpose()?)
}

/// The library's plan for this guest.
fn plan(
    machine: &Machine,
    box_name: Option<&str>,
    fail_at: &Option<String>,
) -> Result<Plan, BadRequest> {
    let name = box_name.unwrap_or(machine.name());
    let name = BoxName::new(name).map_err(|_| BadRequest::Name(name.into()))?;
    let mut plan = Plan::new(name, clock(machine.host_tsc_khz()), state::PRODUCER);
    plan.state_bytes = state::frame_capacity(machine.cpus());
    plan.fail_at = step(fail_at)?;
    Ok(plan)
}

impl Order {
    fn new(plan: Plan, request: &UpdateRequest) -> Result<Self, BadRequest> {
        Ok(Self {
            plan,
            dry_run: request.dry_run,
            cancel_after: step(&request.cancel_after)?,
            position: None,
            watch: Watch::default(),
        })
    }
}

/// The host's TSC, with the frequency that KVM knows, or else a measured one.
fn clock(khz: u32) -> Clock {
    NonZeroU32::new(khz).map_or_else(|| Clock::measure(Duration::from_millis(50)), Clock::tsc)
}

fn execute(
    vmm: &Vmm,
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
    let machine = vmm.machine();
    match (&request.next, &request.binary) {
        (Some(next), _) => {
            let mut host = KexecHost::new(NextKernel::Files {
                kernel: next.kernel.clone(),
                initramfs: next.initramfs.clone(),
                cmdline: next.cmdline.clone(),
            });
            drive(&control, &mut host, machine, order, send)
        }
        (None, Some(binary)) => hand_over(&control, vmm, order, heir(binary, request), send),
        (None, None) => drive(&control, &mut SameHost, machine, order, send),
    }
}

fn heir(binary: &Path, request: &UpdateRequest) -> Heir {
    let step = request
        .fail_at
        .as_deref()
        .and_then(|step| step.parse().ok());
    Heir {
        binary: binary.into(),
        limit: request
            .timeout
            .map_or(handover::DEFAULT_LIMIT, Duration::from_secs),
        fail_at: step
            .filter(|step| *step > Step::Jump)
            .map(|step: Step| step.name()),
    }
}

/// Has another binary take the guest over.
fn hand_over<S: BoxStore>(
    store: &S,
    vmm: &Vmm,
    order: Order,
    heir: Heir,
    send: &mut dyn FnMut(&Reply),
) -> UpdateEnd {
    let machine = vmm.machine();
    let Some(estate) = vmm.estate() else {
        let error = "This VMM could not prepare for it when it started".into();
        return UpdateEnd::new(&Outcome::NothingChanged {
            step: Step::Preflight,
            error: UpdateError::Host {
                what: "Another binary cannot take over",
                source: error,
            },
        });
    };
    let mut host = Successor::new(
        heir,
        order.plan.box_name.clone(),
        estate,
        machine.description(),
        machine.cpus(),
        order.plan.cancel.clone(),
    )
    .with_devices(machine.virtio());
    let mut end = drive(store, &mut host, machine, order, send);
    if let Some(running) = host.running() {
        end = UpdateEnd::done(running);
    }
    if matches!(end.result, UpdateResult::Done | UpdateResult::GuestLost) {
        vmm.chronicle().leave(&end);
        host.leave();
    }
    end
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
        position,
        watch,
    } = order;
    let mut reporter = Reporter::new(plan.clock, send);
    let cancel = plan.cancel.clone();
    let mut observer = |ticks: u64, event: &Event| {
        if matches!(event, Event::Done(step) if Some(*step) == cancel_after) {
            cancel.cancel();
        }
        watch.tell(event);
        reporter.report(ticks, event);
    };
    let mut guest = Moving {
        machine,
        position,
        carried: !host.seals(),
    };
    let update = Update::new(store, host, &mut guest, plan).observed_by(&mut observer);
    let end = if dry_run {
        update
            .preflight()
            .map_or_else(|outcome| UpdateEnd::new(&outcome), |_| UpdateEnd::ready())
    } else {
        UpdateEnd::new(&update.run())
    };
    reporter.end(end)
}

/// Sends events to a client, but nothing while the guest waits.
struct Reporter<'a> {
    clock: Clock,
    begin: u64,
    send: &'a mut dyn FnMut(&Reply),
    /// The guest is being paused, or is.
    blackout: bool,
    held: Vec<Reply>,
    warnings: Vec<FindingReport>,
}

impl<'a> Reporter<'a> {
    fn new(clock: Clock, send: &'a mut dyn FnMut(&Reply)) -> Self {
        Self {
            clock,
            begin: clock.now(),
            send,
            blackout: false,
            held: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn report(&mut self, ticks: u64, event: &Event) {
        if let Event::Warning(finding) = event {
            self.warnings.push(finding.into());
        }
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

    /// Sends what was held back, and returns the end with all that preflight found.
    fn end(&mut self, mut end: UpdateEnd) -> UpdateEnd {
        self.held.drain(..).for_each(|reply| (self.send)(&reply));
        end.findings.append(&mut self.warnings);
        end
    }
}

#[cfg(test)]
mod tests;

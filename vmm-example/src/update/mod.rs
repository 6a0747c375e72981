//! The guest's side of an update, and running one for a client.

pub(crate) mod handover;
pub(crate) mod joint;
mod moving;

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use vmm_fdbox::update::{
    Event, Host, Outcome, PartyError, Plan, SameHost, Session, Step, UpdateError,
};
use vmm_fdbox::{BoxName, BoxStore, Clock, Control};

use crate::devices::vfio::Kept;
use crate::error::chain;
use crate::guest::machine::Machine;
use crate::guest::state;
use crate::guest::vcpu::GuestEnd;
use crate::service::api::peer::Peer;
use crate::service::api::protocol::{Reply, UpdateRequest};
use crate::service::chronicle::OnEvent;
use crate::service::told::{FindingReport, UpdateEnd, UpdateEvent, UpdateResult};
use crate::service::vmm::Vmm;
use handover::{Heir, MAX_LIMIT_SECS, Successor};

use moving::Moving;
pub(crate) use moving::{Movable, kinds};

/// The name of the VM in its box.
pub(crate) const VM_FD: &str = "vm";
/// The name of guest RAM in its box.
pub(crate) const MEMORY_FD: &str = "memory0";

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
    #[error("A timeout of {0} s: it is 1 to {MAX_LIMIT_SECS}")]
    Timeout(u64),
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
    plan.state_bytes = state::frame_capacity(machine.cpus()) + machine.pci().state_capacity();
    plan.fail_at = step(fail_at)?;
    Ok(plan)
}

impl Order {
    fn new(plan: Plan, request: &UpdateRequest) -> Result<Self, BadRequest> {
        if let Some(secs) = request.timeout
            && !(1..=MAX_LIMIT_SECS).contains(&secs)
        {
            return Err(BadRequest::Timeout(secs));
        }
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
            let mut host = next.clone().into_host();
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
    .with_devices_of(machine);
    let mut end = drive(store, &mut host, machine, order, send);
    if let Some(running) = host.running() {
        end = UpdateEnd::done(running.report.clone(), running.text.clone());
    }
    if matches!(end.result, UpdateResult::Done | UpdateResult::GuestLost) {
        vmm.chronicle().leave(&end);
        host.leave();
    }
    end
}

/// What of devices of the host a kernel keeps in a box: nothing if it does not say.
fn kept<S: BoxStore>(store: &S) -> Kept {
    let features = store.info().unwrap_or_default().features;
    Kept {
        iommufd: features.iommufd(),
        vfio_pci: features.vfio_pci(),
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
        position,
        watch,
    } = order;
    let mut reporter = Reporter::new(plan.clock, host.leaves_kernel(), send);
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
        kept: kept(store),
    };
    let update = Session::new(store, host, &mut guest, plan).observed_by(&mut observer);
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
    /// The last step that is told of when it begins.
    last: Step,
    /// The guest is about to be paused, or is.
    blackout: bool,
    held: Vec<Reply>,
    warnings: Vec<FindingReport>,
}

impl<'a> Reporter<'a> {
    /// Of an update that may leave the kernel, the last that a client hears is that the guest is being
    /// paused. In the other case it soon hears more, and reading of the pause would take the CPU
    /// that the guest waits for.
    fn new(clock: Clock, leaves_kernel: bool, send: &'a mut dyn FnMut(&Reply)) -> Self {
        Self {
            clock,
            begin: clock.now(),
            send,
            last: match leaves_kernel {
                true => Step::Pause,
                false => Step::Prebuild,
            },
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
        self.blackout |= matches!(event, Event::Started(step) if *step >= self.last);
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

//! `live-update`: the coordinator. Tells the VMMs when to carry out each step, loads the next
//! kernel, and jumps.

mod binary;
mod discover;
mod guests;
mod lifeboat;
mod many;
mod next_cpu;
mod one;
mod output;

use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::{fs, mem};

use anyhow::{Context, bail};
use rustix::process::Signal;
use vmm_fdbox::coordinator::{Boxes, Handover, RemoteLeaving, WithBoxes};
use vmm_fdbox::sealed_kinds;
use vmm_fdbox::update::{
    CancelFlag, ExitStatus, Fleet, FleetEvent, FleetOutcome, FleetPlan, Host, KexecHost, Limits,
    Member, MemberOutcome, NextKernel, SameHost, Step,
};

use self::binary::Successor;
use self::guests::Guest;
use self::output::Output;
use crate::cli::{LiveUpdateArgs, NotReadyArg};
use crate::commands::{interrupt, keeper, lost, open_files, signal};
use crate::error::{chain, warn};
use crate::service::api::Client;
use crate::service::api::protocol::Request;

/// How long a VMM may take to cancel its update.
const CANCEL_LIMIT: Duration = Duration::from_secs(10);

/// From the last pause to the kernel's own part of the jump, which cannot be interrupted.
const JUMP_LIMIT: Duration = Duration::from_secs(10);

pub(super) fn live_update(mut args: LiveUpdateArgs) -> anyhow::Result<ExitStatus> {
    open_files::raise_limit();
    let is_one = !args.fleet.all && args.api_socket.len() == 1;
    if args.binary.is_some() && !is_one {
        bail!("--binary is for one guest: give one --api-socket");
    }
    let sockets = match args.fleet.all {
        true => discover::sockets(&args.fleet.run_dir)?,
        false => mem::take(&mut args.api_socket),
    };
    let mut guests: Vec<_> = sockets.iter().map(|path| Guest::connect(path)).collect();
    if args.fleet.all {
        let named = |(guest, socket): (Guest, &PathBuf)| guest.named_by(socket);
        guests = guests.into_iter().zip(&sockets).map(named).collect();
    }
    args.fleet.all = !is_one;
    guests::check(&guests, &args)?;
    let successor = match (&args.binary, &mut guests[..]) {
        (Some(binary), [guest]) => Some(Successor::new(binary, guest, &args)?),
        _ => None,
    };
    for guest in &mut guests {
        let joined = guest.take_part();
        if is_one {
            // There is no other guest to update.
            joined.map_err(anyhow::Error::msg)?;
        }
    }
    let cancel = CancelFlag::new();
    let output = match is_one {
        true => Output::one(args.json, args.report.clone(), args.cancel_after, &cancel),
        false => Output::many(args.json),
    };
    watch_for_interrupt(&sockets, &cancel)?;
    let mut outcome = match keeper::open(&args.home, args.kernel.is_some()) {
        Ok(control) => {
            output.home(control.home());
            let update = Update {
                args: &args,
                boxes: Arc::new(control),
                output: &output,
            };
            update.run(guests, successor, cancel)?
        }
        Err(error) => without_module(&guests, &error),
    };
    lost::add_remedies(&mut outcome, &args);
    Ok(output.end(&outcome, args.dry_run))
}

/// Without the module nothing else is checked.
fn without_module(guests: &[Guest], error: &anyhow::Error) -> FleetOutcome {
    FleetOutcome {
        failure: Some((Step::Preflight, chain(error.as_ref()))),
        cancelled: false,
        members: guests.iter().map(Guest::untouched).collect(),
        findings: Vec::new(),
        problems: Vec::new(),
    }
}

/// An update of some guests.
struct Update<'a, B> {
    args: &'a LiveUpdateArgs,
    boxes: B,
    output: &'a Output,
}

impl<B: Boxes + Clone> Update<'_, B> {
    fn run(
        &self,
        guests: Vec<Guest>,
        successor: Option<Successor>,
        cancel: CancelFlag,
    ) -> anyhow::Result<FleetOutcome> {
        let args = self.args;
        let limits = limits(args);
        let plan = FleetPlan {
            not_ready: args.fleet.not_ready.unwrap_or(NotReadyArg::Abort).into(),
            kinds: sealed_kinds(&self.boxes),
            limits,
            lease: true,
            cancel,
            fail_at: args.fail_at.filter(|step| of_coordinator(args, *step)),
        };
        let members = self.members(guests, limits)?;
        Ok(match (successor, &args.kernel) {
            (Some(mut successor), _) => {
                let start = |leaving| {
                    let start = successor.start();
                    let handover = Handover::new(leaving, start, successor.limit);
                    handover.failing_at(successor.fail_at)
                };
                let members = members.into_iter().map(start).collect();
                let mut outcome = self.drive(&mut successor, members, plan);
                outcome
                    .members
                    .iter_mut()
                    .for_each(|member| self.look_for_box(member));
                outcome
            }
            (None, Some(kernel)) => {
                let next = next_kernel(kernel, args.initramfs.as_deref(), args.cmdline.as_deref())?;
                let host = KexecHost::new(next).assuming_patches(args.assume_patches);
                let mut host = host.from_home(self.boxes.info()?.home);
                match lifeboat::is_asked_for(args) {
                    true => self.run_with_lifeboat(host, members, plan)?,
                    false => self.drive(&mut host, members, plan),
                }
            }
            (None, None) => self.drive(&mut SameHost, members, plan),
        })
    }

    /// Records in the report of a guest that another VMM runs whether its box was deleted.
    fn look_for_box(&self, member: &mut MemberOutcome) {
        let own = self.args.box_name.as_ref().map(ToString::to_string);
        let name = own.unwrap_or_else(|| member.name.clone());
        let report = member.report.as_mut();
        let Some(deleted) = report.and_then(|report| report.get_mut("box_deleted")) else {
            return;
        };
        let boxes = self.boxes.boxes().unwrap_or_default();
        let is_gone = boxes.iter().all(|info| info.name.to_string() != name);
        if !is_gone {
            warn(&format!(
                "The guest runs, but what is left of its box stays; the name {name} is taken \
                 until the box is deleted"
            ));
        }
        *deleted = is_gone.into();
    }

    fn members(&self, guests: Vec<Guest>, limits: Limits) -> anyhow::Result<Vec<RemoteLeaving<B>>> {
        let module = self.boxes.module()?;
        let cmdline = match self.args.kernel {
            Some(_) => Some(next_cmdline(self.args.cmdline.as_deref())?),
            None => None,
        };
        let member = |guest: Guest| {
            let join = guests::join(&guest, self.args, module, limits)?;
            let hears = self.output.guest(guest.name());
            let (name, kinds) = (guest.name().to_owned(), guest.kinds(module));
            let process = guest.process();
            let mut found = guest.look_at_devices();
            if let Some(cmdline) = &cmdline {
                let given = (guest.name(), guest.cpu_features());
                found.extend(next_cpu::findings(
                    cmdline,
                    &[given],
                    self.args.force.force_cpu,
                ));
            }
            let socket = guest.into_socket();
            let mut leaving = RemoteLeaving::new(name, socket, self.boxes.clone(), join);
            if self.args.binary.is_none() {
                leaving = leaving.with_findings(found);
            }
            if let Some((pid, owner)) = process {
                leaving = leaving.of_process(pid, owner);
            }
            let leaving = leaving.with_limits(limits).with_kinds(kinds);
            Ok(leaving.observed_by(hears))
        };
        guests.into_iter().map(member).collect()
    }

    fn drive<H: Host, M: Member>(
        &self,
        host: &mut H,
        members: Vec<M>,
        plan: FleetPlan,
    ) -> FleetOutcome {
        let _ticker = self.output.ticker();
        let hear = |event: &FleetEvent<'_>| {
            self.output.fleet(event);
            if matches!(event, FleetEvent::Started(step) if self.args.stop_at.contains(step)) {
                signal::send(std::process::id(), Signal::STOP);
            }
        };
        let boxes = &self.boxes;
        let fleet = Fleet::new(WithBoxes { host, boxes }, members, plan).observed_by(hear);
        match self.args.dry_run {
            true => fleet.dry_run(),
            false => fleet.run(),
        }
    }
}

/// How long each step may take. The operator sets the limits of those during which guests are
/// paused.
fn limits(args: &LiveUpdateArgs) -> Limits {
    let mut limits = Limits::default();
    let pause = Duration::from_secs(args.fleet.pause_timeout);
    (limits.pause, limits.save) = (pause, pause);
    limits.jump = JUMP_LIMIT;
    limits.prepare = Duration::from_secs(args.fleet.prepare_timeout);
    limits.preflight = limits.preflight.min(limits.prepare);
    limits
}

/// Whether a step that is made to fail is one of this process rather than a guest's.
fn of_coordinator(args: &LiveUpdateArgs, step: Step) -> bool {
    let is_for_all = args.fleet.all && args.fleet.fail_guest.is_none();
    is_for_all || matches!(step, Step::LoadKernel | Step::Jump)
}

/// The host's destination. Paths are made absolute for the messages.
fn next_kernel(
    kernel: &Path,
    initramfs: Option<&Path>,
    cmdline: Option<&str>,
) -> anyhow::Result<NextKernel> {
    Ok(NextKernel::Files {
        kernel: absolute(kernel)?,
        initramfs: initramfs.map(absolute).transpose()?,
        cmdline: next_cmdline(cmdline)?,
    })
}

/// The next kernel's command line: by default this kernel's.
fn next_cmdline(given: Option<&str>) -> anyhow::Result<String> {
    match given {
        Some(cmdline) => Ok(cmdline.to_owned()),
        None => Ok(fs::read_to_string("/proc/cmdline")
            .context("Cannot read this kernel's command line: give --cmdline")?
            .trim_end()
            .into()),
    }
}

/// Makes an interrupt cancel the update: here between the steps, and in the VMMs during a step.
fn watch_for_interrupt(sockets: &[PathBuf], cancel: &CancelFlag) -> anyhow::Result<()> {
    let (sockets, cancel) = (sockets.to_vec(), cancel.clone());
    interrupt::then(move || {
        cancel.cancel();
        // In parallel: a VMM that does not answer must not prevent the others from being cancelled.
        for socket in sockets {
            thread::spawn(move || ask_to_cancel(&socket));
        }
    })
}

fn ask_to_cancel(socket: &Path) {
    // A VMM without an update reports an error, which does not matter.
    let _ = Client::connect(socket).and_then(|mut client| {
        client.set_limit(Some(CANCEL_LIMIT))?;
        client.ask(&Request::Cancel {}, |_| {})
    });
}

#[cfg(test)]
mod tests;
